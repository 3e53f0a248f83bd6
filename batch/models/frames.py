"""Between Arrow tables and the pandas frames that estimators were fitted on.

A frame is always built column by column, so the memory layout a model sees does not depend on where the rows came from;
dense linear algebra rounds differently for another layout. No column is copied where Arrow and numpy share a representation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import ModelRefused, SchemaMismatch, UsageError
from batch.formats.types import arrow_type
from batch.models.signature import Category, Range, SignatureColumn

NUMPY_TYPES = {
    "bool": "boolean",
    "int8": "integer",
    "int16": "integer",
    "int32": "integer",
    "int64": "long",
    "uint8": "integer",
    "uint16": "integer",
    "uint32": "long",
    "float16": "float",
    "float32": "float",
    "float64": "double",
}
"""dtype text -> MLflow type. uint64 is missing on purpose: no MLflow type holds it."""

OBJECT_TYPES = {
    "string": "string",
    "empty": "string",
    "bytes": "binary",
    "boolean": "boolean",
    "integer": "long",
    "floating": "double",
}
"""What pandas finds in an object column -> MLflow type; anything mixed or nested is missing on purpose."""

TEXT: Any = pd.StringDtype(na_value=np.nan)
"""The text type of pandas 3, with NaN for missing; its name ``str`` means Python's own type elsewhere."""

CAST_HINT = "give every column one type: numbers, text, booleans, timestamps or categories"


def infer(
    X: pd.DataFrame, *, ranges: Mapping[str, Range], categories: Mapping[str, Sequence[Category]]
) -> tuple[SignatureColumn, ...]:
    """See `batch.models.signature.infer`."""
    _check_names(X)
    if unknown := (ranges.keys() | categories.keys()) - set(X.columns):
        raise UsageError(f"a range or categories are declared for {min(unknown)!r}, which is not a column of X")
    return tuple(_infer_column(X[name], ranges.get(name, (None, None)), categories.get(name)) for name in X.columns)


def _check_names(X: Any) -> None:
    if not isinstance(X, pd.DataFrame):
        raise UsageError(
            f"X is a {type(X).__name__}, but columns are matched by name",
            hint="pass the DataFrame of raw features the model was fitted on",
        )
    if not len(X.columns) or not len(X):
        raise UsageError(f"X has {len(X)} rows and {len(X.columns)} columns; at least one of each is needed")
    if odd := [name for name in X.columns if not isinstance(name, str) or not name]:
        raise UsageError(f"column name {odd[0]!r} of X is not text", hint="name the columns as the input files do")
    if X.columns.has_duplicates:
        raise UsageError(f"X has two columns named {X.columns[X.columns.duplicated()][0]!r}")


def _infer_column(series: pd.Series, limits: Range, declared: Sequence[Category] | None) -> SignatureColumn:
    name = str(series.name)
    nulls = series.isna()
    ordered = False
    if isinstance(series.dtype, pd.CategoricalDtype):
        declared, ordered = _dtype_categories(series, declared), bool(series.dtype.ordered)
    return SignatureColumn(
        name=name,
        type=mlflow_type(series),
        required=not bool(nulls.any()),
        dtype=str(series.dtype),
        minimum=limits[0],
        maximum=limits[1],
        categories=None if declared is None else tuple(declared),
        ordered=ordered,
        none=pd.api.types.is_object_dtype(series.dtype)
        and bool(nulls.any())
        and all(value is None for value in series[nulls]),
    )


def _dtype_categories(series: pd.Series, declared: Sequence[Category] | None) -> list[Category]:
    found: list[Category] = series.cat.categories.tolist()
    if declared is not None and set(declared) != set(found):
        raise UsageError(
            f"the declared categories of {series.name!r} are not those of its dtype: {list(declared)} against {found}"
        )
    return found


def mlflow_type(series: pd.Series) -> str:
    """The MLflow type of a column. Raises `ModelRefused` for a dtype outside the column spec."""
    dtype: Any = series.dtype
    found: str | None
    if isinstance(dtype, pd.CategoricalDtype):
        found = mlflow_type(pd.Series(dtype.categories, name=series.name))
        return found if found not in {"datetime", "binary"} else _refuse(series)
    if isinstance(dtype, pd.StringDtype):
        return "string"
    if isinstance(dtype, pd.DatetimeTZDtype) or (isinstance(dtype, np.dtype) and dtype.kind == "M"):
        return "datetime"
    if pd.api.types.is_object_dtype(dtype):
        found = OBJECT_TYPES.get(pd.api.types.infer_dtype(series, skipna=True))
    elif isinstance(dtype, pd.BooleanDtype):
        found = "boolean"
    else:
        found = NUMPY_TYPES.get(str(dtype).lower())
    return found or _refuse(series)


def _refuse(series: pd.Series) -> str:
    what = str(series.dtype)
    if pd.api.types.is_object_dtype(series.dtype):
        what = f"object holding {pd.api.types.infer_dtype(series, skipna=True)} values"
    raise ModelRefused(f"column {series.name!r} of X is {what}, which a signature cannot describe", hint=CAST_HINT)


def to_frame(table: pa.Table, columns: Sequence[SignatureColumn]) -> pd.DataFrame:
    """See `batch.models.signature.to_frame`."""
    there = set(table.column_names)  # made anew each time it is asked for: over thousands of columns that takes seconds
    missing = [column.name for column in columns if column.name not in there]
    if missing:
        raise SchemaMismatch(
            f"the rows lack {len(missing)} of the model's {len(columns)} columns: {', '.join(missing)}",
            hint=f"the columns here are {', '.join(table.column_names)}",
        )
    arrays = {column.name: _to_pandas(_typed(table[column.name], column), column) for column in columns}
    return pd.DataFrame(arrays, copy=False)


def _typed(values: pa.ChunkedArray, column: SignatureColumn) -> pa.Array:
    array = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()  # which copies even a single chunk
    if isinstance(array, pa.ChunkedArray):  # pyarrow keeps chunks apart that do not fit one array
        raise SchemaMismatch(f"column {column.name!r} is too large for one model call", hint="lower run.predict_rows")
    if array.type == arrow_type(column.type):
        return array
    try:
        return array.cast(arrow_type(column.type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(
            f"column {column.name!r} is {array.type}, the model needs {column.type}: {error}",
        ) from error


def _to_pandas(array: pa.Array, column: SignatureColumn) -> Any:
    """One column as pandas or numpy values of exactly the dtype in the signature."""
    if column.dtype == "category":
        return _categorical(array, column)
    if column.dtype == "object":
        return _objects(array, column)
    if column.dtype == "str":
        return TEXT.__from_arrow__(array)
    if column.dtype == "bool" and array.null_count:
        return _objects(array, column)
    dtype: Any = pd.api.types.pandas_dtype(column.dtype)
    if isinstance(dtype, np.dtype):
        return _numpy(array, dtype)
    if isinstance(dtype, pd.DatetimeTZDtype):
        instants = pd.Series(array.to_numpy(zero_copy_only=False)).dt.tz_localize("UTC")
        return instants.dt.tz_convert(dtype.tz).astype(dtype).array
    return dtype.__from_arrow__(array)


def _numpy(array: pa.Array, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Zero-copy where the types are the same and nothing is null; integers with nulls become float64, as in pandas."""
    values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
    if values.dtype == dtype or (dtype.kind in "iu" and array.null_count):
        return values
    if dtype.kind in "iu" and len(values):
        # A value that does not fit keeps the wider dtype: the model sees the value, never a wrapped one.
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            return values
    return values.astype(dtype)


def _objects(array: pa.Array, column: SignatureColumn) -> pd.Series:
    values = np.empty(len(array), dtype=object)
    # Through numpy where that keeps the values; integers with nulls would come out as floats.
    values[:] = array.to_pylist() if column.type in {"long", "double"} else array.to_numpy(zero_copy_only=False)
    if array.null_count and not column.none:
        values[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return pd.Series(values, dtype=object)  # a bare object array would become `str` in a frame


def _categorical(array: pa.Array, column: SignatureColumn) -> pd.Categorical:
    """Codes by position in the signature's categories; a value outside them is missing, as pandas has it."""
    known = list(column.categories or ())
    codes = pc.index_in(array, value_set=pa.array(known, type=arrow_type(column.type)))
    dtype = pd.CategoricalDtype(known, ordered=column.ordered)
    return pd.Categorical.from_codes(codes.fill_null(-1).to_numpy(zero_copy_only=False), dtype=dtype)


def from_frame(frame: pd.DataFrame, columns: Sequence[SignatureColumn]) -> pa.Table:
    """See `batch.models.signature.from_frame`."""
    if missing := [column.name for column in columns if column.name not in frame.columns]:
        raise SchemaMismatch(f"the frame lacks the model's column(s) {', '.join(missing)}")
    arrays = {column.name: _to_arrow(frame[column.name], column) for column in columns}
    return pa.table(arrays)


def _to_arrow(series: pd.Series, column: SignatureColumn) -> pa.Array | pa.ChunkedArray:
    target = arrow_type(column.type)
    try:
        array = pa.array(series, from_pandas=True)
        # Nanoseconds become the microseconds of the signature; everything else must keep its value.
        return array.cast(target, safe=not pa.types.is_timestamp(target)) if array.type != target else array
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(f"column {column.name!r} cannot be read as {column.type}: {error}") from error
