"""The runs that a report looks back on: that of its period, those of the periods before it, and what was found out about them later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from batch.errors import UsageError
from batch.execution import records, register
from batch.execution.history import PARKED
from batch.execution.identity import run_folder
from batch.execution.preflight import period_of
from batch.job import Job
from batch.period import last_complete, parse_period
from batch.storage import join, storage_for

T = TypeVar("T")
R = TypeVar("R")

HISTORY = 12
"""Periods that a report shows, its own included; runs for a job without periods."""
_READERS = 16


@dataclass(frozen=True, slots=True)
class Past:
    """One completed run."""

    name: str
    """Of its period, else its run id."""
    receipt: dict[str, Any]
    summary: dict[str, Any]
    """``summary.json``, or empty where there is none."""

    @property
    def profile(self) -> dict[str, Any] | None:
        """None for a run from before profiles were kept, or of a model without one."""
        found: dict[str, Any] | None = self.summary.get("profile")
        return found


@dataclass(frozen=True, slots=True)
class Window:
    """The report's run and what came before it."""

    unit: str
    """hour, day, week, month, or "" where runs are about no period."""
    names: tuple[str, ...]
    """Of the periods, oldest first, the report's last; run ids where there are no periods."""
    runs: tuple[Past | None, ...]
    """One for each name; None where no run of that period is complete."""
    siblings: int = 0
    """Further completed runs of the report's own period."""

    @property
    def current(self) -> Past:
        run = self.runs[-1]
        assert run is not None
        return run

    @property
    def previous(self) -> Past | None:
        return self.runs[-2] if len(self.runs) > 1 else None


@dataclass(frozen=True, slots=True)
class _Stored:
    """A receipt as the listing shows it."""

    uri: str
    subject: str
    run_id: str
    stored_at: datetime
    known: dict[str, Any] | None = field(default=None, compare=False)
    """Its content, where it was read already."""


def look_back(job: Job, *, period: str | None, now: datetime | None, receipt: dict[str, Any] | None = None) -> Window:
    """The runs of the report: one LIST, and two GETs for each of at most `HISTORY` periods, many at once.

    `period` and `now` choose the period as for ``run``; `receipt`: of the very run that the report is about, instead.
    Raises `UsageError` where the period has no completed run.
    """
    done = _done(job)
    if receipt is not None:
        if not any(one.run_id == receipt["run_id"] for one in done):  # a listing may lag behind
            done.append(_Stored("", receipt["subject"], receipt["run_id"], datetime.fromisoformat(_finished(receipt))))
        about = receipt["period"]["name"] if receipt["period"] else None
    elif job.watch.prefix and not period:
        about = None
    else:
        asked = period_of(job, period, now)
        about = asked.name if asked else None
    if about is None:
        return _of_runs(job, done, receipt)
    return _of_periods(job, done, about, receipt)


def _finished(receipt: dict[str, Any]) -> str:
    return str(receipt["timing"]["finished_at"])


def _done(job: Job) -> list[_Stored]:
    folder = join(job.root, "done", job.name, "")
    found = []
    for info in storage_for(folder).list(folder):
        subject, _, name = info.uri[len(folder) :].rpartition("/")
        if name != PARKED:
            found.append(_Stored(info.uri, subject, name.removesuffix(".json"), info.modified_at))
    return found


def _of_runs(job: Job, done: list[_Stored], receipt: dict[str, Any] | None) -> Window:
    """The newest runs, whatever each of them is about."""
    order = sorted(done, key=lambda one: (one.stored_at, one.run_id))
    if receipt is not None:
        (own,) = [one for one in order if one.run_id == receipt["run_id"]]
        order = [*order[: order.index(own)], own]
    if not order:
        raise UsageError(
            f"job '{job.name}' has no completed run under {job.root}", hint="batch-predict runs lists all runs"
        )
    chosen = order[-HISTORY:]
    runs = each(lambda one: _read(job, one, receipt), chosen)
    return Window("", tuple(one.run_id for one in chosen), tuple(runs))


def _of_periods(job: Job, done: list[_Stored], about: str, receipt: dict[str, Any] | None) -> Window:
    names = names_before(job, about)
    own = [one for one in done if one.subject == about]
    if not own:
        newest = max((one.subject for one in done), default="")
        raise UsageError(
            f"job '{job.name}' has no completed run of {about} under {job.root}",
            hint=f"run it first; the newest period done is {newest}" if newest else "run it first",
        )
    chosen = [_newest([one for one in done if one.subject == name]) for name in names[:-1]]
    chosen.append(_ruling(job, own, receipt))
    runs = each(lambda one: _read(job, one, receipt) if one else None, chosen)
    return Window(job.schedule.period, names, tuple(runs), len(own) - 1)


def names_before(job: Job, about: str) -> tuple[str, ...]:
    """The names of the last periods up to this one."""
    unit, zone = job.schedule.period, job.schedule.timezone
    found = [parse_period(about, unit, zone)]
    while len(found) < HISTORY:
        found.append(last_complete(found[-1].start, unit, zone))
    return tuple(one.name for one in reversed(found))


def _newest(runs: list[_Stored]) -> _Stored | None:
    return max(runs, key=lambda one: (one.stored_at, one.run_id), default=None)


def _ruling(job: Job, runs: list[_Stored], receipt: dict[str, Any] | None) -> _Stored:
    """The run that a report of a period is about: the one asked for, else the one that the output's register names last."""
    if receipt is not None:
        return next(one for one in runs if one.run_id == receipt["run_id"])
    newest = _newest(runs)
    assert newest is not None
    by_id = {one.run_id: one for one in runs}
    if len(runs) > 1:
        for output in (records.load(newest.uri) or {}).get("output", ()):
            for entry in register.newest_first(job.root, output["uri"]):
                if entry.run_id in by_id:
                    return by_id[entry.run_id]
    return newest


def _read(job: Job, stored: _Stored, receipt: dict[str, Any] | None) -> Past | None:
    """The records of a run; None for one whose receipt went away meanwhile."""
    known = receipt if receipt is not None and stored.run_id == receipt["run_id"] else records.load(stored.uri)
    if known is None:
        return None
    summary = records.load(join(run_folder(job, stored.run_id), "summary.json"))
    return Past(known["period"]["name"] if known["period"] else stored.run_id, known, summary or {})


def evaluation(job: Job, window: Window) -> tuple[Past, dict[str, Any]] | None:
    """The newest judgement by labels that arrived later: of the report's run, else of the last run that has one."""
    runs = [run for run in reversed(window.runs) if run is not None]
    for run, found in zip(runs, each(lambda run: _evaluations(job, run), runs), strict=True):
        if found:
            return run, max(found, key=lambda one: str(one.get("evaluated_at")))
    return None


def _evaluations(job: Job, run: Past) -> list[dict[str, Any]]:
    folder = join(run_folder(job, str(run.receipt["run_id"])), "evaluations", "")
    names = [info.uri for info in storage_for(folder).list(folder) if info.uri.endswith(".json")]
    return [found for found in map(records.load, names) if found is not None]


def each(work: Callable[[T], R], items: Sequence[T] | Iterable[T]) -> list[R]:
    """`work` over all items, many at once, in order: records are small, what counts is how many are asked for at a time."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="report") as pool:
        return list(pool.map(work, items))
