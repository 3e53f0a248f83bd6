"""From the types a Parquet file holds to those of a signature, exactly or not at all.

A value that cannot be expressed is a fault of its row; a type that never can be is refused in the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.formats.types import arrow_type
from batch.formats.validate import shown

_is = pa.types
_TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds per unit."""
_DAY = 86_400_000_000
_INT64_MAX = (1 << 63) - 1


def decoded(kind: pa.DataType) -> pa.DataType:
    """The type of the values where they are dictionary-encoded."""
    return kind.value_type if _is.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether the values are text, however it is laid out."""
    return bool(_is.is_string(kind) or _is.is_large_string(kind) or _is.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (_is.is_binary, _is.is_large_binary, _is.is_binary_view, _is.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    return bool(_is.is_integer(kind) or _is.is_floating(kind) or _is.is_decimal(kind))


def castable(kind: pa.DataType, target: pa.DataType) -> bool:
    """Whether values of type `kind` can be values of the signature type `target` at all."""
    if _is.is_null(kind):
        return True
    if _is_number(target):
        return _is_number(kind)
    if _is.is_timestamp(target):
        return bool(_is.is_timestamp(kind) or _is.is_date(kind))
    test: Callable[[pa.DataType], bool] = _is.is_boolean
    if is_text(target):
        test = is_text
    elif _is_bytes(target):
        test = _is_bytes
    return bool(test(kind))


def cast(name: str, values: pa.Array, type_name: str) -> tuple[pa.Array, dict[int, str]]:
    """The values with the signature's type, and a message for each position that cannot have it (its value is null)."""
    target = arrow_type(type_name)
    if is_text(target):
        messages = not_text(name, values)
        return _blank(values, messages).cast(target), messages
    if _is.is_floating(values.type) and _is.is_integer(target):  # NaN is null
        values = pc.if_else(pc.fill_null(pc.is_nan(values), fill_value=False), pa.scalar(None, values.type), values)
    fits = _fits(values, target)
    wrong = [] if fits is None else np.flatnonzero(~fits & values.is_valid().to_numpy(zero_copy_only=False)).tolist()
    messages = {row: f"{name} is {_shown(values[row])}, which is no {type_name}" for row in wrong}
    return _blank(values, messages).cast(target, safe=False), messages


def not_text(name: str, values: pa.Array) -> dict[int, str]:
    """A message for each text that is not UTF-8, which Parquet does not check."""
    if not is_text(values.type):
        return {}
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
        return {row: f"{name} is not UTF-8" for row, value in enumerate(raw) if not _is_utf8(value)}
    return {}


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(value: pa.Scalar) -> str:
    try:
        found = value.as_py()
    except (ValueError, OverflowError):
        return f"out of the range of {value.type}"
    return str(found) if isinstance(found, int | float | Decimal) else shown(found)


def _blank(values: pa.Array, messages: dict[int, str]) -> pa.Array:
    """Null in place of what is faulty, so that no cast sees it."""
    if not messages:
        return values
    keep = np.ones(len(values), dtype=bool)
    keep[list(messages)] = False
    return values.take(pa.array([row if kept else None for row, kept in enumerate(keep.tolist())], pa.int64()))


def _fits(values: pa.Array, target: pa.DataType) -> np.ndarray | None:
    """Which values the target type can express, or None for all of them; nulls are arbitrary."""
    kind = values.type
    if kind == target or _is.is_null(kind):
        return None
    if _is.is_timestamp(target):
        return _times_fit(values)
    if _is.is_floating(target):
        return _exact_floats(values, target) if _is.is_integer(kind) else None
    if _is.is_integer(target):
        try:
            values.cast(target)
        except pa.ArrowInvalid:
            return _whole(values, target)
    return None


def _times_fit(values: pa.Array) -> np.ndarray | None:
    """Microseconds reach 292,000 years; coarser units reach further. Nanoseconds are cut off."""
    kind = values.type
    days = _is.is_date32(kind)
    ticks = _DAY if days else _TICKS.get(kind.unit if _is.is_timestamp(kind) else "ms", 1)
    limit = _INT64_MAX // ticks
    numbers = _numpy((values.cast(pa.int32()) if days else values).cast(pa.int64()))
    fits: np.ndarray = (numbers >= -limit) & (numbers <= limit)
    return fits


def _exact_floats(values: pa.Array, target: pa.DataType) -> np.ndarray | None:
    try:
        values.cast(target)  # passes up to 2^53 (2^24): by far the usual case
    except pa.ArrowInvalid:
        numbers = _numpy(values)
        floats = numbers.astype(target.to_pandas_dtype()).astype(np.float64)
        inside = floats < float(np.iinfo(numbers.dtype).max)
        back = np.where(inside, floats, 0).astype(numbers.dtype)
        fits: np.ndarray = inside & (back == numbers)
        return fits
    return None


def _whole(values: pa.Array, target: pa.DataType) -> np.ndarray:
    """Which numbers are integers within the target's range."""
    bits = target.bit_width - 1
    low, high = -(1 << bits), (1 << bits) - 1
    if _is.is_decimal(values.type):
        return np.array([_whole_decimal(value, low, high) for value in values.to_pylist()], dtype=bool)
    numbers = _numpy(values)
    fits: np.ndarray
    if _is.is_integer(values.type):
        limits = np.iinfo(numbers.dtype)
        fits = (numbers >= max(low, limits.min)) & (numbers <= min(high, limits.max))
    else:
        fits = (numbers >= float(low)) & (numbers < float(1 << bits)) & (np.floor(numbers) == numbers)
    return fits


def _whole_decimal(value: Decimal | None, low: int, high: int) -> bool:
    return value is None or (value == value.to_integral_value() and low <= value <= high)


def _numpy(values: pa.Array) -> np.ndarray:
    zero: Any = pa.scalar(0, pa.int64()).cast(values.type)
    numbers: np.ndarray = pc.fill_null(values, zero).to_numpy(zero_copy_only=False)
    return numbers
