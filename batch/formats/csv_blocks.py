"""Walking one chunk of a CSV file in blocks of whole records, from a start that is proven or guessed to the true end.

If lexing a chunk from a record start ends outside quotes at a line end, that line end is a record end; so a block whose last
line end is outside quotes needs no further proof, and by induction neither does the chunk. A chunk whose start was guessed
proves nothing by itself: the coordinator compares its start with the end of the chunk before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batch.errors import BatchError, InputFormatError
from batch.formats import Cut, Shape
from batch.formats.csv_lex import LF, Quotes, lex, record_ends
from batch.formats.csv_long import LongRecordLexer, Utf8Pieces
from batch.formats.text import (
    HELD_RECORD_BYTES,
    LOOK_AHEAD_BYTES,
    WINDOW_BYTES_MAX,
    Held,
    UnprovenStart,
    first_line_end,
)
from batch.storage import Source

BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Whole records. `offset`: of the first byte in the file."""

    offset: int
    text: bytes
    quotes: Quotes


@dataclass(frozen=True, slots=True)
class LongRecord:
    """A record too long to be held: `head` is its first 64 KiB, ``[offset, stop)`` its place, `end` behind its line end."""

    offset: int
    head: bytes
    stop: int
    end: int


class Walk:
    """Iterates over the blocks of one chunk.

    `start`: the first record's offset; `end`: the chunk's true end once the iteration is over; `proven`: whether the start is
    known to be a record start.
    """

    def __init__(
        self, source: Source, shape: Shape, cut: Cut, proven_start: int | None, *, delimiter: str, record_bytes_max: int
    ) -> None:
        self._source, self._cut = source, cut
        self._delimiter, self._record_bytes_max = delimiter, record_bytes_max
        self.proven = proven_start is not None or cut.start <= shape.data_start
        if self.proven:
            self.start = max(cut.start if proven_start is None else proven_start, shape.data_start)
            self._held = Held(source, self.start, max(cut.end, self.start), None if self.start < cut.end else 0)
        else:
            self._held = Held(source, cut.start - 1, cut.end)
            self.start = self._guess()
        self.end = self.start
        self._position = self.start

    def __iter__(self) -> Iterator[TextBlock | LongRecord]:
        while self._position < self._cut.end:
            block = self._next_block() or self._spanning_record()
            self._position = block.end if isinstance(block, LongRecord) else block.offset + len(block.text)
            yield block
        self.end = self._position

    def refuse(self, error: BatchError) -> BatchError | UnprovenStart:
        """What to raise for something fatal: the error itself, or a request for the proven start if this was a guess."""
        return error if self.proven else UnprovenStart(self.start, error.message)

    def _guess(self) -> int:
        found = first_line_end(self._held, self._cut.start, cr=True)
        if found is None:
            raise UnprovenStart(self._cut.start, "no line ends within the chunk")
        return found

    def _slice(self, start: int, stop: int) -> bytes:
        return self._held.data[start - self._held.start : stop - self._held.start]

    def _next_block(self) -> TextBlock | None:
        """Records up to the block's size or the chunk's end; None where one record goes on beyond that."""
        stop = self._last_line_end()
        if stop is None:
            return None
        text = self._slice(self._position, stop)
        quotes = lex(text, self._delimiter)
        if quotes.open_at < 0:
            return TextBlock(self._position, text, quotes)
        ends = record_ends(text, quotes, final=False)
        if not len(ends):
            return None
        stop = int(ends[-1])
        return TextBlock(self._position, text[:stop], quotes.until(stop))

    def _last_line_end(self) -> int | None:
        """The line end to stop the block at: the first behind the chunk's target, or the last within the block's size."""
        limit = self._position + BLOCK_BYTES
        if limit >= self._cut.end:
            found = first_line_end(self._held, self._cut.end, cr=True)
            if found is not None:
                return found
            limit = self._cut.end
        return _last_line_end(self._held, self._position, limit)

    def _spanning_record(self) -> TextBlock | LongRecord:
        """The one record at the current position, however far it reaches."""
        span = LOOK_AHEAD_BYTES
        while True:
            text, final = self._hold(span)
            quotes = lex(text, self._delimiter)
            ends = record_ends(text, quotes, final=final)
            if len(ends):
                stop = int(ends[0])
                return TextBlock(self._position, text[:stop], quotes.until(stop))
            if final and quotes.open_at >= 0:
                raise self._unclosed(self._position + quotes.open_at)
            if final:
                return TextBlock(self._position, text, quotes)
            if len(text) > self._record_bytes_max + 2:  # two bytes for a line end that is not known as such yet
                return self._long_record(text)
            span *= 2

    def _hold(self, span: int) -> tuple[bytes, bool]:
        """`span` bytes from the current position on, and whether they are the file's last."""
        while self._held.end < self._position + span and not self._held.at_end:
            self._held.drop(self._position)
            self._held.extend()
        final = self._held.at_end and self._held.end <= self._position + span
        return self._slice(self._position, self._position + span), final

    def _long_record(self, text: bytes) -> LongRecord:
        """Read past a record of which `text` is the beginning, without holding it."""
        if not self.proven:
            raise UnprovenStart(self.start, "a record goes on beyond the limit")
        offset = self._position
        stop, end = self._skip_record(text)
        self._held = Held(self._source, end, max(self._cut.end, end), None if end < self._cut.end else 0)
        return LongRecord(offset, text[:HELD_RECORD_BYTES], stop, end)

    def _skip_record(self, text: bytes) -> tuple[int, int]:
        """Where the record that begins with `text` stops, and where its line end does."""
        record = LongRecordLexer(self._position, self._delimiter)
        utf8 = Utf8Pieces(self._source.uri, self._position)
        read_to = self._position + len(text)
        while True:
            final = read_to >= self._source.size_bytes
            utf8.check(text, final=final)
            if found := record.feed(text, final=final):
                return found
            if final and record.opened >= 0:
                raise self._unclosed(record.opened)
            if final:
                return read_to, read_to
            text = self._source.read(read_to, read_to + WINDOW_BYTES_MAX)
            read_to += len(text)

    def _unclosed(self, offset: int) -> BatchError | UnprovenStart:
        return self.refuse(
            InputFormatError(
                f"{self._source.uri} ends inside quotes: the quote at byte {offset} is never closed",
                hint="the file may be cut off; otherwise close that quote",
            )
        )


def _last_line_end(held: Held, start: int, limit: int) -> int | None:
    """Offset behind the last line end in ``(start, limit]``, or None."""
    data, low, high = held.data, start - held.start, min(limit - held.start, len(held.data))
    line_feed = data.rfind(b"\n", low, high) + 1
    carriage = data.rfind(b"\r", max(low, line_feed), high) + 1
    if carriage and carriage == high:
        alone = held.at_end if high == len(data) else data[high] != LF
        carriage = high if alone else data.rfind(b"\r", max(low, line_feed), high - 1) + 1
    behind = max(line_feed, carriage)
    return held.start + behind if behind > low else None
