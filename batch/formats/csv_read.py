"""Reading the chunks of a CSV file: block by block to Arrow, up to a true end that the bytes alone decide."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import pyarrow as pa

from batch.errors import InputFormatError, SchemaMismatch
from batch.formats import Block, ChunkReader, Cut, Fault, ReadOptions, Shape
from batch.formats.csv_blocks import LongRecord, TextBlock, Walk
from batch.formats.csv_decode import Layout, decode, reject_table, too_long
from batch.formats.csv_lex import lex, split_records
from batch.formats.text import utf8_error
from batch.formats.types import arrow_type
from batch.storage import Source


def layout_of(uri: str, shape: Shape, options: ReadOptions) -> Layout:
    """Find the wanted columns in the file. Raises `SchemaMismatch` for one that is missing or there twice."""
    signature = [column.name for column in options.columns]
    kept = [name for name in options.kept if name not in signature]
    for name in (*signature, *kept):
        if (count := shape.columns.count(name)) != 1:
            found = "is missing" if not count else f"is there {count} times"
            raise SchemaMismatch(
                f"column {name!r} {found} in {uri}", hint="compare its header with the model's signature"
            )
    types = (*(arrow_type(column.type) for column in options.columns), *(pa.string() for _ in kept))
    positions = tuple(shape.columns.index(name) for name in (*signature, *kept))
    return Layout((*signature, *kept), positions, types, len(shape.columns))


class CsvReader(ChunkReader):
    """The blocks of one CSV chunk; `start` is known at once, `end` when the iteration is over.

    Iterating (once) raises `UnprovenStart` instead of a refusal when the start was only guessed.
    """

    def __init__(self, source: Source, shape: Shape, cut: Cut, proven_start: int | None, options: ReadOptions) -> None:
        self._source, self._options = source, options
        self._layout = layout_of(source.uri, shape, options)
        self._walk = Walk(
            source, shape, cut, proven_start, delimiter=options.delimiter, record_bytes_max=options.max_record_bytes
        )
        self._doubtful: set[int] = set()
        self._places: list[tuple[int, int, int]] = []
        self.start = self.end = self._walk.start
        self.decoded_bytes = 0

    def __iter__(self) -> Iterator[Block]:
        rows = 0
        for piece in self._walk:
            if isinstance(piece, LongRecord):
                block = self._long(piece)
            else:
                block = self._decode(piece)
                self._places.append((rows, piece.offset, piece.offset + len(piece.text)))
            rows += block.rows_read
            self.decoded_bytes += block.table.nbytes
            yield block
        self.end = self._walk.end

    def refused(self, faults: Sequence[Fault]) -> pa.Table:
        return reject_table(list(faults), self.records([fault[0] for fault in faults]))

    def records(self, rows: Sequence[int]) -> list[bytes]:
        """The bytes of some records of the blocks handed out so far, without line ends; `rows` are 0-based in the chunk.

        They are read from storage again, each block once as long as `rows` ascends: for the few rows that only
        the model turns out to refuse.
        """
        found: list[bytes] = []
        place, text = -1, b""
        for row in rows:
            at = bisect_right(self._places, row, key=lambda each: each[0]) - 1
            first, start, end = self._places[at]
            if at != place:
                place, text = at, self._source.read(start, end)
                records = split_records(text, lex(text, self._options.delimiter))
            found.append(records.bytes_of(text, row - first))
        return found

    def _decode(self, piece: TextBlock) -> Block:
        if error := utf8_error(piece.text, self._source.uri, piece.offset):
            raise self._walk.refuse(error)
        try:
            return decode(
                self._source.uri, piece.offset, piece.text, piece.quotes, self._layout, self._options, self._doubtful
            )
        except InputFormatError as error:
            raise self._walk.refuse(error) from error

    def _long(self, record: LongRecord) -> Block:
        fault = (0, "", "too_long", too_long(record.stop - record.offset, self._options))
        return Block(self._layout.schema.empty_table(), 1, reject_table([fault], [record.head]))
