"""Encoding Arrow tables as JSONL: vectorised tokens per column, strict JSON, or predictions spliced into the input's own lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import SchemaMismatch
from batch.formats import LINE_COLUMN, Encoder, ReadOptions, Shape, WriteOptions
from batch.formats.compression import compress_member, decompress_member
from batch.formats.csv_write import SLICE_BYTES, field_texts
from batch.formats.json_text import is_marked
from batch.formats.text import interleaved

_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
FAULT_NAMES = ("_file", "_row", "_column", "_code", "_message")
TAKEN = (*FAULT_NAMES, "_raw")
"""Names that a record in the rejects file may not have itself: nobody could tell them from the fault's."""


class JsonlEncoder(Encoder):
    """Encodes one chunk's rows; the section is compressed as one member."""

    def __init__(self, options: WriteOptions) -> None:
        self._options = options
        self._parts: list[bytes] = []

    def add(self, table: pa.Table) -> None:
        rows = max(1, table.num_rows * SLICE_BYTES // max(table.nbytes, 1))
        for first in range(0, table.num_rows, rows):
            self._parts.append(encode(table.slice(first, rows), self._options))

    def finish(self) -> bytes:
        body = b"".join(self._parts)
        self._parts = []
        return compress_member(body, self._options.compression)


def header(options: WriteOptions) -> bytes:
    """JSONL has none."""
    return b""


def assemble(options: WriteOptions, sections: Iterable[bytes]) -> Iterator[bytes]:
    """One whole file: the sections as they are."""
    yield from sections


def encode(table: pa.Table, options: WriteOptions) -> bytes:
    """The rows as JSON lines. Raises `SchemaMismatch` for a column of a type that has no JSON form."""
    if not table.num_rows:
        return b""
    names = [name for name in options.columns if name != LINE_COLUMN]
    if options.splice:
        there = set(table.column_names)
        names = [name for name in names if name in there]
    members = [_member(name, table.schema.field(name), _one_array(table[name])) for name in names]
    if not options.splice:
        return _joined(["{", *_separated(members), "}\n"]) if members else b"{}\n" * table.num_rows
    lines = _one_array(table[LINE_COLUMN]).cast(pa.string())
    if not members:
        return _joined([lines, "\n"])
    body = pc.utf8_rtrim(pc.binary_replace_slice(lines, -1, 2**31 - 1, ""), characters=" \t\r")
    comma = pc.if_else(pc.match_substring_regex(body, r"^\{[ \t\r]*$"), "", ",")
    return _joined([body, comma, *_separated(members), "}\n"])


def _separated(members: list[list[object]]) -> list[object]:
    return [piece for place, member in enumerate(members) for piece in ([",", *member] if place else member)]


def _joined(pieces: list[object]) -> bytes:
    joined = pc.binary_join_element_wise(*pieces, "")
    _, offsets, data = joined.buffers()
    first, last = np.frombuffer(offsets, dtype=np.int32)[[joined.offset, joined.offset + len(joined)]].tolist()
    return bytes(memoryview(data)[first:last])


def _member(name: str, field: pa.Field, values: pa.Array) -> list[object]:
    return [json.dumps(name, ensure_ascii=False) + ":", tokens(name, field, values)]


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def tokens(name: str, field: pa.Field, values: pa.Array) -> pa.Array:
    """The values of a column as JSON text; null, NaN and infinity as ``null``."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if is_marked(field):
        texts = values.cast(pa.string())
    elif pa.types.is_floating(kind):
        texts = pc.if_else(pc.is_finite(values), values.cast(pa.string()), pa.scalar(None, pa.string()))
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        texts = values.cast(pa.string())
    elif pa.types.is_nested(kind):
        texts = _nested(name, values)
    elif pa.types.is_null(kind):
        texts = pa.nulls(len(values), pa.string())
    else:
        texts = _quoted(_texts(name, values))
    return pc.fill_null(texts, "null")


def _texts(name: str, values: pa.Array) -> pa.Array:
    if pa.types.is_temporal(values.type):
        return pc.if_else(values.is_valid(), field_texts(name, values, ","), pa.scalar(None, pa.string()))
    try:
        return values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _no_json_form(name, values.type) from error


def _no_json_form(name: str, kind: pa.DataType) -> SchemaMismatch:
    return SchemaMismatch(
        f"column {name!r} is of type {kind}, and some value of it has no JSON form",
        hint="leave the column out of output.keep or write Parquet",
    )


def _nested(name: str, values: pa.Array) -> pa.Array:
    try:
        return pa.array(
            [
                None if each is None else json.dumps(each, ensure_ascii=False, allow_nan=False)
                for each in values.to_pylist()
            ],
            pa.string(),
        )
    except (TypeError, ValueError) as error:
        raise _no_json_form(name, values.type) from error


def _quoted(texts: pa.Array) -> pa.Array:
    """Every value in quotes; only those that need an escape pass through Python."""
    quoted = pc.binary_join_element_wise('"', texts, '"', "")
    needs = pc.fill_null(pc.match_substring_regex(texts, _NEEDS_ESCAPE), fill_value=False)
    if not pc.any(needs).as_py():
        return quoted
    escaped = [json.dumps(text, ensure_ascii=False) for text in texts.filter(needs).to_pylist()]
    return pc.replace_with_mask(quoted, needs, pa.array(escaped, pa.string()))


def encode_rejects(options: ReadOptions, shape: Shape, tables: Iterable[pa.Table], with_file: bool) -> Iterator[bytes]:
    """The rejects file: the fault's members in front of the record's own, or the line in ``_raw`` if it is no record."""
    leading = FAULT_NAMES if with_file else FAULT_NAMES[1:]
    for table in tables:
        if table.num_rows:
            yield b"".join(_reject_line(row, leading) for row in table.to_pylist())


def _reject_line(row: dict[str, object], leading: tuple[str, ...]) -> bytes:
    fault = json.dumps({name: row[name] for name in leading}, ensure_ascii=False, separators=(",", ":"))
    record = row["_record"]
    assert record is None or isinstance(record, bytes)
    if record is not None and row["_readable"] and not any(f'"{name}"'.encode() in record for name in TAKEN):
        members = record[1:].lstrip(b" \t\r")
        return fault[:-1].encode() + (b"" if members == b"}" else b",") + members + b"\n"
    raw = json.dumps((record or b"").decode("utf-8", "backslashreplace"), ensure_ascii=False)
    return f'{fault[:-1]},"_raw":{raw}}}\n'.encode()


def splice(options: WriteOptions, section: bytes, at: Sequence[int], rows: bytes) -> bytes:
    """See `batch.formats.Format.splice`; the lines of `section` keep their bytes."""
    text, more = (decompress_member(body, options.compression) for body in (section, rows))
    lengths = [len(line) + 1 for line in text.split(b"\n")[:-1]]
    edges = [0, *accumulate(lengths)]
    return compress_member(interleaved(text, edges, at, more.split(b"\n")[:-1]), options.compression)


def own_record(record: bytes, shape: Shape, names: Sequence[str], delimiter: str) -> bytes:
    """See `batch.formats.Format.own_record`: the record without the fault's members, whatever `names` it has; numbers keep their spelling."""
    from batch.formats.jsonl_records import parse, token

    members = {name: value for name, value in parse(record).items() if name not in TAKEN}
    text = ",".join(f"{json.dumps(name, ensure_ascii=False)}:{token(value)}" for name, value in members.items())
    return f"{{{text}}}".encode()
