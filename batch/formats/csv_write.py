"""Encoding Arrow tables as CSV: exact values, quotes only where a reader needs them, no Python per row.

Numbers are written in the shortest form that reads back as the same value, null and NaN as nothing, an empty text as ``""`` so
that it stays apart from null, line ends as LF.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import SchemaMismatch
from batch.formats import Encoder, ReadOptions, Shape, WriteOptions
from batch.formats.compression import compress_member, decompress_member
from batch.formats.csv_lex import lex, split_records
from batch.formats.text import interleaved

SLICE_BYTES = 32 << 20
"""Arrow bytes encoded at once: an array of text holds no more than 2 GiB, and quoting and escapes multiply."""
FORMULA = r"^[=+\-@\t\r]"
"""What spreadsheets take for the beginning of a formula."""
NUMBER_BYTES = frozenset("0123456789+-.:eTZ truefalseinf")


class CsvEncoder(Encoder):
    """Encodes one chunk's rows; the section is compressed as one member."""

    def __init__(self, options: WriteOptions) -> None:
        self._options = options
        self._parts: list[bytes] = []

    def add(self, table: pa.Table) -> None:
        table = table.select(list(self._options.columns))
        rows = max(1, table.num_rows * SLICE_BYTES // max(table.nbytes, 1))
        for first in range(0, table.num_rows, rows):
            part = table.slice(first, rows).combine_chunks()
            self._parts.append(encode(part, self._options.delimiter, excel_safe=self._options.excel_safe))

    def finish(self) -> bytes:
        body = b"".join(self._parts)
        self._parts = []
        return compress_member(body, self._options.compression)


def header(options: WriteOptions) -> bytes:
    """The header line, compressed as a member of its own if need be."""
    line = header_line(options.columns, options.delimiter, excel_safe=options.excel_safe)
    return compress_member(line, options.compression)


def header_line(names: Iterable[str], delimiter: str, *, excel_safe: bool = False) -> bytes:
    """The names as one CSV line."""
    columns = [pa.array([name], pa.string()) for name in names]
    return encode(pa.table(columns, names=[str(i) for i in range(len(columns))]), delimiter, excel_safe=excel_safe)


def assemble(options: WriteOptions, sections: Iterable[bytes]) -> Iterator[bytes]:
    """One whole file: the header and the sections as they are."""
    yield header(options)
    yield from sections


def encode(table: pa.Table, delimiter: str, *, excel_safe: bool = False) -> bytes:
    """The rows of a table as CSV lines. Raises `SchemaMismatch` for a column of a type that has no CSV form."""
    if not table.num_rows:
        return b""
    columns = [
        field_texts(name, column, delimiter, excel_safe=excel_safe)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    if len(columns) == 1:  # an empty line would be no record
        columns[0] = pc.if_else(pc.equal(columns[0], ""), '""', columns[0])
    return _lines(columns, delimiter)


def _lines(columns: list[pa.Array], delimiter: str) -> bytes:
    """Text or binary columns without nulls, joined; the data of the joined array is the file's text as it stands."""
    kind = columns[0].type
    line_end, nothing, separator = (pa.scalar(text, kind) for text in ("\n", "", delimiter))
    columns = [*columns[:-1], pc.binary_join_element_wise(columns[-1], nothing, line_end)]
    lines = pc.binary_join_element_wise(*columns, separator) if len(columns) > 1 else columns[0]
    _, offsets, data = lines.buffers()
    first, last = np.frombuffer(offsets, dtype=np.int32)[[lines.offset, lines.offset + len(lines)]].tolist()
    return bytes(memoryview(data)[first:last])


def field_texts(name: str, column: pa.ChunkedArray | pa.Array, delimiter: str, *, excel_safe: bool = False) -> pa.Array:
    """The values of a column as they stand in a CSV line, null as an empty text."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _is_text(values.type):
        texts = values.cast(pa.string())
        if excel_safe:
            texts = _without_formulas(texts)
        return pc.fill_null(_quoted(texts, delimiter), "")
    texts = _rendered(name, values)
    if delimiter in NUMBER_BYTES:
        texts = _quoted(texts, delimiter)
    return pc.fill_null(texts, "")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _rendered(name: str, values: pa.Array) -> pa.Array:
    """Numbers, booleans and times as text."""
    kind = values.type
    if pa.types.is_floating(kind):
        return _rendered_floats(values)
    if pa.types.is_timestamp(kind):
        return _rendered_timestamps(values)
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise _no_csv_form(name, kind)
    try:
        return values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _no_csv_form(name, kind) from error


def _no_csv_form(name: str, kind: pa.DataType) -> SchemaMismatch:
    return SchemaMismatch(
        f"column {name!r} is of type {kind}, which has no CSV form",
        hint="leave the column out of output.keep or write Parquet",
    )


def _rendered_floats(values: pa.Array) -> pa.Array:
    """Arrow's text of a float is the shortest that reads back as the same value."""
    texts = values.cast(pa.string())
    nan = pc.is_nan(values)
    return pc.if_else(nan, pa.scalar(None, pa.string()), texts) if pc.any(nan).as_py() else texts


def _rendered_timestamps(values: pa.Array) -> pa.Array:
    """ISO 8601, with no more digits behind the second than the value has."""
    texts = pc.binary_replace_slice(values.cast(pa.string()), 10, 11, "T")
    if values.type.tz is not None:
        texts = pc.replace_substring_regex(texts, r"([+-]\d\d)(\d\d)$", r"\1:\2")
    texts = pc.replace_substring_regex(texts, r"\.0+(Z|[+-].*)?$", r"\1")
    return pc.replace_substring_regex(texts, r"(\.\d*[1-9])0+(Z|[+-].*)?$", r"\1\2")


def _without_formulas(texts: pa.Array) -> pa.Array:
    formulas = pc.match_substring_regex(texts, FORMULA)
    return pc.if_else(formulas, pc.binary_join_element_wise("'", texts, ""), texts)


def _quoted(texts: pa.Array, delimiter: str) -> pa.Array:
    """Quotes around the values that need them: those with a delimiter, a quote or a line end, and empty ones."""
    needs = pc.equal(pc.binary_length(texts), 0)
    if _holds_any(texts, f'{delimiter}"\r\n'):
        escaped = "".join(f"\\x{ord(byte):02x}" for byte in f'{delimiter}"\r\n')
        needs = pc.or_(needs, pc.match_substring_regex(texts, f"[{escaped}]"))
    if not pc.any(needs).as_py():
        return texts
    return pc.if_else(needs, in_quotes(texts), texts)


def in_quotes(texts: pa.Array) -> pa.Array:
    """Every value (text or binary) in quotes, with the quotes inside doubled."""
    quote, doubled, nothing = ('"', '""', "") if texts.type == pa.string() else (b'"', b'""', b"")
    return pc.binary_join_element_wise(quote, pc.replace_substring(texts, quote, doubled), quote, nothing)


def _holds_any(texts: pa.Array, characters: str) -> bool:
    """Whether any value holds one of the characters: a look at all bytes at once, much cheaper than a match per value."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return False
    first, last = np.frombuffer(offsets, dtype=np.int32)[[texts.offset, texts.offset + len(texts)]].tolist()
    values = np.frombuffer(data, dtype=np.uint8)[first:last]
    return any(bool((values == ord(character)).any()) for character in characters)


def encode_rejects(options: ReadOptions, shape: Shape, tables: Iterable[pa.Table], with_file: bool) -> Iterator[bytes]:
    """The rejects file: fault columns, then the record verbatim, or quoted in ``_raw`` if it does not split into columns.

    The header comes even if there is no reject.
    """
    leading = [*(["_file"] if with_file else []), "_row", "_column", "_code", "_message"]
    yield header_line([*leading, "_raw", *shape.columns], options.delimiter)
    for table in tables:
        if table.num_rows:
            yield _encode_reject_rows(table.combine_chunks(), leading, options.delimiter, len(shape.columns))


def _encode_reject_rows(table: pa.Table, leading: list[str], delimiter: str, width: int) -> bytes:
    faults = [_bare_when_empty(field_texts(name, table[name], delimiter)).cast(pa.binary()) for name in leading]
    records = pc.fill_null(_one_array(table["_record"]), b"")
    readable = pc.and_(_one_array(table["_readable"]), _one_array(table["_record"]).is_valid())
    separator = delimiter.encode()
    raw = pc.binary_join_element_wise(in_quotes(records), separator * width, b"")
    verbatim = pc.binary_join_element_wise(separator, records, b"")
    return _lines([*faults, pc.if_else(readable, verbatim, raw)], delimiter)


def _bare_when_empty(texts: pa.Array) -> pa.Array:
    """A fault of the whole record names no column: nothing stands there, not a quoted empty text."""
    return pc.if_else(pc.equal(texts, '""'), "", texts)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def splice(options: WriteOptions, section: bytes, at: Sequence[int], rows: bytes) -> bytes:
    """See `batch.formats.Format.splice`; the records of `section` keep their bytes."""
    text, more = (decompress_member(body, options.compression) for body in (section, rows))
    records, inserted = (split_records(body, lex(body, options.delimiter)) for body in (text, more))
    edges = [*records.starts.tolist(), len(text)]
    lines = [inserted.bytes_of(more, row) for row in range(len(inserted))]
    return compress_member(interleaved(text, edges, at, lines), options.compression)


def own_record(record: bytes, shape: Shape, names: Sequence[str], delimiter: str) -> bytes:
    """See `batch.formats.Format.own_record`; each field keeps its bytes."""
    separators = np.flatnonzero(np.frombuffer(record, dtype=np.uint8) == ord(delimiter))
    ends = separators[lex(record, delimiter).outside(separators)].tolist()
    starts = [0, *(end + 1 for end in ends)]
    fields = [record[start:end] for start, end in zip(starts, [*ends, len(record)], strict=True)]
    return delimiter.encode().join(fields[shape.columns.index(name)] for name in names)
