"""Reading the chunks of a JSONL file: pyarrow where a block is plain beyond doubt, Python's strict parser everywhere else."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from batch.formats import LINE_COLUMN, Block, ChunkReader, Cut, Fault, ReadOptions, Shape, rejects, validate
from batch.formats.csv_cast import cast
from batch.formats.json_text import MARK
from batch.formats.jsonl_lines import LongLine, Walk, split_lines
from batch.formats.jsonl_records import (
    NESTING_MAX,
    Number,
    Unreadable,
    fault_of,
    misfit,
    parse,
    signature_value,
    token,
)
from batch.formats.text import HELD_RECORD_BYTES
from batch.formats.types import arrow_type
from batch.storage import Source

_NO_NUMBERS = ((b"NaN", re.compile(rb"NaN[ \t\r]*[,\]}]")), (b"Inf", re.compile(rb"Inf(?:inity)?[ \t\r]*[,\]}]")))
"""What pyarrow takes for a number though it is no JSON, each behind a plain search, which is many times faster."""
_ESCAPING_STRING = re.compile(rb'(?s)\\.(?:[^"\\]|\\.)*+\\?(?:"[ \t\r]*+(:)?|\Z)')
"""From a string's first escape to its end, or all there is: so that no byte is looked at twice. The group tells a name."""
_INTEGER = re.compile(r"-?[0-9]+\Z")
_NEGATIVE_ZERO = re.compile(rb"-0[ \t\r,}]")
"""A whole number, and not the beginning of one like -0.5."""
UNREADABLE = frozenset({"parse", "too_long"})
SLOW_BYTES = 512 << 10
"""Text that Python's parser is given at once: its values take some thirty times as much."""


class JsonlReader(ChunkReader):
    """The blocks of one JSONL chunk; `start` is known at once, `end` when the iteration is over."""

    def __init__(self, source: Source, shape: Shape, cut: Cut, proven_start: int | None, options: ReadOptions) -> None:
        self._source, self._options = source, options
        self._walk = Walk(source, shape, cut, proven_start, options.max_record_bytes)
        self._places: list[tuple[int, int, int]] = []
        self.start = self.end = self._walk.start
        self.decoded_bytes = 0

    def __iter__(self) -> Iterator[Block]:
        rows = 0
        for piece in self._walk:
            if isinstance(piece, LongLine):
                blocks = self._long(rows, piece)
            else:
                blocks = self._decode(rows, piece.offset, piece.text)
            for block in blocks:
                rows += block.rows_read
                self.decoded_bytes += block.table.nbytes
                yield block
        self.end = self._walk.end

    def _decode(self, row: int, offset: int, text: bytes) -> Iterator[Block]:
        """One block, or small ones where pyarrow cannot read it: then few of its rows are slow, and few are held as objects."""
        whole = _fast_block(text, self._options) if len(text) > SLOW_BYTES else None
        for part in [text] if whole is not None else _parts(text, SLOW_BYTES):
            block = decode(part, self._options) if whole is None else whole
            self._places.append((row, offset, offset + len(part)))
            row, offset = row + block.rows_read, offset + len(part)
            yield block

    def _long(self, row: int, line: LongLine) -> Iterator[Block]:
        """A line that is not held; what makes it long may be nothing but blanks."""
        size = line.stop - line.offset
        if size <= self._options.max_record_bytes:
            yield from self._decode(row, line.offset, self._source.read(line.offset, line.stop))
            return
        fault = (0, "", "too_long", too_long(size, self._options))
        yield Block(empty(self._options), 1, reject_table([fault], [line.head]))

    def refused(self, faults: Sequence[Fault]) -> pa.Table:
        return reject_table(faults, self.records([fault[0] for fault in faults]))

    def records(self, rows: Sequence[int]) -> list[bytes]:
        """The bytes of some records of the blocks handed out so far; `rows` are 0-based in the chunk, best ascending."""
        found: list[bytes] = []
        place, lines = -1, [b""]
        for row in rows:
            at = bisect_right(self._places, row, key=lambda each: each[0]) - 1
            first, start, end = self._places[at]
            if at != place:
                place, lines = at, split_lines(self._source.read(start, end))
            found.append(lines[row - first])
        return found


def decode(text: bytes, options: ReadOptions) -> Block:
    """Some whole lines as a block."""
    if (block := _fast_block(text, options)) is not None:
        return block
    lines = split_lines(text)
    return _block(lines, *decode_slowly(lines, options), options)


def _fast_block(text: bytes, options: ReadOptions) -> Block | None:
    lines = split_lines(text)
    if not lines:
        return Block(empty(options), 0)
    table = decode_fast(text, lines, options)
    return None if table is None else _block(lines, table, np.arange(len(lines)), [], options)


def _block(lines: list[bytes], table: pa.Table, rows: np.ndarray, faults: list[Fault], options: ReadOptions) -> Block:
    """`rows`: numbers in `lines` of the table's rows; `faults`: those of the others."""
    table, invalid = validate.split(table, options)
    faults = sorted([*faults, *((int(rows[row]), column, code, said) for row, column, code, said in invalid)])
    refused = [lines[fault[0]][: HELD_RECORD_BYTES if fault[2] == "too_long" else None] for fault in faults]
    return Block(table, len(lines), reject_table(faults, refused) if faults else None)


def _parts(text: bytes, size: int) -> Iterator[bytes]:
    """The text in whole lines of about `size` bytes together."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + size) + 1 or len(text)
        yield text[start:end]
        start = end


def reject_table(faults: Sequence[Fault], records: Sequence[bytes]) -> pa.Table:
    """The rejects of a block from its faults, in row order."""
    rows, columns, codes, messages = zip(*faults, strict=True)
    return rejects.build(rows, columns, codes, messages, records, [code not in UNREADABLE for code in codes])


def too_long(size_bytes: int, options: ReadOptions) -> str:
    """The message for a record over the limit."""
    return f"the record is {size_bytes} bytes long, more than the {options.max_record_bytes} of input.max_record_bytes"


def kept_names(options: ReadOptions) -> list[str]:
    """The kept columns outside the signature."""
    signature = {column.name for column in options.columns}
    return [name for name in options.kept if name not in signature]


def empty(options: ReadOptions) -> pa.Table:
    """A table without rows."""
    return decode_slowly([], options)[0]


# --- pyarrow


def decode_fast(text: bytes, lines: list[bytes], options: ReadOptions) -> pa.Table | None:
    """The block as pyarrow reads it, or None where it might not read what a strict parser reads."""
    if not _is_plain(text, lines, options):
        return None
    try:
        first = parse(lines[0])
        table = _read(text, _fast_schema(first, options))
    except (Unreadable, pa.ArrowException, OverflowError):
        return None
    if table.num_rows != len(lines) or _lost_spelling(text, table, options):
        return None
    return _typed(table, lines, options)


def _is_plain(text: bytes, lines: list[bytes], options: ReadOptions) -> bool:
    """Guards in front of pyarrow: it crashes on a first line ``null`` and takes much for JSON that is none."""
    if b"\0" in text or any(word in text and number.search(text) for word, number in _NO_NUMBERS):
        return False
    if max(map(len, lines)) > options.max_record_bytes or not _are_in_braces(text, lines):
        return False
    if options.keep_line and _may_have_names(text, (*options.output_columns, LINE_COLUMN)):
        return False
    nested = text.count(b"{") + text.count(b"[") - len(lines) > NESTING_MAX
    if nested and any(line.count(b"{") + line.count(b"[") > NESTING_MAX for line in lines):
        return False
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _are_in_braces(text: bytes, lines: list[bytes]) -> bool:
    """Whether each line begins and ends like an object; one search tells where no blanks stand between the lines."""
    if text.count(b"}\n{") == len(lines) - 1:
        return lines[0][0] == 0x7B and lines[-1][-1] == 0x7D
    return all(line[0] == 0x7B and line[-1] == 0x7D for line in lines)


def _may_have_names(text: bytes, names: Sequence[str]) -> bool:
    """Whether one of `names` may be a record's: it stands there in quotes, or some name is spelled with an escape."""
    if any(f'"{name}"'.encode() in text for name in names):
        return True
    return b"\\" in text and any(found[1] for found in _ESCAPING_STRING.finditer(text))


def _fast_schema(first: dict[str, Any], options: ReadOptions) -> pa.Schema:
    """Text for what is cast afterwards; a kept column is an integer where the first record shows one."""
    fields = []
    for column in options.columns:
        kind = arrow_type(column.type)
        fields.append((column.name, pa.string() if column.type in {"binary", "datetime"} else kind))
    for name in kept_names(options):
        value = first.get(name)
        whole = isinstance(value, Number) and _INTEGER.match(value)
        fields.append((name, pa.int64() if whole else pa.string()))
    return pa.schema(fields)


def _read(text: bytes, schema: pa.Schema) -> pa.Table:
    return pa_json.read_json(
        io.BytesIO(text),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _lost_spelling(text: bytes, table: pa.Table, options: ReadOptions) -> bool:
    """Whether a kept integer may have been spelled ``-0``."""
    if not _NEGATIVE_ZERO.search(text):
        return False
    return any(table.schema.field(name).type == pa.int64() for name in kept_names(options))


def _typed(table: pa.Table, lines: list[bytes], options: ReadOptions) -> pa.Table | None:
    columns = []
    for column in options.columns:
        values = _one_array(table[column.name])
        if options.null_values and values.type == pa.string():
            listed = pc.is_in(values, pa.array(options.null_values, pa.string()))
            values = pc.if_else(listed, pa.scalar(None, pa.string()), values)
        if values.type != arrow_type(column.type):
            values, bad = cast(values, arrow_type(column.type))
            if bad is not None:
                return None
        columns.append((pa.field(column.name, values.type), values))
    columns += [(table.schema.field(name), _one_array(table[name])) for name in kept_names(options)]
    return _table(columns, lines, options)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _table(columns: list[tuple[pa.Field, pa.Array]], lines: list[bytes], options: ReadOptions) -> pa.Table:
    if options.keep_line:
        columns = [*columns, (pa.field(LINE_COLUMN, pa.binary()), pa.array(lines, pa.binary()))]
    return pa.table([values for _, values in columns], schema=pa.schema([field for field, _ in columns]))


# --- Python


def decode_slowly(lines: list[bytes], options: ReadOptions) -> tuple[pa.Table, np.ndarray, list[Fault]]:
    """The readable rows with their signature types, their numbers in `lines`, and a fault for each other row."""
    faults: dict[int, Fault] = {}
    wanted = [*(column.name for column in options.columns), *kept_names(options)]
    records: dict[int, dict[str, Any]] = {}
    for row, line in enumerate(lines):
        found = _record(row, line, wanted, options)
        if isinstance(found, dict):
            records[row] = found
        else:
            faults[row] = found
    columns = [_signature_column(column, records, faults, options) for column in options.columns]
    columns += [_kept_column(name, records, faults) for name in kept_names(options)]
    table = _table(columns, [lines[row] for row in records], options)
    rows = np.array(list(records), dtype=np.int64)
    good = np.array([row not in faults for row in records], dtype=bool)
    if not good.all():
        table, rows = table.filter(pa.array(good)), rows[good]
    return table, rows, [faults[row] for row in sorted(faults)]


def _record(row: int, line: bytes, wanted: Sequence[str], options: ReadOptions) -> dict[str, Any] | Fault:
    if len(line) > options.max_record_bytes:
        return row, "", "too_long", too_long(len(line), options)
    try:
        record = parse(line)
    except Unreadable as error:
        return row, "", "parse", str(error)
    return fault_of(row, record, wanted, options) or record


def _signature_column(
    column: Any, records: dict[int, dict[str, Any]], faults: dict[int, Fault], options: ReadOptions
) -> tuple[pa.Field, pa.Array]:
    kind, values = arrow_type(column.type), []
    for row, record in records.items():
        value, fits = signature_value(column, record.get(column.name), options)
        values.append(value)
        if not fits:
            faults.setdefault(row, misfit(row, column, record[column.name]))
    if column.type == "boolean":
        return pa.field(column.name, kind), pa.array(values, kind)
    array, bad = cast(pa.array(values, pa.string()), kind)
    for place in np.flatnonzero(bad).tolist() if bad is not None else ():
        row = list(records)[place] if len(records) else place
        faults.setdefault(row, misfit(row, column, records[row][column.name]))
    return pa.field(column.name, kind), array


def _kept_column(name: str, records: dict[int, dict[str, Any]], faults: dict[int, Fault]) -> tuple[pa.Field, pa.Array]:
    values = [record.get(name) for record in records.values()]
    if all(value is None or type(value) is str for value in values):
        return pa.field(name, pa.string()), pa.array(values, pa.string())
    tokens: list[str | None] = []
    for row, value in zip(records, values, strict=True):
        try:
            tokens.append(None if value is None else token(value))
        except (Unreadable, RecursionError) as error:
            tokens.append(None)
            said = str(error) if isinstance(error, Unreadable) else f"{name} is nested too deeply"
            faults.setdefault(row, (row, name, "parse", said))
    return pa.field(name, pa.string(), metadata=MARK), pa.array(tokens, pa.string())
