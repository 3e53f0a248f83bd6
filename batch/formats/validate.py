"""What the job's checks make of decoded rows: nulls, infinities, declared ranges and declared categories.

Shared by all formats. A clean table costs next to nothing: a null count is already known, and finiteness, ranges and
categories are decided by one vectorised pass per column that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import SchemaMismatch
from batch.formats import Column, Fault, Policy, ReadOptions


@dataclass(frozen=True, slots=True)
class _Finding:
    """The values of one column that one check does not let pass."""

    column: str
    code: str
    policy: Policy
    mask: np.ndarray
    """bool per row."""


def split(table: pa.Table, options: ReadOptions, *, first_row: int = 0) -> tuple[pa.Table, list[Fault]]:
    """Part the rows that may be scored from those that may not.

    `table` holds at least the signature columns, with their signature types. Returned are the valid rows, with all columns,
    and one fault per rejected row in row order: its number (`first_row` + position), column, code and message. Where a
    row has several faults the first signature column's is told. NaN becomes null; infinity is always a `range` fault.
    """
    rejected = np.zeros(table.num_rows, dtype=bool)
    faults: list[Fault] = []
    for column in options.columns:
        values = _combined(table[column.name])
        cleaned = _nan_to_null(values)
        for finding in _findings(column, cleaned, options):
            if finding.policy == "reject":
                fresh = np.flatnonzero(finding.mask & ~rejected)
                faults.extend(_faults(finding, column, cleaned, fresh, first_row))
                rejected |= finding.mask
            elif finding.policy == "null" and finding.code != "null":
                cleaned = pc.if_else(pa.array(finding.mask), pa.scalar(None, cleaned.type), cleaned)
        if cleaned is not values:
            table = table.set_column(table.schema.get_field_index(column.name), table.field(column.name), cleaned)
    if not faults:
        return table, faults
    return table.filter(pa.array(~rejected)), sorted(faults)


def _combined(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()


def _findings(column: Column, values: pa.Array, options: ReadOptions) -> Iterator[_Finding]:
    if column.required and values.null_count:
        yield _Finding(column.name, "null", options.on_null, _as_mask(values.is_null()))
    if pa.types.is_floating(values.type) and not _all_finite(values):
        infinite = _as_mask(pc.is_inf(values))
        if infinite.any():
            yield _Finding(column.name, "range", options.on_range, infinite)
    if outside := _outside_range(column, values):
        yield _Finding(column.name, "range", options.on_range, _as_mask(outside))
    if column.categories is not None:
        unknown = _as_mask(pc.and_(pc.invert(pc.is_in(values, _value_set(column, values.type))), values.is_valid()))
        if unknown.any():
            yield _Finding(column.name, "category", options.on_category, unknown)


def _as_mask(values: pa.Array) -> np.ndarray:
    """Booleans of Arrow as numpy's, null counting as false."""
    mask: np.ndarray = pc.fill_null(values, fill_value=False).to_numpy(zero_copy_only=False)
    return mask


def _raw_floats(values: pa.Array) -> np.ndarray:
    """The value buffer as it is; what stands in the slots of nulls is arbitrary (zero in practice)."""
    numbers = np.frombuffer(values.buffers()[1], dtype=values.type.to_pandas_dtype())
    return numbers[values.offset : values.offset + len(values)]


def _all_finite(values: pa.Array) -> bool:
    return not len(values) or bool(np.isfinite(_raw_floats(values)).all())


def _nan_to_null(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type) or _all_finite(values):
        return values
    nan = pc.is_nan(values)
    if not pc.any(nan).as_py():
        return values
    return pc.if_else(nan, pa.scalar(None, values.type), values)


def _outside_range(column: Column, values: pa.Array) -> pa.Array | None:
    """Which values lie outside the declared bounds, or None where all are inside."""
    if column.minimum is None and column.maximum is None:
        return None
    outside = pa.array(np.zeros(len(values), dtype=bool))
    if column.minimum is not None:
        outside = pc.or_kleene(outside, pc.less(values, column.minimum))
    if column.maximum is not None:
        outside = pc.or_kleene(outside, pc.greater(values, column.maximum))
    return outside if pc.any(outside).as_py() else None


def _value_set(column: Column, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(list(column.categories or ()), type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaMismatch(
            f"the categories of column {column.name!r} are not of its type {column.type}",
            hint="register the model again with categories of the column's type",
        ) from error


def _faults(finding: _Finding, column: Column, values: pa.Array, rows: np.ndarray, first_row: int) -> Iterator[Fault]:
    found = values.take(pa.array(rows)).to_pylist()
    for row, value in zip(rows.tolist(), found, strict=True):
        yield first_row + row, finding.column, finding.code, _message(finding, column, value)


def _message(finding: _Finding, column: Column, value: object) -> str:
    name = finding.column
    if finding.code == "null":
        return f"{name} is null, but the model requires a value"
    if finding.code == "category":
        return f"{name} is {shown(value)}, which is none of its {len(column.categories or ())} categories"
    if isinstance(value, float) and value in {float("inf"), float("-inf")}:
        return f"{name} is {value}, but only finite numbers can be scored"
    if column.minimum is not None and isinstance(value, int | float) and value < column.minimum:
        return f"{name} is {value}, below its minimum of {column.minimum:g}"
    return f"{name} is {value}, above its maximum of {column.maximum:g}"


def shown(value: object) -> str:
    """A value as messages show it: in quotes if it is text, and never longer than a line."""
    return cut_short(repr(value))


def cut_short(text: str) -> str:
    """`text`, or its beginning where it is longer than a line."""
    return text if len(text) <= 80 else text[:77] + "..."
