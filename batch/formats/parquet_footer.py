"""Parquet files put one behind the other: row groups as they are, and one footer whose offsets fit.

A file is ``PAR1``, the row groups, the footer (`FileMetaData` in Thrift's compact protocol), its length in four bytes, ``PAR1``. All places in a
footer are counted from the beginning of the file, so a row group that moves needs other numbers, and nothing else. Numbers of
fields below are those of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

from dataclasses import dataclass

from batch.formats import thrift_compact as thrift
from batch.formats.thrift_compact import I32, I64, LIST, STRUCT, Items, Malformed, Struct

MAGIC = b"PAR1"
TAIL_BYTES = 8
"""The footer's length and the magic."""
FOOTER_LIMIT = 1 << 31
"""Bytes; readers take the length for a signed number."""

_SCHEMA, _ROWS, _GROUPS, _CREATED_BY = 2, 3, 4, 6
_FILE_FIELDS = frozenset(range(1, 8))
"""Up to column_orders; 8 and 9 are about encryption."""
_CHILDREN = 5
"""Of a SchemaElement: how many elements below it; a leaf has none."""
_COLUMNS, _GROUP_ROWS, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7
_GROUP_FIELDS = frozenset(range(1, 8))
_CHUNK_OFFSET, _CHUNK_META = 2, 3
_CHUNK_FIELDS = frozenset({_CHUNK_OFFSET, _CHUNK_META})
"""A file path (1), page indexes (4 to 7, whose own places are absolute too) and encryption (8, 9) are left to a decoder."""
_STORED, _DATA, _INDEX, _DICTIONARY, _BLOOM = 7, 9, 10, 11, 14
_META_FIELDS = frozenset(range(1, 18))
"""Up to geospatial_statistics."""


class Odd(Exception):
    """A file that may be sound but is not one that can be copied; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file, taken apart."""

    footer: Struct
    end: int
    """Byte offset behind the last row group, where the footer begins."""


def part_of(body: bytes) -> Part:
    """Take a file apart. Raises `Malformed` where it is damaged, and `Odd` where it has what nobody here knows how to move.

    What is unknown may hold a place in the file. So every field must be one of those that are listed above.
    """
    if body[:4] != MAGIC or body[-4:] != MAGIC:
        raise Malformed(f"it begins with {body[:4]!r} and ends with {body[-4:]!r}, not with {MAGIC!r}")
    size = int.from_bytes(body[-TAIL_BYTES:-4], "little")
    end = len(body) - TAIL_BYTES - size
    if end < len(MAGIC):
        raise Malformed(f"it says its footer has {size} bytes, but there are {len(body) - TAIL_BYTES - len(MAGIC)}")
    footer = thrift.decode(body[end:-TAIL_BYTES])
    leaves = sum(not one.get(_CHILDREN, I32) for one in footer.structs(_SCHEMA)[1:])
    groups = footer.structs(_GROUPS)
    rows = sum(group.need(_GROUP_ROWS, I64) for group in groups)
    if rows != footer.need(_ROWS, I64):
        raise Malformed(f"its row groups hold {rows} rows, but the file {footer.need(_ROWS, I64)}")
    _require(footer, _FILE_FIELDS, "file")
    for group in groups:
        _check_group(group, leaves, end)
    return Part(footer, end)


def _check_group(group: Struct, leaves: int, end: int) -> None:
    _require(group, _GROUP_FIELDS, "row group")
    columns = group.structs(_COLUMNS)
    if len(columns) != leaves:
        raise Malformed(f"a row group has {len(columns)} columns, the schema {leaves}")
    for column in columns:
        _require(column, _CHUNK_FIELDS, "column chunk")
        meta = column.need(_CHUNK_META, STRUCT)
        _require(meta, _META_FIELDS, "column")
        data, dictionary = meta.need(_DATA, I64), meta.get(_DICTIONARY, I64)
        start, stored = min(data, dictionary or data), meta.need(_STORED, I64)
        if start < len(MAGIC) or stored < 0 or start + stored > end or data >= end:
            raise Malformed(
                f"a column has {stored} bytes at {start}, but the row groups lie between {len(MAGIC)} and {end}"
            )


def _require(struct: Struct, known: frozenset[int], what: str) -> None:
    if unknown := sorted(struct.fields.keys() - known):
        raise Odd(f"its {what} has field {unknown[0]}")


class Footer:
    """The footer of a file that is made of others; their entries for row groups are all that is held of them.

    Schema, user metadata and the rest come from the first file.
    """

    def __init__(self) -> None:
        self._first = Struct()
        self._told = b""
        self._groups: list[bytes] = []
        self._rows = 0

    def add(self, body: bytes, at: int) -> bytes:
        """Enter a file whose row groups will begin at byte `at`, and give their bytes.

        Raises `Odd` and `Malformed` as `part_of` does, and `Odd` where schema or metadata are not those of the first file. A file that
        was refused leaves no trace.
        """
        part = part_of(body)
        told = _facts(part.footer)
        if self._told not in {b"", told}:
            raise Odd("the schema or the metadata of one differ from those of the first")
        groups = [_moved(group, at - len(MAGIC)) for group in part.footer.structs(_GROUPS)]
        if not self._told:
            self._first, self._told = part.footer, told
        self._groups += groups
        self._rows += part.footer.need(_ROWS, I64)
        return body[len(MAGIC) : part.end]

    def end(self) -> bytes:
        """Footer, length and magic. Raises `Odd` for a footer so big that no reader takes it."""
        own = {_ROWS: (I64, self._rows), _GROUPS: (LIST, Items(STRUCT, self._groups))}
        footer = thrift.encode(Struct(self._first.fields | own))
        if len(footer) >= FOOTER_LIMIT:
            raise Odd(
                f"a footer of {len(footer)} bytes for {len(self._groups)} row groups is over the limit of {FOOTER_LIMIT}"
            )
        return footer + len(footer).to_bytes(4, "little") + MAGIC


def _facts(footer: Struct) -> bytes:
    """Everything that must be the same in all files: all but the row groups, their rows and the name of the program."""
    own = {_ROWS, _GROUPS, _CREATED_BY}
    return thrift.encode(Struct({number: value for number, value in footer.fields.items() if number not in own}))


def _moved(group: Struct, by: int) -> bytes:
    """A row group's entry, encoded, `by` bytes further on. Its tree is used up."""
    _shift(group, by, _GROUP_OFFSET)
    # Its number in its own file: for encryption only, and too short for more than 32767 of them.
    group.fields.pop(_ORDINAL, None)
    for column in group.structs(_COLUMNS):
        _shift(column, by, _CHUNK_OFFSET)
        _shift(column.need(_CHUNK_META, STRUCT), by, _DATA, _INDEX, _DICTIONARY, _BLOOM)
    return thrift.encode(group)


def _shift(struct: Struct, by: int, *fields: int) -> None:
    """0 is how writers say that a place is not given."""
    for number in fields:
        if place := struct.get(number, I64):
            struct.put(number, place + by)
