"""Rows as another model's signature wants them: values that do not fit become null, and nobody is told of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from batch.formats import Column, ReadOptions, csv_cast, parquet_cast
from batch.formats.json_text import is_marked, texts_of_tokens
from batch.formats.types import arrow_type
from batch.formats.validate import split


def widened(table: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """Exactly these columns of a table, whose values are known to fit, with these types."""
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in columns])
    return table.select(schema.names).cast(schema)


def fitting(table: pa.Table, columns: Sequence[Column]) -> tuple[pa.Table, np.ndarray]:
    """The rows that satisfy a signature, types and declared limits, and their numbers in `table`."""
    casts = [_cast(table, column) for column in columns]
    typed = pa.table([values for values, _ in casts], names=[column.name for column in columns])
    bad = np.zeros(table.num_rows, bool)
    for _, misfits in casts:
        bad |= misfits
    _, faults = split(typed, ReadOptions(tuple(columns)))
    bad[[fault[0] for fault in faults]] = True
    rows = np.flatnonzero(~bad)
    return typed.take(pa.array(rows)), rows


def _cast(table: pa.Table, column: Column) -> tuple[pa.Array, np.ndarray]:
    """The values with the column's type, and which of them (bool) do not fit it: those are null."""
    field, kind = table.schema.field(column.name), arrow_type(column.type)
    values = table[column.name].combine_chunks()
    misfits = np.zeros(len(values), bool)
    if is_marked(field):
        values = texts_of_tokens(values)
    if values.type == kind:
        return values, misfits
    if pa.types.is_string(values.type):
        values, bad = csv_cast.cast(values, kind)
        return values, misfits if bad is None else bad
    values, faults = parquet_cast.cast(column.name, values, column.type)
    misfits[list(faults)] = True
    return values, misfits
