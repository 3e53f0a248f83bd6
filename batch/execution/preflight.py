"""Everything that can be known before scoring: the steps that `run` and `check` share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from batch import placeholders
from batch.clock import Clock
from batch.errors import InputMissing, InputRefused, ModelRefused, OutputRefused, UsageError
from batch.execution import commit, records, rejects_file
from batch.execution.about import About
from batch.execution.identity import FORMAT, done_uri, library_versions, run_folder, run_id
from batch.execution.inputs import Inputs, dropped_input, find_inputs
from batch.execution.outputs import output_names
from batch.execution.ownership import Owners
from batch.execution.plan import Plan, make_plan
from batch.execution.variants import DELIVERED
from batch.job import Job
from batch.models.bundle import ResolvedModel, resolve
from batch.period import Period, last_complete, parse_period
from batch.storage import storage_for

WAIT_POLL_SECONDS = 30.0
"""How often to look for an input that is late."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is named but not planned yet: its inputs are pinned and its model is resolved."""

    job: Job
    about: About
    inputs: Inputs
    models: dict[str, ResolvedModel]
    """By variant; without the shadows in `broken`."""
    run_id: str
    broken: dict[str, str] = field(default_factory=dict)
    """Shadows whose model cannot be found, and why: they write nothing, and nobody else is held up."""

    @property
    def period(self) -> Period | None:
        return self.about.period

    @property
    def subject(self) -> str:
        return self.about.subject

    @property
    def folder(self) -> str:
        return run_folder(self.job, self.run_id)

    @property
    def done_uri(self) -> str:
        return done_uri(self.job, self.subject, self.run_id)

    @property
    def model(self) -> ResolvedModel:
        return self.models[DELIVERED]

    @property
    def lease_subject(self) -> str:
        """What the run's one lease is about: its output, or the place of all its outputs where there are several."""
        names = output_names(self.job, self.period, self.inputs, self.run_id)
        if len(names) == 1:
            return names[0]
        return placeholders.render(self.job.output.uri, period=self.period, run_id=self.run_id)

    def plan(self, scratch: str) -> Plan:
        """Look into the inputs and cut them; raises what can be refused by their heads."""
        return make_plan(self.job, self.period, self.inputs, self.models, self.run_id, self.folder, scratch)

    def store_plan(self, plan: Plan) -> None:
        """Store ``plan.json``, once."""
        document = plan.document(self.job, self.inputs, self.models)
        document["rejects"] = self.rejects_uris(plan)
        records.create(f"{self.folder}/plan.json", document)

    def rejects_uris(self, plan: Plan) -> list[str]:
        """The rejects file of each output."""
        return rejects_file.rejects_uris(self.job, self.period, self.inputs, plan)


def period_of(job: Job, period: str | None, now: datetime | None) -> Period | None:
    """The period asked for, else the last complete one; None for a job without periods."""
    unit, zone = job.schedule.period, job.schedule.timezone
    if period == "":
        raise UsageError("the name of the period is empty", hint="leave it out for the last complete one")
    if not unit:
        if period:
            raise UsageError(
                f"job '{job.name}' has no periods, but '{period}' was asked for", hint='add [schedule] period = "week"'
            )
        return None
    return parse_period(period, unit, zone) if period else last_complete(now or datetime.now(UTC), unit, zone)


def prepare(job: Job, about: About, *, force: bool = False) -> Prepared:
    """Pin the inputs, resolve the model and name the run. Loads nothing heavy."""
    inputs = find_inputs(job, about.period) if about.dropped is None else dropped_input(job, about.dropped)
    models, broken = resolve_models(job)
    base = run_id(job, about.period, inputs, models)
    return Prepared(job, about, inputs, models, generation(job, about, base, force=force), broken)


def resolve_models(job: Job) -> tuple[dict[str, ResolvedModel], dict[str, str]]:
    """The model of each variant, the champion first; of a shadow that cannot be found, why. Raises `ModelRefused` for all others."""
    models, broken = {DELIVERED: resolve(job.model, job.root, pickle_sha256=job.trust.pickle_sha256)}, {}
    for one in job.variants:
        try:
            models[one.name] = resolve(one.model, job.root, pickle_sha256=job.trust.pickle_sha256)
        except ModelRefused as error:
            if one.mode != "shadow":
                raise
            broken[one.name] = error.message
    return models, broken


def wait_for_input(job: Job, period: Period | None, clock: Clock, notice: Callable[[str], None]) -> None:
    """Look for the input until it is there, for as long as ``[input] wait`` says; what is wrong with it is told later."""
    deadline = clock.monotonic() + job.input.wait
    pause = min(WAIT_POLL_SECONDS, max(1.0, job.input.wait / 20))
    while True:
        try:
            find_inputs(job, period)
        except InputMissing as error:
            left = deadline - clock.monotonic()
            if left <= 0:
                raise
            notice(f"waiting up to {left:.0f} s: {error.message}")
            clock.wait(threading.Event(), min(pause, left))
        except InputRefused:
            return
        else:
            return


def generation(job: Job, about: About, base: str, *, force: bool) -> str:
    """The run id with its generation: the newest one that is done, else the highest one that was begun, else the next.

    With `force` the highest one that was begun, unless that is done. The next one follows also where `clean` has closed the highest,
    and where that was planned with other libraries: their bytes do not belong into one file. Once committed a run is only
    published, whatever is upgraded.
    """
    number = _highest(lambda each: storage_for(job.root).head(_plan(job, _named(base, each))) is not None)
    current, following = _named(base, number), _named(base, number + 1)
    for each in range(number, number - 1 if force else 0, -1):
        if storage_for(job.root).head(done_uri(job, about.subject, _named(base, each))) is not None:
            return following if force else _named(base, each)
    decision = commit.load_commit(run_folder(job, current))
    if commit.is_abandoned(decision):
        return following
    plan = records.load(_plan(job, current)) if decision is None else None
    made_with = plan and (plan["format"], plan["libraries"])
    return following if made_with and made_with != (FORMAT, library_versions()) else current


def _highest(is_there: Callable[[int], bool]) -> int:
    """The last of the numbers from 1 on that are there, without a gap; 1 needs not be asked for.

    In steps that double and then halve: what is run with --force every night has some hundred generations.
    """
    number = step = 1
    while is_there(number + step):
        number += step
        step *= 2
    while step > 1:
        step //= 2
        if is_there(number + step):
            number += step
    return number


def _named(base: str, number: int) -> str:
    return base if number == 1 else f"{base}-{number}"


def _plan(job: Job, run: str) -> str:
    return f"{run_folder(job, run)}/plan.json"


def check_outputs(prepared: Prepared, plan: Plan) -> None:
    """Refuse early to replace somebody else's file. Raises `OutputRefused`."""
    uris = prepared.rejects_uris(plan)
    rejects_file.check_rejects(prepared.job, plan, uris)
    owners = Owners(prepared.job, prepared.run_id)
    for output, rejects in zip(plan.outputs, uris, strict=True):
        owners.check_output(output)
        owners.check_rejects(rejects, output)
    taken = {*plan.outputs, *uris, *(file.name for file in plan.files)}
    for uri in (uri for shadow in plan.shadows for uri in shadow.outputs):
        if uri in taken:
            raise OutputRefused(f"the shadow's file {uri} is also another file of the run", hint="rename the variant")
        owners.check_output(uri)
