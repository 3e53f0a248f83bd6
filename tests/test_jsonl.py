"""JSONL: what the head tells, which lines are records, that speed never changes an answer, and what is written."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch.errors import InputEmpty, InputFormatError
from batch.formats import FORMATS, LINE_COLUMN, Block, Column, Cut, ReadOptions, Shape, WriteOptions, jsonl_lines
from batch.formats.json_text import plain_text
from batch.formats.jsonl_lines import split_lines
from batch.formats.jsonl_read import JsonlReader, decode, decode_fast, decode_slowly
from tests.sources import source_of

JSONL = FORMATS["jsonl"]
AB = ReadOptions((Column("a", "long"), Column("b", "double", required=False)), kept=("k",))
WHOLE = ReadOptions(AB.columns, keep_line=True, output_columns=("prediction",))


def blocks(body: bytes, options: ReadOptions = AB, chunk_bytes: int = 1 << 20) -> list[Block]:
    source = source_of(body, "s3://bucket/in.jsonl")
    shape = JSONL.inspect(source, options)
    return [block for cut in JSONL.cut(shape, chunk_bytes) for block in JSONL.read(source, shape, cut, None, options)]


def rows(body: bytes, options: ReadOptions = AB, chunk_bytes: int = 1 << 20) -> list[dict[str, Any]]:
    tables = [plain_text(block.table, options.kept) for block in blocks(body, options, chunk_bytes)]
    return [row for table in tables for row in table.to_pylist()]


def faults(body: bytes, options: ReadOptions = AB) -> list[tuple[int, str, str]]:
    found = [reject for block in blocks(body, options) if block.rejects for reject in block.rejects.to_pylist()]
    return [(reject["_row"], reject["_column"], reject["_code"]) for reject in found]


def written(table: pa.Table, **options: Any) -> bytes:
    encoder = JSONL.encoder(WriteOptions(**{"columns": tuple(table.column_names), **options}))
    encoder.add(table)
    return encoder.finish()


# --- inspect


def test_the_head_tells_names_in_order_of_appearance() -> None:
    """A byte order mark is skipped, later records add names, blank lines and broken lines tell nothing."""
    shape = JSONL.inspect(source_of(b'\xef\xbb\xbf{"b":1}\n\n{oops\n{"a":{"x":1},"b":2}'), AB)
    assert (shape.columns, shape.data_start, shape.size_bytes) == (("b", "a"), 3, 37)


def test_a_file_without_bytes_is_empty() -> None:
    """The message has the number."""
    with pytest.raises(InputEmpty, match="0 bytes"):
        JSONL.inspect(source_of(b""), AB)


def test_blank_lines_alone_are_a_file_of_no_rows() -> None:
    """As a CSV file with a header alone is."""
    assert rows(b"\n \r\n") == []


@pytest.mark.parametrize("key", ['"prediction"', r'"pred\u0069ction"'])
def test_an_output_column_in_a_kept_record_is_found_however_it_is_spelled(key: str) -> None:
    """A record that is written back whole must not have a key that the predictions get."""
    assert faults(f'{{"a":1}}\n{{"a":2,{key}:3}}\n'.encode(), WHOLE) == [(1, "prediction", "columns")]


@pytest.mark.parametrize("depth", [199, 200, 5_000])
def test_nesting_has_a_fixed_limit(depth: int) -> None:
    """200 levels with the record's own; not the interpreter's limit, which depends on who is calling."""
    body = b'{"a":1,"k":' + b"[" * depth + b"]" * depth + b"}\n"
    assert [code for _, _, code in faults(body)] == ([] if depth < 200 else ["parse"])


def test_nan_in_a_text_is_text() -> None:
    """Only as a number it is no JSON."""
    assert [row["k"] for row in rows(b'{"a":1,"k":"NaN, Inf"}\n')] == ["NaN, Inf"]
    assert faults(b'{"a":1,"b":NaN}\n') == [(0, "", "parse")]


@pytest.mark.parametrize(
    ("body", "said"),
    [(b' \n[{"a":1}]', "one JSON array; JSONL wants one object per line"), ('{"a":1}'.encode("utf-16"), "UTF-16")],
)
def test_another_kind_of_file_is_refused(body: bytes, said: str) -> None:
    """One big array and UTF-16 are named as what they are."""
    with pytest.raises(InputFormatError, match=said):
        JSONL.inspect(source_of(body), AB)


# --- records


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"a":NaN}', ("", "parse")),
        (b'{"a":1,"b":-Infinity}', ("", "parse")),
        (b'{"a":1,"a":2}', ("a", "parse")),
        (b'{"a":1,"k":{"x":1,"x":2}}', ("k", "parse")),
        (b'{"a":1,}', ("", "parse")),
        (b"{'a':1}", ("", "parse")),
        (b'{"a":1', ("", "parse")),
        (b" 5", ("", "parse")),
        (b'"x"', ("", "parse")),
        (b"1", ("", "parse")),
        (b"null", ("", "parse")),
        (b'{"a":1}{"a":2}', ("", "parse")),
        (b'{"a":1,"k":"\xff"}', ("", "parse")),
        (b'{"a":1,"k":"\\ud800"}', ("", "parse")),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ("", "parse")),
        (b'{"a":"1"}', ("a", "type")),
        (b'{"a":true}', ("a", "type")),
        (b'{"a":1.5}', ("a", "type")),
        (b'{"a":1e400}', ("a", "type")),
        (b'{"a":1e99999999999999999999}', ("a", "type")),
        (b'{"a":9223372036854775808}', ("a", "type")),
        (b'{"a":1,"b":"x"}', ("b", "type")),
        (b'{"a":1,"b":1e400}', ("b", "range")),
        (b'{"b":1}', ("a", "null")),
    ],
)
def test_a_bad_line_is_one_reject_and_its_neighbours_stay(line: bytes, fault: tuple[str, str]) -> None:
    """Wherever it stands: a first line ``null`` would crash pyarrow's reader."""
    good = b'{"a":7}'
    assert faults(line + b"\n" + good) == [(0, *fault)]
    assert faults(good + b"\n" + line + b"\r\n" + good) == [(1, *fault)]
    assert [row["a"] for row in rows(good + b"\n" + line + b"\n" + good)] == [7, 7]


def test_an_array_among_the_lines_is_a_reject() -> None:
    """As the first line it would look like a file that is one array, which is refused."""
    assert faults(b'{"a":7}\n[1]\n{"a":8}') == [(1, "", "parse")]


def test_a_pretty_printed_object_is_no_record() -> None:
    """Each of its lines is a reject, as none is an object."""
    assert [fault[2] for fault in faults(b'{\n"a":1\n}')] == ["parse"] * 3


def test_numbers_keep_their_value() -> None:
    """An integral 1.0 is a long, integers are doubles, and nothing passes through a double on its way to a long."""
    body = b'{"a":9007199254740993,"b":2}\n{"a":1.0,"b":0.1}\n{"a":12e1,"b":null}'
    assert [(row["a"], row["b"]) for row in rows(body)] == [(9007199254740993, 2.0), (1, 0.1), (120, None)]


def test_kept_values_keep_their_spelling() -> None:
    """Text passes as text; beside anything else JSON tokens are kept, whose plain text is the value as it was spelled."""
    tokens = [b"1.10", b"12345678901234567890", b'"x"', b"true", b"null", b'{"y":[1.0,"\xc3\xa9"]}', b"-0"]
    body = b"\n".join(b'{"a":1,"k":%s}' % token for token in tokens)
    [block] = blocks(body)
    assert [row["k"] for row in rows(body)] == [
        "1.10", "12345678901234567890", "x", "true", None, '{"y":[1.0,"é"]}', "-0",
    ]  # fmt: skip
    assert written(block.table.select(["k"])) == b"".join(b'{"k":%s}\n' % token for token in tokens)


def test_a_line_kept_whole_may_not_have_an_output_column() -> None:
    """The splice would give it the name twice."""
    body = b'{"a":1,"prediction":0}\n {"a":2} \r\n'
    assert faults(body, WHOLE) == [(0, "prediction", "columns")]
    assert rows(body, WHOLE) == [{"a": 2, "b": None, LINE_COLUMN: b'{"a":2}'}]


def test_types_beside_numbers() -> None:
    """Texts, booleans and times are what they say; a date that does not exist is a reject."""
    options = ReadOptions((Column("s", "string"), Column("o", "boolean"), Column("t", "datetime")))
    body = b'{"s":"x","o":true,"t":"2024-02-29"}\n{"s":1,"o":true,"t":"2024-02-29"}\n{"s":"x","o":1,"t":"2024-02-29"}\n'
    body += b'{"s":"x","o":true,"t":"2024-02-30"}'
    assert faults(body, options) == [(1, "s", "type"), (2, "o", "type"), (3, "t", "type")]
    assert [row["t"].isoformat() for row in rows(body, options)] == ["2024-02-29T00:00:00"]


@pytest.mark.parametrize("size", [200, 300_000])
def test_a_record_over_the_limit_is_rejected(size: int) -> None:
    """Whether it is held or read past; the rejects keep its head and the records behind it count on."""
    options = ReadOptions(AB.columns, max_record_bytes=100)
    body = b'{"a":1}\n{"a":2,"x":"' + b"x" * size + b'"}\n{"a":3}\n'
    for chunk_bytes in (size // 7, size + 20, 1 << 20):
        found = blocks(body, options, chunk_bytes)
        refused = [block.rejects for block in found if block.rejects]
        assert [table["_code"].to_pylist() for table in refused] == [["too_long"]]
        assert len(refused[0]["_record"][0].as_py()) == min(size + 14, 64 << 10)
        assert [row["a"] for row in rows(body, options, chunk_bytes)] == [1, 3]


# --- fast and slow, cuts

NAMES = st.sampled_from(["a", "b", "k", "s", "t", "z"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.sampled_from(["2024-02-30", "2024-01-31T10:00:00Z", "inf", "NaN", "1"]),
)  # fmt: skip
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(NAMES, SCALARS, max_size=2))
TYPED = st.fixed_dictionaries(
    {"a": st.integers(-(2**63), 2**63 - 1)},
    optional={"b": st.floats(), "k": st.text(max_size=5) | st.integers(-9, 9), "s": st.text(max_size=5), "z": VALUES},
)
RECORDS = st.one_of(TYPED, st.dictionaries(NAMES, VALUES, max_size=5)).flatmap(
    lambda record: st.booleans().map(lambda ascii_only: json.dumps(record, ensure_ascii=ascii_only))
)
LINES = st.one_of(
    RECORDS, st.sampled_from(["", "null", "{}", '{"a":1} ', '{"a":01}', '{"a":1,"a":2}', '{"a":-0,"k":-0}'])
)
ALL = ReadOptions(
    (*AB.columns, Column("s", "string", required=False), Column("t", "datetime", required=False)), kept=("k",)
)


@given(st.lists(LINES, min_size=1, max_size=6))
@example(['{"a":1,"b":1,"k":1}', '{"a":2,"b":1.5,"k":2}'])
@example(['{"a":1,"z":1,"z":2}', '{"a":1,"k":"\x7f"}'])
def test_the_fast_path_reads_what_the_strict_one_reads(lines: list[str]) -> None:
    """Where pyarrow is let near a block, rows and values are those of the strict parser, and nothing had to be rejected."""
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    records = split_lines(text)
    fast = decode_fast(text, records, ALL) if records else None
    if fast is None:
        return
    slow, _, refused = decode_slowly(records, ALL)
    assert refused == []
    assert repr(plain_text(fast, ["k"]).to_pylist()) == repr(plain_text(slow, ["k"]).to_pylist())


def test_a_plain_block_takes_the_fast_path() -> None:
    """Otherwise the property above would say nothing."""
    text = b'{"a":1,"b":2,"k":"x","z":[1]}\n{"a":2,"b":0.5,"k":null}\r\n\n{"a":3}'
    assert decode_fast(text, split_lines(text), ALL) is not None


@given(st.lists(LINES, max_size=12), st.integers(1, 60), st.integers(1, 50), st.booleans())
def test_cuts_never_change_the_records(lines: list[str], chunk: int, block: int, proven: bool) -> None:
    """Any chunk and block size gives all lines once and in order, and each chunk starts where the one before ended."""
    text = ('{"a":1}\n' + "\n".join(lines)).encode("utf-8", "surrogatepass")
    source, found, end = source_of(text), [], 0
    shape = JSONL.inspect(source, WHOLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl_lines, "BLOCK_BYTES", block)
        for cut in JSONL.cut(shape, chunk):
            reader = JsonlReader(source, shape, cut, end if proven else None, WHOLE)
            assert reader.start == end
            read = sum(each.rows_read for each in reader)
            found += reader.records(range(read))
            end = reader.end
    assert (found, end) == (split_lines(text), len(text))


def test_a_chunk_inside_a_long_line_is_empty() -> None:
    """Its start is the line's end, however far behind the chunk that is."""
    body = b'{"a":1,"x":"' + b"x" * 300_000 + b'"}\n{"a":2}\n'
    source = source_of(body)
    reader = JSONL.read(source, Shape((), len(body)), Cut(10, 20), None, AB)
    assert list(reader) == []
    assert reader.start == reader.end == len(body) - 8


# --- writing

TABLES = st.lists(st.tuples(st.floats(), st.text(st.characters(codec="utf-8")) | st.none(), st.booleans()), max_size=5)


@given(TABLES)
@example([(math.nan, 'a"b\\\n\x00\u2028', True), (math.inf, None, False), (5e-324, "", True)])
def test_what_is_written_is_strict_json_with_the_same_values(values: list[tuple[Any, ...]]) -> None:
    """Any text and any finite number come back equal; what JSON cannot say is null."""
    kinds = {'x"y': pa.float64(), "s": pa.string(), "o": pa.bool_()}
    columns = [pa.array([row[place] for row in values], kind) for place, kind in enumerate(kinds.values())]
    body = written(pa.table(columns, names=list(kinds)))
    back = [tuple(json.loads(line, parse_constant=pytest.fail).values()) for line in body.split(b"\n")[:-1]]
    assert back == [(x if math.isfinite(x) else None, s, o) for x, s, o in values]


def test_times_and_order_of_columns() -> None:
    """Times are ISO texts; the order is that of the options, not of the table."""
    table = pa.table({"t": pa.array([0, None], pa.timestamp("us")), "i": [1, 2]})
    assert written(table, columns=("i", "t")) == b'{"i":1,"t":"1970-01-01T00:00:00"}\n{"i":2,"t":null}\n'


def test_predictions_are_spliced_into_the_line() -> None:
    """The line's own bytes stay as they are; an empty object gets no comma."""
    lines = [b'{"a":1.10, "\xc3\xa9":"}" }', b"{ }"]
    table = pa.table({LINE_COLUMN: pa.array(lines, pa.binary()), "prediction": [0.5, 2.0], "other": ["x", "y"]})
    body = written(table, columns=("prediction",), splice=True)
    assert body == b'{"a":1.10, "\xc3\xa9":"}","prediction":0.5}\n{"prediction":2}\n'


def test_no_rows_are_no_bytes_and_a_file_is_its_sections() -> None:
    """Compressed or not."""
    options = WriteOptions(("x",), compression="gz")
    assert written(pa.table({"x": pa.array([], pa.int64())}), compression="gz") == b""
    assert b"".join(JSONL.assemble(options, [b"1", b"", b"2"])) == b"12"
    assert JSONL.header(options) == b""


def test_rejects_stand_in_front_of_the_record_or_beside_its_text() -> None:
    """A readable record keeps its members; one that is none, or has such a name itself, goes to ``_raw``."""
    found = [block.rejects for block in blocks(b'{"a":"x"}\n{}\n{"a":\xff\n{"_row":5}')]
    [body] = JSONL.encode_rejects(AB, Shape((), 0), [table for table in found if table], False)
    read = [json.loads(line) for line in body.splitlines()]
    assert [row["_code"] for row in read] == ["type", "null", "parse", "null"]
    assert list(read[0]) == ["_row", "_column", "_code", "_message", "a"]
    assert [row.get("_raw") for row in read] == [None, None, '{"a":\\xff', '{"_row":5}']


def test_listed_nulls_are_null() -> None:
    """``null_values`` holds for texts of signature columns in a plain block and in a doubtful one."""
    options = ReadOptions((Column("s", "string", required=False),), null_values=("NA",))
    for tail in (b"", b'\n{"s":"\\u0041"}'):
        assert rows(b'{"s":"NA"}' + tail, options)[0] == {"s": None}
    assert decode(b"\n", options).rows_read == 0
