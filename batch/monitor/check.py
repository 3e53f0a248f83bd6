"""`monitor check`: what a completed run says of drift, and what late labels have said of it, as one state."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from batch.errors import InputMissing
from batch.execution import history
from batch.execution.preflight import period_of
from batch.job import Job
from batch.monitor.drift import STATES, Thresholds, judged_again
from batch.monitor.evaluate import evaluations

EXIT_CODES = {"ok": 0, "unknown": 0, "warn": 10, "alert": 20}


def check(job: Job, *, period: str | None = None, now: datetime | None = None) -> dict[str, Any]:
    """The state of the newest completed run of a period (default: the last complete one), by the job's thresholds of today.

    ``state`` is the worst of its drift and of the labels that were joined with it so far: a model that is worse than it was registered with
    is an alert. ``sentences`` say why. Raises `InputMissing` where the period has no completed run.
    """
    receipt = _receipt(job, period, now)
    thresholds = Thresholds(job.monitor.psi_warn, job.monitor.psi_alert)
    drift = judged_again(receipt["drift"], thresholds, job.monitor.drift_ignore)
    found = evaluations(job.root, job.name, receipt["run_id"])
    degraded = [one for one in found if one["state"] == "degraded"]
    states = [drift["state"], *("alert" for _ in degraded)]
    known = [state for state in states if state in STATES]
    return {
        "job": job.name,
        "run_id": receipt["run_id"],
        "subject": receipt["subject"],
        "state": max(known, key=STATES.index) if known else "unknown",
        "drift": drift,
        "evaluations": found,
        "sentences": [*_drifting(drift), *(text for one in degraded for text in one["sentences"])],
    }


def _receipt(job: Job, period: str | None, now: datetime | None) -> dict[str, Any]:
    about = period_of(job, period, now)
    if about is None:
        done = history.done_subjects(job.root, job.name)
        receipt = (
            history.find_run(job.root, f"{job.name}@latest") if any(not parked for parked in done.values()) else None
        )
    else:
        receipt = history.newest_receipt(job.root, job.name, about.name)
    if receipt is None or not str(receipt["state"]).startswith("completed"):
        of = f" for {about.name}" if about else ""
        done = history.done_subjects(job.root, job.name)
        last = sorted(subject for subject, parked in done.items() if not parked)[-3:]
        raise InputMissing(
            f"job '{job.name}' has no completed run{of} under {job.root}",
            hint=f"done are: {', '.join(last)}" if last else f"run it: batch-predict run {job.name}",
        )
    return receipt


def _drifting(drift: dict[str, Any]) -> Iterator[str]:
    for one in drift["columns"]:
        if one["state"] != "ok":
            limit = one[f"limit_{one['state']}"]
            yield f"{one['state']}: {one['column']} against {one['against']}: PSI {one['psi']:.3g} over {limit:.3g}"
    if drift["state"] == "unknown":
        yield f"drift is unknown: {drift['reason']}"
