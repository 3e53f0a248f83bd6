"""Reading the chunks of a Parquet file: exact row ranges, batch by batch, through ranged reads of the stored object."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError, InputFormatError, SchemaMismatch
from batch.formats import Block, ChunkReader, Cut, Fault, ReadOptions, Shape, rejects
from batch.formats.parquet_cast import cast, castable, decoded, not_text
from batch.formats.types import arrow_type
from batch.formats.validate import split
from batch.storage import Source

BATCH_ROWS = 50_000
BATCH_BYTES = 16 << 20
"""Arrow bytes of a block, by the mean width of a row."""
PRE_BUFFER_BYTES = 64 << 20
"""Stored bytes that may be fetched at once; above, column chunks are streamed so that a giant row group needs no memory."""
STREAM_BYTES = 1 << 20
"""Bytes per ranged read of a streamed column chunk; less where so many columns would hold more than `PRE_BUFFER_BYTES`."""
STREAM_BYTES_MIN = 8 << 10


class RangeFile(io.RawIOBase):
    """A source as a seekable read-only file; every read is one ranged read of the object.

    `error`: what `Source.read` raised, so that it survives the way through foreign code.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source, self._position = source, 0
        self.error: BatchError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size_bytes}[whence]
        if base + offset < 0:
            raise OSError(f"position {base + offset} lies before the file")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._source.size_bytes if size is None or size < 0 else self._position + size
        try:
            piece = self._source.read(self._position, end)
        except BatchError as error:
            self.error = error
            raise
        self._position += len(piece)
        return piece


@contextmanager
def refusing(file: RangeFile, what: str) -> Iterator[None]:
    """Turn what pyarrow raises into `InputFormatError`; what the storage raised comes through as it was."""
    try:
        yield
    except (BatchError, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if file.error is not None:
            raise file.error from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputFormatError(f"{what} cannot be read: {reason}", hint="write or upload the file again") from error


def open_file(
    file: RangeFile, metadata: pq.FileMetaData | None = None, *, pre_buffer: bool = False, buffer_size: int = 0
) -> pq.ParquetFile:
    """The one way a Parquet input is opened, so that the plan and the chunks see the same types."""
    return pq.ParquetFile(
        file,
        metadata=metadata,
        pre_buffer=pre_buffer,
        buffer_size=buffer_size,
        coerce_int96_timestamp_unit="us",
        page_checksum_verification=True,
    )


def schema_of(shape: Shape) -> pa.Schema:
    """The file's own columns as they are handed out: dictionaries decoded."""
    fields = pa.ipc.read_schema(pa.py_buffer(shape.arrow_schema))
    return pa.schema([pa.field(field.name, decoded(field.type)) for field in fields])


def reject_schema(shape: Shape) -> pa.Schema:
    """The columns of a rejects table: the six fields, then the input's; those with a name that is taken get a ``_`` behind."""
    taken = {"_file", "_raw", *rejects.SCHEMA.names, *shape.columns}
    fields = list(rejects.SCHEMA)
    reserved = {"_file", "_raw", *rejects.SCHEMA.names}
    for field in schema_of(shape):
        name = field.name
        while name in reserved or (name != field.name and name in taken):
            name += "_"
        taken.add(name)
        fields.append(field.with_name(name))
    return pa.schema(fields)


def check_types(shape: Shape, options: ReadOptions, uri: str = "the input") -> None:
    """Raise `SchemaMismatch` where a wanted column is missing or is of a type that can never become the model's."""
    schema = schema_of(shape)
    there = set(schema.names)
    for name in (*(column.name for column in options.columns), *options.kept):
        if name not in there:
            raise SchemaMismatch(
                f"column {name!r} is missing in {uri}", hint="compare its columns with the model's signature"
            )
    for column in options.columns:
        found = schema.field(column.name).type
        if not castable(found, arrow_type(column.type)):
            raise SchemaMismatch(
                f"column {column.name!r} of {uri} is of type {found}, but the model needs {column.type}",
                hint="write the column with the model's type",
            )


class _Rows:
    """Forward-only access to the rows of some columns of a file, by row number."""

    def __init__(self, source: Source, shape: Shape, columns: Sequence[str], first: int, end: int, batch: int) -> None:
        self._file = RangeFile(source)
        own = schema_of(shape)
        self._schema = pa.schema([own.field(name) for name in columns])
        groups, self._position = _groups(shape, first, end)
        self._what = f"rows {first + 1} to {end} of {source.uri}"
        self._pending: pa.Table = self._schema.empty_table()
        self._batches = _batches(self._file, groups, self._schema.names, batch)

    def read(self, start: int, end: int) -> pa.Table:
        """Rows ``[start, end)``; `start` never lies before the last `end`. Raises `InputFormatError` for a damaged page."""
        with refusing(self._file, self._what):
            self._skip_to(start)
            tables, held = [self._pending], len(self._pending)
            while held < end - start:
                tables.append(self._next())
                held += len(tables[-1])
        table = pa.concat_tables(tables)
        self._position, self._pending = end, table.slice(end - start)
        return table.slice(0, end - start)

    def _skip_to(self, start: int) -> None:
        """Let go of the rows before `start`, batch by batch."""
        while self._position < start:
            if not len(self._pending):
                self._pending = self._next()
            step = min(len(self._pending), start - self._position)
            self._position, self._pending = self._position + step, self._pending.slice(step)

    def _next(self) -> pa.Table:
        batch = next(self._batches, None)
        if batch is None:
            raise InputFormatError(
                f"{self._what} end too early: the footer says there are more", hint="write or upload the file again"
            )
        return self._plain(batch)

    def _plain(self, batch: pa.RecordBatch) -> pa.Table:
        columns = [
            values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
            for values in (batch.column(batch.schema.get_field_index(name)) for name in self._schema.names)
        ]
        return pa.table(columns, schema=self._schema)


def _batches(file: RangeFile, groups: list[int], names: list[str], batch: int) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups. Not a method: what holds itself keeps its buffers until garbage is collected."""
    metadata = open_file(file).metadata
    small = sum(_stored_bytes(metadata.row_group(group)) for group in groups) <= PRE_BUFFER_BYTES
    buffer = min(STREAM_BYTES, max(STREAM_BYTES_MIN, PRE_BUFFER_BYTES // max(1, len(names))))
    opened = open_file(file, metadata, pre_buffer=small, buffer_size=0 if small else buffer)
    yield from opened.iter_batches(batch, row_groups=groups, columns=names, use_threads=False)


def _groups(shape: Shape, first: int, end: int) -> tuple[list[int], int]:
    """The row groups with rows in ``[first, end)`` and the number of the first row of the first of them."""
    groups: list[int] = []
    begin, row = first, 0
    for index, (rows, _) in enumerate(shape.row_groups):
        if rows and row < end and row + rows > first:
            begin = begin if groups else row
            groups.append(index)
        row += rows
    return groups, begin


def _stored_bytes(group: pq.RowGroupMetaData) -> int:
    return sum(int(group.column(index).total_compressed_size) for index in range(group.num_columns))


class ParquetReader(ChunkReader):
    """The blocks of one Parquet chunk: exactly the rows of its cut."""

    def __init__(self, source: Source, shape: Shape, cut: Cut, proven_start: int | None, options: ReadOptions) -> None:
        check_types(shape, options, source.uri)
        self._source, self._shape, self._options = source, shape, options
        signature = [column.name for column in options.columns]
        self._names = [*signature, *(name for name in options.kept if name not in signature)]
        width = max(1, (shape.decoded_bytes or 0) // max(shape.rows or 0, 1))
        self._batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // width))
        self._own: _Rows | None = None
        self.start, self.end = cut.start, cut.end
        self.decoded_bytes = 0

    def __iter__(self) -> Iterator[Block]:
        rows = self._rows(self._names, self.start)
        for start in range(self.start, self.end, self._batch_rows):
            table = rows.read(start, min(start + self._batch_rows, self.end))
            self.decoded_bytes += table.nbytes
            yield self._block(table, start)

    def refused(self, faults: Sequence[Fault]) -> pa.Table:
        rows, columns, codes, messages = (list(each) for each in zip(*faults, strict=True))
        count = len(rows)
        table = rejects.build(rows, columns, codes, messages, [None] * count, [True] * count)
        return pa.table([*table.columns, *self.own_columns(rows).columns], schema=reject_schema(self._shape))

    def own_columns(self, rows: Sequence[int]) -> pa.Table:
        """The input's own columns, typed, of some rows (0-based in the chunk, ascending), read again from storage.

        The names are those of `reject_schema`.
        """
        cursor = self._rows(self._shape.columns, self.start)
        return self._take(cursor, [self.start + row for row in rows])

    def _rows(self, columns: Sequence[str], first: int) -> _Rows:
        return _Rows(self._source, self._shape, columns, first, self.end, self._batch_rows)

    def _block(self, table: pa.Table, start: int) -> Block:
        count = len(table)
        table, faults = self._typed(table)
        if not faults:
            table, faults = split(table, self._options)
        else:
            wrong = {fault[0] for fault in faults}
            good = [row for row in range(count) if row not in wrong]
            table, more = split(table.take(pa.array(good, pa.int64())), self._options)
            faults = sorted([*faults, *((good[row], *fault) for row, *fault in more)])  # type: ignore[list-item]
        return Block(table, count, self._rejects(faults, start) if faults else None)

    def _typed(self, table: pa.Table) -> tuple[pa.Table, list[Fault]]:
        """Cast to the signature; at most one fault per row, the first signature column's."""
        columns, found = [], dict[int, Fault]()
        types = {column.name: column.type for column in self._options.columns}
        for name, values in zip(table.column_names, table.columns, strict=True):
            array = values.combine_chunks()
            array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
            if name in types:
                array, messages = cast(name, array, types[name])
            else:
                messages = not_text(name, array)
            columns.append(array)
            for row, message in messages.items():
                found.setdefault(row, (row, name, "type", message))
        return pa.table(columns, names=table.column_names), sorted(found.values())

    def _rejects(self, faults: list[Fault], start: int) -> pa.Table:
        rows, columns, codes, messages = (list(each) for each in zip(*faults, strict=True))
        count = len(faults)
        table = rejects.build(rows, columns, codes, messages, [None] * count, [True] * count)
        if self._own is None:
            self._own = self._rows(self._shape.columns, start)
        own = self._take(self._own, [start + row for row in rows])
        return pa.table([*table.columns, *own.columns], schema=reject_schema(self._shape))

    def _take(self, cursor: _Rows, rows: list[int]) -> pa.Table:
        names = reject_schema(self._shape).names[len(rejects.FIELDS) :]
        pieces = [cursor.read(row, row + 1) for row in rows]
        return pa.concat_tables([schema_of(self._shape).empty_table(), *pieces]).combine_chunks().rename_columns(names)
