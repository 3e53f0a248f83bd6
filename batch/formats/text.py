"""What the text formats share: nominal byte cuts, and a chunk's bytes with as much behind them as its last record needs.

A chunk is fetched with one ranged read of its nominal range plus a small look-ahead, because nearly every last record ends
inside it; only a record that goes on costs further reads, whose size doubles.
"""

from __future__ import annotations

from collections.abc import Sequence

from batch.errors import InputFormatError
from batch.formats import Cut, Shape
from batch.storage import Source

LOOK_AHEAD_BYTES = 64 << 10
WINDOW_BYTES_MAX = 4 << 20
HELD_RECORD_BYTES = 64 << 10
"""So much of a record that is too long is kept for the rejects file."""


class UnprovenStart(Exception):
    """Something fatal was met in a chunk whose start was only guessed: read it again with the proven start.

    Not a `BatchError`: it never reaches a user. It survives pickling.
    """

    def __init__(self, guess: int, reason: str) -> None:
        super().__init__(guess, reason)
        self.guess = guess
        """The start that was guessed: byte offset in the file, or the nominal one where no line end was found."""
        self.reason = reason

    def __str__(self) -> str:
        return f"start {self.guess} is only a guess: {self.reason}"


def cut(shape: Shape, chunk_bytes: int) -> list[Cut]:
    """Nominal cuts every `chunk_bytes` from the first record on; none for a file without a record."""
    starts = range(shape.data_start, shape.size_bytes, max(1, chunk_bytes))
    return [Cut(start, min(start + starts.step, shape.size_bytes)) for start in starts]


class Held:
    """A stretch of a file that is in memory: from some offset to a little behind the end of a chunk.

    `start`: offset in the file of the first byte of `data`.
    """

    __slots__ = ("_window_bytes", "data", "source", "start")

    def __init__(self, source: Source, start: int, end: int, look_ahead_bytes: int | None = None) -> None:
        """Fetch ``[start, end + look-ahead)`` with one ranged read."""
        self._window_bytes = LOOK_AHEAD_BYTES if look_ahead_bytes is None else look_ahead_bytes
        self.source = source
        self.start = start
        self.data = source.read(start, end + self._window_bytes)

    @property
    def end(self) -> int:
        """Offset in the file behind the last byte held."""
        return self.start + len(self.data)

    @property
    def at_end(self) -> bool:
        """Whether the last byte held is the file's last."""
        return self.end >= self.source.size_bytes

    def extend(self) -> None:
        """Fetch the next window; each is twice as long as the one before, up to a few MiB."""
        self._window_bytes = min(max(1, self._window_bytes) * 2, WINDOW_BYTES_MAX)
        self.data += self.source.read(self.end, self.end + self._window_bytes)

    def drop(self, before: int) -> None:
        """Let go of the bytes in front of the file offset `before`."""
        self.data = self.data[before - self.start :]
        self.start = before


def first_line_end(held: Held, at: int, *, cr: bool = False) -> int | None:
    """Offset (in the file) of the first line end at or after `at`: the position behind the line's last byte.

    None where the bytes held hold none; the end of the file counts as one. The byte in front of `at` must be held, unless
    `at` is 0. With `cr` a CR that no LF follows ends a line too.
    """
    data, begin = held.data, max(at - 1 - held.start, 0)
    line_feed = data.find(b"\n", begin)
    found = line_feed + 1 if line_feed >= 0 else len(data) + 1
    if cr:
        found = min(found, _first_cr_end(held, begin, found))
    if found <= len(data):
        return held.start + found
    return held.end if held.at_end else None


def _first_cr_end(held: Held, begin: int, stop: int) -> int:
    """Position in the data behind the first CR that ends a line before `stop`; beyond the data where there is none."""
    data = held.data
    carriage = data.find(b"\r", begin, stop)
    nothing = len(data) + 1
    if carriage < 0:
        return nothing
    behind = carriage + 1
    if behind == len(data):
        return behind if held.at_end else nothing
    return behind + 1 if data[behind] == 0x0A else behind


def utf8_error(text: bytes, uri: str, offset: int) -> InputFormatError | None:
    """What is wrong with bytes that must be UTF-8, or None; `offset` is that of the first byte in the file."""
    if text.isascii():
        return None
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(uri, offset + error.start, text[error.start])
    return None


def not_utf8(uri: str, offset: int, byte: int) -> InputFormatError:
    """The refusal of a file that is not UTF-8."""
    return InputFormatError(
        f"{uri} is not UTF-8: byte 0x{byte:02x} at offset {offset} cannot be decoded",
        hint="convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 < old > new",
    )


def interleaved(text: bytes, edges: Sequence[int], at: Sequence[int], records: Sequence[bytes]) -> bytes:
    """`text` with lines put in between its records: ``records[i]`` before record ``at[i]`` (ascending).

    `edges`: where each record begins, and the end of the text.
    """
    pieces: list[bytes] = []
    before = 0
    for place, record in zip(at, records, strict=True):
        pieces += [text[edges[before] : edges[place]], record, b"\n"]
        before = place
    return b"".join([*pieces, text[edges[before] :]])
