"""What `check` tells: every refusal that can be known before scoring, and an estimate."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any

from batch.errors import BatchError
from batch.execution.about import About
from batch.execution.preflight import check_outputs, period_of, prepare
from batch.execution.process import prepare_process
from batch.execution.scratch import scratch_folder
from batch.execution.standing import done_before, standing
from batch.job import Job
from batch.storage.probe import known_refusal


def check(
    job: Job, *, period: str | None = None, now: datetime | None = None, once: bool = False, force: bool = False
) -> dict[str, Any]:
    """Every refusal that can be known before scoring, and an estimate; scores and stores nothing.

    `once`, `force`: as `run` would be called. Gives ``{"ok", "refusals": [{"code", "message", "hint"}], "estimate", "sample",
    "shadows", "exit_code"}``; the sample tells what of the first rows would be rejected, and ``shadows`` by name why one would score
    nothing. Without an estimate where the run would find that
    nothing is left to do.
    """
    prepare_process()
    refusals: list[BatchError] = []
    found: dict[str, Any] = {"estimate": None, "sample": None, "shadows": {}}
    try:
        about = About(period_of(job, period, now))
        if not (once and done_before(job, about.subject) is not None):
            found |= _looked_through(job, about, force, refusals)
    except BatchError as error:
        refusals.append(error)
    return {
        "ok": not refusals,
        "refusals": [error.as_dict() for error in refusals],
        **found,
        "exit_code": refusals[0].exit_code if refusals else 0,
    }


def _looked_through(job: Job, about: About, force: bool, refusals: list[BatchError]) -> dict[str, Any]:
    """The estimate of a run, its first rows and its idle shadows; empty for one that is done.

    The refusals that do not keep it from looking on go on the list.
    """
    from batch.execution.estimate import estimate
    from batch.execution.sample import take_sample

    prepared = prepare(job, about, force=force)
    if standing(prepared) is not None:
        return {}
    if (unsafe := known_refusal(job.root, single_writer=job.run.single_writer)) is not None:
        refusals.append(unsafe)
    with scratch_folder() as scratch:
        plan = prepared.plan(scratch)
        with _collected(refusals):
            check_outputs(prepared, plan)
        found, idle = estimate(prepared, plan)
        sample = take_sample(plan)
        if sample is not None and (refusal := sample.over_budget(job, plan)) is not None:
            refusals.append(refusal)
        return {"estimate": found, "sample": sample and sample.as_dict(), "shadows": idle}


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
