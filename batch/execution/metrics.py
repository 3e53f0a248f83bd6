"""What a monitoring system is told of a job after each run: one small file in the Prometheus text format, replaced as a whole.

Each number is of the last run, except those that a failure must not take back: when the job last succeeded, how far its periods
are done, and how long its successful runs took. These are carried over from the file before, or where there is none from the newest
receipt. The label is ``batch_job``, because Prometheus gives every series a ``job`` of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from batch.cron import parse_cron
from batch.errors import PermissionDenied, UsageError
from batch.execution import history
from batch.execution.exposition import Family, family, read_value, render
from batch.job import Job
from batch.period import last_complete, period_at
from batch.storage import join, nothing, storage_for

PREFIX: Final = "batch_predict_"
LABEL: Final = "batch_job"
OFF: Final = "off"
STATES: Final = ("completed", "completed_with_rejects", "failed", "interrupted")
DRIFT_STATES: Final = ("ok", "warn", "alert", "unknown")
PSI_MAX: Final = 50
"""Series of drift per job; the receipt has them by size, largest first."""

_SUCCESS_AT = "last_success_timestamp_seconds"
_SUCCESS_SECONDS = "last_success_duration_seconds"
_SECONDS_BEFORE = "previous_success_duration_seconds"
_EXIT_CODE = "last_run_exit_code"
_PERIOD_END = "period_end_timestamp_seconds"
_KEPT = (_SUCCESS_AT, _SUCCESS_SECONDS, _SECONDS_BEFORE, _PERIOD_END)
"""In the order of the fields of `Kept`."""


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended: the receipt, also of a failed one, and the exit code of a program that ends because of it."""

    receipt: dict[str, Any]
    exit_code: int = 0
    already_done: bool = False

    @property
    def state(self) -> str:
        """One of `STATES`; a receipt calls a run that a signal ended failed."""
        return "interrupted" if self.exit_code in {130, 143} else str(self.receipt["state"])


@dataclass(frozen=True, slots=True)
class Kept:
    """What a failed run leaves as it was. Times are Unix seconds; None where there was no success yet."""

    success_at: float | None = None
    seconds: float | None = None
    """Of the last successful run."""
    seconds_before: float | None = None
    """Of the one before it."""
    period_end: float | None = None
    """Of the newest period that is done, exclusive."""

    def after(self, end: End) -> Kept:
        """The same once a run has ended."""
        if end.exit_code:
            return self
        at, until = _moment(end.receipt["timing"]["finished_at"]), _period_end(end.receipt)
        newest = replace(self, period_end=max(filter(None, (self.period_end, until)), default=None))
        if self.success_at is not None and at <= self.success_at:
            return newest
        return replace(newest, success_at=at, seconds=end.receipt["timing"]["seconds"], seconds_before=self.seconds)


@dataclass(frozen=True, slots=True)
class Before:
    """What the file says before a run's end is put into it."""

    kept: Kept
    ended_well: bool
    """The last run that it tells of."""

    def knows_of(self, end: End) -> bool:
        """Whether there is nothing new in the end of a run that was done before."""
        return end.already_done and self.ended_well and self.kept.after(end) == self.kept


def place_of(job: Job) -> str:
    """URI of the job's metrics, "" where they are off."""
    given = job.monitor.metrics
    if given == OFF:
        return ""
    name = f"{job.name}.prom"
    return join(job.root, "metrics", name) if not given else given + name if given.endswith("/") else given


def load(place: str, job: str) -> Before | None:
    """What the file says; None where there is none, or it knows of no success. Raises what storage raises."""
    try:
        body = storage_for(place).get(place) or b""
    except PermissionDenied:  # who may only write there starts afresh
        return None
    common = {LABEL: job}
    kept = Kept(*(read_value(body, PREFIX + name, common) for name in _KEPT))
    if kept.success_at is None:
        return None
    return Before(kept, read_value(body, PREFIX + _EXIT_CODE, common) == 0)


def kept_by_receipts(root: str, job: str) -> Kept:
    """The same from the newest receipt under the root."""
    try:
        receipt = history.find_run(root, f"{job}@latest")
    except UsageError:  # it has never succeeded
        return Kept()
    return Kept().after(End(receipt))


def store(place: str, body: bytes, before: Callable[[], None] = nothing) -> None:
    """Replace the file; see `batch.storage.Storage.replace` for `before`. Raises what storage raises."""
    storage_for(place).replace(place, [body], len(body), before=before)


def text_of(job: Job, end: End, kept: Kept) -> bytes:
    """The file. `kept`: as it is after the run."""
    told = [*_of_success(job, kept), *_of_run(end), *_of_rows(end.receipt), *_of_models(end.receipt), *_of_drift(end)]
    return render((replace(one, name=PREFIX + one.name) for one in told), {LABEL: job.name})


def expected_at(job: Job, kept: Kept, at: datetime) -> datetime | None:
    """When the next run is due, past where it is late; None for a job that nobody expects. `at`: aware.

    That is the fire for the period after the newest one that is done, or without periods the fire after the last success. Before the
    first success it is the fire that has passed last. A job with periods and without a cron is due when a period ends.
    """
    unit, zone = job.schedule.period, job.schedule.timezone
    cron = parse_cron(job.schedule.cron, zone) if job.schedule.cron else None
    if unit:
        done = None if kept.period_end is None else datetime.fromtimestamp(kept.period_end, UTC)
        due = period_at(done, unit, zone).end if done else last_complete(at, unit, zone).end
        return cron.next(due - timedelta(seconds=1)) if cron else due
    if cron is None:
        return None
    return cron.next(datetime.fromtimestamp(kept.success_at, UTC)) if kept.success_at else cron.previous(at)


def _of_success(job: Job, kept: Kept) -> Iterator[Family]:
    due = expected_at(job, kept, datetime.now(UTC))
    yield family(_SUCCESS_AT, "When the job last succeeded; a failed run leaves it.", kept.success_at)
    yield family(_SUCCESS_SECONDS, "How long the last successful run took.", kept.seconds)
    yield family(_SECONDS_BEFORE, "How long the successful run before it took.", kept.seconds_before)
    yield family(_PERIOD_END, "End of the newest period that is done, exclusive.", kept.period_end)
    about = "When the next run is due: for the period after the newest one that is done, or after the last success."
    yield family("next_run_timestamp_seconds", about, due.timestamp() if due else None)


def _of_run(end: End) -> Iterator[Family]:
    receipt, timing = end.receipt, end.receipt["timing"]
    period = (receipt["period"] or {}).get("name", "")
    yield family("last_run_timestamp_seconds", "When the last run ended.", _moment(timing["finished_at"]))
    yield _one_of("last_run_state", "1 for how the last run ended, 0 for how it did not.", STATES, end.state)
    yield family(_EXIT_CODE, "Exit code of the last run.", end.exit_code)
    yield family("last_run_duration_seconds", "How long the last run took.", timing["seconds"])
    about = "What asked for the last run, and the period it was about."
    yield Family("last_run_info", about, (({"trigger": receipt["trigger"], "period": period}, 1),))
    about = "Time per phase of the last run; chunk_*: added up over the workers."
    yield _labelled("phase_duration_seconds", about, "phase", timing["phases"])
    yield family("peak_rss_bytes", "Most memory that the process tree of the last run took.", receipt["peak_rss_bytes"])


def _of_rows(receipt: dict[str, Any]) -> Iterator[Family]:
    codes: Counter[str] = Counter()
    for one in receipt["rejects"]:
        codes.update(one["by_code"])
    yield _labelled("rows", "Rows of the last run.", "kind", receipt["rows"])
    yield _labelled("rejected_rows", "Rejected rows of the last run by reason.", "code", codes)
    size = sum(one["size_bytes"] for one in receipt["input"])
    yield family("input_bytes", "Size of the input of the last run as stored.", size)
    yield _labelled(
        "chunks", "Chunks of the last run; reused: an earlier attempt had scored them.", "kind", receipt["chunks"]
    )


def _of_models(receipt: dict[str, Any]) -> Iterator[Family]:
    models: Sequence[dict[str, Any]] = receipt["models"]
    about = "Models of the last run, always 1."
    yield Family("model_info", about, tuple((_identity(one), 1) for one in models))
    about = "Rows that each model of the last run scored."
    yield Family("model_rows", about, tuple(({"variant": one["variant"]}, one["rows"]) for one in models))


def _identity(model: dict[str, Any]) -> dict[str, str]:
    name = model["name"] or model["uri_given"]
    version = "" if model["version"] is None else str(model["version"])
    return {"variant": model["variant"], "name": name, "version": version, "mode": model["mode"]}


def _of_drift(end: End) -> Iterator[Family]:
    drift = end.receipt["drift"]
    yield _one_of("drift_state", "1 for the state of drift that the last run found.", DRIFT_STATES, drift["state"])
    found = [one for one in drift["columns"] if one["psi"] is not None][:PSI_MAX]
    about = f"Population stability index of the last run's columns and scores, the {PSI_MAX} largest."
    yield Family("drift_psi", about, tuple((_compared(one), one["psi"]) for one in found))


def _compared(column: dict[str, Any]) -> dict[str, str]:
    """`variant` keeps the scores of two models apart: their columns have one name."""
    told = {key: str(column[key]) for key in ("column", "against", "role")}
    return told | {"variant": str(column.get("variant") or "")}


def _labelled(name: str, about: str, label: str, values: dict[str, Any] | Counter[str]) -> Family:
    return Family(name, about, tuple(({label: key}, value) for key, value in sorted(values.items())))


def _one_of(name: str, about: str, states: Sequence[str], current: str) -> Family:
    return Family(name, about, tuple(({"state": state}, float(state == current)) for state in states))


def _period_end(receipt: dict[str, Any]) -> float | None:
    return _moment(receipt["period"]["end"]) if receipt["period"] else None


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
