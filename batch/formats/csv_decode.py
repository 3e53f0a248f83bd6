"""Decoding one block of CSV records to Arrow.

A block is parsed with the signature's types in one go. Only where that fails, or where the bytes hold something pyarrow would
take silently, the block is taken apart: records that cannot be read are left out, the rest is read as text and cast column by
column, so that each bad value costs its own record and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from batch.errors import InputFormatError
from batch.formats import Block, ReadOptions, rejects, validate
from batch.formats.csv_cast import FALSE_VALUES, TRUE_VALUES, cast
from batch.formats.csv_lex import Quotes, Records, field_counts, holds_longer, split_records
from batch.formats.text import HELD_RECORD_BYTES
from batch.formats.validate import Fault

UNREADABLE = frozenset({"parse", "columns", "too_long"})
"""Codes of records that do not split into the file's columns, or not reliably so."""
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
    def has_integers(self) -> bool:
        return any(pa.types.is_integer(kind) for kind in self.types)

    @cached_property
    def fields(self) -> list[str]:
        """A name for every field of a record: its position."""
        return [str(position) for position in range(self.width)]

    @cached_property
    def schema(self) -> pa.Schema:
        return pa.schema(list(zip(self.names, self.types, strict=True)))


def decode(uri: str, offset: int, text: bytes, quotes: Quotes, layout: Layout, options: ReadOptions) -> Block:
    """The valid rows and the rejects of `text`: whole records in UTF-8, from byte `offset` of the file `uri` on."""
    if not _suspicious(text, quotes, layout, options):
        try:
            table = parse(text, layout, layout.types, options, quoted=bool(len(quotes.opens)))
        except pa.ArrowInvalid:
            pass  # some record is at fault: find out which
        else:
            return _checked(table, text, quotes, options)
    try:
        return _take_apart(text, quotes, layout, options)
    except pa.ArrowInvalid as error:
        raise InputFormatError(
            f"{uri} cannot be read as CSV somewhere behind byte {offset}: {error}", hint="check input.delimiter"
        ) from error


def parse(
    text: bytes, layout: Layout, types: tuple[pa.DataType, ...], options: ReadOptions, *, quoted: bool
) -> pa.Table:
    """The wanted columns of `text` as `types`. Raises `pa.ArrowInvalid` when a record does not fit."""
    if text.startswith(_BOM):
        text = b"\n" + text  # in the middle of a file it is data, but the reader would strip it
    wanted = [layout.fields[position] for position in layout.positions]
    table = pa_csv.read_csv(
        pa.BufferReader(text),
        read_options=pa_csv.ReadOptions(column_names=layout.fields, use_threads=False, block_size=len(text) + 1),
        parse_options=pa_csv.ParseOptions(delimiter=options.delimiter, newlines_in_values=quoted),
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


def _suspicious(text: bytes, quotes: Quotes, layout: Layout, options: ReadOptions) -> bool:
    """Whether the block may hold something that pyarrow accepts and we do not."""
    return (
        len(quotes.strays) > 0
        or b"\0" in text
        or (layout.has_integers and (b"0x" in text or b"0X" in text))
        or holds_longer(text, quotes, options.max_record_bytes)
    )


def _checked(table: pa.Table, text: bytes, quotes: Quotes, options: ReadOptions) -> Block:
    valid, faults = validate.split(table, options)
    if not faults:
        return Block(valid, table.num_rows)
    records = split_records(text, quotes)
    return Block(valid, table.num_rows, _rejects(faults, text, records))


def _rejects(faults: list[Fault], text: bytes, records: Records) -> pa.Table:
    return reject_table(faults, [records.bytes_of(text, row) for row, _, _, _ in faults])


def _take_apart(text: bytes, quotes: Quotes, layout: Layout, options: ReadOptions) -> Block:
    """The slow path: each record that cannot be read, or holds a value of another type, is a reject of its own."""
    records = split_records(text, quotes)
    faults = _broken_records(text, quotes, records, layout, options)
    rows = np.setdiff1d(np.arange(len(records)), [row for row, _, _, _ in faults], assume_unique=True)
    if not len(rows):
        return Block(layout.schema.empty_table(), len(records), _rejects(faults, text, records) if faults else None)
    strings = (pa.string(),) * len(layout.types)
    texts = parse(
        _joined(text, records, rows), layout, strings, options, quoted=bool(len(quotes.opens))
    ).combine_chunks()
    table, misfits = _cast_columns(texts, layout, options)
    valid_rows = np.setdiff1d(np.arange(len(rows)), [row for row, _, _, _ in misfits], assume_unique=True)
    if misfits:
        table = table.take(pa.array(valid_rows))
    valid, refused = validate.split(table, options)
    faults += [(int(rows[row]), *rest) for row, *rest in misfits]  # type: ignore[misc]
    faults += [(int(rows[valid_rows[row]]), *rest) for row, *rest in refused]  # type: ignore[misc]
    return Block(valid, len(records), _rejects(sorted(faults), text, records) if faults else None)


def _joined(text: bytes, records: Records, rows: np.ndarray) -> bytes:
    """The text of the records `rows` (ascending) alone, copied run by run."""
    if len(rows) == len(records):
        return text
    breaks = np.flatnonzero(np.diff(rows) != 1)
    starts = records.starts[rows[np.concatenate([[0], breaks + 1])]]
    stops = records.stops[rows[np.concatenate([breaks, [len(rows) - 1]])]]
    return b"\n".join([text[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)])


def _broken_records(text: bytes, quotes: Quotes, records: Records, layout: Layout, options: ReadOptions) -> list[Fault]:
    """Records that must not be parsed, each with its first fault in this order: too long, NUL, stray quote, field count."""
    lengths = records.stops - records.starts
    counts = field_counts(text, quotes, records, options.delimiter)
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
    for row in np.flatnonzero(counts != layout.width).tolist():
        fields = f"the record has {counts[row]} fields, but the file has {layout.width} columns"
        found.setdefault(row, (row, "", "columns", fields))
    return [found[row] for row in sorted(found)]


def _cast_columns(texts: pa.Table, layout: Layout, options: ReadOptions) -> tuple[pa.Table, list[Fault]]:
    """The signature columns with their types (null where a value does not parse), and a fault for each such record."""
    columns: list[pa.Array] = []
    faults: dict[int, Fault] = {}
    for name, kind, text in zip(layout.names, layout.types, texts.columns, strict=True):
        column = text.chunk(0)
        values, bad = cast(column, kind)
        columns.append(values)
        if bad is None:
            continue
        rows = np.flatnonzero(bad)
        type_name = next(column.type for column in options.columns if column.name == name)
        for row, value in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
            message = f"{name} is {validate.shown(value)}, which is not of type {type_name}"
            faults.setdefault(row, (row, name, "type", message))
    return pa.table(columns, schema=layout.schema), [faults[row] for row in sorted(faults)]
