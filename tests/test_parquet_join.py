"""One Parquet file of many sections: copied row groups, one footer, and what other readers make of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from batch.cli import program
from batch.errors import StorageUnavailable
from batch.execution.commit import write_options_from_json, write_options_to_json
from batch.formats import FORMATS, WriteOptions, parquet_footer, parquet_write
from batch.formats import thrift_compact as thrift
from batch.formats.thrift_compact import Items, Malformed, Pairs, Struct
from tests.run_cases import Bench, encode, predicted, register, rows

PARQUET = FORMATS["parquet"]


def options_for(table: pa.Table, *, joined: bool = True) -> WriteOptions:
    return WriteOptions(tuple(table.column_names), arrow_schema=table.schema.serialize().to_pybytes(), joined=joined)


def section(table: pa.Table) -> bytes:
    encoder = PARQUET.encoder(options_for(table))
    encoder.add(table)
    return encoder.finish()


def stored(table: pa.Table, **settings: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **settings)
    return sink.getvalue()


def joined(table: pa.Table, sections: list[bytes]) -> bytes:
    return b"".join(PARQUET.assemble(options_for(table), sections))


def read(body: bytes, **settings: Any) -> pa.Table:
    return pq.read_table(io.BytesIO(body), page_checksum_verification=True, **settings)


def footer_of(body: bytes) -> bytes:
    return body[-8 - int.from_bytes(body[-8:-4], "little") : -8]


def framed(body: bytes, footer: bytes) -> bytes:
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def changed(body: bytes, change: Any) -> bytes:
    """The file with another footer."""
    tree = thrift.decode(footer_of(body))
    change(tree)
    return framed(body[: -8 - len(footer_of(body))], thrift.encode(tree))


def group_of(tree: Struct) -> Struct:
    return tree.structs(4)[0]


def column_of(tree: Struct) -> Struct:
    return group_of(tree).structs(1)[0]


def part(number: int, count: int = 1000) -> pa.Table:
    """Ids, probabilities and labels of one chunk; nulls in each."""
    ids = [f"C{number * count + row:08d}" for row in range(count)]
    probability = [None if row % 97 == 5 else (number * count + row) / 1e6 for row in range(count)]
    label = [None if row % 31 == 3 else ("yes", "no", "maybe")[row % 3] for row in range(count)]
    return pa.table({"id": ids, "probability": pa.array(probability, pa.float64()), "label": label})


def nested(number: int, count: int = 500) -> pa.Table:
    """Every kind of column that a Parquet input may hand through, with nulls."""

    def column(kind: pa.DataType, value: Any) -> pa.Array:
        return pa.array([None if row % 7 == 2 else value(number * count + row) for row in range(count)], kind)

    return pa.table(
        {
            "list": column(pa.list_(pa.int32()), lambda n: [n, None] * (n % 3)),
            "struct": column(
                pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]), lambda n: {"a": n, "b": ["x"]}
            ),
            "map": column(pa.map_(pa.string(), pa.float64()), lambda n: [("k", n / 7), ("l", None)][: n % 3]),
            "category": column(pa.string(), lambda n: "abc"[n % 3]).dictionary_encode(),
            "decimal": column(pa.decimal128(20, 3), lambda n: Decimal(n) / 8),
            "time": column(pa.timestamp("us", "Europe/Berlin"), lambda n: datetime.fromtimestamp(n * 3600, UTC)),
            "nanoseconds": column(pa.timestamp("ns"), lambda n: n),
            "date": column(pa.date32(), lambda n: n),
            "bytes": column(pa.binary(), lambda n: bytes([n % 256])),
            "fixed": column(pa.binary(4), lambda n: n.to_bytes(4, "big")),
            "flag": column(pa.bool_(), lambda n: n % 2 == 0),
            "small": column(pa.int8(), lambda n: n % 100),
            "half": pa.array([None, *[float(n % 5) for n in range(count - 1)]], pa.float32()),
            "void": pa.nulls(count),
        }
    )


PARTS = [part(number) for number in range(40)]
SECTIONS = [section(one) for one in PARTS]
WHOLE = pa.concat_tables(PARTS)
BODY = joined(WHOLE, SECTIONS)


# --- what it holds


@pytest.mark.parametrize("count", [1, 2, 40])
def test_all_rows_in_order(count: int) -> None:
    """The rows of all sections, checksums of all pages right; empty sections leave no trace."""
    body = joined(WHOLE, [b"", *(each for one in SECTIONS[:count] for each in (one, b""))])
    assert read(body).equals(pa.concat_tables(PARTS[:count]))
    assert body == joined(WHOLE, SECTIONS[:count])


def test_of_one_section_is_that_section() -> None:
    """Nothing moves, and a footer that is read and written again is the same: so nothing is lost on the way."""
    assert joined(WHOLE, SECTIONS[:1]) == SECTIONS[0]


@pytest.mark.parametrize("sections", [[], [b"", b""]])
def test_without_rows_it_is_the_schema(sections: list[bytes]) -> None:
    """A valid file, and the same one as ever."""
    body = joined(WHOLE, sections)
    assert (read(body).num_rows, read(body).schema) == (0, WHOLE.schema)
    assert body == b"".join(PARQUET.assemble(options_for(WHOLE, joined=False), []))


def test_row_groups_are_the_sections_bytes() -> None:
    """Copied, not written anew; and neither way merges or splits row groups."""
    for one in SECTIONS:
        assert one[4 : -8 - len(footer_of(one))] in BODY
    again = b"".join(PARQUET.assemble(options_for(WHOLE, joined=False), SECTIONS))
    groups, anew = pq.read_metadata(io.BytesIO(BODY)), pq.read_metadata(io.BytesIO(again))
    assert [groups.row_group(n).num_rows for n in range(40)] == [anew.row_group(n).num_rows for n in range(40)]
    assert groups.num_row_groups == anew.num_row_groups == 40


def test_a_big_section_has_several_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """They all move."""
    monkeypatch.setattr(parquet_write, "GROUP_ROWS", 300)
    body = joined(WHOLE, [section(one) for one in PARTS[:3]])
    assert pq.read_metadata(io.BytesIO(body)).num_row_groups == 12
    assert read(body).equals(pa.concat_tables(PARTS[:3]))


def test_every_kind_of_column() -> None:
    """Nested and typed columns, types and metadata of the schema included."""
    tables = [nested(number) for number in range(3)]
    body = joined(tables[0], [section(one) for one in tables])
    assert read(body).to_pylist() == pa.concat_tables(tables).to_pylist()
    assert read(body).schema.equals(read(section(tables[0])).schema, check_metadata=True)
    assert (
        pl.read_parquet(io.BytesIO(body))["struct"].struct.field("a").sum()
        == pc.sum(pc.struct_field(pa.concat_tables(tables)["struct"].combine_chunks(), "a")).as_py()
    )


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 20))
def test_any_cut_gives_the_rows(counts: list[int], group_rows: int) -> None:
    """However many rows the chunks and the row groups have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_write, "GROUP_ROWS", group_rows)
        tables = [part(number, count).cast(WHOLE.schema) for number, count in enumerate(counts)]
        body = joined(WHOLE, [section(one) for one in tables])
    assert read(body).equals(pa.concat_tables([WHOLE.schema.empty_table(), *tables]))


# --- what readers make of it


def test_pyarrow_skips_and_slices() -> None:
    """Statistics, single columns, single row groups, filters that skip row groups, and datasets."""
    file = pq.ParquetFile(io.BytesIO(BODY), page_checksum_verification=True)
    assert file.read_row_group(17).equals(PARTS[17])
    assert file.read_row_groups([3, 39], columns=["label"]).equals(
        pa.concat_tables([PARTS[3], PARTS[39]]).select(["label"])
    )
    for name in WHOLE.column_names:
        assert read(BODY, columns=[name]).equals(WHOLE.select([name]))
    for number, table in enumerate(PARTS):
        told = file.metadata.row_group(number).column(0).statistics
        assert (told.min, told.max, told.null_count) == (table["id"][0].as_py(), table["id"][-1].as_py(), 0)
    assert read(BODY, filters=[("id", ">=", "C00038500")]).num_rows == 1500
    assert (
        read(BODY, filters=[("label", "=", "maybe"), ("probability", "<", 0.0005)]).num_rows
        == WHOLE.filter((pc.field("label") == "maybe") & (pc.field("probability") < 0.0005)).num_rows
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "joined.parquet"
    file.write_bytes(BODY)
    return str(file)


def test_duckdb_reads_it(path: str) -> None:
    """Count, sum, filter and one column; what it says of the row groups."""
    with duckdb.connect(config={"threads": 1}) as connection:

        def asked(query: str) -> list[Any]:
            return connection.execute(query.replace("FILE", f"read_parquet('{path}')")).fetchall()

        [(count, total, nulls)] = asked("select count(*), sum(probability), count(*) - count(label) from FILE")
        assert (count, nulls) == (40_000, WHOLE["label"].null_count)
        assert total == pytest.approx(pc.sum(WHOLE["probability"]).as_py(), rel=1e-12)
        assert asked("select count(*) from FILE where id >= 'C00038500'") == [(1500,)]
        assert [one for (one,) in asked("select label from FILE")] == WHOLE["label"].to_pylist()
        groups = asked(f"select row_group_id, row_group_num_rows from parquet_metadata('{path}') where column_id = 0")
        assert groups == [(number, 1000) for number in range(40)]


def test_polars_reads_it(path: str) -> None:
    """All of it, one column, and lazily with a filter that is pushed down."""
    assert pl.read_parquet(path).to_arrow().cast(WHOLE.schema).equals(WHOLE)
    assert pl.read_parquet(path, columns=["probability"])["probability"].to_list() == WHOLE["probability"].to_pylist()
    found = pl.scan_parquet(path).filter(pl.col("id") >= "C00038500").select(pl.len(), pl.col("probability").sum())
    count, total = found.collect().row(0)
    assert count == 1500
    assert total == pytest.approx(pc.sum(WHOLE["probability"].slice(38_500)).as_py(), rel=1e-12)


# --- places beyond 32 bits


@pytest.mark.parametrize("at", [4, 1 << 31, (1 << 32) + 5, 1 << 45])
def test_places_in_a_huge_file(at: int) -> None:
    """Row groups that begin beyond 2 and 4 GiB are found where they are."""
    footer = parquet_footer.Footer()
    footer.add(SECTIONS[0], 4)
    piece = footer.add(SECTIONS[1], at)
    found = pq.read_metadata(io.BytesIO(framed(b"PAR1" + piece, footer.end()[:-8])))
    before = pq.read_metadata(io.BytesIO(SECTIONS[1]))
    for index in range(3):
        moved, stays = found.row_group(1).column(index), before.row_group(0).column(index)
        assert moved.data_page_offset == stays.data_page_offset + at - 4
        assert moved.dictionary_page_offset == stays.dictionary_page_offset + at - 4
        assert moved.statistics == stays.statistics
    group = thrift.decode(footer.end()[:-8]).structs(4)[1]
    assert group.need(5, thrift.I64) == at
    assert found.num_rows == 2000


def test_ordinals_are_dropped() -> None:
    """16 bits are too few for 32,768 row groups; a place of 0 says that there is none, and stays; a Bloom filter moves."""

    def change(tree: Struct) -> None:
        group_of(tree).fields[7] = (thrift.I16, 0)
        column_of(tree).need(3, thrift.STRUCT).fields[14] = (thrift.I64, 50)

    body = changed(SECTIONS[0], change)
    footer = parquet_footer.Footer()
    footer.add(body, 1004)
    group = thrift.decode(footer.end()[:-8]).structs(4)[0]
    assert 7 not in group.fields
    assert group.structs(1)[0].need(2, thrift.I64) == 0
    assert group.structs(1)[0].need(3, thrift.STRUCT).need(14, thrift.I64) == 1050


def test_a_footer_that_no_reader_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is a number of 31 bits."""
    monkeypatch.setattr(parquet_footer, "FOOTER_LIMIT", 1000)
    with pytest.raises(StorageUnavailable, match=r"footer of \d+ bytes for 40 row groups is over"):
        joined(WHOLE, SECTIONS)


# --- sections that are something else


def test_sections_of_another_writer_are_written_anew() -> None:
    """First in line: the whole file is made as it ever was. Later: the others are copied as they are."""
    odd = stored(PARTS[1], write_page_index=True)
    body = joined(WHOLE, [odd, SECTIONS[2]])
    assert read(body).equals(pa.concat_tables(PARTS[1:3]))
    assert body == b"".join(PARQUET.assemble(options_for(WHOLE, joined=False), [odd, SECTIONS[2]]))
    body = joined(WHOLE, [SECTIONS[0], odd, SECTIONS[2]])
    assert read(body).equals(pa.concat_tables(PARTS[:3]))
    assert body == joined(WHOLE, SECTIONS[:3])


def test_a_field_that_nobody_knows_is_never_copied() -> None:
    """It might be a place in the file."""
    unknown = [
        lambda tree: tree.fields.update({12: (thrift.I64, 4)}),
        lambda tree: group_of(tree).fields.update({12: (thrift.I64, 4)}),
        lambda tree: column_of(tree).fields.update({12: (thrift.I64, 4)}),
        lambda tree: column_of(tree).need(3, thrift.STRUCT).fields.update({30: (thrift.I64, 4)}),
    ]
    for change in unknown:
        assert joined(WHOLE, [SECTIONS[0], changed(SECTIONS[1], change)]) == joined(WHOLE, SECTIONS[:2])


def test_the_writer_in_use_is_known() -> None:
    """Should a new pyarrow write what has to be learnt first, this says so; until then files are written anew."""
    for body in (SECTIONS[0], section(nested(0))):
        parquet_footer.part_of(body)


def test_another_schema_is_written_anew() -> None:
    """A narrower type has other bytes in its schema, and is cast; what cannot be cast is refused, not published."""
    narrow = pa.table({"x": pa.array([1, 2], pa.int8())})
    wide = narrow.cast(pa.schema([("x", pa.int64())]))
    assert read(joined(wide, [section(wide), section(narrow)]))["x"].to_pylist() == [1, 2, 1, 2]
    other = pa.schema([("x", pa.int64())], metadata={"k": "v"})
    with pytest.raises(StorageUnavailable, match="do not make one file: the schema or the metadata of one differ"):
        joined(wide, [section(wide.cast(other)), section(wide)])


DAMAGED = {
    "magic": lambda body: b"PARE" + body[4:],
    "end": lambda body: body[:-1],
    "short": lambda body: body[:6],
    "footer too long": lambda body: body[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1",
    "footer too short": lambda body: body[:-8] + (20).to_bytes(4, "little") + b"PAR1",
    "no footer": lambda body: body[:-8] + bytes(4) + b"PAR1",
    "rows": lambda body: changed(body, lambda tree: tree.put(3, 5)),
    "no row groups": lambda body: changed(body, lambda tree: tree.fields.pop(4)),
    "row groups of numbers": lambda body: changed(body, lambda tree: tree.put(4, Items(thrift.I32, [1]))),
    "columns": lambda body: changed(body, lambda tree: group_of(tree).put(1, Items(thrift.STRUCT, []))),
    "place": lambda body: changed(body, lambda tree: column_of(tree).need(3, thrift.STRUCT).put(9, 1 << 40)),
    "size": lambda body: changed(body, lambda tree: column_of(tree).need(3, thrift.STRUCT).put(7, -1)),
    "bloom": lambda body: changed(
        body, lambda tree: column_of(tree).need(3, thrift.STRUCT).fields.update({14: (thrift.I64, (1 << 63) - 1)})
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_section_is_refused(what: str) -> None:
    """First or later: one sentence and a way out, no traceback."""
    damaged = DAMAGED[what](SECTIONS[1])
    for sections in ([damaged, SECTIONS[2]], [SECTIONS[0], damaged]) if what != "bloom" else ([SECTIONS[0], damaged],):
        with pytest.raises(StorageUnavailable, match="the staged Parquet chunks do not make one file: ") as caught:
            joined(WHOLE, sections)
        assert "--force" in caught.value.hint


def test_written_anew_a_damaged_section_is_refused_too() -> None:
    """As commits of earlier versions are published."""
    with pytest.raises(StorageUnavailable, match="do not make one file"):
        list(PARQUET.assemble(options_for(WHOLE, joined=False), [SECTIONS[0][:-1]]))


@given(st.integers(0, 1 << 20), st.integers(1, 255))
def test_a_flipped_footer_never_crashes(position: int, flip: int) -> None:
    """It is found, or it moved nothing that this file is about: what comes out has a footer that can be read."""
    size = len(footer_of(SECTIONS[1]))
    at = len(SECTIONS[1]) - 8 - size + position % size
    flipped = SECTIONS[1][:at] + bytes([SECTIONS[1][at] ^ flip]) + SECTIONS[1][at + 1 :]
    footer = parquet_footer.Footer()
    footer.add(SECTIONS[0], 4)
    try:
        footer.add(flipped, 5000)
    except (Malformed, parquet_footer.Odd):
        return
    thrift.decode(footer.end()[:-8])


# --- the protocol

numbers = {thrift.I16: 15, thrift.I32: 31, thrift.I64: 63}
scalars = st.one_of(
    *(st.tuples(st.just(kind), st.integers(-1 << bits, (1 << bits) - 1)) for kind, bits in numbers.items()),
    st.tuples(st.just(thrift.BINARY), st.binary(max_size=200)),
    st.tuples(st.just(thrift.DOUBLE), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(thrift.UUID), st.binary(min_size=16, max_size=16)),
    st.tuples(st.just(thrift.BYTE), st.binary(min_size=1, max_size=1)),
)
booleans = st.sampled_from([(thrift.TRUE, True), (thrift.FALSE, False)])


def lists_of(values: Any) -> Any:
    """A value, as often as wanted: so all are of one type."""
    return st.tuples(values, st.integers(0, 40), st.sampled_from([thrift.LIST, thrift.SET])).map(
        lambda drawn: (drawn[2], Items(drawn[0][0], [drawn[0][1]] * drawn[1]))
    )


def maps_of(values: Any) -> Any:
    return st.tuples(scalars, values, st.integers(1, 20)).map(
        lambda drawn: (thrift.MAP, Pairs((drawn[0][0], drawn[1][0]), [(drawn[0][1], drawn[1][1])] * drawn[2]))
    )


def structs_of(values: Any) -> Any:
    numbered = st.dictionaries(st.integers(-0x8000, 0x7FFF), values | booleans, max_size=6)
    return numbered.map(lambda fields: (thrift.STRUCT, Struct(fields)))


values = st.recursive(scalars, lambda inner: structs_of(inner) | lists_of(inner) | maps_of(inner), max_leaves=12)


@given(structs_of(values))
def test_trees_come_back(drawn: tuple[int, Struct]) -> None:
    """Whatever a struct holds, in whatever order, is read as it was written."""
    body = thrift.encode(drawn[1])
    assert thrift.decode(body) == drawn[1]
    assert thrift.encode(thrift.decode(body)) == body


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """And what was read once comes back, if in fewer bytes."""
    try:
        tree = thrift.decode(body)
    except Malformed:
        return
    assert thrift.decode(thrift.encode(tree)) == tree


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "end in the middle"),
        (b"\0\0", "1 bytes follow"),
        (b"\x16" + b"\xff" * 11, "no end"),
        (b"\x15" + b"\xff" * 5 + b"\x7f\0", "more than 32 bits"),
        (b"\x18\xff\xff\x03", "bytes are announced"),
        (b"\x19\xf6\xff\xff\xff\x7f", "elements are announced"),
        (b"\x1b\xff\xff\xff\x7f", "elements are announced"),
        (b"\x1e\0", "no type 14"),
        (b"\x15\x02\x05\x02\x02\0", "there twice"),
        (b"\x1c" * 5000, "nested deeper"),
        (b"\x19\x19" + b"\x19" * 5000, "nested deeper"),
    ],
)
def test_what_is_not_of_the_protocol(body: bytes, words: str) -> None:
    """Lengths are never believed, and depth is limited."""
    with pytest.raises(Malformed, match=words):
        thrift.decode(body)


def test_a_number_too_big_is_refused() -> None:
    """Rather than written wrong."""
    with pytest.raises(Malformed, match="does not fit into 64 bits"):
        thrift.encode(Struct({1: (thrift.I64, 1 << 63)}))


def written_by(writer: str, tmp_path: Path) -> bytes:
    path = tmp_path / "written.parquet"
    if writer == "duckdb":
        with duckdb.connect() as connection:
            source = connection.from_arrow(WHOLE)
            source.write_parquet(str(path), row_group_size=2048)
    elif writer == "polars":
        pl.from_arrow(WHOLE).write_parquet(path, row_group_size=5000)  # type: ignore[union-attr]
    else:
        settings = {
            "write_page_index": True,
            "store_decimal_as_integer": True,
            "sorting_columns": [pq.SortingColumn(0)],
        }
        pq.write_table(WHOLE, path, row_group_size=700, **settings)
    return path.read_bytes()


@pytest.mark.parametrize("writer", ["pyarrow", "duckdb", "polars"])
def test_footers_of_other_programs_come_back(writer: str, tmp_path: Path) -> None:
    """As the same metadata, in the same bytes where they were as short as can be."""
    body = written_by(writer, tmp_path)
    footer = footer_of(body)
    again = thrift.encode(thrift.decode(footer))
    ours = pq.read_metadata(io.BytesIO(framed(body[: -8 - len(footer)], again)))
    assert ours.to_dict() | {"serialized_size": 0} == pq.read_metadata(io.BytesIO(body)).to_dict() | {
        "serialized_size": 0
    }
    assert again == footer


# --- runs


def test_commits_of_before_are_published_as_before() -> None:
    """They do not say `joined`: their files come out as they did, whatever this version would do."""
    document = write_options_to_json(options_for(WHOLE), "parquet")
    assert write_options_from_json(document).joined
    del document["joined"]
    old = write_options_from_json(document)
    assert not old.joined
    # Written in odd batches, pages are cut elsewhere: so the two ways do differ.
    table = pa.table({"id": [f"{row}-{row * 7919 % 104729}" for row in range(200_000)]})
    encoder = PARQUET.encoder(options_for(table))
    for start in range(0, table.num_rows, 777):
        encoder.add(table.slice(start, 777))
    body = encoder.finish()
    anew = b"".join(
        PARQUET.assemble(replace(old, columns=("id",), arrow_schema=table.schema.serialize().to_pybytes()), [body])
    )
    assert anew == b"".join(parquet_write._file(table.schema, parquet_write._row_groups([body])))
    assert anew != joined(table, [body]) == body


def test_splicing_rows_into_a_section_of_a_joined_file() -> None:
    """What a retry writes anew goes with the sections that stay."""
    with_more = PARQUET.splice(options_for(WHOLE), SECTIONS[1], [0, 500, 1000], section(PARTS[2].slice(0, 3)))
    body = joined(WHOLE, [SECTIONS[0], with_more, SECTIONS[3]])
    order = [1000, *range(500), 1001, *range(500, 1000), 1002]
    middle = pa.concat_tables([PARTS[1], PARTS[2].slice(0, 3)]).take(order)
    assert read(body).equals(pa.concat_tables([PARTS[0], middle, PARTS[3]]))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(str(tmp_path / "root"), register(str(tmp_path / "models")), tmp_path)


@pytest.mark.slow
def test_a_run_of_many_chunks_has_the_rows_of_one(bench: Bench) -> None:
    """Through the command line: every engine gives the same bytes, one chunk the same rows; `verify` agrees; a lost file comes back."""
    bench.put("in.csv", encode(rows(600), "csv"))
    bench.job("in.csv", "out.parquet")
    job = str(bench.folder / "weekly.toml")

    def ran(engine: str, chunk_bytes: int) -> tuple[bytes, dict[str, Any]]:
        settings = [
            f"run.chunk_bytes={chunk_bytes}",
            "run.predict_rows=7",
            f"output.uri={bench.root}/{engine}{chunk_bytes}.parquet",
        ]
        more = [each for one in settings for each in ("--set", one)]
        ended = CliRunner().invoke(program, ["run", job, "--engine", engine, "--json", *more])
        assert ended.exit_code == 0, ended.stderr
        verified = CliRunner().invoke(program, ["verify", json.loads(ended.stdout)["run_id"], "--root", bench.root])
        assert verified.exit_code == 0, verified.output
        return bench.get(f"{engine}{chunk_bytes}.parquet") or b"", json.loads(ended.stdout)

    found = {engine: ran(engine, 4096) for engine in ("inline", "threads", "processes")}
    assert len({body for body, _ in found.values()}) == 1
    body, receipt = found["inline"]
    assert receipt["chunks"]["total"] > 3
    document = json.loads(bench.get(f"runs/weekly/{receipt['run_id']}/commit.json") or b"")
    assert document["write"]["joined"]
    assert pq.read_metadata(io.BytesIO(body)).num_row_groups == receipt["chunks"]["total"]
    single, alone = ran("inline", 1 << 20)
    assert alone["chunks"]["total"] == 1
    # Batches of 7 rows start anew in each chunk; sums may differ in the last bits.
    one, many = read(single), read(body)
    assert one.drop(["probability"]).equals(many.drop(["probability"]))
    assert one["probability"].to_pylist() == pytest.approx(many["probability"].to_pylist(), rel=1e-9)
    assert one["prediction"].to_pylist() == [label for label, _ in predicted(rows(600))]
    bench.delete(f"{bench.root}/inline4096.parquet")
    assert ran("inline", 4096)[0] == body
