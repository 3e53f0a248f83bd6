"""CSV: what the head of a file tells, which values are what, what is rejected with which record, and what is written."""

from __future__ import annotations

import math
import re
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch.errors import InputEmpty, InputFormatError, SchemaMismatch
from batch.formats import FORMATS, Column, Cut, ReadOptions, Shape, WriteOptions, csv, rejects
from batch.formats.compression import compress_member
from batch.formats.csv_cast import cast
from batch.formats.types import ARROW_TYPES
from tests.sources import source_of

CSV = FORMATS["csv"]
AB = ReadOptions((Column("a", "long"), Column("b", "double", required=False)), kept=("k",))


def read(body: bytes, options: ReadOptions = AB) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Valid rows and rejects of a whole file."""
    source = source_of(body)
    shape = CSV.inspect(source, options)
    rows, refused = [], []
    for cut in CSV.cut(shape, 1 << 20):
        for block in CSV.read(source, shape, cut, None, options):
            rows += block.table.to_pylist()
            refused += block.rejects.to_pylist() if block.rejects else []
    return rows, refused


def faults(body: bytes, options: ReadOptions = AB) -> list[tuple[int, str, str]]:
    return [(reject["_row"], reject["_column"], reject["_code"]) for reject in read(body, options)[1]]


def written(table: pa.Table, **options: Any) -> bytes:
    encoder = CSV.encoder(WriteOptions(tuple(table.column_names), **options))
    encoder.add(table)
    return encoder.finish()


# --- inspect


def test_the_head_tells_names_and_where_the_data_begins() -> None:
    """A byte order mark is skipped, a quoted name may hold a line end, and the record length is a mean."""
    shape = CSV.inspect(source_of(b'\xef\xbb\xbf"k\n1",a,b\r\nx,1,2\r\n\r\nyy,3,4'), ReadOptions(()))
    assert (shape.columns, shape.data_start, shape.size_bytes) == (("k\n1", "a", "b"), 14, 29)
    assert shape.sample_record_bytes == 7.5


def test_a_long_header_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header over 64 KiB is no problem; over the limit it is a refusal with both numbers."""
    names = [f"column_{i}" for i in range(20_000)]
    body = ",".join(names).encode() + b"\n1"
    assert CSV.inspect(source_of(body), ReadOptions(())).columns == tuple(names)
    monkeypatch.setattr(csv, "HEADER_BYTES_MAX", 1 << 16)
    with pytest.raises(InputFormatError, match=f"longer than 65536 bytes .the file has {len(body)}"):
        CSV.inspect(source_of(body), ReadOptions(()))


def test_too_many_columns_are_refused() -> None:
    """200,000 columns are no table but a mistake."""
    with pytest.raises(InputFormatError, match="200000 fields, more than the 100000"):
        CSV.inspect(source_of(b"," * 199_999 + b"\n"), ReadOptions(()))


@pytest.mark.parametrize(("body", "size"), [(b"", "0"), (b"\xef\xbb\xbf", "3"), (b"\n\r\n", "3")])
def test_a_file_without_a_record_is_empty(body: bytes, size: str) -> None:
    """No bytes, a byte order mark alone or blank lines alone."""
    with pytest.raises(InputEmpty, match=f"{size} bytes"):
        CSV.inspect(source_of(body), ReadOptions(()))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16 text"),
        ("a,b\n1,2\n".encode("utf-16-le"), "is UTF-16 text"),
        ("a,b\n1,2\n".encode("utf-32"), "is UTF-32 text"),
        (compress_member(b"a,b\n", "gz"), r"is named .csv but holds gzip data"),
        (b"PK\x03\x04rest", "holds zip data"),
        (b"PAR1rest", "holds parquet data"),
        (b"a,\xe9\n1,2\n", "byte 0xe9 at offset 2"),
        (b"a,b,a\n", "holds 'a' 2 times"),
        (b'a,"b\n1,2\n', "quote at byte 2 is never closed"),
    ],
)
def test_what_is_not_a_csv_file_is_named(body: bytes, message: str) -> None:
    """The first bytes betray other formats, encodings and damage."""
    with pytest.raises(InputFormatError, match=message):
        CSV.inspect(source_of(body), ReadOptions(()))


def test_nameless_columns_may_repeat() -> None:
    """A trailing delimiter in the header makes an empty name, and nobody can want that column."""
    assert read(b"k,a,b,,\nx,1,2,,\n") == ([{"a": 1, "b": 2.0, "k": "x"}], [])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_wrong_delimiter_is_guessed_for_the_message(delimiter: str) -> None:
    """One column where more are wanted: the hint is the line to write into the job."""
    with pytest.raises(InputFormatError, match=r"1 column found .* 3 expected; looks like") as caught:
        CSV.inspect(source_of(delimiter.join("kab").encode() + b"\n"), AB)
    assert caught.value.hint == "set input.delimiter = " + repr(delimiter).replace("'", '"')


def test_one_column_is_enough_where_one_is_wanted() -> None:
    """A single column whose name holds a semicolon is no mistake."""
    assert CSV.inspect(source_of(b"a;b\n1\n"), ReadOptions((Column("a;b", "long"),))).columns == ("a;b",)


def test_without_a_header_columns_are_named_by_position() -> None:
    """Kept columns first, then the signature's; another number of fields is refused."""
    options = ReadOptions(AB.columns, kept=("k",), header=False)
    assert read(b"\xef\xbb\xbfx,1,2\n", options)[0] == [{"a": 1, "b": 2.0, "k": "x"}]
    with pytest.raises(SchemaMismatch, match="has 2 fields, but without a header 3 are expected: k, a, b"):
        CSV.inspect(source_of(b"x,1\n"), options)


# --- decode


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_blank_lines_and_the_last_line(line_end: bytes) -> None:
    """Any line end, blank lines that are no records, and no line end at the end."""
    body = line_end.join([b"k,a,b", b"x,1,", b"", b'"y\n1",2,3'])
    assert read(body)[0] == [{"a": 1, "b": None, "k": "x"}, {"a": 2, "b": 3.0, "k": "y\n1"}]


def test_a_header_alone_is_no_rows() -> None:
    """No record, no chunk, no error."""
    assert read(b"k,a,b\n") == ([], [])


def test_null_is_an_empty_unquoted_field_or_a_null_value() -> None:
    """Quoted, both are text; NaN is null in a column of numbers."""
    options = ReadOptions(AB.columns, kept=("k",), null_values=("NA",))
    rows, refused = read(b'k,a,b\n,1,\n"",1,NA\nNA,1,nan\n"NA",1,NaN\nx,NA,1\nx,1,""\n', options)
    assert [row["k"] for row in rows] == [None, "", None, "NA"]
    assert [row["b"] for row in rows] == [None] * 4
    assert [(reject["_row"], reject["_code"]) for reject in refused] == [(4, "null"), (5, "type")]


def test_kept_text_is_not_touched() -> None:
    """Leading zeros, trailing zeros, blanks and big integers pass as they stand."""
    values = ["007", "1.10", " 10 ", "NA", "9007199254740993", "0x1F", "\ufeffx"]
    rows, _ = read("\n".join(["k,a,b", *(f"{value},1,2" for value in values)]).encode())
    assert [row["k"] for row in rows] == values


def test_a_byte_order_mark_at_the_start_of_a_block_is_data() -> None:
    """Only the file's first bytes can be one."""
    assert read("k,a,b\n\ufeffx,1,2\n".encode())[0] == [{"a": 1, "b": 2.0, "k": "\ufeffx"}]


def test_every_bad_record_is_rejected_with_its_own_bytes() -> None:
    """Blank lines do not count, a record with quoted line ends is one, and good neighbours pass."""
    body = (
        b'k,a,b,z\nv,1,2,\n\n"w\n",x,2,\r\nx,1\ny,1,1e400,\nz,,2,\nq",1,2,\nn\0,1,2,\n"l"x,1,2,\nm,0x1F,2,\nv,2,3,"\n"'
    )
    rows, refused = read(body)
    assert [row["a"] for row in rows] == [1, 2]
    assert [(r["_row"], r["_column"], r["_code"], r["_record"], r["_readable"]) for r in refused] == [
        (1, "a", "type", b'"w\n",x,2,', True),
        (2, "", "columns", b"x,1", False),
        (3, "b", "range", b"y,1,1e400,", True),
        (4, "a", "null", b"z,,2,", True),
        (5, "", "parse", b'q",1,2,', False),
        (6, "", "parse", b"n\0,1,2,", False),
        (7, "", "parse", b'"l"x,1,2,', False),
        (8, "a", "type", b"m,0x1F,2,", True),
    ]
    assert refused[1]["_message"] == "the record has 2 fields, but the file has 4 columns"
    assert refused[0]["_message"] == "a is 'x', which is not of type long"


def test_a_record_over_the_limit_is_rejected() -> None:
    """The message has both numbers, the record is told apart from its neighbours."""
    options = ReadOptions(AB.columns, kept=("k",), max_record_bytes=10)
    rows, (reject,) = read(b'k,a,b\nx,1,2\n"x\nx\nx\nx\n",1,2\ny,1,2\n', options)
    assert [row["k"] for row in rows] == ["x", "y"]
    assert (reject["_code"], reject["_message"]) == (
        "too_long",
        "the record has 14 bytes, more than input.max_record_bytes = 10",
    )


@pytest.mark.parametrize(("place", "value"), [(1, "x"), (2, "x"), (3, "x"), (4, "2026-02-30")])
def test_a_column_found_out_late_changes_nothing(place: int, value: str) -> None:
    """Bad values in several columns, each alone and all together, cost their own records only."""
    options = ReadOptions(tuple(Column(name, name) for name in ("long", "double", "boolean", "datetime")), kept=("k",))
    lines = ["k,long,double,boolean,datetime", *(f"{i},1,2,true,2026-11-09" for i in range(50))]
    for row in range(place, 50, 7):
        fields = lines[row + 1].split(",")
        fields[place] = value
        lines[row + 1] = ",".join(fields)
    rows, refused = read("\n".join(lines).encode(), options)
    assert {reject["_row"] for reject in refused} == set(range(place, 50, 7))
    assert len(rows) + len(refused) == 50


def test_a_value_too_many_in_every_column_is_still_one_reject() -> None:
    """Where a record has several bad values the first column of the signature is named."""
    options = ReadOptions(tuple(Column(name, "long") for name in "abcdef"))
    assert faults(b"a,b,c,d,e,f\n1,1,1,1,1,1\n" + b"1,x,x,x,x,x\nx,x,1,1,1,1\n" * 2, options) == [
        (1, "b", "type"),
        (2, "a", "type"),
        (3, "b", "type"),
        (4, "a", "type"),
    ]


def test_bytes_that_are_not_utf8_are_refused_with_their_place() -> None:
    """In any column, wanted or not; the offset is the file's."""
    with pytest.raises(InputFormatError, match="byte 0xfc at offset 14 ") as caught:
        read(b"k,a,b,z\nx,1,2,\xfc\n")
    assert "iconv" in caught.value.hint


def test_a_missing_column_is_refused_even_without_a_plan() -> None:
    """A reader that is asked for a column the file does not have says so."""
    with pytest.raises(SchemaMismatch, match=r"column 'b' is missing in s3://bucket/in\.csv"):
        read(b"k,a\nx,1\n")


def test_records_can_be_had_again() -> None:
    """For rows that only the model refuses: their bytes by number in the chunk."""
    body = b'k,a,b\nx,1,2\n\n"y\n",1,2\nz,q,2\nlast,1,2'
    source = source_of(body)
    reader = CSV.read(source, CSV.inspect(source, AB), Cut(6, len(body)), None, AB)
    assert [block.rows_read for block in reader] == [4]
    assert reader.records([1, 3]) == [b'"y\n",1,2', b"last,1,2"]  # type: ignore[attr-defined]


# --- the two ways a value is parsed

VALUES = st.one_of(
    st.text(alphabet="0123456789+-.eExXinfaINFATtrueRU:Z ", max_size=12),
    st.integers(-(2**65), 2**65).map(str),
    st.sampled_from([2**31, 2**31 - 1, 2**63, 2**63 - 1]).flatmap(
        lambda n: st.sampled_from([str(n), str(-n), f"-{n + 1}"])
    ),
    st.floats().map(str),
    st.datetimes().map(str),
    st.dates().map(str),
    st.from_regex(
        r"[0-9]{4}-[01][0-9]-[0-3][0-9]([ T][0-2][0-9](:[0-6][0-9](:[0-6][0-9](\.[0-9]{1,7})?)?)?)?", fullmatch=True
    ),
)


@given(VALUES, st.sampled_from(["integer", "long", "float", "double", "boolean", "datetime"]))
@example("2000-02-29", "datetime")
@example("1900-02-29", "datetime")
@example("0000-02-29", "datetime")
@example(" 5\t", "long")
@example("+5", "long")
@example("nan(1)", "double")
def test_both_ways_to_parse_accept_the_same(value: str, type_name: str) -> None:
    """What becomes of a value does not depend on whether its block was parsed as a whole or taken apart."""
    kind = ARROW_TYPES[type_name]
    whole = parsed_as_a_whole(value, kind)
    values, bad = cast(pa.array([value or None, "x", None], pa.string()), kind)
    assert bad is not None
    assert bad.tolist()[1:] == [True, False]
    assert bad[0] == (not values[0].is_valid and value != "")
    if type_name in ("integer", "long") and "x" in value.lower():
        assert bad[0]  # pyarrow would take a hexadecimal number
    elif type_name == "datetime" and re.search(r":.*(Z|[+-][0-9:]+)$|[0-9]Z$", value):
        assert whole is None  # the time zone is ours
    else:
        assert same(plain(values), whole)


def parsed_as_a_whole(value: str, kind: pa.DataType) -> Any:
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(f"{value},\n".encode()),
            read_options=pa_csv.ReadOptions(column_names=["v", "w"]),
            convert_options=pa_csv.ConvertOptions(column_types={"v": kind}, null_values=[""]),
        )
    except pa.ArrowInvalid:
        return None
    return plain(table["v"])


def plain(values: pa.Array | pa.ChunkedArray) -> Any:
    """The first value; a time as a number, because Python knows no year 0."""
    return (values.cast(pa.int64()) if pa.types.is_timestamp(values.type) else values)[0].as_py()


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)


def test_a_zone_offset_becomes_utc() -> None:
    """Mixed zones are one instant each; a time without a zone stays as it is."""
    options = ReadOptions((Column("t", "datetime"),))
    rows, _ = read(
        b"t\n2026-11-09T06:00:00+01:00\n2026-11-09T05:00:00Z\n2026-11-09 05:00\n2026-11-09T07:00+0200\n", options
    )
    assert [str(row["t"]) for row in rows] == ["2026-11-09 05:00:00"] * 4


# --- encode


def test_values_are_written_exactly() -> None:
    """The shortest text that reads back as the same value; null and NaN are nothing, an empty text is quoted."""
    table = pa.table(
        {
            "d": pa.array([1e22, 5e-324, float("nan"), 0.1]),
            "f": pa.array([0.1, 16777216.0, None, 1e-45], pa.float32()),
            "i": pa.array([2**53 + 1, -(2**63), None, 0]),
            "b": pa.array([True, False, None, True]),
            "s": pa.array(['a,"b"', "", None, "x\r\n"]),
            "c": pa.array(["u", None, "v", "u"]).dictionary_encode(),
        }
    )
    assert written(table).splitlines(keepends=True) == [
        b'1e+22,0.1,9007199254740993,true,"a,""b""",u\n',
        b'5e-324,16777216,-9223372036854775808,false,"",\n',
        b",,,,,v\n",
        b'0.1,1e-45,0,true,"x\r\n',
        b'",u\n',
    ]


def test_times_are_iso_8601() -> None:
    """No more digits behind the second than the value has; an offset keeps its colon."""
    day = 1_762_646_400_000_000
    naive = pa.array([day, day + 500_000, day + 1], pa.timestamp("us"))
    zoned = pa.array([day, day + 500_000, None], pa.timestamp("us", "Europe/Berlin"))
    assert written(pa.table({"n": naive, "z": zoned, "d": naive.cast(pa.date32(), safe=False)})).decode().split() == [
        "2025-11-09T00:00:00,2025-11-09T01:00:00+01:00,2025-11-09",
        "2025-11-09T00:00:00.5,2025-11-09T01:00:00.5+01:00,2025-11-09",
        "2025-11-09T00:00:00.000001,,2025-11-09",
    ]


@pytest.mark.parametrize("values", [[b"x"], [[1]], [{"a": 1}]])
def test_what_has_no_csv_form_is_refused(values: list[Any]) -> None:
    """Binary and nested columns are named with their type."""
    with pytest.raises(SchemaMismatch, match=r"column 'v' is of type .*, which has no CSV form"):
        written(pa.table({"v": pa.array(values)}))


def test_an_only_column_never_writes_a_blank_line() -> None:
    """A blank line would be no record."""
    assert written(pa.table({"v": pa.array(["", None, "x"])})) == b'""\n""\nx\n'


def test_formulas_are_defused_on_request_in_text_alone() -> None:
    """An apostrophe in front of text a spreadsheet would run; numbers keep their sign."""
    table = pa.table({"s": ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a=1", None], "n": [-1.0] * 8})
    assert written(table, excel_safe=True) == b"'=1+1,-1\n'+1,-1\n'-1,-1\n'@x,-1\n'\tx,-1\n\"'\rx\",-1\na=1,-1\n,-1\n"


@pytest.mark.parametrize("delimiter", [";", "\t", ".", "-"])
def test_numbers_are_quoted_where_the_delimiter_demands_it(delimiter: str) -> None:
    """Any delimiter can be read back, also one that numbers are made of."""
    table = pa.table({"a": [-1.5, 2.0], "b": ["x", "y.z-;\t"]})
    lines = pa_csv.read_csv(
        pa.BufferReader(written(table, delimiter=delimiter)),
        read_options=pa_csv.ReadOptions(column_names=["a", "b"]),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter),
    )
    assert lines.to_pydict() == table.to_pydict()


@given(
    st.lists(
        st.tuples(
            st.none()
            | st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8),
            st.none() | st.floats(allow_infinity=False, allow_nan=False),
            st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_written_reads_back(rows: list[tuple[str | None, float | None, int]]) -> None:
    """Odd texts and floats survive the way out and in again."""
    names, types = ("k", "b", "a"), (pa.string(), pa.float64(), pa.int64())
    table = pa.table([pa.array(v, t) for v, t in zip(zip(*rows, strict=True), types, strict=True)], names=list(names))
    body = CSV.header(WriteOptions(names)) + written(table)
    assert [(row["k"], row["b"], row["a"]) for row in read(body)[0]] == rows


def test_a_large_table_is_written_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices keep arrays of text far from their limit and change no byte."""
    table = pa.table({"a": list(range(1000)), "s": [f"t{i}" for i in range(1000)]})
    whole = written(table)
    monkeypatch.setattr("batch.formats.csv_write.SLICE_BYTES", 100)
    assert written(table) == whole == b"".join(b"%d,t%d\n" % (i, i) for i in range(1000))


@pytest.mark.parametrize("compression", ["", "gz", "zst"])
def test_chunks_and_header_make_one_file(compression: Any) -> None:
    """Members stand behind each other; a chunk without rows adds nothing."""
    options = WriteOptions(("a,b", "s"), compression=compression)
    sections = []
    for values in ([1], [], [2, 3]):
        encoder = CSV.encoder(options)
        encoder.add(pa.table({"a,b": pa.array(values, pa.int64()), "s": ["x"] * len(values)}))
        sections.append(encoder.finish())
    body = b"".join(CSV.assemble(options, sections))
    stream = pa.BufferReader(body)
    codec = {"gz": "gzip", "zst": "zstd"}.get(compression)
    text = pa.CompressedInputStream(stream, codec).read() if codec else body
    assert text == b'"a,b",s\n1,x\n2,x\n3,x\n'
    assert sections[1] == b""


# --- rejects


def reject_lines(tables: list[pa.Table], *, with_file: bool = False) -> bytes:
    shape = Shape(("k", "a b", "c,d"), 100)
    return b"".join(CSV.encode_rejects(ReadOptions(()), shape, tables, with_file))


def test_rejects_have_a_header_even_without_a_row() -> None:
    """A consumer finds the columns it expects."""
    assert reject_lines([]) == b'_row,_column,_code,_message,_raw,k,a b,"c,d"\n'


def test_rejects_keep_records_as_they_were() -> None:
    """A readable record is appended verbatim; another goes quoted into `_raw`, whatever its bytes are."""
    table = rejects.build(
        [1, 7, 9],
        ["k", "", ""],
        ["type", "columns", "model"],
        ["k is 'x', no", "2 fields", "raised"],
        [b'x,"1\n2",', b'a "q",\xff', None],
        [True, False, True],
    )
    assert reject_lines([table.slice(0, 0), table]).split(b"\n", 1)[1] == (
        b'1,k,type,"k is \'x\', no",,x,"1\n2",\n7,,columns,2 fields,"a ""q"",\xff",,,\n9,,model,raised,"",,,\n'
    )


def test_rejects_name_the_file_when_asked() -> None:
    """With several inputs each line says where it comes from."""
    table = rejects.build([3], ["k"], ["null"], ["m"], [b"1,2,3"], [True])
    table = table.append_column("_file", pa.array(["s3://b/x.csv"]))
    assert reject_lines([table], with_file=True).splitlines() == [
        b'_file,_row,_column,_code,_message,_raw,k,a b,"c,d"',
        b"s3://b/x.csv,3,k,null,m,,1,2,3",
    ]
