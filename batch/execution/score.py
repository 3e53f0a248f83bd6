"""`score_chunk`: the one unit of work, the same on every engine.

It looks for its object, reads its own range, decodes, predicts, encodes and stores ONE immutable object. It returns a small
record, never rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from batch.execution import chunk
from batch.execution.capture import Capture
from batch.execution.loading import limited, load_models, shadow_names
from batch.execution.phases import Phases
from batch.execution.plan import Plan, Repeated, Task
from batch.execution.profiles import make_profiler
from batch.execution.route import Models, deliver
from batch.execution.streams import Streams
from batch.execution.unique import Ids, seen_before
from batch.formats import FORMATS, ChunkReader, Fault, rejects
from batch.storage import join, storage_for


@dataclass(frozen=True, slots=True)
class Context:
    """What a worker holds for the whole run: the plan, its own models, and a gate on the processor."""

    plan: Plan
    models: Callable[[], Models]
    """Gives the models; a chunk may be read before they are there."""
    gate: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    """Entered while computing, left while waiting for storage: so that reads run ahead and uploads behind."""


def open_context(
    plan: Plan,
    references: Mapping[str, Any],
    pickle_sha256: Collection[str],
    prepare: Callable[[], None] = lambda: None,
) -> Context:
    """Load the models, by variant, for a worker process of its own."""
    loaded = load_models(references, shadow_names(plan), pickle_sha256, proven=True)
    models = limited(plan, loaded, prepare)
    return Context(plan, lambda: models)


def score_chunk(context: Context, task: Task) -> chunk.ChunkRecord:
    """Score one chunk and store its object; a chunk that is stored already, and whole, is not scored again.

    Raises `UnprovenStart` when the chunk's start was guessed and turned out not to make sense.
    """
    if (found := staged(context.plan, task)) is not None:
        return found
    clock = Phases()
    facts, sections = score_range(context, task, clock)
    with clock.phase("store"):
        return store(context.plan, facts, sections, clock.seconds, unique=task.repeated is not None)


def score_range(context: Context, task: Task, clock: Phases) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read, decode, predict and encode the range of a task: the facts and sections of its object. Stores nothing."""
    plan = context.plan
    file = plan.files[task.file]
    with clock.phase("read"):
        reader = FORMATS[plan.input_format].read(file.source, file.shape, task.cut, task.start, plan.read)
    with context.gate():
        return _compute(context, task, reader, clock)


def staged(plan: Plan, task: Task) -> chunk.ChunkRecord | None:
    """The record of this chunk's object where a whole one exists: the one the task names, or one with the proven start."""
    if task.stored is not None:
        return chunk.read_verified(task.stored)
    if task.start is None:
        return None
    prefix, unique = join(plan.folder, "chunks", f"{task.index:08d}.{task.start}-"), task.repeated is not None
    listed = (info for info in storage_for(prefix).list(prefix) if info.uri.endswith(chunk.UNIQUE) == unique)
    found = (chunk.read_verified(info) for info in listed)
    return next((record for record in found if record is not None), None)


def rescore(context: Context, record: chunk.ChunkRecord, repeated: Repeated | None) -> None:
    """Put a committed chunk that was damaged back in its place: the very bytes that the commit names.

    `repeated`: its rows whose id was seen before, for a chunk that was scored without them. Raises `ChunkDamaged` where scoring
    gives other bytes now: the model or the libraries are not what they were.
    """
    task = replace(context.plan.tasks[record.index], start=record.start, repeated=repeated)
    facts, sections = score_range(context, task, Phases())
    body = chunk.pack(facts, sections)
    again = chunk.record_of(record.uri, body, reused=False, phases={})
    if (again.end, again.sections) != (record.end, record.sections):
        raise chunk.ChunkDamaged(record, "is damaged, and scoring its rows again gives other bytes than were committed")
    storage_for(record.uri).replace(record.uri, [body], len(body))


def _compute(
    context: Context, task: Task, reader: ChunkReader, clock: Phases
) -> tuple[dict[str, Any], dict[str, bytes]]:
    plan, models = context.plan, context.models()
    streams = Streams(plan, models, clock)
    rows = Rows(plan, reader, clock, task.repeated)
    ids = Ids(plan.unique_id) if plan.unique_id else None
    capture = Capture(plan) if plan.captured else None
    profiler = make_profiler(plan, models)
    position = 0
    for batch in _batches(iter(rows), plan.predict_rows):
        with clock.phase("predict"):
            delivered = deliver(plan, models, batch)
        if culprits := delivered.culprits:
            rows.refuse({position + row: message for row, message in culprits.items()})
        scored = batch if not culprits else _without(batch, culprits)
        if ids is not None:
            ids.add(scored, _left(rows.numbers(position, batch.num_rows), culprits))
        if capture is not None:
            capture.add(scored)
        streams.add(scored, delivered)
        with clock.phase("profile"):
            profiler.add(scored, delivered.outputs)
        position += batch.num_rows
    sections = streams.sections()
    rows.refuse_repeated()
    by_code: dict[str, int] = {}
    for table in rows.rejected:
        for code in table["_code"].to_pylist():
            by_code[code] = by_code.get(code, 0) + 1
    rejected = sum(by_code.values())
    facts = {
        "index": task.index,
        "start": reader.start,
        "end": reader.end,
        "rows_read": rows.read,
        "rows_predicted": streams.predicted,
        "rows_rejected": rejected,
        "by_code": by_code,
        "variants": streams.facts(),
        "decoded_bytes": reader.decoded_bytes,
    }
    assert rows.read == streams.predicted + rejected, facts
    more = {"rejects": rejects.to_bytes(rows.rejected), "profile": profiler.section()}
    if ids is not None:
        more["ids"] = ids.section(rows.read)
    if capture is not None:
        more["capture"] = capture.section()
    return facts, sections | more


def _without(batch: pa.Table, rows: Collection[int]) -> pa.Table:
    return batch.take(pa.array(_left(np.arange(batch.num_rows), rows)))


def _left(numbers: np.ndarray, rows: Collection[int]) -> np.ndarray:
    return np.delete(numbers, list(rows)) if rows else numbers


class Rows:
    """The valid rows of a chunk, block by block; rejects are set aside with their row numbers in the chunk."""

    def __init__(self, plan: Plan, reader: ChunkReader, clock: Phases, repeated: Repeated | None = None) -> None:
        """`repeated`: rows that are to be rejected although they are valid."""
        self._plan, self._reader, self._clock, self._repeated = plan, reader, clock, repeated
        self._numbers: list[np.ndarray] = []
        """Per block: the numbers of its valid rows in the chunk, ascending."""
        self._refused: set[int] = set()
        """Repeated rows that were valid."""
        self.read = 0
        self.rejected: list[pa.Table] = []

    def __iter__(self) -> Iterator[pa.Table]:
        blocks = iter(self._reader)
        while True:
            with self._clock.phase("decode"):
                block = next(blocks, None)
            if block is None:
                return
            table, numbers = block.table, np.arange(self.read, self.read + block.rows_read)
            if block.rejects is not None and block.rejects.num_rows:
                self.rejected.append(rejects.shift(block.rejects, self.read))
                numbers = np.delete(numbers, block.rejects["_row"].to_numpy())
            if self._repeated is not None:
                table, numbers = self._without_repeated(table, numbers, self._repeated.rows)
            self.read += block.rows_read
            self._numbers.append(numbers)
            yield _one_form(self._plan, table)

    def _without_repeated(
        self, table: pa.Table, numbers: np.ndarray, repeated: np.ndarray
    ) -> tuple[pa.Table, np.ndarray]:
        again = np.isin(numbers, repeated)
        self._refused.update(numbers[again].tolist())
        return table.filter(pa.array(~again)), numbers[~again]

    def refuse(self, culprits: dict[int, str]) -> None:
        """Reject valid rows after all, by their number among the valid ones: the model fails on them."""
        numbers = self.numbers(0, max(culprits) + 1)
        self._refuse([(int(numbers[row]), "", "model", message) for row, message in sorted(culprits.items())])

    def refuse_repeated(self) -> None:
        """Reject the repeated rows, now that all blocks were read."""
        if self._repeated is None or not self._refused:
            return
        column, found, files = self._plan.unique_id, self._repeated, self._plan.files
        places = zip(found.rows.tolist(), found.first_rows.tolist(), found.first_files.tolist(), strict=True)
        self._refuse(
            [
                (row, column, "duplicate_id", seen_before(column, first, files[file].name if len(files) > 1 else ""))
                for row, first, file in places
                if row in self._refused
            ]
        )

    def _refuse(self, faults: list[Fault]) -> None:
        merged = pa.concat_tables([*self.rejected, self._reader.refused(faults)])
        self.rejected = [merged.sort_by("_row")]

    def numbers(self, first: int, count: int) -> np.ndarray:
        """The numbers in the chunk (int64) of `count` valid rows from the so many-th valid one on, of those read so far."""
        return np.concatenate(self._numbers)[first : first + count]


def _one_form(plan: Plan, table: pa.Table) -> pa.Table:
    """Kept JSON values in one form for all blocks: their tokens for a JSONL output, plain text for the others."""
    signature = {column.name for column in plan.read.columns}
    kept = [name for name in plan.read.kept if name not in signature]
    if plan.input_format != "jsonl" or not kept:
        return table
    from batch.formats.json_text import MARK, plain_text
    from batch.formats.jsonl_write import tokens

    if plan.output_format != "jsonl":
        return plain_text(table, kept)
    for name in kept:
        place = table.schema.get_field_index(name)
        values = tokens(name, table.schema.field(place), table.column(place).combine_chunks())
        table = table.set_column(place, pa.field(name, pa.string(), metadata=MARK), values)
    return table


def _batches(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Regroup blocks into batches of exactly `size` rows (the last one less): the batch size can change bits, so it is fixed."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        if not table.num_rows:
            continue
        waiting.append(table)
        rows += table.num_rows
        while rows >= size:
            whole = pa.concat_tables(waiting, promote_options="permissive") if len(waiting) > 1 else waiting[0]
            yield whole.slice(0, size)
            rest = whole.slice(size)
            waiting, rows = ([rest] if rest.num_rows else []), rest.num_rows
    if rows:
        yield pa.concat_tables(waiting, promote_options="permissive") if len(waiting) > 1 else waiting[0]


def store(
    plan: Plan, facts: dict[str, Any], sections: dict[str, bytes], phases: dict[str, float], *, unique: bool = False
) -> chunk.ChunkRecord:
    """Store a chunk's one object; where a whole one stands already, that one counts: also of a model that is not deterministic."""
    key = chunk.key_of(facts["index"], facts["start"], facts["end"], unique=unique)
    uri = join(plan.folder, "chunks", key)
    body = chunk.pack(facts, sections)
    storage = storage_for(uri)
    if not storage.create(uri, body):
        info = storage.head(uri)
        theirs = chunk.read_verified(info) if info is not None else None
        if theirs is not None:
            return theirs
        storage.replace(uri, [body], len(body))  # what stands there is damaged, so nobody can be using it
    return chunk.record_of(uri, body, reused=False, phases=phases)
