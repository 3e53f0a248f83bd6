"""However a CSV file is cut, read and guessed, the same records come out of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch.errors import InputFormatError
from batch.formats import FORMATS, Cut, ReadOptions, Shape, csv_blocks, text
from batch.formats.csv_lex import holds_longer, lex, record_ends, split_records
from batch.formats.text import UnprovenStart
from batch.storage import Source
from tests.csv_grammar import lines_of, records_of
from tests.sources import reads_of, source_of

CSV = FORMATS["csv"]
TEXTS = st.text(alphabet='a,"\n\r ', max_size=60)
STRAY_HEAVY = st.lists(
    st.sampled_from(['a"', '"a', '"', '""', ",", "\n", "\r\n", '"\n"', '"a\na"', 'a,"b\n', ' "', "a"]), max_size=20
).map("".join)
Fate = Any
"""What became of a record: the tuple of its fields, or the code it was rejected with."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that make every boundary happen within a few bytes."""

    block: int
    chunk: int
    look_ahead: int


SIZES = st.builds(Sizes, st.integers(1, 30), st.integers(1, 30), st.integers(0, 12))


@contextmanager
def sizes_of(sizes: Sizes) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_blocks, "BLOCK_BYTES", sizes.block)
        patch.setattr(csv_blocks, "WINDOW_BYTES_MAX", 8)
        patch.setattr(csv_blocks, "LOOK_AHEAD_BYTES", max(1, sizes.look_ahead))
        patch.setattr(text, "LOOK_AHEAD_BYTES", sizes.look_ahead)
        yield


@dataclass
class Chunk:
    """What one chunk gave."""

    start: int
    end: int
    fates: list[Fate]


def read_chunk(source: Source, shape: Shape, cut: Cut, proven: int | None, options: ReadOptions) -> Chunk | None:
    """One chunk, or None when its start must be proven first."""
    try:
        reader = CSV.read(source, shape, cut, proven, options)
        fates = [fate for block in reader for fate in fates_of(block)]
    except UnprovenStart:
        assert proven is None
        return None
    return Chunk(reader.start, reader.end, fates)


def fates_of(block: Any) -> list[Fate]:
    valid = iter(zip(*block.table.to_pydict().values(), strict=True))
    rejected = {} if block.rejects is None else {row["_row"]: row["_code"] for row in block.rejects.to_pylist()}
    fates = [rejected.get(row) or next(valid) for row in range(block.rows_read)]
    assert next(valid, None) is None
    return fates


def read_all(body: bytes, width: int, chunk_bytes: int, options: ReadOptions) -> list[Chunk]:
    """Read all chunks with guessed starts, then again, in order, those whose guess was not the end of the chunk before."""
    source, shape = source_of(body), Shape(tuple(f"c{i}" for i in range(width)), len(body))
    cuts = CSV.cut(shape, chunk_bytes)
    chunks = [read_chunk(source, shape, cut, None, options) for cut in cuts]
    proven = 0
    for index, cut in enumerate(cuts):
        chunk = chunks[index]
        if chunk is None or chunk.start != proven:
            chunk = chunks[index] = read_chunk(source, shape, cut, proven, options)
        assert chunk is not None
        proven = chunk.end
    return [chunk for chunk in chunks if chunk is not None]


def options_for(width: int, **changes: Any) -> ReadOptions:
    return replace(ReadOptions((), kept=tuple(f"c{i}" for i in range(width)), header=False), **changes)


def expected(whole: str, width: int, record_bytes_max: int) -> list[Fate]:
    fates: list[Fate] = []
    for record in records_of(whole):
        if record.stop - record.start > record_bytes_max:
            fates.append("too_long")
        elif record.stray:
            fates.append("parse")
        else:
            fates.append(tuple(record.fields) if len(record.fields) == width else "columns")
    return fates


def true_ends(whole: str, chunk_bytes: int) -> list[int]:
    """The first line end outside quotes at or behind each target: a function of the bytes alone."""
    ends = [line.end for line in lines_of(whole)]
    return [next(end for end in ends if end >= min(t, len(whole))) for t in targets(len(whole), chunk_bytes)]


def targets(size: int, chunk_bytes: int) -> range:
    return range(chunk_bytes, size + chunk_bytes, chunk_bytes)


def unclosed(whole: str) -> int | None:
    records = records_of(whole)
    return records[-1].open_at if records else None


@given(st.one_of(TEXTS, STRAY_HEAVY), SIZES, st.integers(1, 3), st.sampled_from([2, 5, 1000]))
@example('a","b\n5" x,"c\nd",e\n', Sizes(4, 18, 2), 2, 1000)
@example('"",', Sizes(9, 9, 2), 2, 1000)
@example("\r\r", Sizes(2, 1, 1), 1, 2)
@example('a",""""\n","\n', Sizes(3, 5, 1), 2, 2)
def test_any_cut_gives_the_records_of_the_whole(whole: str, sizes: Sizes, width: int, record_bytes_max: int) -> None:
    """Records, rejects and refusals are a function of the bytes, wherever chunks, blocks and windows end."""
    options = options_for(width, max_record_bytes=record_bytes_max)
    with sizes_of(sizes):
        if (quote := unclosed(whole)) is not None:
            with pytest.raises(InputFormatError, match=f"the quote at byte {quote} is never closed"):
                read_all(whole.encode(), width, sizes.chunk, options)
            return
        chunks = read_all(whole.encode(), width, sizes.chunk, options)
    assert [fate for chunk in chunks for fate in chunk.fates] == expected(whole, width, record_bytes_max)
    assert [(chunk.start, chunk.end) for chunk in chunks] == list(pairwise([0, *true_ends(whole, sizes.chunk)]))


@given(st.one_of(TEXTS, STRAY_HEAVY), st.integers(1, 3))
def test_the_grammar_is_the_one_of_pyarrow(whole: str, width: int) -> None:
    """With pyarrow come the same records with the same fields in the whole file, stray quotes and unclosed ones included.

    Only at the end of a file without a line end it takes an empty field for a quoted one if the field before it is.
    """
    whole = whole if unclosed(whole) is not None or whole.endswith(("\n", "\r")) else whole + "\n"
    miscounted: list[int] = []

    def skip(row: Any) -> str:
        miscounted.append(row.number - 1)
        return "skip"

    names = [f"c{i}" for i in range(width)]
    table = pa_csv.read_csv(
        pa.BufferReader(whole.encode()),
        read_options=pa_csv.ReadOptions(column_names=names, use_threads=False),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    records = records_of(whole)
    assert miscounted == [row for row, record in enumerate(records) if len(record.fields) != width]
    fitting = [tuple(record.fields) for record in records if len(record.fields) == width]
    assert list(zip(*table.to_pydict().values(), strict=True)) == fitting


@given(st.one_of(TEXTS, STRAY_HEAVY))
def test_lexing_finds_the_ends_and_strays_of_every_record(whole: str) -> None:
    """The vectorised check and the regular expression agree with the grammar spelt out byte by byte."""
    records, body = records_of(whole), whole.encode()
    quotes = lex(body, ",")
    assert (quotes.open_at >= 0) == (unclosed(whole) is not None)
    found = split_records(body, quotes)
    if quotes.open_at < 0:
        assert list(zip(found.starts, found.stops, strict=True)) == [(r.start, r.stop) for r in records]
        stray = {int(found.stops.searchsorted(place, side="right")) for place in quotes.strays}
        assert stray == {row for row, record in enumerate(records) if record.stray}
    else:
        assert quotes.open_at == unclosed(whole)


@given(TEXTS, st.integers(1, 20))
def test_too_long_is_told_by_the_longest_record(whole: str, limit: int) -> None:
    """The cheap check says yes for exactly those texts that hold a record over the limit."""
    body = whole.encode()
    quotes = lex(body, ",")
    if quotes.open_at < 0:
        longest = max((record.stop - record.start for record in records_of(whole)), default=0)
        assert holds_longer(body, quotes, limit) == (longest > limit)


def test_even_quote_counts_do_not_prove_a_cut() -> None:
    """A stray and an opening quote, a quoted line end at the cut, another stray: every part parses, and one is wrong."""
    whole = 'a",x\nb,"c\nd"\n"e,f\ng",h\ni",j\n'
    for chunk_bytes in range(1, len(whole) + 1):
        chunks = read_all(whole.encode(), 2, chunk_bytes, options_for(2))
        assert [fate for chunk in chunks for fate in chunk.fates] == ["parse", ("b", "c\nd"), ("e,f\ng", "h"), "parse"]


def test_a_wrong_guess_asks_for_the_proven_start() -> None:
    """A guess inside quotes finds the file open at its end; that is no refusal before the start is proven."""
    body = b'a,b\nc,"d\ne,f\ng,h\n"\n'
    source, shape = source_of(body), Shape(("c0", "c1"), len(body))
    with pytest.raises(UnprovenStart) as caught:
        list(CSV.read(source, shape, Cut(9, len(body)), None, options_for(2)))
    assert caught.value.guess == 9
    assert [c.fates for c in read_all(body, 2, 9, options_for(2))] == [[("a", "b"), ("c", "d\ne,f\ng,h\n")], [], []]


def test_an_unproven_start_survives_the_way_back_from_a_worker() -> None:
    """It crosses process boundaries with its facts."""
    import pickle

    copy = pickle.loads(pickle.dumps(UnprovenStart(7, "a record goes on")))
    assert (copy.guess, copy.reason, str(copy)) == (7, "a record goes on", "start 7 is only a guess: a record goes on")


def test_bad_text_in_a_guessed_chunk_asks_for_the_proven_start() -> None:
    """Whether bytes that are not UTF-8 belong to the file's text is only known once the chunk's start is."""
    body = b"a,b\nc,d\n\xff,e\n"
    source, shape = source_of(body), Shape(("c0", "c1"), len(body))
    with pytest.raises(UnprovenStart):
        list(CSV.read(source, shape, Cut(5, len(body)), None, options_for(2)))
    with pytest.raises(InputFormatError, match="byte 0xff at offset 8 "):
        list(CSV.read(source, shape, Cut(5, len(body)), 8, options_for(2)))


@pytest.mark.parametrize("proven", [None, 400_000])
def test_a_chunk_is_one_read(proven: int | None) -> None:
    """The look-ahead holds the end of the last record, so a chunk costs one request."""
    body = b"abc,def\n" * 100_000
    source, shape = source_of(body), Shape(("c0", "c1"), len(body))
    reader = CSV.read(source, shape, Cut(399_995, 600_001), proven, options_for(2))
    assert sum(block.rows_read for block in reader) == 25_001
    assert (reader.start, reader.end) == (400_000, 600_008)
    assert len(reads_of(source)) == 1


def test_a_chunk_inside_one_record_is_empty() -> None:
    """When the true start is at or behind the chunk's end the chunk is empty there."""
    body = b'a,"' + b"x\n" * 100 + b'"\nb,c\n'
    chunks = read_all(body, 2, 40, options_for(2))
    assert [len(chunk.fates) for chunk in chunks] == [1, 0, 0, 0, 0, 1]
    assert {(chunk.start, chunk.end) for chunk in chunks[1:5]} == {(205, 205)}


@pytest.mark.parametrize("quoted", [False, True])
def test_a_record_without_end_is_not_held(quoted: bool) -> None:
    """Of a record over the limit its first 64 KiB are kept, and reading goes on behind it."""
    value = b"x" * (12 << 20) if not quoted else b'"' + b'x""\n' * (3 << 20) + b'"'
    body = b"a,b\nc," + value + b"\r\nd,e\n"
    source, shape = source_of(body), Shape(("c0", "c1"), len(body))
    blocks = list(CSV.read(source, shape, Cut(0, len(body)), None, options_for(2)))
    (reject,) = [row for block in blocks if block.rejects for row in block.rejects.to_pylist()]
    assert reject["_code"] == "too_long"
    assert f"has {len(value) + 2} bytes" in reject["_message"]
    assert reject["_record"] == body[4 : 4 + (64 << 10)]
    assert [fate for block in blocks for fate in fates_of(block)] == [("a", "b"), "too_long", ("d", "e")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_can_be_cut(line_end: str) -> None:
    """A file of CR alone is cut as well as any other, and guesses hold."""
    body = line_end.join(f"{i},x" for i in range(200)).encode()
    source, shape = source_of(body), Shape(("c0", "c1"), len(body))
    chunks = [read_chunk(source, shape, cut, None, options_for(2)) for cut in CSV.cut(shape, 100)]
    assert [fate for chunk in chunks if chunk for fate in chunk.fates] == [(str(i), "x") for i in range(200)]


def test_a_line_end_that_may_be_half_of_one_is_not_counted() -> None:
    """A CR that is the last byte at hand may be followed by LF."""
    assert record_ends(b"a\rb\r", lex(b"a\rb\r", ","), final=False).tolist() == [2]
    assert record_ends(b"a\rb\r", lex(b"a\rb\r", ","), final=True).tolist() == [2, 4]
