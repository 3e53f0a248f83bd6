"""Every chunk scored, each start proven: the loop between the plan and the commit.

A chunk may be scored from a guessed start. It counts once its start equals the end of the chunk before it; if not, it is
scored again from there. The first chunk of a file starts at a record, so by induction all of them do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field, replace

from batch.errors import InputTooLarge, ModelFailed
from batch.execution import chunk
from batch.execution.budget import budget_of
from batch.execution.chunk import ChunkRecord
from batch.execution.engine import Engine
from batch.execution.plan import Plan, Repeated, Task
from batch.formats.text import UnprovenStart
from batch.job import Job
from batch.storage import ObjectInfo, join, storage_for

DEATHS_MAX = 2
SHORTER_MAX = 2.0
"""How much shorter the text rows to come may be than those so far, before a run is stopped that would have kept its share."""
BREAK_SECONDS = 10.0
"""The most that the other futures of a broken pool may take to say so."""

Progress = Callable[[int, int, int, float], None]
"""Called with (chunks done, chunks in all, rows read, seconds)."""


@dataclass(slots=True)
class Totals:
    """What the chunks so far add up to."""

    rows_read: int = 0
    rows_rejected: int = 0
    decoded_bytes: int = 0
    covered: int = 0
    """Bytes of text, or Parquet rows."""

    def add(self, record: ChunkRecord, sign: int = 1) -> None:
        """Take a chunk in, or out again."""
        self.rows_read += sign * record.rows_read
        self.rows_rejected += sign * record.rows_rejected
        self.decoded_bytes += sign * record.decoded_bytes
        self.covered += sign * (record.end - record.start)

    def rows_at_most(self, plan: Plan) -> int:
        """How many rows the whole input may have, generously: counted for Parquet, estimated for text."""
        whole = sum(task.cut.end - task.cut.start for task in plan.tasks)
        factor = 1.0 if plan.input_format == "parquet" else SHORTER_MAX
        left = max(0, whole - self.covered)
        return self.rows_read + round(factor * left * self.rows_read / max(1, self.covered))


@dataclass(slots=True)
class Scored:
    """The state of the loop; `records` holds one entry per chunk once it is over."""

    waiting: deque[Task] = field(default_factory=deque)
    running: dict[Future[ChunkRecord], Task] = field(default_factory=dict)
    retry: list[Task] = field(default_factory=list)
    """Chunks whose guessed start proved wrong; they wait for the end of the chunk before them."""
    suspects: deque[Task] = field(default_factory=deque)
    """Chunks that were in flight when a worker died."""
    deaths: dict[int, int] = field(default_factory=dict)
    """How often a chunk that ran alone took its worker with it."""
    deadly: Task | None = None
    records: dict[int, ChunkRecord] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    """Of `records`."""
    phases: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    """Given up because the rejects are hopelessly over budget."""

    def accept(self, record: ChunkRecord) -> None:
        """Take a record in, in the place of one that was there."""
        self.drop(record.index)
        self.records[record.index] = record
        self.totals.add(record)

    def drop(self, index: int) -> None:
        """Take out the record of a chunk, if there is one."""
        before = self.records.pop(index, None)
        if before is not None:
            self.totals.add(before, -1)

    @property
    def is_open(self) -> bool:
        """Whether there is anything left to do or to wait for."""
        return bool(self.waiting or self.running or self.retry or self.suspects)

    @property
    def scored(self) -> int:
        """Chunks of the result that this run computed; a guess that was thrown away does not count."""
        return sum(not record.reused for record in self.records.values())

    @property
    def ordered(self) -> list[ChunkRecord]:
        return [self.records[index] for index in sorted(self.records)]


def score_all(
    job: Job,
    plan: Plan,
    engine: Engine,
    state: Scored,
    alive: Callable[[], None],
    progress: Progress | None,
    tasks: Sequence[Task] | None = None,
) -> Scored:
    """Score every chunk of the plan that is not stored yet, and keep `state` up to date, also where that fails.

    `tasks`: some of the plan's, without a gap, default all; where the first start of them was guessed, nobody here proves it.

    `alive` raises when this run must not go on, and is called about once a second. Raises what a chunk raised, `ModelFailed`
    for a chunk that kills its worker, or `InputTooLarge`.
    """
    _score(job, plan, engine, state, plan.tasks if tasks is None else tasks, alive, progress)
    return state


def score_again(
    job: Job,
    plan: Plan,
    engine: Engine,
    state: Scored,
    repeated: Mapping[int, Repeated],
    alive: Callable[[], None],
    progress: Progress | None,
) -> None:
    """Score the chunks that hold an id a second time, without those rows; `repeated` is by chunk index. Raises as `score_all` does."""
    tasks = []
    for index, rows in repeated.items():
        tasks.append(replace(plan.tasks[index], start=state.records[index].start, repeated=rows))
        state.drop(index)
    _score(job, plan, engine, state, tasks, alive, progress)


def _score(
    job: Job,
    plan: Plan,
    engine: Engine,
    state: Scored,
    tasks: Iterable[Task],
    alive: Callable[[], None],
    progress: Progress | None,
) -> None:
    state.waiting.extend(_with_stored(plan, tasks))
    count = len(state.waiting) + len(state.records)
    started = time.monotonic()
    while state.is_open:
        alive()
        engine.check()
        _requeue(plan, state)
        if state.retry and not (state.waiting or state.running or state.suspects):
            state.retry.clear()  # of a shard, which has not the chunks that prove them: the run that ends it scores them
        _submit(engine, state)
        if state.running:
            finished, _ = wait(state.running, timeout=1.0, return_when=FIRST_COMPLETED)
            _collect(plan, engine, state, finished)
        _check_limits(job, plan, state)
        if progress is not None:
            progress(len(state.records), count, state.totals.rows_read, time.monotonic() - started)
    if state.deadly is not None:
        raise _killed(plan, state, state.deadly)


def _submit(engine: Engine, state: Scored) -> None:
    """Fill the engine; a chunk that may have killed its worker runs alone, so that the next death has one suspect."""
    if state.stopped:
        state.waiting.clear()
        state.suspects.clear()
        state.retry.clear()
    if state.suspects:
        if not state.running:
            task = state.suspects.popleft()
            state.running[engine.submit(task)] = task
        return
    while state.waiting and len(state.running) < engine.in_flight:
        task = state.waiting.popleft()
        state.running[engine.submit(task)] = task


def _collect(plan: Plan, engine: Engine, state: Scored, finished: set[Future[ChunkRecord]]) -> None:
    broken = [task for future in finished if (task := _settle(plan, state, future)) is not None]
    if not broken:
        return
    if engine.breaks_together:
        rest, _ = wait(
            state.running, timeout=BREAK_SECONDS
        )  # they all break with it, but for those that were just done
        broken += [task for future in rest if (task := _settle(plan, state, future)) is not None]
        broken += state.running.values()
        state.running.clear()
        engine.restart()
    _bury(plan, state, broken)


def _settle(plan: Plan, state: Scored, future: Future[ChunkRecord]) -> Task | None:
    """Take in what a finished future gave; the task itself where its worker died."""
    task = state.running.pop(future)
    try:
        record = future.result()
    except UnprovenStart:
        state.retry.append(task)
        return None
    except BrokenExecutor:
        return task
    for name, seconds in record.phases.items():
        state.phases[name] = state.phases.get(name, 0.0) + seconds
    _take(plan, state, task, record)
    return None


def _bury(plan: Plan, state: Scored, broken: list[Task]) -> None:
    """A worker died: every chunk that died with it is tried again, one at a time.

    Which of several was the killer nobody knows; one that was alone is guilty, and twice is enough.
    """
    if len(broken) == 1 and not state.running:
        (task,) = broken
        state.deaths[task.index] = state.deaths.get(task.index, 0) + 1
        if state.deaths[task.index] >= DEATHS_MAX:
            _condemn(state, task)
            return
    state.suspects.extend(_with_stored(plan, sorted(broken, key=lambda task: task.index)))


def _condemn(state: Scored, deadly: Task) -> None:
    """The run fails by this chunk; the ones before it are finished first, because they tell the numbers of its rows."""
    state.deadly = deadly
    state.waiting = deque(task for task in state.waiting if task.index < deadly.index)
    state.suspects = deque(task for task in state.suspects if task.index < deadly.index)
    state.retry = [task for task in state.retry if task.index < deadly.index]


def _killed(plan: Plan, state: Scored, task: Task) -> ModelFailed:
    file = plan.files[task.file]
    before = [one.index for one in plan.tasks if one.file == task.file and one.index < task.index]
    rows = sum(state.records[index].rows_read for index in before if index in state.records)
    if plan.input_format == "parquet":
        where = f"rows {task.cut.start + 1} to {task.cut.end}"
    elif all(index in state.records for index in before):
        where = f"the rows from {rows + 1} on, bytes {task.cut.start} to {task.cut.end}"
    else:
        where = f"bytes {task.cut.start} to {task.cut.end}"
    return ModelFailed(
        f"chunk {task.index + 1} of {len(plan.tasks)} ({where} of {file.name}) killed its worker process "
        f"{DEATHS_MAX} times while nothing else ran beside it",
        hint="perhaps it ran out of memory: lower [run] chunk_bytes or predict_rows; the other chunks stay scored",
    )


def _take(plan: Plan, state: Scored, task: Task, record: ChunkRecord) -> None:
    """Accept a record, then score again whichever neighbour does not fit, as soon as it is known which one is right."""
    before = state.records.get(task.index - 1)
    if before is not None and plan.tasks[task.index - 1].file == task.file and before.end != record.start:
        state.retry.append(task)
        return
    state.accept(record)
    following = state.records.get(task.index + 1)
    if following is not None and plan.tasks[task.index + 1].file == task.file and following.start != record.end:
        state.drop(task.index + 1)
        state.retry.append(plan.tasks[task.index + 1])


def _requeue(plan: Plan, state: Scored) -> None:
    """Tasks whose guess failed go back as soon as the chunks before them have proved where they start."""
    still = []
    for task in state.retry:
        if _proven(plan, state, task.index - 1):
            state.waiting.appendleft(replace(task, start=state.records[task.index - 1].end, stored=None))
        else:
            still.append(task)
    state.retry = still


def _proven(plan: Plan, state: Scored, index: int) -> bool:
    """Whether a chunk's end is certain: neighbours in `state` fit, so it is once all chunks of the file up to it are there.

    The end of a chunk whose own start is a guess proves nothing: a chunk that trusted it would call a good file broken.
    """
    file = plan.tasks[index].file
    while index >= 0 and plan.tasks[index].file == file:
        if index not in state.records:
            return False
        index -= 1
    return True


def _with_stored(plan: Plan, tasks: Iterable[Task]) -> list[Task]:
    """The tasks, each with the chunk object that an earlier attempt left for it: one LIST.

    Where there are several, from guesses that proved wrong, any will do: a wrong one is found out by its neighbours, and the
    right one by its start.
    """
    prefix = join(plan.folder, "chunks/")
    found: dict[int, dict[int, ObjectInfo]] = {}
    for info in storage_for(prefix).list(prefix):
        if key := chunk.parse_key(info.uri):
            found.setdefault(key[0], {})[key[1]] = info
    return [replace(task, stored=_candidate(found.get(task.index, {}), task)) for task in tasks]


def _candidate(by_start: dict[int, ObjectInfo], task: Task) -> ObjectInfo | None:
    if task.repeated is not None:  # what an earlier attempt left of it has another name, which the worker looks for
        return None
    return next(iter(by_start.values()), None) if task.start is None else by_start.get(task.start)


def _check_limits(job: Job, plan: Plan, state: Scored) -> None:
    """The limits that only counting shows."""
    totals = state.totals
    rows, rejected, decoded = totals.rows_read, totals.rows_rejected, totals.decoded_bytes
    if job.input.max_rows and rows > job.input.max_rows:
        raise InputTooLarge(
            f"the input has at least {rows} rows, over the limit max_rows = {job.input.max_rows}",
            hint="raise [input] max_rows",
        )
    # Text was weighed as text before; its Arrow form may be larger without being a danger.
    if decoded > 4 * job.input.max_decompressed_bytes:
        raise InputTooLarge(
            f"the input decodes to at least {decoded} bytes, over the limit max_decompressed_bytes = "
            f"{job.input.max_decompressed_bytes}",
            hint="raise [input] max_decompressed_bytes",
        )
    budget = budget_of(job)
    # Bad rows often stand together: as long as the rows to come can bring the share down again, nothing is hopeless.
    if rejected > budget.allowed(rows) + budget.stop_rows:
        state.stopped = rejected > budget.allowed(totals.rows_at_most(plan)) + budget.stop_rows
