"""A run, told from top to bottom: prepare, plan, score, commit, publish, receipt."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from batch.errors import BatchError, Interrupted, RejectBudgetExceeded
from batch.execution import commit, coordinate, publish
from batch.execution.attempt import Attempt
from batch.execution.chunk import ChunkRecord, record_from_commit
from batch.execution.coordinate import Progress, Scored, budget_of
from batch.execution.identity import canonical
from batch.execution.memory import PeakMemory, give_back_freed_memory
from batch.execution.preflight import Prepared, check_outputs, period_of, prepare
from batch.execution.receipt import FORMAT, Receipt, now
from batch.job import Job
from batch.storage import storage_for

if TYPE_CHECKING:
    import pandas as pd

    from batch.execution.plan import Plan


def run(
    job: Job,
    *,
    period: str | None = None,
    now: datetime | None = None,
    trigger: str = "cli",
    once: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Receipt:
    """Score the job's input and publish the predictions; a run that was done before is not done again.

    `period`: its name, default the last complete one before `now` (aware; default: the clock).
    `once`: do nothing when the period was ever done, whatever has changed since.
    `force`: score again even so.

    Raises a subclass of `BatchError`; its ``receipt`` attribute then holds the receipt of the failed run, where one began.
    """
    one_thread_each()
    give_back_freed_memory()
    about = period_of(job, period, now)
    if once and (found := _done_before(job, about)) is not None:
        return found
    prepared = prepare(job, about, force=force)
    if (receipt := _already_done(prepared)) is not None:
        return receipt
    attempt = Attempt(prepared, trigger, time.time())
    with PeakMemory() as memory:
        try:
            with tempfile.TemporaryDirectory(prefix="batch-predict-") as scratch:
                return _carry_out(attempt, scratch, memory, progress)
        except BatchError as error:
            attempt.fail(error, memory)
            raise
        except KeyboardInterrupt as signalled:
            interrupted = Interrupted("the run was interrupted; its state is kept")
            attempt.fail(interrupted, memory)
            signalled.receipt = interrupted.receipt  # type: ignore[attr-defined]  # for the program that ends because of it
            raise


def check(job: Job, *, period: str | None = None, now: datetime | None = None, force: bool = False) -> dict[str, Any]:
    """Every refusal that can be known before scoring, and an estimate; scores and stores nothing.

    Gives ``{"ok", "refusals": [{"code", "message", "hint"}], "estimate", "exit_code"}``.
    """
    from batch.execution.estimate import estimate

    one_thread_each()
    refusals: list[BatchError] = []
    found = None
    try:
        prepared = prepare(job, period_of(job, period, now), force=force)
        with tempfile.TemporaryDirectory(prefix="batch-predict-") as scratch:
            plan = prepared.plan(scratch)
            with _collected(refusals):
                check_outputs(job, prepared.period, plan)
            found = estimate(prepared, plan)
    except BatchError as error:
        refusals.append(error)
    return {
        "ok": not refusals,
        "refusals": [error.as_dict() for error in refusals],
        "estimate": found,
        "exit_code": refusals[0].exit_code if refusals else 0,
    }


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


def one_thread_each() -> None:
    """Keep BLAS and OpenMP to one thread, as long as numpy is not loaded yet: the engine is the only parallelism."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _done_before(job: Job, about: Any) -> Receipt | None:
    """The newest receipt of the subject, whatever has changed since."""
    import json

    from batch.execution.identity import subject
    from batch.storage import join

    folder = join(job.root, "done", job.name, subject(about), "")
    storage = storage_for(folder)
    newest = max(storage.list(folder), key=lambda info: info.modified_at, default=None)
    body = storage.get(newest.uri) if newest is not None else None
    return Receipt(json.loads(body), already_done=True) if body is not None else None


def _already_done(prepared: Prepared) -> Receipt | None:
    """The receipt of this very run where its output still stands; else put the output back without scoring."""
    import json

    body = storage_for(prepared.done_uri).get(prepared.done_uri)
    if body is None:
        return None
    document = json.loads(body)
    for output in document["output"]:
        newest = publish.entries(prepared.job.root, output["uri"])[-1:]
        standing = storage_for(output["uri"]).head(output["uri"])
        mine = newest and newest[0].document["run_id"] == prepared.run_id
        if mine and standing is not None and standing.etag == output["etag"]:
            continue
        publish.check_ownership(prepared.job, output["uri"])
        _publish(prepared, output["uri"], output["chunks_sha256"])
    return Receipt(document, already_done=True)


def _publish(prepared: Prepared, uri: str, digest: str) -> publish.Published:
    job = prepared.job
    facts = {
        "job": job.name,
        "run_id": prepared.run_id,
        "subject": prepared.subject,
        "commit": f"{prepared.run_id}:{digest}",
        "at": now(),
    }
    publish.append(job.root, uri, facts)
    return publish.publish(job.root, uri)


def _carry_out(attempt: Attempt, scratch: str, memory: PeakMemory, progress: Progress | None) -> Receipt:
    """Plan, load, score, commit, publish, receipt."""
    prepared, job = attempt.prepared, attempt.prepared.job
    with attempt.phase("plan"):
        plan = prepared.plan(scratch)
        attempt.chunks_total = len(plan.tasks)
        check_outputs(job, prepared.period, plan)
    attempt.begin()
    storage_for(prepared.folder).create(
        f"{prepared.folder}/plan.json", canonical(plan.document(job, prepared.inputs, prepared.models))
    )
    document = commit.load_commit(prepared.folder)
    if document is None:
        state = _score(attempt, plan, progress)
        _check_budget(attempt, plan, state)
        document = commit.make_commit(plan, state.ordered)
        document["write"] = publish.write_options_to_json(plan)
        with attempt.phase("commit"):
            document = commit.store_commit(prepared.folder, document)
    records = [record_from_commit(prepared.folder, entry) for entry in document["chunks"]]
    with attempt.phase("publish"):
        rejected = publish.publish_rejects(job, prepared.period, plan, records)
        outputs = [_output(prepared, spec) for spec in document["outputs"]]
    _store_summary(prepared, document)
    receipt = attempt.receipt("completed_with_rejects" if document["rows"]["rejected"] else "completed", memory)
    receipt |= {"output": outputs, "rejects": rejected, "rows": document["rows"]}
    receipt["models"][0]["rows"] = document["rows"]["predicted"]
    for one, rows in zip(receipt["input"], _rows_per_file(plan, records), strict=True):
        one["rows"] = rows
    storage_for(prepared.done_uri).create(prepared.done_uri, canonical(receipt))
    attempt.end(receipt["state"], 0, receipt, None)
    return Receipt(receipt)


def _score(attempt: Attempt, plan: Plan, progress: Progress | None) -> Scored:
    """Load the model and score what is not stored yet."""
    from batch.execution.engine import choose, open_engine, size
    from batch.models.bundle import load

    job, model = attempt.prepared.job, attempt.prepared.model
    name = choose(job.run.engine, plan)
    sizing = size(job, plan, name, model.size_bytes)
    with attempt.phase("load_model"):
        loaded = load(model, pickle_sha256=job.trust.pickle_sha256)
    with attempt.phase("score"), open_engine(name, plan, model, loaded, sizing, job.trust.pickle_sha256) as engine:
        attempt.engine, attempt.workers = engine.name, engine.workers
        state = coordinate.score_all(job, plan, engine, progress)
    attempt.scored = state
    return state


def _check_budget(attempt: Attempt, plan: Plan, state: Scored) -> None:
    """Over budget: the rejects file is written so that all bad rows are seen at once, the output is not."""
    records = state.ordered
    read = sum(record.rows_read for record in records)
    rejected = sum(record.rows_rejected for record in records)
    allowed = budget_of(attempt.prepared.job).allowed(read)
    if rejected <= allowed and not state.stopped:
        return
    files = publish.publish_rejects(attempt.prepared.job, attempt.prepared.period, plan, records)
    for file in files:
        file["complete"] = len(records) == len(plan.tasks)
    attempt.rejects = files
    attempt.rows = {"read": read, "predicted": read - rejected, "rejected": rejected}
    worst = ", ".join(f"{code}: {count}" for file in files for code, count in sorted(file["by_code"].items()))
    raise RejectBudgetExceeded(
        f"{rejected} of {read} rows were rejected ({worst}), allowed are {allowed}; nothing was published, the bad rows are in "
        f"{', '.join(file['uri'] for file in files)}",
        hint="mend them, or raise [rejects] max_rows or max_share: what is scored stays scored",
    )


def _output(prepared: Prepared, spec: dict[str, Any]) -> dict[str, Any]:
    done = _publish(prepared, spec["uri"], spec["chunks_sha256"])
    return {
        "uri": done.uri,
        "role": "predictions",
        "size_bytes": done.size_bytes,
        "sha256": done.sha256,
        "chunks_sha256": spec["chunks_sha256"],
        "etag": done.etag,
        "rows": spec["rows"],
        "columns": spec["columns"],
    }


def _rows_per_file(plan: Plan, records: list[ChunkRecord]) -> list[int]:
    rows = [0] * len(plan.files)
    for record in records:
        rows[plan.tasks[record.index].file] += record.rows_read
    return rows


def _store_summary(prepared: Prepared, document: dict[str, Any]) -> None:
    summary = {"format": FORMAT, "run_id": prepared.run_id, "rows": document["rows"]}
    storage_for(prepared.folder).create(f"{prepared.folder}/summary.json", canonical(summary))


class _collected(suppress):  # noqa: N801  used like a function
    """Put a refusal on the list and go on, so that `check` finds more than the first one."""

    def __init__(self, refusals: list[BatchError]) -> None:
        super().__init__(BatchError)
        self._refusals = refusals

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, BatchError):
            self._refusals.append(error)
        return bool(super().__exit__(kind, error, trace))
