"""Finding the end of a CSV record that is too long to be held: piece by piece, with nothing carried over but a few bytes."""

from __future__ import annotations

import codecs

from batch.formats.csv_lex import Quotes, lex, line_stops, record_ends
from batch.formats.text import not_utf8

_IN_QUOTES, _FIELD_START, _IN_FIELD = b'"', b"", b"\0"


class LongRecordLexer:
    """Lexes one record whose bytes come in pieces.

    The state between two pieces is spelt as the shortest text that leads to it (an opening quote, nothing, or any
    byte of an unquoted field), so that the lexer of whole texts can simply go on from it.
    """

    def __init__(self, offset: int, delimiter: str) -> None:
        """`offset`: of the record in the file."""
        self._read_to = offset
        self._delimiter = delimiter
        self._state = _FIELD_START
        self._unsettled = b""
        self.opened = -1
        """Offset of the quote that is open behind the last piece, or -1."""

    def feed(self, fresh: bytes, *, final: bool) -> tuple[int, int] | None:
        """Where the record stops and where its line end does (offsets in the file), or None if it goes on.

        `final`: there are no bytes behind these.
        """
        self._read_to += len(fresh)
        piece = self._state + self._unsettled + fresh
        base = self._read_to - len(piece)
        kept = 0 if final else min(_unsettled_bytes(piece), len(piece) - len(self._state))
        settled, tail = piece[: len(piece) - kept], piece[len(piece) - kept :]
        quotes = lex(settled, self._delimiter)
        ends = record_ends(settled, quotes, final=True)
        if len(ends):
            return base + int(line_stops(settled, ends)[0]), base + int(ends[0])
        self._resume(settled, quotes, base)
        self._carry(tail)
        return None

    def _resume(self, settled: bytes, quotes: Quotes, base: int) -> None:
        """Note the state behind `settled`."""
        went_on = self._state == _IN_QUOTES and quotes.open_at == 0
        if quotes.open_at < 0:
            self.opened = -1
            at_start = not settled or settled.endswith(self._delimiter.encode())
            self._state = _FIELD_START if at_start else _IN_FIELD
        elif not went_on:
            self.opened = base + quotes.open_at
            self._state = _IN_QUOTES

    def _carry(self, tail: bytes) -> None:
        """Keep what the next piece decides on: a CR, or a run of quotes, of which inside quotes each pair cancels out."""
        if tail.startswith(b'"') and self._state == _FIELD_START:
            self.opened = self._read_to - len(tail)
            self._state, tail = _IN_QUOTES, tail[1:]
        self._unsettled = b'"' * (len(tail) % 2) if tail.startswith(b'"') else tail


def _unsettled_bytes(text: bytes) -> int:
    """How many of the last bytes cannot be judged without the next one: a CR, or a run of quotes."""
    if text.endswith(b"\r"):
        return 1
    return len(text) - len(text.rstrip(b'"'))


class Utf8Pieces:
    """Checks that bytes which come in pieces are UTF-8."""

    def __init__(self, uri: str, offset: int) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._uri, self._offset = uri, offset

    def check(self, piece: bytes, *, final: bool) -> None:
        """Raise `InputFormatError` at the first byte that cannot be decoded."""
        waiting = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            raise not_utf8(self._uri, self._offset - waiting + error.start, error.object[error.start]) from error
        self._offset += len(piece)
