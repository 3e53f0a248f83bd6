"""Walking one chunk of a JSONL file in blocks of whole lines; every LF is a line end, so a guessed start is always right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batch.formats import Cut, Shape
from batch.formats.text import HELD_RECORD_BYTES, WINDOW_BYTES_MAX, Held, first_line_end
from batch.storage import Source

BLOCK_BYTES = 4 << 20
BLANKS = b" \t\r"


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines. `offset`: of the first byte in the file."""

    offset: int
    text: bytes


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line too long to be held.

    `head`: its first 64 KiB; ``[offset, stop)``: its place without blanks around it (empty for a blank line);
    `end`: behind its line end.
    """

    offset: int
    head: bytes
    stop: int
    end: int


def split_lines(text: bytes) -> list[bytes]:
    """The records of a block, without blanks around them; blank lines are none."""
    return [line for each in text.split(b"\n") if (line := each.strip(BLANKS))]


class Walk:
    """Iterates over the blocks of one chunk; `start` is the first record's offset, `end` the true end once it is over."""

    def __init__(self, source: Source, shape: Shape, cut: Cut, proven_start: int | None, record_bytes_max: int) -> None:
        self._source, self._cut, self._record_bytes_max = source, cut, record_bytes_max
        if proven_start is not None or cut.start <= shape.data_start:
            self.start = max(cut.start if proven_start is None else proven_start, shape.data_start)
            self._held = self._hold_from(self.start)
        else:
            self._held = Held(source, cut.start - 1, cut.end)
            self.start = self._guess()
        self.end = self.start

    def __iter__(self) -> Iterator[Lines | LongLine]:
        position = self.start
        while position < self._cut.end:
            stop = self._block_stop(position)
            block = self._spanning_line(position) if stop is None else Lines(position, self._slice(position, stop))
            position = block.end if isinstance(block, LongLine) else block.offset + len(block.text)
            yield block
        self.end = position

    def _hold_from(self, start: int) -> Held:
        return Held(self._source, start, max(self._cut.end, start), None if start < self._cut.end else 0)

    def _guess(self) -> int:
        while (found := first_line_end(self._held, self._cut.start)) is None:
            self._held.drop(self._held.end)
            self._held.extend()
        return found

    def _slice(self, start: int, stop: int) -> bytes:
        return self._held.data[start - self._held.start : stop - self._held.start]

    def _block_stop(self, position: int) -> int | None:
        """The first line end behind the chunk's target, or else the last within a block's size; None where there is none."""
        limit = min(position + BLOCK_BYTES, self._cut.end)
        if limit == self._cut.end and (found := first_line_end(self._held, limit)) is not None:
            return found
        low = position - self._held.start
        behind = self._held.data.rfind(b"\n", low, limit - self._held.start) + 1
        return self._held.start + behind if behind > low else None

    def _spanning_line(self, position: int) -> Lines | LongLine:
        """The one line at `position`, however far it reaches; of one beyond the limit only the head is held."""
        self._held.drop(position)
        searched = 0
        while (found := self._held.data.find(b"\n", searched)) < 0 and not self._held.at_end:
            searched = len(self._held.data)
            if searched > self._record_bytes_max + 2:
                return self._long_line(position)
            self._held.extend()
        return Lines(position, self._held.data[: found + 1] if found >= 0 else self._held.data)

    def _long_line(self, position: int) -> LongLine:
        """Read past the line at `position` without holding it."""
        start = stop = position
        head, window, at = b"", self._held.data, position
        while True:
            found = window.find(b"\n")
            text = window if found < 0 else window[:found]
            if filled := text.strip(BLANKS):
                start = start if head else at + len(text) - len(text.lstrip(BLANKS))
                stop = at + len(text.rstrip(BLANKS))
                head += (text if head else filled)[: HELD_RECORD_BYTES - len(head)]
            at += len(text)
            if found >= 0 or at >= self._source.size_bytes:
                break
            window = self._source.read(at, at + WINDOW_BYTES_MAX)
        end = at + (found >= 0)
        self._held = self._hold_from(end)
        return LongLine(start, head[: stop - start], stop, end)
