"""The columns a model was fitted on: MLflow's column spec plus the pandas dtype, and the way between Arrow and pandas.

This module stays cheap, because a model is resolved before anything heavy is imported; the conversions live in
`batch.models.frames`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch.errors import ModelRefused

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TYPES = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")
"""MLflow's names of the column types."""

Category = str | int | float | bool
Range = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class SignatureColumn:
    """One feature, as it stood in the frame the model was fitted on."""

    name: str
    type: str
    """MLflow type: boolean, integer, long, float, double, string, binary, datetime."""
    required: bool
    """True where the training frame had no null."""
    dtype: str
    """pandas dtype the model was fitted with, as text: ``int64``, ``str``, ``object``, ``category``, ``datetime64[ns]``…"""
    minimum: float | None = None
    """Declared lower bound (inclusive); never inferred."""
    maximum: float | None = None
    categories: tuple[Category, ...] | None = None
    """Declared categories; for dtype ``category`` those of the dtype."""
    ordered: bool = False
    """dtype ``category`` only: whether the categories have an order."""
    none: bool = False
    """dtype ``object`` only: nulls were None when the model was fitted, not NaN; some encoders tell them apart."""


def infer(
    X: pd.DataFrame,
    *,
    ranges: Mapping[str, Range] | None = None,
    categories: Mapping[str, Sequence[Category]] | None = None,
) -> tuple[SignatureColumn, ...]:
    """The signature of a frame of raw features. Raises `ModelRefused` for a column that no signature can describe."""
    from batch.models import frames

    return frames.infer(X, ranges=ranges or {}, categories=categories or {})


def to_frame(table: pa.Table, columns: Sequence[SignatureColumn]) -> pd.DataFrame:
    """The signature columns of `table`, in signature order, with the dtypes the model was fitted with.

    Raises `SchemaMismatch` for a column that is missing or cannot take its type.
    """
    from batch.models import frames

    return frames.to_frame(table, columns)


def from_frame(frame: pd.DataFrame, columns: Sequence[SignatureColumn]) -> pa.Table:
    """The inverse of `to_frame`: Arrow columns with the signature's types, nulls where pandas has a missing value."""
    from batch.models import frames

    return frames.from_frame(frame, columns)


def to_json(columns: Sequence[SignatureColumn]) -> list[dict[str, Any]]:
    """The ``signature`` of model.json: MLflow's column spec, plus dtype and what was declared."""
    return [_column_to_json(column) for column in columns]


def _column_to_json(column: SignatureColumn) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "required": column.required,
        "dtype": column.dtype,
    }
    if column.minimum is not None or column.maximum is not None:
        spec["range"] = [column.minimum, column.maximum]
    if column.categories is not None:
        spec["categories"] = list(column.categories)
    spec |= {flag: True for flag in ("ordered", "none") if getattr(column, flag)}
    return spec


def from_json(specs: Any) -> tuple[SignatureColumn, ...]:
    """Read what `to_json` wrote. Raises `ModelRefused` where it is not a signature."""
    try:
        columns = tuple(_column_from_json(spec) for spec in specs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelRefused(f"the signature in model.json cannot be read: {error!r}", hint=REGISTER_AGAIN) from error
    if unknown := [column for column in columns if column.type not in TYPES]:
        raise ModelRefused(
            f"column {unknown[0].name!r} of the signature has the unknown type {unknown[0].type!r}",
            hint=f"types are {', '.join(TYPES)}",
        )
    return columns


REGISTER_AGAIN = "register the model again"


def _column_from_json(spec: Mapping[str, Any]) -> SignatureColumn:
    minimum, maximum = spec.get("range", (None, None))
    categories = spec.get("categories")
    return SignatureColumn(
        name=str(spec["name"]),
        type=str(spec["type"]),
        required=bool(spec["required"]),
        dtype=str(spec["dtype"]),
        minimum=None if minimum is None else float(minimum),
        maximum=None if maximum is None else float(maximum),
        categories=None if categories is None else tuple(categories),
        ordered=bool(spec.get("ordered", False)),
        none=bool(spec.get("none", False)),
    )
