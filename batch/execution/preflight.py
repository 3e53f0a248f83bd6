"""Everything that can be known before scoring: the steps that `run` and `check` share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from batch.errors import UsageError
from batch.execution import publish
from batch.execution.identity import done_uri, run_folder, run_id, subject
from batch.execution.inputs import Inputs, find_inputs
from batch.execution.plan import Plan, make_plan
from batch.job import Job
from batch.models.bundle import ResolvedModel, resolve
from batch.period import Period, last_complete, parse_period
from batch.storage import storage_for

DELIVERED = "champion"
"""Name of the variant that `Job.model` stands for."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is named but not planned yet: its inputs are pinned and its model is resolved."""

    job: Job
    period: Period | None
    inputs: Inputs
    models: dict[str, ResolvedModel]
    run_id: str
    subject: str

    @property
    def folder(self) -> str:
        return run_folder(self.job, self.run_id)

    @property
    def done_uri(self) -> str:
        return done_uri(self.job, self.subject, self.run_id)

    @property
    def model(self) -> ResolvedModel:
        return self.models[DELIVERED]

    def plan(self, scratch: str) -> Plan:
        """Look into the inputs and cut them; raises what can be refused by their heads."""
        return make_plan(self.job, self.period, self.inputs, self.model, self.run_id, self.folder, scratch)


def period_of(job: Job, period: str | None, now: datetime | None) -> Period | None:
    """The period asked for, else the last complete one; None for a job without periods."""
    unit, zone = job.schedule.period, job.schedule.timezone
    if not unit:
        if period:
            raise UsageError(
                f"job '{job.name}' has no periods, but '{period}' was asked for", hint='add [schedule] period = "week"'
            )
        return None
    return parse_period(period, unit, zone) if period else last_complete(now or datetime.now(UTC), unit, zone)


def prepare(job: Job, period: Period | None, *, force: bool = False) -> Prepared:
    """Refuse what is not built, pin the inputs, resolve the model and name the run. Loads nothing heavy."""
    refuse_unbuilt(job)
    inputs = find_inputs(job, period)
    models = {DELIVERED: resolve(job.model, job.root)}
    base = run_id(job, period, inputs, models)
    return Prepared(job, period, inputs, models, generation(job, period, base, force=force), subject(period))


def generation(job: Job, period: Period | None, base: str, *, force: bool) -> str:
    """The run id with its generation: ``--force`` opens the next one, or resumes the highest if that is unfinished."""
    number = 1
    while storage_for(job.root).head(_commit(job, _named(base, number + 1))) or _planned(job, _named(base, number + 1)):
        number += 1
    current = _named(base, number)
    if force and storage_for(job.root).head(done_uri(job, subject(period), current)):
        return _named(base, number + 1)
    return current


def _named(base: str, number: int) -> str:
    return base if number == 1 else f"{base}-{number}"


def _commit(job: Job, run: str) -> str:
    return f"{run_folder(job, run)}/commit.json"


def _planned(job: Job, run: str) -> bool:
    return storage_for(job.root).head(f"{run_folder(job, run)}/plan.json") is not None


def refuse_unbuilt(job: Job) -> None:
    """A key that would silently do nothing is an error. Raises `UsageError`."""
    unbuilt = {
        "[[variants]]": bool(job.variants),
        "[input] unique_id": job.input.unique_id,
        "[input] wait": job.input.wait > 0,
        "[monitor] capture_rows": job.monitor.capture_rows > 0,
    }
    if used := [key for key, is_used in unbuilt.items() if is_used]:
        raise UsageError(f"this version does not do {', '.join(used)} yet", hint="remove it from the job file")


def check_outputs(job: Job, period: Period | None, plan: Plan) -> None:
    """Refuse early to replace somebody else's file. Raises `OutputRefused`."""
    publish.check_rejects(job, period, plan)
    for output in plan.outputs:
        publish.check_ownership(job, output)
