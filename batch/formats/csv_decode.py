"""Decoding one block of CSV records to Arrow.

A block is parsed with the signature's types in one go. Where a value does not parse, its column is read as text and cast value
by value; records that pyarrow must not see, or cannot split, are left out. So each bad record costs itself and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from batch.errors import InputFormatError
from batch.formats import Block, Fault, ReadOptions, rejects, validate
from batch.formats.csv_cast import FALSE_VALUES, TRUE_VALUES, cast
from batch.formats.csv_lex import Quotes, Records, holds_longer, split_records
from batch.formats.text import HELD_RECORD_BYTES

UNREADABLE = frozenset({"parse", "columns", "too_long"})
"""Codes of records that do not split into the file's columns, or not reliably so."""
ATTEMPTS = 3
"""So many columns are found out one by one; then all are read as text."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Layout:
    """Which fields of a record are wanted, by position, so that odd or repeated names in the header do not matter."""

    names: tuple[str, ...]
    """Of the wanted columns: signature, then kept."""
    positions: tuple[int, ...]
    """0-based position in the record of each wanted column."""
    types: tuple[pa.DataType, ...]
    width: int
    """Number of fields of a record."""

    @cached_property
    def integers(self) -> set[int]:
        """Places, in the layout, of the integer columns."""
        return {place for place, kind in enumerate(self.types) if pa.types.is_integer(kind)}

    @cached_property
    def fields(self) -> list[str]:
        """A name for every field of a record: its position."""
        return [str(position) for position in range(self.width)]

    @cached_property
    def schema(self) -> pa.Schema:
        return pa.schema(list(zip(self.names, self.types, strict=True)))


class _Sieve:
    """Which records of a block are still in, and the faults of those that are not."""

    def __init__(self) -> None:
        self.rows: np.ndarray | None = None
        """Record numbers of those still in, ascending; None while all are."""
        self.faults: list[Fault] = []

    def remove(self, count: int, faults: list[Fault]) -> np.ndarray | None:
        """Take out some of the `count` records still in, numbered by their place among them; returns the other places."""
        if not faults:
            return None
        rows = np.arange(count) if self.rows is None else self.rows
        places = [fault[0] for fault in faults]
        self.faults += [(int(rows[place]), *fault[1:]) for place, fault in zip(places, faults, strict=True)]
        left = np.delete(np.arange(count), places)
        self.rows = rows[left]
        return left

    def rejects(self, text: bytes, quotes: Quotes) -> pa.Table | None:
        """All faults in record order with the bytes of their records."""
        if not self.faults:
            return None
        records = split_records(text, quotes)
        faults = sorted(self.faults)
        return reject_table(faults, [records.bytes_of(text, fault[0]) for fault in faults])


def decode(
    uri: str, offset: int, text: bytes, quotes: Quotes, layout: Layout, options: ReadOptions, doubtful: set[int]
) -> Block:
    """The valid rows and the rejects of `text`: whole records in UTF-8, from byte `offset` of the file `uri` on.

    `doubtful` holds the wanted columns (by place in the layout) where values of another type turned up before, and is added
    to. It only saves time: the result does not depend on it.
    """
    sieve, readable = _Sieve(), text
    if _may_hold_broken(text, quotes, options):
        records = split_records(text, quotes)
        left = sieve.remove(len(records), _broken_records(text, quotes, records, options))
        readable = text if left is None else _joined(text, records, left)
    try:
        table, miscounted = _parse_rows(readable, layout, options, doubtful, quoted=bool(len(quotes.opens)))
    except pa.ArrowInvalid as error:
        raise InputFormatError(
            f"{uri} cannot be read as CSV somewhere behind byte {offset}: {error}", hint="check input.delimiter"
        ) from error
    sieve.remove(table.num_rows + len(miscounted), miscounted)
    table, misfits = _cast_texts(table, layout, options, doubtful)
    left = sieve.remove(table.num_rows, misfits)
    valid, refused = validate.split(table if left is None else table.take(pa.array(left)), options)
    sieve.remove(table.num_rows - len(misfits), refused)
    return Block(valid, valid.num_rows + len(sieve.faults), sieve.rejects(text, quotes))


def parse(
    text: bytes,
    layout: Layout,
    types: Sequence[pa.DataType],
    options: ReadOptions,
    *,
    quoted: bool,
    on_miscount: Callable[[pa_csv.InvalidRow], str] | None = None,
) -> pa.Table:
    """The wanted columns of `text` as `types`.

    Raises `pa.ArrowInvalid` when a value does not parse, or a record has another number of fields and no `on_miscount`.
    """
    if text.startswith(_BOM):
        text = b"\n" + text  # in the middle of a file it is data, but the reader would strip it
    if not text.endswith((b"\n", b"\r")):
        text += b"\n"  # else an empty last field would count as quoted if the field before it is
    wanted = [layout.fields[position] for position in layout.positions]
    table = pa_csv.read_csv(
        pa.BufferReader(text),
        read_options=pa_csv.ReadOptions(column_names=layout.fields, use_threads=False, block_size=len(text) + 1),
        parse_options=pa_csv.ParseOptions(
            delimiter=options.delimiter, newlines_in_values=quoted, invalid_row_handler=on_miscount
        ),
        convert_options=pa_csv.ConvertOptions(
            check_utf8=False,  # done for the whole block
            column_types=dict(zip(wanted, types, strict=True)),
            include_columns=wanted,
            null_values=["", *options.null_values],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=list(TRUE_VALUES),
            false_values=list(FALSE_VALUES),
        ),
    )
    return table.rename_columns(list(layout.names))


def reject_table(faults: list[Fault], records: list[bytes]) -> pa.Table:
    """Rejects in row order from faults and their records, of which no more than 64 KiB are kept."""
    return rejects.build(
        [row for row, _, _, _ in faults],
        [column for _, column, _, _ in faults],
        [code for _, _, code, _ in faults],
        [message for _, _, _, message in faults],
        [
            record[:HELD_RECORD_BYTES] if fault[2] == "too_long" else record
            for fault, record in zip(faults, records, strict=True)
        ],
        [code not in UNREADABLE for _, _, code, _ in faults],
    )


def too_long(length_bytes: int, options: ReadOptions) -> str:
    """The message of a record that is too long."""
    return f"the record has {length_bytes} bytes, more than input.max_record_bytes = {options.max_record_bytes}"


def _may_hold_broken(text: bytes, quotes: Quotes, options: ReadOptions) -> bool:
    """Whether there may be records that pyarrow accepts and we do not."""
    return len(quotes.strays) > 0 or b"\0" in text or holds_longer(text, quotes, options.max_record_bytes)


def _broken_records(text: bytes, quotes: Quotes, records: Records, options: ReadOptions) -> list[Fault]:
    """Records that must not be parsed, each with its first fault in this order: too long, NUL, stray quote."""
    lengths = records.stops - records.starts
    nulls = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == 0) if b"\0" in text else quotes.strays[:0]
    found: dict[int, Fault] = {}
    for row in np.flatnonzero(lengths > options.max_record_bytes).tolist():
        found[row] = (row, "", "too_long", too_long(int(lengths[row]), options))
    for positions, message in (
        (nulls, "the record holds a NUL byte"),
        (quotes.strays, "the record holds a quote inside an unquoted field, or text behind a closing quote"),
    ):
        for row in np.unique(np.searchsorted(records.stops, positions, side="right")).tolist():
            found.setdefault(row, (row, "", "parse", message))
    return [found[row] for row in sorted(found)]


def _joined(text: bytes, records: Records, rows: np.ndarray) -> bytes:
    """The text of the records `rows` (ascending) alone, copied run by run."""
    if not len(rows):
        return b""
    breaks = np.flatnonzero(np.diff(rows) != 1)
    starts = records.starts[rows[np.concatenate([[0], breaks + 1])]]
    stops = records.stops[rows[np.concatenate([breaks, [len(rows) - 1]])]]
    return b"\n".join([text[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)])


def _parse_rows(
    text: bytes, layout: Layout, options: ReadOptions, doubtful: set[int], *, quoted: bool
) -> tuple[pa.Table, list[Fault]]:
    """The records with the right number of fields, doubtful columns as text, and a fault for each of the others.

    A column that does not parse becomes doubtful and the block is parsed again; after a few of them all columns are text.
    """
    if not text:
        return layout.schema.empty_table(), []
    as_text = set(doubtful) | (layout.integers if _holds_hexadecimal(text) else set())
    for attempt in range(ATTEMPTS + 1):
        miscounted: list[Fault] = []
        types = [pa.string() if place in as_text else kind for place, kind in enumerate(layout.types)]
        try:
            return parse(
                text, layout, types, options, quoted=quoted, on_miscount=_counter(miscounted, layout)
            ), miscounted
        except pa.ArrowInvalid as error:
            blamed = _blamed(error, layout)
            if attempt == ATTEMPTS or blamed in as_text:
                raise
        if blamed is None or attempt == ATTEMPTS - 1:
            as_text = set(range(len(types)))
        else:
            doubtful.add(blamed)
            as_text.add(blamed)
    raise AssertionError("the last attempt returns or raises")


def _counter(faults: list[Fault], layout: Layout) -> Callable[[pa_csv.InvalidRow], str]:
    """Skip records with another number of fields, and note them: pyarrow numbers records from 1, blank lines left out."""

    def skip(row: pa_csv.InvalidRow) -> str:
        message = f"the record has {row.actual_columns} fields, but the file has {layout.width} columns"
        faults.append((row.number - 1, "", "columns", message))
        return "skip"

    return skip


def _blamed(error: pa.ArrowInvalid, layout: Layout) -> int | None:
    """The wanted column that the error names, by place in the layout."""
    named = re.search(r"CSV column #(\d+)", str(error))
    position = int(named[1]) if named else -1
    return layout.positions.index(position) if position in layout.positions else None


def _holds_hexadecimal(text: bytes) -> bool:
    """Whether pyarrow might take some field for an integer that is none.

    The rarer byte is looked for first: a search for one byte is many times faster than one for two.
    """
    return (b"x" in text and b"0x" in text) or (b"X" in text and b"0X" in text)


def _cast_texts(
    table: pa.Table, layout: Layout, options: ReadOptions, doubtful: set[int]
) -> tuple[pa.Table, list[Fault]]:
    """The table with its signature types (null where a value does not parse), and a fault for each record with such a value."""
    if table.schema.equals(layout.schema):
        return table, []
    columns = list(table.columns)
    faults: dict[int, Fault] = {}
    for place, (name, kind) in enumerate(zip(layout.names, layout.types, strict=True)):
        if columns[place].type == kind:
            continue
        texts = columns[place].combine_chunks()
        columns[place], bad = cast(texts, kind)
        if bad is not None:
            doubtful.add(place)
            for fault in _misfits(name, texts, np.flatnonzero(bad), options):
                faults.setdefault(fault[0], fault)
    return pa.table(columns, schema=layout.schema), [faults[row] for row in sorted(faults)]


def _misfits(name: str, texts: pa.Array, rows: np.ndarray, options: ReadOptions) -> Iterator[Fault]:
    type_name = next(column.type for column in options.columns if column.name == name)
    for row, value in zip(rows.tolist(), texts.take(pa.array(rows)).to_pylist(), strict=True):
        yield row, name, "type", f"{name} is {validate.shown(value)}, which is not of type {type_name}"
