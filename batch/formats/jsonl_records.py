"""One JSONL record at a time, strictly: what pyarrow cannot be trusted with, and the reason why a record is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from batch.formats import LINE_COLUMN, Column, Fault, ReadOptions
from batch.formats.validate import cut_short, shown

NESTING_MAX = 200
"""Levels of objects and arrays in one record. A fixed limit, because the interpreter's own depends on who is calling."""
_BRACKET = re.compile(rb'(?s)"(?:[^"\\]|\\.)*+\\?(?:"|\Z)|[\[{]|[\]}]')
"""Strings are passed over as a whole, also one that never ends: so that the search stays linear in the line."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DIGITS_MAX = 20


class Number(str):
    """A JSON number as it is spelled."""

    __slots__ = ()


class Repeating(dict[str, Any]):
    """An object in which `names` stand more than once."""

    names: frozenset[str]


class Unreadable(ValueError):
    """The line is no record; the text says why."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    repeating = Repeating(found)
    repeating.names = frozenset(name for name in found if names.count(name) > 1)
    return repeating


def _constant(name: str) -> NoReturn:
    raise Unreadable(f"{name} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_constant)


def parse(line: bytes) -> dict[str, Any]:
    """The record of a line, numbers as `Number`. Raises `Unreadable`."""
    if _is_too_deep(line):
        raise Unreadable(f"the record is nested more than {NESTING_MAX} levels deep")
    try:
        record = _DECODER.decode(line.decode("utf-8"))
        if _SURROGATE.search(line):
            json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"the record is not UTF-8: byte 0x{line[error.start]:02x} at its offset {error.start}"
        ) from error
    except UnicodeEncodeError as error:
        raise Unreadable("the record holds half of a surrogate pair") from error
    except json.JSONDecodeError as error:
        said = error.msg.removesuffix(" at").removesuffix(" starting")
        raise Unreadable(f"the record is not JSON at its character {error.pos}: {said}") from error
    except RecursionError as error:
        raise Unreadable("the record is nested too deeply") from error
    if not isinstance(record, dict):
        raise Unreadable(f"the record is {_kind(record)}, not an object")
    return record


def _is_too_deep(line: bytes) -> bool:
    if line.count(b"[") + line.count(b"{") <= NESTING_MAX:
        return False
    depth = 0
    for found in _BRACKET.finditer(line):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        if depth > NESTING_MAX:
            return True
    return False


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, list):
        return "an array"
    return "a number" if isinstance(value, Number) else "a string"


def token(value: Any) -> str:
    """A value as JSON text, numbers as they were spelled. Raises `Unreadable` for a repeated name or too deep a nesting."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Repeating):
        raise Unreadable(f"the name {min(value.names)!r} stands more than once in one object")
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{token(each)}" for name, each in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(token, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def fault_of(row: int, record: dict[str, Any], wanted: Sequence[str], options: ReadOptions) -> Fault | None:
    """What is wrong with the names in a record, or None."""
    if isinstance(record, Repeating) and (repeated := record.names & set(wanted)):
        name = min(repeated)
        return row, name, "parse", f"the name {name!r} stands more than once in the record"
    if options.keep_line and (taken := [name for name in (*options.output_columns, LINE_COLUMN) if name in record]):
        return row, taken[0], "columns", f"the record itself has {taken[0]!r}, a name of the output's"
    return None


def signature_value(column: Column, value: Any, options: ReadOptions) -> tuple[Any, bool]:
    """(a value that casts to the column's type: text, bool or None; whether the JSON value is of the right kind)."""
    if value is None or (type(value) is str and value in options.null_values):
        return None, True
    if column.type == "boolean":
        return (value, True) if isinstance(value, bool) else (None, False)
    if column.type in {"string", "binary", "datetime"}:
        return (value, True) if type(value) is str else (None, False)
    if not isinstance(value, Number):
        return None, False
    if column.type in {"integer", "long"}:
        digits = _integral(value)
        return digits, digits is not None
    return str(value), True


def _integral(number: Number) -> str | None:
    """The digits of a number that is exactly integral, or None."""
    if not set(number) & set(".eE"):
        return str(number)
    try:
        value = Decimal(number)
    except InvalidOperation:  # an exponent of twenty digits
        return None
    if not value:
        return "0"
    if value.adjusted() >= _DIGITS_MAX or value != value.to_integral_value():
        return None
    return str(int(value))


def misfit(row: int, column: Column, value: Any) -> Fault:
    """The fault of a value that is not of its column's type."""
    seen = cut_short(str(value)) if isinstance(value, Number) else shown(value)
    return row, column.name, "type", f"{column.name} is {seen}, which is not of type {column.type}"
