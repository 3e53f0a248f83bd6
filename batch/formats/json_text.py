"""Kept JSON values that stand as raw JSON tokens, and the plain text they are outside JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

MARK = {b"json": b"1"}
"""Field metadata of a string column whose values are raw JSON tokens, strings included."""


def is_marked(field: pa.Field) -> bool:
    """Whether the values of a column are raw JSON tokens."""
    return bool(field.metadata and field.metadata.get(b"json") == b"1")


def plain_text(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """The table with the named columns as plain text: a JSON string as its text, every other token as it is spelled."""
    for name in names:
        place = table.schema.get_field_index(name)
        if place < 0:
            continue
        field, column = table.schema.field(place), table.column(place)
        if is_marked(field):
            texts = pa.chunked_array([[_text(token) for token in column.to_pylist()]], pa.string())
            table = table.set_column(place, pa.field(name, pa.string()), texts)
        elif pa.types.is_integer(field.type):
            table = table.set_column(place, pa.field(name, pa.string()), column.cast(pa.string()))
    return table


def _text(token: str | None) -> str | None:
    return str(json.loads(token)) if token is not None and token.startswith('"') else token


def texts_of_tokens(tokens: pa.Array) -> pa.Array:
    """Raw JSON tokens as plain text; null for the token ``null``."""
    tokens = pc.if_else(pc.equal(tokens, "null"), pa.scalar(None, tokens.type), tokens)
    if not pc.any(pc.match_substring(tokens, "\\")).as_py():  # without escapes the quotes at the ends are the only ones
        return pc.utf8_trim(tokens, '"')
    return pa.array([_text(token) for token in tokens.to_pylist()], pa.string())
