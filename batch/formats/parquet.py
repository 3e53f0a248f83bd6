"""Parquet: what the footer tells, how row groups become chunks, and the bundle of functions that makes it a format.

Nothing in a footer is believed that the file can contradict: sizes, row counts and value counts must agree with each other.
"""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import InputEmpty, InputFormatError
from batch.formats import Cut, Format, ReadOptions, Shape, parquet_write
from batch.formats.parquet_read import ParquetReader, RangeFile, open_file, refusing
from batch.storage import Source

MAGIC = b"PAR1"
ENCRYPTED = b"PARE"
FRAME_BYTES = 12
"""Magic at both ends and the footer's length."""
_BITS = {"BOOLEAN": 1, "INT32": 32, "INT64": 64, "INT96": 64, "FLOAT": 32, "DOUBLE": 64}
AGAIN = "write or upload the file again"


def inspect(source: Source, options: ReadOptions) -> Shape:
    """Columns, rows and sizes from the footer.

    Raises `InputEmpty` for no bytes and `InputFormatError` for what is not Parquet, is cut off, encrypted or contradicts itself.
    """
    _check_frame(source)
    file = RangeFile(source)
    with refusing(file, f"the footer of {source.uri}"):
        opened = open_file(file)
        metadata, schema = opened.metadata, opened.schema_arrow
        _probe(source, metadata)
        leaves = [_Leaf(opened.schema.column(index)) for index in range(metadata.num_columns)]
        groups = [_group(source, metadata, index, leaves) for index in range(metadata.num_row_groups)]
        arrow_schema = schema.remove_metadata().serialize().to_pybytes()
    repeated = [name for name in schema.names if schema.names.count(name) > 1] if _repeats(schema.names) else []
    if repeated:
        raise InputFormatError(f"{source.uri} has the column {repeated[0]!r} twice", hint="name each column once")
    rows = sum(group[0] for group in groups)
    if rows != metadata.num_rows:
        raise _contradiction(source, f"its row groups hold {rows} rows, but the file {metadata.num_rows}")
    return Shape(
        columns=tuple(schema.names),
        size_bytes=source.size_bytes,
        rows=rows,
        decoded_bytes=sum(group[2] for group in groups),
        row_groups=tuple((group[0], max(group[1], group[2])) for group in groups),
        arrow_schema=arrow_schema,
    )


def cut(shape: Shape, chunk_bytes: int) -> list[Cut]:
    """Rows as chunks of about `chunk_bytes` uncompressed: small neighbouring row groups together, big ones in even slices."""
    cuts: list[Cut] = []
    start = row = held = 0
    for rows, size in shape.row_groups:
        if held and held + size > chunk_bytes:
            cuts.append(Cut(start, row))
            start, held = row, 0
        if size > chunk_bytes and rows:
            if row > start:
                cuts.append(Cut(start, row))
            pieces = min(rows, -(-size // chunk_bytes))
            edges = [row + rows * piece // pieces for piece in range(pieces + 1)]
            cuts += [Cut(*edge) for edge in pairwise(edges)]
            start, held = row + rows, 0
        elif rows:
            held += size
        row += rows
    if row > start:
        cuts.append(Cut(start, row))
    return cuts


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _check_frame(source: Source) -> None:
    """Magic at both ends and a footer that has room between them."""
    size = source.size_bytes
    if not size:
        raise InputEmpty(f"{source.uri} is empty: it holds 0 bytes", hint="set input.allow_empty if that may happen")
    head = source.read(0, 4)
    if head not in {MAGIC, ENCRYPTED}:
        raise InputFormatError(
            f"{source.uri} is not Parquet: it begins with {head!r}, not with {MAGIC!r}",
            hint="set input.format to what the file is",
        )
    tail = source.read(max(0, size - 8), size)
    if ENCRYPTED in {head, tail[-4:]}:
        raise InputFormatError(f"{source.uri} is encrypted Parquet", hint="store it without Parquet's own encryption")
    if size < FRAME_BYTES:
        raise InputFormatError(
            f"{source.uri} is cut off: its {size} bytes are fewer than the {FRAME_BYTES} of the smallest Parquet file",
            hint=AGAIN,
        )
    if tail[-4:] != MAGIC:
        raise InputFormatError(
            f"{source.uri} is cut off: its {size} bytes end with {tail[-4:]!r}, not with {MAGIC!r}", hint=AGAIN
        )
    footer = int.from_bytes(tail[:4], "little")
    if not 0 < footer <= size - FRAME_BYTES:
        raise InputFormatError(
            f"{source.uri} says its footer has {footer} bytes, but there are {size - FRAME_BYTES}", hint=AGAIN
        )


class _Leaf:
    """A column of Parquet's schema, as far as sizes go."""

    __slots__ = ("bits", "flat", "path")

    def __init__(self, column: pq.ColumnSchema) -> None:
        kind = column.physical_type
        self.path = str(column.path)
        self.bits: int | None = column.length * 8 if kind == "FIXED_LEN_BYTE_ARRAY" else _BITS.get(kind)
        self.flat = column.max_repetition_level == 0

    def decoded_bytes(self, values: int, uncompressed: int) -> int:
        """Of so many values; the size of texts is known only as they are encoded."""
        return max(uncompressed, 4 * values) if self.bits is None else -(-values * self.bits // 8)


class _Sealed(RangeFile):
    """A file whose data nobody gets to see."""

    touched = False

    def read(self, size: int | None = -1) -> bytes:
        self.touched = True
        raise OSError("sealed")


def _probe(source: Source, metadata: pq.FileMetaData) -> None:
    """Have all column chunks described once where pyarrow catches what is wrong with them.

    ``RowGroupMetaData.column`` ends the process instead (an uncaught C++ exception, pyarrow 26), for instance on a histogram of
    the wrong length. Planning a pre-buffered read of everything goes through the same constructor; the data itself is
    never fetched, because the first attempt at it says that the plan stands.
    """
    sealed = _Sealed(source)
    batches = open_file(sealed, metadata, pre_buffer=True).iter_batches(1, use_threads=False)
    try:
        next(batches, None)
    except (pa.ArrowException, OSError):
        if not sealed.touched:
            raise


def _group(source: Source, metadata: pq.FileMetaData, index: int, leaves: list[_Leaf]) -> tuple[int, int, int]:
    """(rows, uncompressed bytes, estimated decoded bytes) of a row group, checked."""
    group = metadata.row_group(index)
    rows, size, decoded = int(group.num_rows), int(group.total_byte_size), 0
    if group.num_columns != len(leaves):
        raise _contradiction(source, f"row group {index} has {group.num_columns} columns, not {len(leaves)}")
    for number, leaf in enumerate(leaves):
        column = group.column(number)
        values, stored, plain = column.num_values, column.total_compressed_size, column.total_uncompressed_size
        if min(rows, size, values, stored, plain) < 0 or stored > source.size_bytes:
            raise _contradiction(source, f"row group {index} has an impossible size in column {leaf.path!r}")
        if leaf.flat and values != rows:
            raise _contradiction(source, f"row group {index} has {rows} rows, but {values} values in {leaf.path!r}")
        decoded += leaf.decoded_bytes(max(values, rows), plain)
    if rows < 0 or size < 0:
        raise _contradiction(source, f"row group {index} has {rows} rows in {size} bytes")
    return rows, size, decoded


def _contradiction(source: Source, what: str) -> InputFormatError:
    return InputFormatError(f"the footer of {source.uri} contradicts itself: {what}", hint=AGAIN)


FORMAT = Format(
    name="parquet",
    inspect=inspect,
    cut=cut,
    read=ParquetReader,
    encoder=parquet_write.ParquetEncoder,
    header=parquet_write.header,
    assemble=parquet_write.assemble,
    encode_rejects=parquet_write.encode_rejects,
    splice=parquet_write.splice,
    own_record=parquet_write.own_record,
)
