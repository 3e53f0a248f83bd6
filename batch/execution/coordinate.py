"""Every chunk scored, each start proven: the loop between the plan and the commit.

A chunk may be scored from a guessed start. It counts once its start equals the end of the chunk before it; if not, it is
scored again from there. The first chunk of a file starts at a record, so by induction all of them do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace

from batch.errors import InputTooLarge, ModelFailed
from batch.execution import chunk
from batch.execution.chunk import ChunkRecord
from batch.execution.engine import Engine
from batch.execution.plan import Plan, Task
from batch.formats.text import UnprovenStart
from batch.job import Job
from batch.storage import ObjectInfo, join, storage_for

Progress = Callable[[int, int, int, float], None]
"""Called with (chunks done, chunks in all, rows read, seconds)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many rejected rows a job puts up with."""

    max_share: float | None
    max_rows: int | None
    stop_rows: int

    def allowed(self, rows_read: int) -> int:
        """The most rows that may be rejected of so many."""
        limits = [] if self.max_rows is None else [self.max_rows]
        if self.max_share is not None:
            limits.append(int(self.max_share * rows_read + 1e-9))
        return min(limits, default=0)


def budget_of(job: Job) -> Budget:
    """The job's budget; ``max_rows`` alone replaces the default share."""
    share_given = "max_share" in job.rejects.model_fields_set or job.rejects.max_rows is None
    return Budget(job.rejects.max_share if share_given else None, job.rejects.max_rows, job.rejects.stop_rows)


@dataclass(slots=True)
class Scored:
    """The state of the loop; `records` holds one entry per chunk once it is over."""

    records: dict[int, ChunkRecord] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    """Given up because the rejects are hopelessly over budget."""

    @property
    def scored(self) -> int:
        """Chunks of the result that this run computed; a guess that was thrown away does not count."""
        return sum(not record.reused for record in self.records.values())

    @property
    def ordered(self) -> list[ChunkRecord]:
        return [self.records[index] for index in sorted(self.records)]


def score_all(job: Job, plan: Plan, engine: Engine, progress: Progress | None) -> Scored:
    """Score every chunk of the plan that is not stored yet. Raises what a chunk raised, or `InputTooLarge`."""
    state = Scored()
    stored = _stored(plan)
    waiting = deque(plan.tasks)
    running: dict[Future[ChunkRecord], Task] = {}
    retry: list[Task] = []
    started = time.monotonic()
    while waiting or running or retry:
        retry = _requeue(plan, state, retry, waiting)
        while waiting and len(running) < engine.in_flight and not state.stopped:
            task = waiting.popleft()
            if (found := _reuse(stored, task)) is not None:
                _take(plan, state, task, found, retry)
            else:
                running[engine.submit(task)] = task
        if state.stopped and not running:
            break
        if running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                _collect(plan, state, running.pop(future), future, retry)
        _check_limits(job, state)
        if progress is not None:
            rows = sum(record.rows_read for record in state.records.values())
            progress(len(state.records), len(plan.tasks), rows, time.monotonic() - started)
    return state


def _collect(plan: Plan, state: Scored, task: Task, future: Future[ChunkRecord], retry: list[Task]) -> None:
    from concurrent.futures.process import BrokenProcessPool

    try:
        record = future.result()
    except UnprovenStart:
        retry.append(task)
        return
    except BrokenProcessPool:
        raise ModelFailed(
            f"a worker process died while chunk {task.index} of {len(plan.tasks)} was scored",
            hint='perhaps it ran out of memory: lower [run] chunk_bytes, or use engine = "threads"',
        ) from None
    for name, seconds in record.phases.items():
        state.phases[name] = state.phases.get(name, 0.0) + seconds
    _take(plan, state, task, record, retry)


def _take(plan: Plan, state: Scored, task: Task, record: ChunkRecord, retry: list[Task]) -> None:
    """Accept a record, then score again whichever neighbour does not fit, as soon as it is known which one is right."""
    before = state.records.get(task.index - 1)
    if before is not None and plan.tasks[task.index - 1].file == task.file and before.end != record.start:
        retry.append(task)
        return
    state.records[task.index] = record
    following = state.records.get(task.index + 1)
    if following is not None and plan.tasks[task.index + 1].file == task.file and following.start != record.end:
        del state.records[task.index + 1]
        retry.append(plan.tasks[task.index + 1])


def _requeue(plan: Plan, state: Scored, retry: list[Task], waiting: deque[Task]) -> list[Task]:
    """Tasks whose guess failed go back as soon as the chunks before them have proved where they start."""
    still = []
    for task in retry:
        if _proven(plan, state, task.index - 1):
            waiting.appendleft(replace(task, start=state.records[task.index - 1].end))
        else:
            still.append(task)
    return still


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


def _stored(plan: Plan) -> dict[int, dict[int, ObjectInfo]]:
    """The chunk objects that are there already, by index and start: one LIST."""
    prefix = join(plan.folder, "chunks/")
    found: dict[int, dict[int, ObjectInfo]] = {}
    for info in storage_for(prefix).list(prefix):
        index, start, _ = chunk.parse_key(info.uri)
        found.setdefault(index, {})[start] = info
    return found


def _reuse(stored: dict[int, dict[int, ObjectInfo]], task: Task) -> ChunkRecord | None:
    by_start = stored.get(task.index, {})
    info = next(iter(by_start.values()), None) if task.start is None else by_start.get(task.start)
    return chunk.read_record(info) if info is not None else None


def _check_limits(job: Job, state: Scored) -> None:
    """The limits that only counting shows."""
    rows = sum(record.rows_read for record in state.records.values())
    rejected = sum(record.rows_rejected for record in state.records.values())
    decoded = sum(record.decoded_bytes for record in state.records.values())
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
    if rejected > budget.allowed(rows) + budget.stop_rows:
        state.stopped = True
