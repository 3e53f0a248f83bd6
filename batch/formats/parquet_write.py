"""Encoding Arrow tables as Parquet: one file per chunk, and one valid file made of those, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import SchemaMismatch, StorageUnavailable
from batch.formats import Encoder, ReadOptions, Shape, WriteOptions
from batch.formats.parquet_footer import MAGIC, Footer, Odd, part_of
from batch.formats.parquet_read import reject_schema
from batch.formats.rejects import FIELDS
from batch.formats.thrift_compact import Malformed

GROUP_ROWS = 128 << 10
_SETTINGS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


class _Pieces:
    """A write-only file that hands out what was written since it was last asked."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._parts.append(piece)
        self._written += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> Iterator[bytes]:
        parts, self._parts = self._parts, []
        if parts:
            yield b"".join(parts)


class ParquetEncoder(Encoder):
    """Collects one chunk's rows, cast to the pinned schema; the section is a Parquet file of its own."""

    def __init__(self, options: WriteOptions) -> None:
        self._options = options
        self._schema = _schema(options)
        self._tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Append rows. Raises `SchemaMismatch` for a value that the pinned schema cannot hold."""
        try:
            self._tables.append(table.select(list(self._options.columns)).cast(self._schema))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaMismatch(
                f"the output rows do not fit the pinned schema: {str(error).splitlines()[0]}",
                hint="keep columns of the same type in all inputs",
            ) from error

    def finish(self) -> bytes:
        tables, self._tables = [table for table in self._tables if table.num_rows], []
        return b"".join(_file(self._schema, [pa.concat_tables(tables)])) if tables else b""


def header(options: WriteOptions) -> bytes:
    """Nothing: `assemble` begins the file."""
    return b""


def assemble(options: WriteOptions, sections: Iterable[bytes]) -> Iterator[bytes]:
    """One valid Parquet file from the chunks' files, in their order; valid also without any. The same sections give the same bytes.

    With `WriteOptions.joined` row groups are copied as they are, else each is decoded and written anew; they have the same rows either way.
    Raises `StorageUnavailable` for sections that are damaged, or that do not fit together.
    """
    present = filter(None, sections)
    first = [*islice(present, 1)]
    # Decided before the first byte: a later pyarrow may write what nobody here knows how to move, and its files are sound.
    is_joined = options.joined and bool(first) and _is_joinable(first[0])
    rest = _drained(first, present)
    yield from _joined(options, rest) if is_joined else _file(_schema(options), _row_groups(rest))


def _drained(first: list[bytes], more: Iterator[bytes]) -> Iterator[bytes]:
    """Both in order; what was handed out is not held any longer."""
    while first:
        yield first.pop(0)
    yield from more


def _is_joinable(section: bytes) -> bool:
    try:
        part_of(section)
    except Odd:
        return False
    except Malformed:
        return True  # joining it says what is wrong
    return True


def _joined(options: WriteOptions, sections: Iterable[bytes]) -> Iterator[bytes]:
    """The row groups of all sections, byte for byte, and one footer."""
    yield MAGIC
    footer, written = Footer(), len(MAGIC)
    try:
        for section in sections:
            piece = _entered(options, footer, section, written)
            written += len(piece)
            yield piece
        yield footer.end()
    except (Odd, Malformed) as error:
        raise _unusable(error) from error


def _entered(options: WriteOptions, footer: Footer, section: bytes, at: int) -> bytes:
    """A section's row groups, entered in the footer as standing at byte `at`."""
    try:
        return footer.add(section, at)
    except Odd:
        # A retry, say, put rows into it with another pyarrow. Written anew it may fit after all; if not, that is the end.
        return footer.add(b"".join(_file(_schema(options), _row_groups([section]))), at)


def _unusable(error: Exception) -> StorageUnavailable:
    return StorageUnavailable(
        f"the staged Parquet chunks do not make one file: {str(error).splitlines()[0]}",
        hint="run the job again with --force: it scores all chunks anew",
    )


def encode_rejects(options: ReadOptions, shape: Shape, tables: Iterable[pa.Table], with_file: bool) -> Iterator[bytes]:
    """The rejects file: fault columns, ``_raw`` (always null), then the input's own columns, typed; valid when empty."""
    own = list(reject_schema(shape))[len(FIELDS) :]
    faults = [*([pa.field("_file", pa.string())] if with_file else []), *(pa.field(*field) for field in FIELDS[:4])]
    schema = pa.schema([*faults, pa.field("_raw", pa.string()), *own])
    yield from _file(schema, (_with_all(table, schema) for table in tables))


def _with_all(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, null where the table does not have them."""
    there = set(table.column_names)
    columns = [table[field.name] if field.name in there else pa.nulls(table.num_rows, field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _schema(options: WriteOptions) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(options.arrow_schema))


def _row_groups(sections: Iterable[bytes]) -> Iterator[pa.Table]:
    for section in sections:
        if section:
            try:
                file = pq.ParquetFile(pa.BufferReader(section), page_checksum_verification=True)
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise _unusable(error) from error


def _file(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[bytes]:
    sink = _Pieces()
    with pq.ParquetWriter(sink, schema, **_SETTINGS) as writer:
        for table in tables:
            if table.num_rows:
                writer.write_table(table.cast(schema), row_group_size=GROUP_ROWS)
                yield from sink.taken()
    yield from sink.taken()


def splice(options: WriteOptions, section: bytes, at: Sequence[int], rows: bytes) -> bytes:
    """See `batch.formats.Format.splice`; values stay, and the section is written anew."""
    own, more = (pa.concat_tables([_schema(options).empty_table(), *_row_groups([body])]) for body in (section, rows))
    order: list[int] = []
    before = 0
    for number, place in enumerate(at):
        order += [*range(before, place), own.num_rows + number]
        before = place
    order += range(before, own.num_rows)
    table = pa.concat_tables([own, more]).take(pa.array(order, pa.int64()))
    return b"".join(_file(_schema(options), [table])) if table.num_rows else b""


def own_record(record: bytes, shape: Shape, names: Sequence[str], delimiter: str) -> bytes:
    """Never asked for: the rejects of Parquet are typed columns."""
    raise NotImplementedError
