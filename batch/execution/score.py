"""`score_chunk`: the one unit of work, the same on every engine.

It looks for its object, reads its own range, decodes, predicts, encodes and stores ONE immutable object. It returns a small
record, never rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from batch.execution import blame, chunk
from batch.execution.limit import Limited
from batch.execution.phases import Phases
from batch.execution.plan import Plan, Task
from batch.formats import FORMATS, ChunkReader, rejects
from batch.storage import join, storage_for


@dataclass(frozen=True, slots=True)
class Context:
    """What a worker holds for the whole run: the plan, its own model, and a gate on the processor."""

    plan: Plan
    model: Limited
    gate: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    """Entered while computing, left while waiting for storage: so that reads run ahead and uploads behind."""


def open_context(
    plan: Plan, model_reference: Any, pickle_sha256: Collection[str], prepare: Callable[[], None] = lambda: None
) -> Context:
    """Load the model for a worker process of its own."""
    from batch.models.bundle import load

    return Context(plan, Limited(load(model_reference, pickle_sha256=pickle_sha256), plan.chunk_seconds, prepare))


def score_chunk(context: Context, task: Task) -> chunk.ChunkRecord:
    """Score one chunk and store its object; a chunk that is stored already, and whole, is not scored again.

    Raises `UnprovenStart` when the chunk's start was guessed and turned out not to make sense.
    """
    if (found := staged(context.plan, task)) is not None:
        return found
    clock = Phases()
    facts, sections = score_range(context, task, clock)
    with clock.phase("store"):
        return store(context.plan, facts, sections, clock.seconds)


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
    prefix = join(plan.folder, "chunks", f"{task.index:08d}.{task.start}-")
    found = (chunk.read_verified(info) for info in storage_for(prefix).list(prefix))
    return next((record for record in found if record is not None), None)


def rescore(context: Context, record: chunk.ChunkRecord) -> None:
    """Put a committed chunk that was damaged back in its place: the very bytes that the commit names.

    Raises `ChunkDamaged` where scoring gives other bytes now: the model or the libraries are not what they were.
    """
    task = replace(context.plan.tasks[record.index], start=record.start)
    facts, sections = score_range(context, task, Phases())
    body = chunk.pack(facts, sections)
    again = chunk.record_of(record.uri, body, reused=False, phases={})
    if (again.end, again.sections) != (record.end, record.sections):
        raise chunk.ChunkDamaged(record, "is damaged, and scoring its rows again gives other bytes than were committed")
    storage_for(record.uri).replace(record.uri, [body], len(body))


def _compute(
    context: Context, task: Task, reader: ChunkReader, clock: Phases
) -> tuple[dict[str, Any], dict[str, bytes]]:
    plan = context.plan
    encoder = FORMATS[plan.output_format].encoder(plan.write)
    rows = Rows(plan, reader, clock)
    predicted, position = 0, 0
    for batch in _batches(iter(rows), plan.predict_rows):
        with clock.phase("predict"):
            verdict = blame.predict(context.model, batch)
        if verdict.culprits:
            rows.refuse({position + row: message for row, message in verdict.culprits.items()})
        scored = batch if not verdict.culprits else _without(batch, verdict.culprits)
        with clock.phase("encode"):
            encoder.add(output_table(plan, scored, verdict.outputs))
        predicted += scored.num_rows
        position += batch.num_rows
    with clock.phase("encode"):
        body = encoder.finish()
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
        "rows_predicted": predicted,
        "rows_rejected": rejected,
        "by_code": by_code,
        "decoded_bytes": reader.decoded_bytes,
    }
    assert rows.read == predicted + rejected, facts
    return facts, {"rows": body, "rejects": rejects.to_bytes(rows.rejected)}


def _without(batch: pa.Table, rows: Collection[int]) -> pa.Table:
    return batch.take(pa.array([row for row in range(batch.num_rows) if row not in rows], pa.int64()))


class Rows:
    """The valid rows of a chunk, block by block; rejects are set aside with their row numbers in the chunk."""

    def __init__(self, plan: Plan, reader: ChunkReader, clock: Phases) -> None:
        self._plan, self._reader, self._clock = plan, reader, clock
        self._blocks: list[tuple[int, int, pa.Table | None]] = []
        """Per block: its first row, its first valid row, its rejects."""
        self._valid = 0
        self.read = 0
        self.rejected: list[pa.Table] = []

    def __iter__(self) -> Iterator[pa.Table]:
        blocks = iter(self._reader)
        while True:
            with self._clock.phase("decode"):
                block = next(blocks, None)
            if block is None:
                return
            self._blocks.append((self.read, self._valid, block.rejects))
            if block.rejects is not None and block.rejects.num_rows:
                self.rejected.append(rejects.shift(block.rejects, self.read))
            self.read += block.rows_read
            self._valid += block.table.num_rows
            yield _one_form(self._plan, block.table)

    def refuse(self, culprits: dict[int, str]) -> None:
        """Reject valid rows after all, by their number among the valid ones: the model fails on them."""
        faults = [(self.place(row), "", "model", message) for row, message in sorted(culprits.items())]
        merged = pa.concat_tables([*self.rejected, self._reader.refused(faults)])
        self.rejected = [merged.sort_by("_row")]

    def place(self, valid: int) -> int:
        """The row of the chunk that is the so many-th valid one."""
        first, before, refused = self._blocks[bisect_right(self._blocks, valid, key=lambda block: block[1]) - 1]
        row = valid - before
        for bad in refused["_row"].to_pylist() if refused is not None else ():
            row += bad <= row
        return first + row


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


def output_table(plan: Plan, batch: pa.Table, outputs: pa.Table) -> pa.Table:
    """Kept columns in front of the model's."""
    from batch.formats import LINE_COLUMN

    kept = batch.select(list(plan.read.kept))
    if plan.read.keep_line:
        kept = kept.append_column(LINE_COLUMN, batch[LINE_COLUMN])
    for name in outputs.column_names:
        kept = kept.append_column(outputs.schema.field(name), outputs[name])
    return kept


def store(plan: Plan, facts: dict[str, Any], sections: dict[str, bytes], phases: dict[str, float]) -> chunk.ChunkRecord:
    """Store a chunk's one object; where a whole one stands already, that one counts: also of a model that is not deterministic."""
    key = chunk.key_of(facts["index"], facts["start"], facts["end"])
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
