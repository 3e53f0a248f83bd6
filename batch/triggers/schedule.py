"""The loop inside a container: runs each job when it is due, for machines that have no cron.

- One job at a time, in the order in which they are due: a run uses all of the machine.
- A run is told the time of its fire, so it is about the same period however late it starts.
- Fire times that pass while the loop is busy, asleep or not there are made up for once, by the last of them. At start that is known only
  of jobs with a period, whose run does nothing when the period is done; a job without one waits for its next fire.
- A run that found the storage away or the lease taken (exit 69, 75), or its input not there within ``[input] wait``, is tried again until the
  next fire is due; any other failure is told and left until then. No failure ends the loop.
- The times are those that the job files had at the start; all else in them is read again for each run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from batch.cron import Cron
from batch.errors import BatchError, Busy, InputMissing, Interrupted, StorageUnavailable, UsageError

FIRST_RETRY_SECONDS: Final = 60.0
"""Wait before the second try; doubles."""
LAST_RETRY_SECONDS: Final = 3600.0
BEAT_SECONDS: Final = 20.0
"""Also the longest wait: a machine that wakes up, or whose clock is set, is noticed as soon."""
# A clock that goes back so far was wrong before: the fire times of the time that never was are forgotten.
_WRONG_CLOCK: Final = timedelta(hours=2)


class WallClock(Protocol):
    """The time of day, and waiting."""

    def now(self) -> datetime:
        """Aware; may jump either way when somebody sets the clock or the machine was asleep."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set or the time has passed; tells whether it is set."""
        ...


class SystemWallClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """What the loop needs to know of a job."""

    name: str
    path: str
    """Of the job file: it is read again for each run."""
    cron: Cron
    has_period: bool
    wait_seconds: float = 0.0
    """``[input] wait``: for so long after it was due a missing input is only late. The loop does not wait itself: others are due."""


@dataclass(frozen=True, slots=True)
class Fired:
    """One run that the loop started, and how it ended. Times are in the job's zone."""

    job: str
    due: datetime
    seconds: float
    exit_code: int
    result: dict[str, Any]
    """Of a run that succeeded: what `run` returned, such as run_id and state."""
    error: Exception | None
    next: datetime
    """When the job is looked at again: its next fire, or an earlier try."""
    is_retry: bool
    """Whether `next` is another try of this fire."""

    @property
    def problem(self) -> dict[str, str]:
        """The error in the shape of `BatchError.as_dict`; a bug has the code ``bug``."""
        if isinstance(self.error, BatchError):
            return self.error.as_dict()
        return {"code": "bug", "message": f"a bug: {type(self.error).__name__}: {self.error}", "hint": ""}

    @property
    def message(self) -> str:
        """One line about the error."""
        problem = self.problem
        return " ".join(problem["message"].split()) + (f" (hint: {problem['hint']})" if problem["hint"] else "")


Runner = Callable[[ScheduledJob, datetime], dict[str, Any]]
"""Runs a job as if it were the given time; raises `BatchError`."""


@dataclass(slots=True)
class _Entry:
    """Where the loop is with one job. All times are in UTC: two times of one zone are compared by their wall clock otherwise."""

    job: ScheduledJob
    handled: datetime
    """The newest fire that is done with; a retry is of this one."""
    retry_at: datetime | None = None
    tries: int = field(default=0)

    @property
    def following(self) -> datetime:
        return self.job.cron.next(self.handled).astimezone(UTC)

    @property
    def due(self) -> datetime:
        return self.retry_at or self.following


def loop(
    jobs: Sequence[ScheduledJob],
    *,
    clock: WallClock,
    run: Runner,
    stop: threading.Event,
    tell: Callable[[Fired], None],
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Run `jobs` when they are due, until `stop` is set. A signal (`KeyboardInterrupt`) passes through, also out of a run.

    `tell` is called after each run; `beat` at least every `BEAT_SECONDS` while nothing runs.
    """
    entries = [_Entry(job, _handled_at_start(job, clock.now())) for job in jobs]
    while not stop.is_set():
        beat()
        now = clock.now().astimezone(UTC)
        for one in entries:
            _forget_the_future(one, now)
        entry = min(entries, key=lambda one: one.due)
        wait_seconds = (entry.due - now).total_seconds()
        if wait_seconds > 0:
            clock.wait(stop, min(wait_seconds, BEAT_SECONDS))
        else:
            tell(_fire(entry, clock, run))


def _handled_at_start(job: ScheduledJob, now: datetime) -> datetime:
    """The last fire before the loop was there; one fire earlier where it shall be made up for."""
    last = job.cron.previous(now).astimezone(UTC)
    return job.cron.previous(last - timedelta(seconds=1)).astimezone(UTC) if job.has_period else last


def _forget_the_future(entry: _Entry, now: datetime) -> None:
    if entry.handled > now + _WRONG_CLOCK:
        entry.handled, entry.retry_at = entry.job.cron.previous(now).astimezone(UTC), None


def _fire(entry: _Entry, clock: WallClock, run: Runner) -> Fired:
    """Run the last fire that is due, or try the last one again, and set when the job is looked at next."""
    newest = entry.job.cron.previous(clock.now()).astimezone(UTC)
    if newest > entry.handled:
        entry.handled, entry.tries = newest, 0
    entry.tries += 1
    entry.retry_at = None
    begun = clock.now()
    result, error = _try(run, entry)
    ended = clock.now().astimezone(UTC)
    is_late = isinstance(error, InputMissing) and ended < entry.handled + timedelta(seconds=entry.job.wait_seconds)
    if is_late or isinstance(error, Busy | StorageUnavailable):
        pause = FIRST_RETRY_SECONDS * (1 if is_late else 2 ** min(entry.tries - 1, 10))
        again = ended + timedelta(seconds=min(pause, LAST_RETRY_SECONDS))
        entry.retry_at = again if again < entry.following else None
    zone = ZoneInfo(entry.job.cron.timezone)
    return Fired(
        job=entry.job.name,
        due=entry.handled.astimezone(zone),
        seconds=max(0.0, (ended - begun).total_seconds()),
        exit_code=0 if error is None else error.exit_code if isinstance(error, BatchError) else 1,
        result=result,
        error=error,
        next=entry.due.astimezone(zone),
        is_retry=entry.retry_at is not None,
    )


def _try(run: Runner, entry: _Entry) -> tuple[dict[str, Any], Exception | None]:
    try:
        return run(entry.job, entry.handled), None
    except Interrupted:  # a signal that the library translated: it is meant for the loop
        raise
    except Exception as error:  # one job's failure, a bug included, is not the others'
        return {}, error


class Heartbeat:
    """A file that is touched while the loop is alive, for a container's health check. Without a path it does nothing."""

    def __init__(self, path: str = "", *, seconds: float = BEAT_SECONDS) -> None:
        self.path = path
        self.seconds = seconds

    def begin(self) -> None:
        """Make the file new before anything relies on it. Raises `UsageError` where it cannot be written."""
        try:
            self.touch()
        except OSError as error:
            raise UsageError(f"--heartbeat {self.path} cannot be written: {error.strerror}") from None

    def touch(self) -> None:
        """Make the file new. Raises `OSError` where it cannot be written."""
        if self.path:
            with open(self.path, "a", encoding="utf-8"):
                os.utime(self.path)

    def beat(self) -> None:
        """Make the file new if that is possible: the loop goes on without, and an old file is what the check looks for."""
        with suppress(OSError):
            self.touch()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Touch the file from a thread of its own while a run is going on."""
        if not self.path:
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._until, args=(over,), name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _until(self, over: threading.Event) -> None:
        self.beat()
        while not over.wait(self.seconds):
            self.beat()
