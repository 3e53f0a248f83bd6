"""A run, told from top to bottom: prepare, take the lease, plan, score, commit, publish, receipt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batch.clock import SYSTEM, Clock
from batch.errors import (
    BatchError,
    Busy,
    InputRefused,
    ModelRefused,
    OutputRefused,
)
from batch.execution import attempts, commit, coordinate, finish, records, rejects_file
from batch.execution.about import About
from batch.execution.attempt import Attempt
from batch.execution.chunk import ChunkRecord, record_from_commit
from batch.execution.coordinate import Progress, Scored
from batch.execution.memory import PeakMemory
from batch.execution.ownership import Owners
from batch.execution.preflight import check_outputs, period_of, prepare, wait_for_input
from batch.execution.process import prepare_process
from batch.execution.receipt import Receipt, named, unstarted
from batch.execution.repair import Repair
from batch.execution.scratch import scratch_folder
from batch.execution.standing import done_before, missing, standing
from batch.job import Job
from batch.storage import ObjectInfo

if TYPE_CHECKING:
    import pandas as pd

    from batch.execution.plan import Plan


def run(
    job: Job,
    *,
    period: str | None = None,
    now: datetime | None = None,
    dropped: ObjectInfo | None = None,
    trigger: str = "cli",
    once: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] = lambda _: None,
    told: Callable[[dict[str, Any]], None] | None = None,
    clock: Clock = SYSTEM,
) -> Receipt:
    """Score the job's input and publish the predictions; a run that was done before is not done again.

    `period`: its name, default the last complete one before `now` (aware; default: the clock).
    `dropped`: the version of the input, as listed, that the run is about; `job` names it as its input.
    `once`: do nothing when the subject (the period, or the dropped version) was ever done, whatever has changed since.
    `force`: score again even so.
    `notice`: is given what the run waits for or goes on without. `told`: is given the receipt before it is recorded, so that what it does with it
    is done whenever the run is; not that of a run whose output is already another's.
    `clock`: of the lease and of the wait for a late input.

    Raises a subclass of `BatchError`; its ``receipt`` attribute then holds the receipt of the failed run, where one began.
    """
    prepare_process()
    about = About(None if dropped else period_of(job, period, now), dropped)
    if once and (found := done_before(job, about.subject)) is not None:
        return found
    with _refusals_recorded(job, about, trigger):
        if job.input.wait and not dropped:
            wait_for_input(job, about.period, clock, notice)
        prepared = prepare(job, about, force=force)
    if (found := standing(prepared)) is not None:
        return found
    for name, why in prepared.broken.items():
        notice(f"shadow '{name}' is left out: {why}")
    attempt = Attempt(prepared, trigger, time.time())
    with PeakMemory() as memory, finish.accounted(attempt, memory):
        attempt.acquire(prepared.lease_subject, clock)
        # Somebody may have done it while we waited for the lease, also with another model behind the same alias.
        if (found := (done_before(job, about.subject) if once else None) or standing(prepared)) is not None:
            return found
        with scratch_folder() as scratch:
            attempt.begin()
            if (document := records.load(prepared.done_uri)) is not None:
                return _restore(attempt, document, scratch)
            return _carry_out(attempt, scratch, memory, progress, notice, told)


def score(model_ref: str, frame: pd.DataFrame, *, root: str) -> pd.DataFrame:
    """Predictions for a frame of raw features, in its order: the columns a run would add to its output.

    Raises `ModelRefused` or `SchemaMismatch`.
    """
    from batch.models.bundle import load, resolve
    from batch.models.signature import from_frame

    resolved = resolve(model_ref, root)
    predicted = load(resolved).predict(from_frame(frame, resolved.signature))
    result: pd.DataFrame = predicted.to_pandas()
    return result.set_index(frame.index)


@contextmanager
def _refusals_recorded(job: Job, about: About, trigger: str) -> Iterator[None]:
    """`runs` tells also of those that never had an id: a missing input is the most common failure of a schedule."""
    try:
        yield
    except (InputRefused, ModelRefused, OutputRefused) as error:
        receipt = unstarted(job.name, trigger, error.as_dict()) | {"subject": about.subject}
        if about.dropped is not None:
            receipt["input"] = [named(about.dropped)]
        error.receipt = receipt
        if about.dropped is not None and isinstance(error, ModelRefused):
            raise  # not about this file: a watcher asks again every few seconds
        with suppress(BatchError):  # the first error is the one to report
            attempts.refused(job.root, job.name, about.subject, trigger, error.exit_code, receipt)
        raise


def _restore(attempt: Attempt, document: dict[str, Any], scratch: str) -> Receipt:
    """Publish a done run again, because its output is gone or another run's: no row is scored where its chunks are there."""
    prepared = attempt.prepared
    repair = Repair(prepared, lambda: prepared.plan(scratch))
    owners = Owners(prepared.job, prepared.run_id)
    for output in missing(prepared, document):
        owners.check_output(output["uri"])
        if (beside := attempt.commits.files(prepared.folder, output["uri"]).rejects) is not None:
            owners.check_rejects(beside["uri"], output["uri"])
        finish.publish_output(attempt, output["uri"], output["chunks_sha256"], repair.around)
    attempt.end(document["state"], 0, document, None)
    return Receipt(document, already_done=True)


def _carry_out(
    attempt: Attempt,
    scratch: str,
    memory: PeakMemory,
    progress: Progress | None,
    notice: Callable[[str], None],
    told: Callable[[dict[str, Any]], None] | None,
) -> Receipt:
    """Plan, load, score, commit, publish, receipt."""
    prepared = attempt.prepared
    with attempt.phases.phase("plan"):
        plan = prepared.plan(scratch)
        attempt.chunks_total = len(plan.tasks)
        check_outputs(prepared, plan)
    prepared.store_plan(plan)
    document = commit.load_commit(prepared.folder) or _decide(attempt, plan, scratch, progress, notice)
    if commit.is_abandoned(document):
        raise Busy(f"run {prepared.run_id} was closed by clean", hint="run again: a new generation of it starts")
    chunks = [record_from_commit(prepared.folder, entry) for entry in document["chunks"]]
    repair = Repair(prepared, lambda: plan)
    outputs = finish.publish_outputs(attempt, document, repair.around)
    attempt.repaired = len(repair.done - attempt.scored_uris)
    return finish.record(attempt, document, outputs, _rows_per_file(plan, chunks), memory, told)


def _decide(
    attempt: Attempt, plan: Plan, scratch: str, progress: Progress | None, notice: Callable[[str], None]
) -> dict[str, Any]:
    """Score all chunks and store the commit. From then on there is no way back, and none is needed."""
    state = _score(attempt, plan, scratch, progress, notice)
    prepared, chunks = attempt.prepared, state.ordered
    specs = rejects_file.specs(prepared.rejects_uris(plan), plan, chunks)
    allowed = finish.allowed_of(prepared.job, chunks)
    if state.stopped:
        finish.refuse(attempt, plan.outputs, specs, chunks, allowed, is_complete=len(chunks) == len(plan.tasks))
    document = _document(plan, chunks, specs)
    if finish.rejected_of(chunks) > allowed:
        finish.refuse_complete(attempt, document, chunks, allowed)
    with attempt.phases.phase("commit"):
        attempt.still_mine()
        return commit.store_commit(prepared.folder, document)


def _document(plan: Plan, chunks: list[ChunkRecord], specs: list[dict[str, Any]]) -> dict[str, Any]:
    """The commit: everything that the published files follow from, besides the chunks themselves."""
    return commit.make_commit(plan, chunks) | {
        "write": commit.write_options_to_json(plan.write, plan.output_format),
        "rejects": specs,
    }


def _score(
    attempt: Attempt, plan: Plan, scratch: str, progress: Progress | None, notice: Callable[[str], None]
) -> Scored:
    """Load the model and score what is not stored yet."""
    from batch.execution.scoring import ready
    from batch.execution.unique import find_repeated

    job = attempt.prepared.job
    with ready(attempt.prepared, plan, attempt.phases, notice) as engine:
        attempt.engine, attempt.scored = engine.name, Scored()
        state = attempt.scored
        try:
            coordinate.score_all(job, plan, engine, state, attempt.still_mine, progress)
            if plan.unique_id and not state.stopped:
                repeated = find_repeated(plan, state.ordered, scratch)
                coordinate.score_again(job, plan, engine, state, repeated, attempt.still_mine, progress)
        finally:
            attempt.workers = engine.workers
        return state


def _rows_per_file(plan: Plan, chunks: list[ChunkRecord]) -> list[int]:
    rows = [0] * len(plan.files)
    for record in chunks:
        rows[plan.tasks[record.index].file] += record.rows_read
    return rows
