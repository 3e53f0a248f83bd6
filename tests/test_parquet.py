"""Parquet: what a footer may claim, how row groups are cut, which values become which, and what is written."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import InputChanged, InputEmpty, InputFormatError, SchemaMismatch
from batch.formats import FORMATS, Column, Cut, ReadOptions, Shape, WriteOptions, parquet_read
from batch.storage import Source
from tests.sources import MemoryStore, reads_of, source_of

PARQUET = FORMATS["parquet"]
URI = "s3://bucket/in.parquet"
X = ReadOptions((Column("x", "long", required=False),))


def stored(table: pa.Table, **settings: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **settings)
    return sink.getvalue()


def inspected(body: bytes) -> Shape:
    return PARQUET.inspect(source_of(body, URI), X)


def read(
    body: bytes, options: ReadOptions, chunk_bytes: int = 1 << 20, fields: tuple[str, ...] = ()
) -> tuple[list[Any], list[Any]]:
    """Valid rows and rejects (numbered in the file) of a whole file."""
    source = source_of(body, URI)
    shape = PARQUET.inspect(source, options)
    rows, refused = [], []
    for cut in PARQUET.cut(shape, chunk_bytes):
        first = cut.start
        for block in PARQUET.read(source, shape, cut, None, options):
            rows += block.table.to_pylist()
            rejects = block.rejects.select(fields or block.rejects.column_names).to_pylist() if block.rejects else []
            refused += [reject | {"_row": reject["_row"] + first} for reject in rejects]
            first += block.rows_read
        assert first == cut.end
    return rows, refused


def cast(values: pa.Array, type_name: str) -> tuple[list[Any], list[int]]:
    """Values that pass and the rows that do not."""
    options = ReadOptions((Column("x", type_name, required=False),))
    rows, refused = read(stored(pa.table({"x": values})), options, fields=("_row", "_code"))
    assert {reject["_code"] for reject in refused} <= {"type"}
    return [row["x"] for row in rows], [reject["_row"] for reject in refused]


# --- inspect

GOOD = stored(pa.table({"x": range(1000), "s": ["text"] * 1000}))


def lying(footer_bytes: int) -> bytes:
    return GOOD[:-8] + footer_bytes.to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"PAR1", "cut off: its 4 bytes"),
        (GOOD[:-1], "cut off"),
        (GOOD[: len(GOOD) // 2], "cut off"),
        (b"x,s\n1,2\n", "not Parquet: it begins with b'x,s"),
        (lying(0), "footer has 0 bytes"),
        (lying(1 << 31), "footer has 2147483648 bytes, but there are"),
        (GOOD[:-4] + b"PARE", "encrypted"),
        (b"PARE" + GOOD[4:], "encrypted"),
        (lying(20), "footer of s3://bucket/in.parquet cannot be read"),
    ],
)
def test_what_is_no_whole_parquet_file_is_refused(body: bytes, words: str) -> None:
    """Rows 41 to 43 of the bad inputs: one sentence that says what is wrong."""
    with pytest.raises(InputFormatError, match=words) as caught:
        inspected(body)
    assert "\n" not in caught.value.message


def test_no_bytes_are_empty() -> None:
    """An empty object is not damaged but empty."""
    with pytest.raises(InputEmpty, match="0 bytes"):
        inspected(b"")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_footer_never_crashes(position: int, flip: int) -> None:
    """Whatever byte of the footer is another, the file is understood or refused."""
    footer = int.from_bytes(GOOD[-8:-4], "little")
    at = len(GOOD) - 8 - footer + position % footer
    try:
        shape = inspected(GOOD[:at] + bytes([GOOD[at] ^ flip]) + GOOD[at + 1 :])
    except InputFormatError:
        return
    assert sum(rows for rows, _ in shape.row_groups) == shape.rows


def test_a_footer_that_ends_other_programs_is_refused() -> None:
    """A histogram of the wrong length is an uncaught C++ exception where pyarrow describes a column chunk."""
    footer = int.from_bytes(GOOD[-8:-4], "little")
    outcomes = []
    for at in range(len(GOOD) - 8 - footer, len(GOOD) - 8):
        try:
            inspected(GOOD[:at] + bytes([GOOD[at] ^ 2]) + GOOD[at + 1 :])
        except InputFormatError as error:
            outcomes.append(error.message)
    assert any("histogram size mismatch" in message for message in outcomes)


def test_only_the_footer_is_read() -> None:
    """The data of a large file stays where it is."""
    source = source_of(stored(pa.table({"x": range(500_000)}), compression="none", use_dictionary=False), URI)
    assert PARQUET.inspect(source, X).rows == 500_000
    assert sum(end - start for start, end in reads_of(source)) < source.size_bytes // 10


def test_a_bomb_is_seen_in_the_footer() -> None:
    """Row 46: some kilobytes that decode to 300 MB are known for it, and are cut into many chunks all the same."""
    rows = 300_000_000 // 8
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema([("x", pa.int64())]), compression="zstd", max_rows_per_page=rows) as writer:
        writer.write_table(pa.table({"x": pa.repeat(pa.scalar(7, pa.int64()), rows)}), row_group_size=rows)
    shape = inspected(sink.getvalue())
    assert shape.size_bytes < 40_000
    assert shape.decoded_bytes == 300_000_000
    assert len(PARQUET.cut(shape, 32 << 20)) == 9


def test_a_column_there_twice_is_refused() -> None:
    """Nobody could say which one the model gets."""
    with pytest.raises(InputFormatError, match="'x' twice"):
        inspected(stored(pa.table([[1], [2]], names=["x", "x"])))


# --- cut


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 400))), st.integers(1, 300))
def test_cuts_tile_the_file(groups: list[tuple[int, int]], chunk_bytes: int) -> None:
    """Row 48: every row is in one cut, none is empty, and small groups share one as long as they fit."""
    groups = [(rows, size if rows else 0) for rows, size in groups]
    rows = sum(group[0] for group in groups)
    cuts = PARQUET.cut(Shape(("x",), 1, rows=rows, row_groups=tuple(groups)), chunk_bytes)
    assert all(cut.start < cut.end for cut in cuts)
    assert all(left.end == right.start for left, right in pairwise(cuts))
    assert (cuts[0].start, cuts[-1].end) == (0, rows) if rows else cuts == []


def test_tiny_groups_are_merged_and_giants_sliced() -> None:
    """A million groups of a row are no million chunks, and a group of 10 GB is not one."""
    tiny = PARQUET.cut(Shape(("x",), 1, rows=1000, row_groups=((1, 10),) * 1000), 2500)
    assert tiny == [Cut(0, 250), Cut(250, 500), Cut(500, 750), Cut(750, 1000)]
    giant = PARQUET.cut(Shape(("x",), 1, rows=100, row_groups=((100, 10 << 30),)), 1 << 30)
    assert [cut.end - cut.start for cut in giant] == [10] * 10


def test_no_rows_are_no_cuts() -> None:
    """Row 45: no row group, or one without rows."""
    empty = pa.table({"x": pa.array([], pa.int64())})
    assert PARQUET.cut(inspected(stored(empty)), 100) == []


# --- read


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(1, 2000))
def test_every_row_comes_once_however_it_is_cut(group_rows: int, chunk_bytes: int) -> None:
    """Cuts inside row groups and over several of them give the rows of the file in order."""
    body = stored(pa.table({"x": range(100)}), row_group_size=group_rows)
    rows, refused = read(body, X, chunk_bytes)
    assert ([row["x"] for row in rows], refused) == (list(range(100)), [])


TIME = datetime(2026, 11, 9)  # noqa: DTZ001 - the signature's datetimes have no zone
CASTS = [
    (pa.array([1, None, -3], pa.int8()), "long", [1, None, -3], []),
    (pa.array([1, 1 << 31], pa.int64()), "integer", [1], [1]),
    (pa.array([1, 1 << 63], pa.uint64()), "long", [1], [1]),
    (pa.array([5, (1 << 53) + 1, 1 << 60, (1 << 63) - 1]), "double", [5.0, float(1 << 60)], [1, 3]),
    (pa.array([1.0, 1.5, None, 1e300, float("nan")]), "long", [1, None, None], [1, 3]),
    (pa.array([Decimal("1.50"), None]), "double", [1.5, None], []),
    (pa.array([Decimal("2.00"), Decimal("2.50")]), "long", [2], [1]),
    (pa.array(["é", None], pa.large_string()), "string", ["é", None], []),
    (pa.array(["a", "b", "a"]).dictionary_encode(), "string", ["a", "b", "a"], []),
    (pa.array([b"ok", b"\xff"]).view(pa.string()), "string", ["ok"], [1]),
    (pa.array([date(2026, 11, 9)]), "datetime", [TIME], []),
    (pa.array([TIME], pa.timestamp("ns", "UTC")), "datetime", [TIME], []),
    (pa.array([0, 1 << 60], pa.timestamp("ms")), "datetime", [datetime(1970, 1, 1)], [1]),  # noqa: DTZ001
    (pa.nulls(2), "double", [None, None], []),
]


@pytest.mark.parametrize(("values", "type_name", "passed", "refused"), CASTS, ids=lambda value: str(value)[:20])
def test_values_are_cast_exactly_or_rejected(
    values: pa.Array, type_name: str, passed: list[Any], refused: list[int]
) -> None:
    """A value that the signature's type cannot express is a reject of its row."""
    assert cast(values, type_name) == (passed, refused)


@pytest.mark.parametrize(
    ("values", "type_name"),
    [([[1]], "long"), ([{"a": 1}], "string"), (["1"], "double"), ([1], "string"), ([True], "long"), ([1], "boolean")],
)
def test_types_that_never_fit_are_refused_in_the_plan(values: list[Any], type_name: str) -> None:
    """Row 47: no row needs to be read for it."""
    shape = inspected(stored(pa.table({"x": values})))
    with pytest.raises(SchemaMismatch, match=f"'x'.*but the model needs {type_name}"):
        parquet_read.check_types(shape, ReadOptions((Column("x", type_name),)))


def test_rejects_carry_the_input_typed() -> None:
    """All columns of the rejected row, also those that are not wanted, behind the six fields; faults of both kinds."""
    table = pa.table({"l": [[1], [2], [3]], "x": [1.0, 2.5, None], "_row": [7, 8, 9]})
    rows, refused = read(stored(table), ReadOptions((Column("x", "long"),)))
    assert rows == [{"x": 1}]
    assert [(each["_row"], each["_code"], each["l"], each["x"], each["_row_"]) for each in refused] == [
        (1, "type", [2], 2.5, 8),
        (2, "null", [3], None, 9),
    ]
    assert {(each["_record"], each["_readable"]) for each in refused} == {(None, True)}


def test_rows_that_the_model_refuses_are_read_again() -> None:
    """Their own columns come by row number in the chunk, not in the file."""
    source = source_of(stored(pa.table({"x": range(100), "s": [f"s{i}" for i in range(100)]}), row_group_size=7), URI)
    reader = parquet_read.ParquetReader(source, PARQUET.inspect(source, X), Cut(10, 60), None, X)
    assert reader.own_columns([0, 3, 49]).to_pydict() == {"x": [10, 13, 59], "s": ["s10", "s13", "s59"]}


def test_a_giant_row_group_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit no read fetches a whole column chunk."""
    monkeypatch.setattr(parquet_read, "PRE_BUFFER_BYTES", 1000)
    monkeypatch.setattr(parquet_read, "STREAM_BYTES", 1 << 14)
    table = pa.table({"x": range(100_000)})
    source = source_of(stored(table, compression="none", use_dictionary=False, data_page_size=4096), URI)
    shape = PARQUET.inspect(source, X)
    before = len(reads_of(source))
    blocks = list(PARQUET.read(source, shape, Cut(50_000, 100_000), None, X))
    assert [row for block in blocks for row in block.table["x"].to_pylist()] == list(range(50_000, 100_000))
    assert max(end - start for start, end in reads_of(source)[before:]) < 1 << 17


def test_a_flipped_page_is_refused() -> None:
    """Row 44: page checksums find what would be silently wrong; the message says file and rows."""
    body = bytearray(stored(pa.table({"x": range(1000)}), write_page_checksum=True, compression="none"))
    body[len(body) // 2] ^= 1
    with pytest.raises(InputFormatError, match=r"rows 1 to 1000 of s3://bucket/in.parquet cannot be read"):
        read(bytes(body), X)


@dataclass
class ReplacedStore(MemoryStore):
    """The object is replaced once its footer has been read."""

    replaced: bool = False

    def read(self, pin: Any, start: int, end: int) -> bytes:
        if self.replaced:
            raise InputChanged("it was replaced")
        return super().read(pin, start, end)


def test_what_the_storage_raises_comes_through() -> None:
    """Another object under the key is no damaged file."""
    store = ReplacedStore(GOOD)
    source = Source(store, source_of(GOOD, URI).pin)  # type: ignore[arg-type]
    shape = PARQUET.inspect(source, X)
    store.replaced = True
    with pytest.raises(InputChanged, match="replaced"):
        list(PARQUET.read(source, shape, Cut(0, 10), None, X))


# --- write


def write_options(table: pa.Table) -> WriteOptions:
    return WriteOptions(tuple(table.column_names), arrow_schema=table.schema.serialize().to_pybytes())


def section(table: pa.Table, options: WriteOptions) -> bytes:
    encoder = PARQUET.encoder(options)
    encoder.add(table)
    return encoder.finish()


def test_sections_make_one_valid_file() -> None:
    """What was encoded chunk by chunk reads back as one table, and the same bytes come every time."""
    table = pa.table({"k": ["a", None, "c"], "prediction": [1.0, 2.0, 3.0]})
    options = write_options(table)
    sections = [section(table, options), b"", section(table.slice(1), options)]
    body = b"".join(PARQUET.assemble(options, sections))
    assert pq.read_table(io.BytesIO(body)).equals(pa.concat_tables([table, table.slice(1)]))
    assert body == b"".join(PARQUET.assemble(options, sections))


def test_no_sections_make_a_valid_file() -> None:
    """No row gives an empty section, and no section a file with the schema."""
    table = pa.table({"prediction": [1.0]})
    options = write_options(table)
    assert section(table.slice(1), options) == b""
    found = pq.read_table(io.BytesIO(b"".join(PARQUET.assemble(options, []))))
    assert (found.num_rows, found.schema) == (0, table.schema)


def test_a_section_is_cast_to_the_pinned_schema() -> None:
    """A narrower integer fits; a text that is no number is a refusal."""
    options = write_options(pa.table({"k": pa.array([1], pa.int64())}))
    wide = pq.read_table(io.BytesIO(section(pa.table({"k": pa.array([5], pa.int8())}), options)))
    assert wide.schema.field("k").type == pa.int64()
    with pytest.raises(SchemaMismatch, match="pinned schema"):
        section(pa.table({"k": ["no"]}), options)


@pytest.mark.parametrize("with_file", [True, False])
def test_the_rejects_file_has_the_input_columns(with_file: bool) -> None:
    """Faults first, then the input's own columns; with and without a reject."""
    source = source_of(stored(pa.table({"x": [1.5], "s": ["a"]})), URI)
    shape = PARQUET.inspect(source, X)
    (block,) = PARQUET.read(source, shape, Cut(0, 1), None, X)
    assert block.rejects is not None
    rejects = block.rejects.append_column("_file", pa.array(["f"]))
    for tables in ([rejects], []):
        found = pq.read_table(io.BytesIO(b"".join(PARQUET.encode_rejects(X, shape, tables, with_file))))
        leading = ["_file"] * with_file + ["_row", "_column", "_code", "_message", "_raw"]
        assert found.schema.names == [*leading, "x", "s"]
        assert found["x"].to_pylist() == [1.5] * len(tables)
