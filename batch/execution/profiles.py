"""The profile of a run: counted with each chunk, merged at the end, kept in ``summary.json``, and compared with training and last time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from batch.execution import history, records
from batch.execution.chunk import ChunkRecord, read_section
from batch.execution.identity import FORMAT
from batch.execution.limit import Limited
from batch.execution.plan import Plan
from batch.execution.preflight import Prepared
from batch.execution.route import Models
from batch.execution.variants import DELIVERED, VARIANT, splits_of
from batch.job import Job
from batch.models import bundle
from batch.models.bundle import ResolvedModel
from batch.monitor.drift import Thresholds, measure
from batch.monitor.profile import SECTION, Profile
from batch.monitor.profiler import Profiler
from batch.monitor.summary import summarise
from batch.period import Period, last_complete
from batch.storage import join

SUMMARY = "summary.json"


def make_profiler(plan: Plan, models: Models) -> Profiler:
    """For the rows of one chunk."""
    names = [one.name for one in plan.splits] or [DELIVERED]
    loaded = {name: one.model for name in names if isinstance(one := models[name], Limited)}
    references = {name: model.profile for name, model in loaded.items()}
    column = VARIANT if plan.splits else ""
    return Profiler(references, loaded[DELIVERED].outputs, DELIVERED, column, plan.group_by)


def added(one: bytes, other: bytes) -> bytes:
    """The section of the rows of both."""
    found = Profile.from_bytes(one)
    found.merge(Profile.from_bytes(other))
    return found.to_bytes()


def summary_of(prepared: Prepared, document: Mapping[str, Any], chunks: Iterable[ChunkRecord]) -> dict[str, Any]:
    """``summary.json`` of a committed run. Raises `ChunkDamaged` and `ModelRefused`."""
    found = Profile()
    for record in chunks:
        body = record.profile
        found.merge(Profile.from_bytes(read_section(record, SECTION) if body is None else body))
    models = delivering(prepared.job, prepared.models)
    references = {name: bundle.read_profile(model) for name, model in models.items()}
    profile = summarise(found, references, models[DELIVERED].outputs, DELIVERED)
    return {"format": FORMAT, "run_id": prepared.run_id, "rows": document["rows"], "profile": profile}


def delivering(job: Job, models: Mapping[str, ResolvedModel]) -> dict[str, ResolvedModel]:
    """The models whose predictions are delivered, by variant."""
    return {name: models[name] for name in (DELIVERED, *(one.name for one in splits_of(job)))}


def drift_of(
    job: Job, summary: Mapping[str, Any], models: Mapping[str, ResolvedModel], period: Period | None
) -> dict[str, Any]:
    """The drift of a run as its receipt tells it. Raises `StorageUnavailable` and `ModelRefused`."""
    references = {name: bundle.read_profile(model) for name, model in delivering(job, models).items()}
    run_id, previous = _previous(job, period)
    thresholds = Thresholds(job.monitor.psi_warn, job.monitor.psi_alert)
    found = measure(summary["profile"], references, thresholds, previous, job.monitor.drift_ignore)
    before = {"run_id": run_id, "period": previous_period(job, period).name} if period and previous else None
    return found | {"rows": summary["rows"]["predicted"], "previous": before}


def previous_period(job: Job, period: Period) -> Period:
    """The one that ended when this one began."""
    return last_complete(period.start, job.schedule.period, job.schedule.timezone)


def _previous(job: Job, period: Period | None) -> tuple[str, dict[str, Any] | None]:
    """The run that was done for the period before, and its profile; None where there is none."""
    if period is None or not job.schedule.period:
        return "", None
    receipt = history.newest_receipt(job.root, job.name, previous_period(job, period).name)
    if receipt is None or receipt["run_id"] is None:
        return "", None
    summary = records.load(summary_uri(job.root, job.name, receipt["run_id"])) or {}
    return receipt["run_id"], summary.get("profile")


def summary_uri(root: str, job: str, run_id: str) -> str:
    """Where the summary of a run stands."""
    return join(root, "runs", job, run_id, SUMMARY)
