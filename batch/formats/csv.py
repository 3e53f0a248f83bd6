"""CSV: what its first bytes tell, and the bundle of functions that makes it a format.

UTF-8 (a byte order mark is skipped), one-byte delimiter, double quotes doubled inside quotes; records end in LF, CRLF or CR; blank lines are
no records. How records are found is in `csv_lex` and `csv_blocks`, how they become columns in `csv_decode`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from batch.errors import InputEmpty, InputFormatError, SchemaMismatch
from batch.formats import Format, ReadOptions, Shape, csv_write
from batch.formats.compression import check_magic
from batch.formats.csv_decode import Layout, parse
from batch.formats.csv_lex import Records, field_counts, lex, line_stops, record_ends
from batch.formats.csv_read import CsvReader
from batch.formats.text import cut, utf8_error
from batch.storage import Source

SAMPLE_BYTES = 64 << 10
HEADER_BYTES_MAX = 8 << 20
COLUMNS_MAX = 100_000
DELIMITERS = (",", ";", "\t", "|")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Head:
    """The beginning of a file: at least its first record."""

    text: bytes
    """Without the byte order mark."""
    offset: int
    """Of the text in the file: 0, or 3 behind a byte order mark."""
    ends: list[int]
    """Record ends in the text."""
    first: int
    """Which of them is the first that is not a blank line's."""

    @property
    def record(self) -> bytes:
        """The first record, with its line end."""
        return self.text[self.ends[self.first - 1] if self.first else 0 : self.ends[self.first]]


def inspect(source: Source, options: ReadOptions) -> Shape:
    """Names, where the data begins and the mean record length, from the first 64 KiB (more while the header goes on).

    Raises `InputEmpty` for no bytes, `InputFormatError` for other kinds of files, encodings, delimiters, for a repeated
    name and for a header over 8 MiB, `SchemaMismatch` where a file without a header has another number of columns.
    """
    if not source.size_bytes:
        raise InputEmpty(f"{source.uri} is empty: it holds 0 bytes", hint="set input.allow_empty if that may happen")
    head = _read_head(source, options)
    if error := utf8_error(head.record, source.uri, head.offset):
        raise error
    fields = _fields(source.uri, head.record, options.delimiter)
    if not options.header:
        names = _names_without_header(source, options, fields)
        return _shape(source, head, names, head.offset)
    _check_names(source, options, fields, head.record)
    return _shape(source, head, fields, head.offset + head.ends[head.first])


def _read_head(source: Source, options: ReadOptions) -> _Head:
    size = SAMPLE_BYTES
    while True:
        head = source.read(0, size)
        check_magic(head, "csv", "", source.uri)
        offset = len(_BOM) if head.startswith(_BOM) else 0
        found = _first_record(source, head[offset:], offset, options, final=size >= source.size_bytes)
        if found is not None:
            return found
        if size >= HEADER_BYTES_MAX:
            raise InputFormatError(
                f"the first record of {source.uri} is longer than {HEADER_BYTES_MAX} bytes (the file has {source.size_bytes})",
                hint="check that it is CSV and that its first quote is closed",
            )
        size *= 2


def _first_record(source: Source, text: bytes, offset: int, options: ReadOptions, *, final: bool) -> _Head | None:
    """The head if `text` holds a whole record that is not blank, None if more of the file is needed."""
    quotes = lex(text, options.delimiter)
    line_ends = record_ends(text, quotes, final=final)
    ends, stops = line_ends.tolist(), line_stops(text, line_ends).tolist()
    if final and quotes.open_at < 0 and ends[-1:] != [len(text)]:
        ends, stops = [*ends, len(text)], [*stops, len(text)]
    for index, (start, stop) in enumerate(zip([0, *ends], stops, strict=False)):
        if stop > start:
            return _Head(text, offset, ends, index)
    if not final:
        return None
    if quotes.open_at >= 0:
        raise InputFormatError(
            f"{source.uri} ends inside quotes: the quote at byte {offset + quotes.open_at} is never closed",
            hint="close that quote",
        )
    raise InputEmpty(f"{source.uri} holds no record: its {source.size_bytes} bytes are blank lines")


def _fields(uri: str, record: bytes, delimiter: str) -> tuple[str, ...]:
    """The fields of one record as text; a missing value is an empty one."""
    width = _width(record, delimiter)
    if width > COLUMNS_MAX:
        raise InputFormatError(
            f"the first record of {uri} has {width} fields, more than the {COLUMNS_MAX} columns a file may have",
            hint="check input.delimiter",
        )
    names = tuple(str(position) for position in range(width))
    layout = Layout(names, tuple(range(width)), (pa.string(),) * width, width)
    try:
        table = parse(record, layout, layout.types, ReadOptions((), delimiter=delimiter), quoted=True)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise InputFormatError(f"the first record of {uri} cannot be read: {reason}", hint="check it") from error
    return tuple(column[0].as_py() or "" for column in table.columns)


def _width(record: bytes, delimiter: str) -> int:
    """Number of fields of the first line, which the file may end behind without a line end."""
    quotes = lex(record, delimiter)
    ends = record_ends(record, quotes, final=True)
    stops = ends[:1] if len(ends) else np.array([len(record)])
    return int(field_counts(record, quotes, Records(stops * 0, stops), delimiter)[0])


def _shape(source: Source, head: _Head, columns: tuple[str, ...], data_start: int) -> Shape:
    """`Shape.sample_record_bytes` counts the complete records of the head, blank lines included in their bytes only."""
    begin = data_start - head.offset
    ends = [begin, *(end for end in head.ends if end > begin)]
    records = sum(1 for start, end in pairwise(ends) if head.text[start:end].strip(b"\r\n"))
    mean = (ends[-1] - begin) / records if records else 0.0
    return Shape(columns, source.size_bytes, data_start, sample_record_bytes=mean)


def _wanted(options: ReadOptions) -> tuple[str, ...]:
    """Kept names, then those of the signature: the columns, in order, of a file without a header."""
    return tuple(dict.fromkeys((*options.kept, *(column.name for column in options.columns))))


def _names_without_header(source: Source, options: ReadOptions, fields: tuple[str, ...]) -> tuple[str, ...]:
    names = _wanted(options)
    if len(fields) != len(names):
        raise SchemaMismatch(
            f"the first record of {source.uri} has {len(fields)} fields, but without a header {len(names)} are expected: "
            + ", ".join(names[:20])
            + (", …" if len(names) > 20 else ""),
            hint="the columns must be the kept ones, then the model's; check input.delimiter",
        )
    return names


def _check_names(source: Source, options: ReadOptions, names: tuple[str, ...], record: bytes) -> None:
    """Refuse a name that stands there twice (nobody can want a nameless column, so those may) and a wrong delimiter."""
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise InputFormatError(
            f"the header of {source.uri} holds {repeated[0]!r} {names.count(repeated[0])} times",
            hint="give each column a name of its own",
        )
    if len(names) == 1 and not set(_wanted(options)) <= set(names):
        widths = {other: _width(record, other) for other in DELIMITERS if other != options.delimiter}
        likely = max(widths, key=lambda other: widths[other])
        if widths[likely] > 1:
            shown = repr(likely)
            raise InputFormatError(
                f"1 column found in {source.uri}, {len(_wanted(options))} expected; looks like {shown}",
                hint=f"set input.delimiter = {shown.replace(chr(39), chr(34))}",
            )


FORMAT = Format(
    name="csv",
    inspect=inspect,
    cut=cut,
    read=CsvReader,
    encoder=csv_write.CsvEncoder,
    header=csv_write.header,
    assemble=csv_write.assemble,
    encode_rejects=csv_write.encode_rejects,
    splice=csv_write.splice,
    own_record=csv_write.own_record,
)
