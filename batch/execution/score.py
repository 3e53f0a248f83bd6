"""`score_chunk`: the one unit of work, the same on every engine.

It looks for its object, reads its own range, decodes, predicts, encodes and stores ONE immutable object. It returns a small
record, never rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batch.errors import StorageUnavailable
from batch.execution import chunk
from batch.execution.plan import Plan, Task
from batch.formats import FORMATS, ChunkReader, rejects
from batch.storage import join, storage_for

if TYPE_CHECKING:
    from batch.models.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Context:
    """What a worker holds for the whole run: the plan, its own model, and a gate on the processor."""

    plan: Plan
    model: LoadedModel
    gate: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    """Entered while computing, left while waiting for storage: so that reads run ahead and uploads behind."""


def open_context(plan: Plan, model_reference: Any, pickle_sha256: Collection[str]) -> Context:
    """Load the model for a worker process of its own."""
    from batch.models.bundle import load

    return Context(plan, load(model_reference, pickle_sha256=pickle_sha256))


def score_chunk(context: Context, task: Task) -> chunk.ChunkRecord:
    """Score one chunk and store its object; a chunk that is stored already is not scored again.

    Raises `UnprovenStart` when the chunk's start was guessed and turned out not to make sense.
    """
    if (found := staged(context.plan, task)) is not None:
        return found
    plan = context.plan
    clock = _Phases()
    file = plan.files[task.file]
    with clock.phase("read"):
        reader = FORMATS[plan.input_format].read(file.source, file.shape, task.cut, task.start, plan.read)
    with context.gate():
        facts, sections = _compute(context, task, reader, clock)
    with clock.phase("store"):
        return _store(plan, facts, sections, clock.seconds)


def staged(plan: Plan, task: Task) -> chunk.ChunkRecord | None:
    """The record of this chunk's object where one with the proven start exists."""
    if task.start is None:
        return None
    prefix = join(plan.folder, "chunks", f"{task.index:08d}.{task.start}-")
    for info in storage_for(prefix).list(prefix):
        return chunk.read_record(info)
    return None


def _compute(
    context: Context, task: Task, reader: ChunkReader, clock: _Phases
) -> tuple[dict[str, Any], dict[str, bytes]]:
    plan = context.plan
    encoder = FORMATS[plan.output_format].encoder(plan.write)
    rejected: list[pa.Table] = []
    counts = {"rows_read": 0, "rows_predicted": 0}
    for batch in _batches(_valid(plan, reader, rejected, counts, clock), plan.predict_rows):
        with clock.phase("predict"):
            outputs = context.model.predict(batch)
        with clock.phase("encode"):
            encoder.add(_output_table(plan, batch, outputs))
        counts["rows_predicted"] += batch.num_rows
    with clock.phase("encode"):
        rows = encoder.finish()
    by_code: dict[str, int] = {}
    for table in rejected:
        for code in table["_code"].to_pylist():
            by_code[code] = by_code.get(code, 0) + 1
    rejected_rows = sum(by_code.values())
    facts = {
        "index": task.index,
        "start": reader.start,
        "end": reader.end,
        **counts,
        "rows_rejected": rejected_rows,
        "by_code": by_code,
        "decoded_bytes": reader.decoded_bytes,
    }
    assert counts["rows_read"] == counts["rows_predicted"] + rejected_rows, facts
    return facts, {"rows": rows, "rejects": rejects.to_bytes(rejected)}


def _valid(
    plan: Plan, reader: ChunkReader, rejected: list[pa.Table], counts: dict[str, int], clock: _Phases
) -> Iterator[pa.Table]:
    """The valid rows block by block; rejects are set aside with their row numbers in the chunk."""
    blocks = iter(reader)
    while True:
        with clock.phase("decode"):
            block = next(blocks, None)
        if block is None:
            return
        if block.rejects is not None and block.rejects.num_rows:
            rejected.append(rejects.shift(block.rejects, counts["rows_read"]))
        counts["rows_read"] += block.rows_read
        yield _one_form(plan, block.table)


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


def _output_table(plan: Plan, batch: pa.Table, outputs: pa.Table) -> pa.Table:
    """Kept columns in front of the model's."""
    from batch.formats import LINE_COLUMN

    kept = batch.select(list(plan.read.kept))
    if plan.read.keep_line:
        kept = kept.append_column(LINE_COLUMN, batch[LINE_COLUMN])
    for name in outputs.column_names:
        kept = kept.append_column(outputs.schema.field(name), outputs[name])
    return kept


def _store(
    plan: Plan, facts: dict[str, Any], sections: dict[str, bytes], phases: dict[str, float]
) -> chunk.ChunkRecord:
    key = chunk.key_of(facts["index"], facts["start"], facts["end"])
    uri = join(plan.folder, "chunks", key)
    body = chunk.pack(facts, sections)
    storage = storage_for(uri)
    if storage.create(uri, body):
        return chunk.record_of(uri, body[: chunk.HEAD_BYTES], len(body), reused=False, phases=phases)
    info = storage.head(uri)
    if info is None:
        raise StorageUnavailable(
            f"{uri} exists and does not exist", hint="the store does not enforce create-once; run doctor"
        )
    return chunk.read_record(info)


class _Phases:
    """Seconds spent per phase of one chunk."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def phase(self, name: str) -> _Phase:
        return _Phase(self.seconds, name)


class _Phase:
    __slots__ = ("_name", "_seconds", "_started")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name, self._started = seconds, name, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.perf_counter() - self._started
