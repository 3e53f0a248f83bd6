"""Where CSV records end, under the grammar of pyarrow's reader.

A quote opens a quoted field only as the field's first byte; inside, two quotes stand for one; a line end outside quotes ends
the record. Everywhere else a quote is literal (``5" pipe``, ``"b"x``): such strays are what makes counting quotes an unsafe way
to cut a file. A text that begins at a record start therefore has to be lexed: by a vectorised check that is sufficient for
well-formed text (it holds when each quote stands where an opening, closing or doubled one may stand), else by an exact
regular expression.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

QUOTE, LF, CR = 0x22, 0x0A, 0x0D

IntArray = np.ndarray
_NONE: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Quotes:
    """The quoted stretches of a text that begins at a record start; all positions are 0-based bytes."""

    opens: IntArray
    """First byte of each stretch, ascending."""
    closes: IntArray
    """Last byte of each stretch; one fewer than `opens` where the text ends inside quotes."""
    strays: IntArray
    """Literal quotes in unquoted fields, and closing quotes that text follows."""

    @property
    def open_at(self) -> int:
        """The quote that is still open where the text ends, or -1."""
        return int(self.opens[-1]) if len(self.opens) > len(self.closes) else -1

    def until(self, stop: int) -> Quotes:
        """The quotes of ``text[:stop]``, where `stop` is outside quotes."""
        count = int(np.searchsorted(self.opens, stop))
        return Quotes(self.opens[:count], self.closes[:count], self.strays[: np.searchsorted(self.strays, stop)])

    def outside(self, positions: IntArray) -> np.ndarray:
        """Which of the ascending positions are not inside a quoted stretch, as a mask."""
        if not len(self.opens):
            return np.ones(len(positions), dtype=bool)
        before = np.searchsorted(self.opens, positions, side="right") - 1
        closes = np.append(self.closes, np.iinfo(np.int64).max)  # a stretch that is still open has no end
        mask: np.ndarray = (before < 0) | (positions > closes[before])
        return mask


NO_QUOTES = Quotes(_NONE, _NONE, _NONE)


def lex(text: bytes, delimiter: str) -> Quotes:
    """Find the quoted stretches of `text`, which begins at a record start.

    Whatever follows a quote that is the last byte of `text` is unknown here; line ends before it are told apart correctly.
    """
    if b'"' not in text:
        return NO_QUOTES
    data = np.frombuffer(text, dtype=np.uint8)
    quotes = np.flatnonzero(data == QUOTE)
    return _well_formed(data, quotes, delimiter) or _exact(text, data, quotes, delimiter)


def _well_formed(data: np.ndarray, quotes: IntArray, delimiter: str) -> Quotes | None:
    """The stretches if every quote stands where a well-formed one may stand, else None.

    By induction: a quote of even rank that follows a delimiter, a line end or a closing quote opens (or doubles), and one of
    odd rank that is followed by one of these closes (or is about to be doubled).
    """
    beside = _beside(delimiter)
    opens, closes = quotes[::2], quotes[1::2]
    before = data[opens - 1]  # the first one may wrap round: it stands at the start, and is looked at by itself
    if not (beside[before[1:]].all() and (opens[0] == 0 or beside[before[0]])):
        return None
    inner = closes[:-1] if len(closes) and closes[-1] == len(data) - 1 else closes
    if not beside[data[inner + 1]].all():
        return None
    return Quotes(_without_doubled(quotes) if len(quotes) % 2 else opens, closes, _NONE)


def _without_doubled(quotes: IntArray) -> IntArray:
    """Opening quotes, the last one being where its field began: behind it may stand doubled quotes and nothing else yet."""
    opens = quotes[::2].copy()
    last = len(quotes) - 1
    while last >= 2 and quotes[last] - quotes[last - 1] == 1:
        last -= 2
    opens[-1] = quotes[last]
    return opens


@cache
def _beside(delimiter: str) -> np.ndarray:
    """Lookup by byte: whether it may stand beside a well-formed quote."""
    table = np.zeros(256, dtype=bool)
    table[[QUOTE, LF, CR, ord(delimiter)]] = True
    return table


@cache
def _pattern(delimiter: str) -> re.Pattern[bytes]:
    """A quoted stretch: a quote at a field's start, up to one that is not doubled, or up to the end of the text."""
    at_field_start = (
        rb"(?<![^\r\n" + re.escape(delimiter.encode()) + rb']")'
    )  # behind the quote: a literal is sought faster
    return re.compile(b'"' + at_field_start + rb'(?:[^"]++|"")*+(?:"|\Z)')


def _exact(text: bytes, data: np.ndarray, quotes: IntArray, delimiter: str) -> Quotes:
    spans = np.array([match.span() for match in _pattern(delimiter).finditer(text)], dtype=np.int64).reshape(-1, 2)
    opens, closes = spans[:, 0], spans[:, 1] - 1
    if len(spans) and _is_open(text, spans[-1]):
        closes = closes[:-1]
    literal = quotes[Quotes(opens, closes, _NONE).outside(quotes)]
    inner = closes[closes < len(data) - 1]
    followed = inner[~_beside(delimiter)[data[inner + 1]]]
    return Quotes(opens, closes, np.sort(np.concatenate([literal, followed])))


def _is_open(text: bytes, span: IntArray) -> bool:
    """Whether the last stretch reaches the end of the text without a closing quote: behind the first quote they pair up."""
    start, end = int(span[0]), int(span[1])
    body = text[start + 1 : end]
    return end == len(text) and (len(body) - len(body.rstrip(b'"'))) % 2 == 0


def record_ends(text: bytes, quotes: Quotes, *, final: bool) -> IntArray:
    """Positions behind each line end outside quotes: LF, CRLF, or a CR alone.

    Without `final` a CR that is the text's last byte is not counted, because an LF may follow it.
    """
    data = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(data == LF) + 1
    if b"\r" in text:
        ends = np.union1d(ends, _carriage_ends(data, final=final))
    mask: np.ndarray = quotes.outside(ends - 1)
    return ends if mask.all() else ends[mask]


def _carriage_ends(data: np.ndarray, *, final: bool) -> IntArray:
    behind = np.flatnonzero(data == CR) + 1
    at_end = behind[-1:] if behind[-1] == len(data) else _NONE
    behind = behind[: len(behind) - len(at_end)]
    alone: IntArray = behind[data[behind] != LF]
    return np.concatenate([alone, at_end]) if final else alone


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a text, blank lines left out: ``text[starts[i]:stops[i]]`` is record i without its line end."""

    starts: IntArray
    stops: IntArray

    def __len__(self) -> int:
        return len(self.starts)

    def bytes_of(self, text: bytes, row: int) -> bytes:
        """Record `row` of the text they were found in."""
        return text[self.starts[row] : self.stops[row]]


def split_records(text: bytes, quotes: Quotes) -> Records:
    """Where the records of `text` are; it begins at a record start and ends at a record end (or at the end of the file)."""
    ends = record_ends(text, quotes, final=True)
    if len(text) and (not len(ends) or ends[-1] != len(text)):
        ends = np.append(ends, len(text))
        stops = np.append(line_stops(text, ends[:-1]), len(text))
    else:
        stops = line_stops(text, ends)
    starts = np.concatenate([_NONE, [0], ends[:-1]])[: len(ends)].astype(np.int64)
    filled = stops > starts
    return Records(starts, stops) if filled.all() else Records(starts[filled], stops[filled])


def line_stops(text: bytes, ends: IntArray) -> IntArray:
    """Positions in front of the line ends that `ends` are behind."""
    if b"\r" not in text:
        return ends - 1
    data = np.frombuffer(text, dtype=np.uint8)
    crlf = (data[ends - 1] == LF) & (ends >= 2) & (data[ends - 2] == CR)
    stops: IntArray = ends - 1 - crlf
    return stops


def field_counts(text: bytes, quotes: Quotes, records: Records, delimiter: str) -> IntArray:
    """Number of fields of each record."""
    delimiters = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord(delimiter))
    delimiters = delimiters[quotes.outside(delimiters)]
    counts: IntArray = np.searchsorted(delimiters, records.stops) - np.searchsorted(delimiters, records.starts) + 1
    return counts


def holds_longer(text: bytes, quotes: Quotes, limit_bytes: int) -> bool:
    """Whether a record of `text` is longer than `limit_bytes`; next to nothing to find out where no quote is in the way."""
    if len(text) <= limit_bytes:
        return False
    if len(quotes.opens):
        records = split_records(text, quotes)
        return bool(len(records) and (records.stops - records.starts).max() > limit_bytes)
    position = 0
    while len(text) - position > limit_bytes:
        window = position, position + limit_bytes + 1
        behind = max(text.rfind(b"\n", *window), text.rfind(b"\r", *window)) + 1
        if behind <= position:
            return True
        position = behind
    return False
