"""Mended rejects: which rows a corrected rejects file is about, and the chunks with those rows in their places.

Untouched rows keep their staged bytes; the mended rows of a chunk are scored as one batch and put where they belong. What is
still wrong, or is not in the file, stays rejected.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import InputRefused, SchemaMismatch
from batch.execution.chunk import ChunkRecord, read_section
from batch.execution.phases import Phases
from batch.execution.plan import Plan
from batch.execution.profiles import added, make_profiler
from batch.execution.route import Models, deliver
from batch.execution.score import Rows
from batch.execution.streams import Streams
from batch.execution.unique import digests, load_ids, places_of, seen_before
from batch.formats import FORMATS, LINE_COLUMN, ChunkReader, Cut, ReadOptions, Shape, rejects
from batch.formats.id_text import id_texts
from batch.monitor.profiler import Profiler
from batch.storage import Source

ROW, FILE = "_row", "_file"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a rejected row of the run belongs."""

    chunk: int
    row: int
    """0-based in the chunk."""


def chunk_origins(commit: dict[str, Any], records: dict[int, ChunkRecord]) -> dict[int, tuple[str, int]]:
    """Per chunk of a run: the URI of its input, and how many rows of that stand in front of it."""
    found: dict[int, tuple[str, int]] = {}
    for spec in commit["rejects"]:
        chunks = iter(spec["chunks"])
        for name, count in spec["inputs"]:
            before = 0
            for index in islice(chunks, count):
                found[index] = name, before
                before += records[index].rows_read
    return found


def rejected_places(
    origins: dict[int, tuple[str, int]], records: dict[int, ChunkRecord]
) -> dict[tuple[str, int], Place]:
    """(URI of the input, 1-based number of the row in it) -> place, for every row that the run rejected."""
    found: dict[tuple[str, int], Place] = {}
    for index, (name, before) in origins.items():
        table = rejects.from_bytes(read_section(records[index], "rejects"))
        for row in table[ROW].to_pylist() if table is not None else ():
            found[name, before + row + 1] = Place(index, row)
    return found


class Fixed:
    """A corrected rejects file: the rows that can be scored now, and the ones that still cannot."""

    def __init__(self, plan: Plan, source: Source, options: ReadOptions, places: dict[tuple[str, int], Place]) -> None:
        """`plan`: of the run, for the form of its rows. Raises `InputRefused` for rows that are not the run's rejects, each once."""
        self._plan, self._source = plan, source
        self._format = FORMATS[plan.input_format]
        self.shape = self._format.inspect(source, options)
        self.places = self._places(places)
        self._reader = self._open(replace(options, kept=plan.read.kept, keep_line=plan.read.keep_line))
        rows = Rows(plan, self._reader, Phases())
        tables = [self._own_lines(table) for table in rows]
        self.table: pa.Table | None = pa.concat_tables(tables, promote_options="permissive") if tables else None
        count = self.table.num_rows if self.table is not None else 0
        self._lines: list[int] = rows.numbers(0, count).tolist() if count else []
        """Per valid row: its 0-based number in the file."""
        self._refused = self._as_in_input(pa.concat_tables(rows.rejected)) if rows.rejected else None
        self._repeated: dict[int, str] = {}
        """Valid rows whose id was seen before, by number among the valid ones."""

    def _open(self, options: ReadOptions) -> ChunkReader:
        last = self.shape.rows if self._plan.input_format == "parquet" else self.shape.size_bytes
        cut = Cut(self.shape.data_start, last or 0)
        return self._format.read(self._source, self.shape, cut, self.shape.data_start, options)

    def _places(self, known: dict[tuple[str, int], Place]) -> list[Place]:
        """Per row of the file: where it belongs."""
        names = {name for name, _ in known}
        kept = (ROW,) if len(names) == 1 else (ROW, FILE)
        if missing := [name for name in kept if name not in self.shape.columns]:
            raise SchemaMismatch(
                f"{self._source.uri} has no column {missing[0]!r}, which tells whose row is mended",
                hint="mend the rejects file itself, and keep its first columns",
            )
        found: list[Place] = []
        taken: set[Place] = set()
        for number, (row, name) in enumerate(self._identities(kept), 1):
            place = known.get((name or next(iter(names)), row))
            if place is None or place in taken:
                why = "is there twice" if place is not None else "was not rejected by that run"
                where = f" of {name}" if name else ""
                raise InputRefused(
                    f"row {row}{where} (record {number} of {self._source.uri}) {why}",
                    hint="mend rows of the run's own rejects file, each once",
                )
            taken.add(place)
            found.append(place)
        return found

    def _identities(self, kept: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        """(``_row``, ``_file`` or "") of each record. Raises `InputRefused` for a record that cannot be read, or without a number."""
        number = 0
        for block in self._open(ReadOptions((), kept=kept, delimiter=self._plan.read.delimiter)):
            if block.rejects is not None:
                fault = block.rejects.slice(0, 1).to_pylist()[0]
                raise InputRefused(
                    f"record {number + fault[ROW] + 1} of {self._source.uri} cannot be read: {fault['_message']}",
                    hint="mend it, or leave it out: it then stays rejected",
                )
            columns = [block.table[name].to_pylist() for name in kept]
            for values in zip(*columns, strict=True):
                number += 1
                yield self._row_number(values[0], number), str(values[1]) if len(values) > 1 else ""

    def _row_number(self, value: Any, record: int) -> int:
        try:
            return int(str(value).strip('"'))
        except ValueError:
            raise InputRefused(
                f"record {record} of {self._source.uri} has {value!r} in its column {ROW!r}",
                hint="keep the row numbers of the rejects file",
            ) from None

    def _own_lines(self, table: pa.Table) -> pa.Table:
        """Lines that are kept whole, without the fault's members."""
        if LINE_COLUMN not in table.column_names:
            return table
        lines = [self._own_record(line) for line in table[LINE_COLUMN].to_pylist()]
        place = table.schema.get_field_index(LINE_COLUMN)
        return table.set_column(place, table.schema.field(place), pa.array(lines, table.schema.field(place).type))

    def _own_record(self, record: bytes) -> bytes:
        names = [name for name in self.shape.columns if name not in {FILE, ROW, "_column", "_code", "_message", "_raw"}]
        return self._format.own_record(record, self.shape, names, self._plan.read.delimiter)

    def _as_in_input(self, refused: pa.Table) -> pa.Table:
        """Rejects of this file as rejects of the run's input: ``_row`` stays the number in this file."""
        if self._plan.input_format == "parquet":
            return refused
        records = [self._own_record(record) for record in refused["_record"].to_pylist()]
        return refused.set_column(4, "_record", pa.array(records, pa.binary()))

    def find_repeated(self, records: dict[int, ChunkRecord], origins: dict[int, tuple[str, int]]) -> None:
        """Find the valid rows whose id a predicted row of the run has, or a mended row in front of it. Raises `ChunkDamaged`."""
        if self.table is None:
            return
        self._digests = digests(id_texts(self.table, self._plan.unique_id))
        taken = places_of(self._digests, records.values())
        many = len({name for name, _ in origins.values()}) > 1
        for row in sorted(range(len(self._lines)), key=lambda row: self.places[self._lines[row]]):
            if (key := self._digests[row].item()) == (0, 0):
                continue
            if (place := taken.get(key)) is None:
                mine = self.places[self._lines[row]]
                taken[key] = mine.chunk, mine.row
                continue
            name, before = origins[place[0]]
            self._repeated[row] = seen_before(self._plan.unique_id, before + place[1] + 1, name if many else "")

    def refuse(self, culprits: dict[int, str], column: str, code: str) -> pa.Table:
        """Rejects of valid rows, by number among the valid ones, each with what is said of it."""
        faults = [(self._lines[row], column, code, message) for row, message in sorted(culprits.items())]
        return self._as_in_input(self._reader.refused(faults))

    def ids(self, valid: list[int]) -> np.ndarray:
        """The digests of the ids of valid rows; call `find_repeated` first."""
        return self._digests[valid]

    def of_chunk(self, index: int) -> tuple[list[int], list[pa.Table]]:
        """The valid rows (numbers among them, in the order of the chunk's rows) and the still refused rows of one chunk."""
        valid = [row for row, line in enumerate(self._lines) if self.places[line].chunk == index]
        valid.sort(key=lambda row: self.places[self._lines[row]])
        refused = []
        if self._refused is not None:
            mine = [self.places[line].chunk == index for line in self._refused[ROW].to_pylist()]
            refused.append(self._refused.filter(pa.array(mine)))
        if again := {row: self._repeated[row] for row in valid if row in self._repeated}:
            refused.append(self.refuse(again, self._plan.unique_id, "duplicate_id"))
        return [row for row in valid if row not in self._repeated], refused

    def row_of(self, valid: int) -> int:
        """The row of the chunk that a valid row belongs to."""
        return self.places[self._lines[valid]].row


def mended(plan: Plan, models: Models, fixed: Fixed, record: ChunkRecord) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Facts and sections of a chunk with the mended rows in it."""
    before = rejects.from_bytes(read_section(record, "rejects"))
    assert before is not None, "a chunk without rejects has nothing to be mended"
    valid, refused = fixed.of_chunk(record.index)
    streams, profiler = Streams(plan, models, Phases()), make_profiler(plan, models)
    scored, culprits = _score(plan, models, fixed, valid, streams, profiler)
    gone = sorted(before[ROW].to_pylist())
    at = [row - bisect_left(gone, row) for row in (fixed.row_of(one) for one in scored)]
    sections = _spliced(plan, record, at, streams.sections())
    named = {place.row for place in fixed.places if place.chunk == record.index}
    stays = before.filter(pc.invert(pc.is_in(before[ROW], pa.array(sorted(named), pa.int64()))))
    left = _merged(stays, [_placed(fixed, table, before.schema) for table in (*refused, *culprits)])
    by_code: dict[str, int] = {}
    for code in left["_code"].to_pylist():
        by_code[code] = by_code.get(code, 0) + 1
    facts = {
        "index": record.index,
        "start": record.start,
        "end": record.end,
        "rows_read": record.rows_read,
        "rows_predicted": record.rows_predicted + len(scored),
        "rows_rejected": left.num_rows,
        "by_code": by_code,
        "variants": _summed(record.variants, streams.facts()),
        "decoded_bytes": record.decoded_bytes,
    }
    assert record.rows_read == facts["rows_predicted"] + left.num_rows, facts
    ids = _ids(record, fixed, scored) if plan.unique_id else b""
    sample = read_section(record, "capture")  # of the base run: what is captured is not changed by a retry
    profile = added(read_section(record, "profile"), profiler.section())
    return facts, sections | {"rejects": rejects.to_bytes([left]), "ids": ids, "capture": sample, "profile": profile}


def _spliced(plan: Plan, record: ChunkRecord, at: list[int], new: dict[str, bytes]) -> dict[str, bytes]:
    """The chunk's sections with predictions, with the new rows at their places."""
    splice = FORMATS[plan.output_format].splice
    writes = {"rows": plan.write, **{one.section: one.write for one in plan.shadows}}
    return {name: splice(write, read_section(record, name), at, new[name]) for name, write in writes.items()}


def _summed(before: dict[str, tuple[int, str]], new: dict[str, Any]) -> dict[str, tuple[int, str]]:
    return {name: (before[name][0] + rows, before[name][1] or said) for name, (rows, said) in new.items()}


def _ids(record: ChunkRecord, fixed: Fixed, scored: list[int]) -> bytes:
    """The chunk's ``ids`` section with those of the mended rows."""
    ids = load_ids(record).copy()
    ids[[fixed.row_of(one) for one in scored]] = fixed.ids(scored)
    return ids.tobytes()


def _score(
    plan: Plan, models: Models, fixed: Fixed, valid: list[int], streams: Streams, profiler: Profiler
) -> tuple[list[int], list[pa.Table]]:
    """The rows that could be scored, which go into the streams, and the rejects of those that a model fails on."""
    if not valid or fixed.table is None:
        return [], []
    batch = fixed.table.take(pa.array(valid))
    delivered = deliver(plan, models, batch)
    good = [row for row in range(len(valid)) if row not in delivered.culprits]
    scored = batch.take(pa.array(good, pa.int64()))
    streams.add(scored, delivered)
    profiler.add(scored, delivered.outputs)
    culprits = {valid[row]: message for row, message in delivered.culprits.items()}
    return [valid[row] for row in good], [fixed.refuse(culprits, "", "model")] if culprits else []


def _placed(fixed: Fixed, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rejects of the mended file with the chunk's row numbers and the columns of the chunk's own."""
    rows = pa.array([fixed.places[line].row for line in table[ROW].to_pylist()], pa.int64())
    return table.set_column(0, ROW, rows).select(schema.names).cast(schema)


def _merged(first: pa.Table, others: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([first, *others]).sort_by(ROW)


def shape_of(spec: dict[str, Any]) -> Shape:
    """The shape of the run's input as its commit tells it, for the names of its columns."""
    return Shape(tuple(spec["columns"]), 0, arrow_schema=bytes.fromhex(spec["arrow_schema"]))
