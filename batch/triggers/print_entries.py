"""What the printed schedules have in common: which jobs, how each is called, and what all of them tell the reader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from batch.cron import Cron, parse_cron
from batch.errors import UsageError
from batch.job import Job, load_job

EXIT_CODES: Final = (
    "0 done, or nothing to do",
    "2 the job file or the command is wrong",
    "3 the input is missing or refused",
    "4 the model is refused",
    "5 too many rows were rejected",
    "6 the output is refused",
    "69 the storage did not answer: the next try resumes",
    "75 another run holds the lease: harmless, it does the work",
    "77 no permission",
    "143 stopped: the next try resumes",
)
NEEDS_A_PERSON: Final = (2, 3, 4, 5, 6, 77)
"""Exit codes that trying again does not change."""
STOP_SECONDS: Final = 30
"""From SIGTERM to SIGKILL; a run stops within 8 s."""
_YEARS: Final = 5
_DAY_SECONDS: Final = 86_400
# Not secret, and without them the run would work somewhere else than where the schedule was printed.
_ENVIRONMENT: Final = ("BATCH_ROOT", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, slots=True)
class Entry:
    """One job with a cron."""

    job: Job
    path: str
    """Of the job file, absolute."""
    cron: Cron

    @property
    def name(self) -> str:
        return self.job.name

    def arguments(self, path: str = "") -> list[str]:
        """How the schedule calls the program. `path`: of the job file, where it lies somewhere else there."""
        # Without a period all runs of a job are about one subject: with --once only the first of them would ever do anything. They are
        # told apart by their input instead, so that one which finds the same input again does nothing either.
        once = ["--once"] if self.job.schedule.period else []
        return ["run", path or self.path, *once, "--trigger", "cron"]

    def deadline_seconds(self, now: datetime) -> int:
        """After which a run is stopped, so that one that hangs never stands in the way of the next for good; what it did is kept."""
        interval = self.cron.shortest_interval_seconds(now)
        return max(3600, min(interval, _DAY_SECONDS)) + int(self.job.input.wait)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where and when the schedules are printed."""

    program: str
    """Absolute path of batch-predict."""
    now: datetime
    """Aware."""
    environment: dict[str, str]
    """What is set here and must be set there."""
    image: str = ""
    machine: tzinfo | None = None
    """Zone of the machine that the schedules are for; None: this one's."""


def environment_of(variables: dict[str, str]) -> dict[str, str]:
    """The part of `variables` that a run needs and that is no secret."""
    return {name: variables[name] for name in _ENVIRONMENT if variables.get(name)}


def find_entries(names: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """The jobs called `names`, or all of the jobs folder, and the paths of those left out because they have no cron.

    Raises `UsageError`: a named job has no cron, two have one name, none is left; and for job files that cannot be loaded.
    """
    from batch.job_file import find

    paths = dict.fromkeys(os.path.abspath(find(name)) for name in names or _all_paths())
    found = [_load(path) for path in paths]
    idle = [path for path, job in found if not job.schedule.cron]
    if names and idle:
        raise UsageError(f"{idle[0]} has no [schedule] cron", hint='add one, such as cron = "0 6 * * MON"')
    entries = [_entry(path, job) for path, job in found if job.schedule.cron]
    if not entries:
        raise UsageError(f"no job in {_folder()}/ has a [schedule] cron", hint='add one, such as cron = "0 6 * * MON"')
    _check_names(entries)
    return entries, idle


def _folder() -> str:
    return os.environ.get("BATCH_JOBS") or "jobs"


def _all_paths() -> list[str]:
    folder = _folder()
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder '{folder}'", hint="name the jobs, or set $BATCH_JOBS")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".toml")]


def _load(path: str) -> tuple[str, Job]:
    if not path.isprintable():
        raise UsageError(f"the path {path!r} has characters that no schedule can hold", hint="rename it")
    return path, load_job(path)


def _entry(path: str, job: Job) -> Entry:
    try:
        return Entry(job, path, parse_cron(job.schedule.cron, job.schedule.timezone))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from None


def _check_names(entries: Sequence[Entry]) -> None:
    paths: dict[str, str] = {}
    for entry in entries:
        if paths.setdefault(entry.name, entry.path) != entry.path:
            raise UsageError(
                f"{paths[entry.name]} and {entry.path} both have the name '{entry.name}'", hint="rename one of them"
            )


def as_lines(lines: Sequence[str]) -> str:
    """Nothing, or lines that each end with a line end."""
    return "".join(f"{line}\n" for line in lines)


def local_paths(job: Job) -> list[str]:
    """Folders on this machine that a run of the job writes to."""
    places = [job.root, *(_fixed_folder(uri) for uri in (job.output.uri, job.rejects.uri) if uri)]
    return sorted({place for place in places if "://" not in place})


def _fixed_folder(uri: str) -> str:
    """The folder of a URI as far as it is the same for every run."""
    fixed = uri.partition("{")[0]
    return os.path.dirname(fixed) or fixed


def clock_changes(zone: str, now: datetime) -> Iterator[datetime]:
    """When the clocks of `zone` change in the next years: the first moments of the new time, in UTC."""
    local = ZoneInfo(zone)
    day = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for _ in range(_YEARS * 366):
        following = day + timedelta(days=1)
        if day.astimezone(local).utcoffset() != following.astimezone(local).utcoffset():
            yield _first_after_change(local, day, following)
        day = following


def _first_after_change(local: ZoneInfo, before: datetime, after: datetime) -> datetime:
    old = before.astimezone(local).utcoffset()
    while after - before > timedelta(minutes=1):
        middle = (before + (after - before) / 2).replace(second=0, microsecond=0)
        before, after = (middle, after) if middle.astimezone(local).utcoffset() == old else (before, middle)
    return after


def not_on_the_clock(cron: Cron, now: datetime) -> list[datetime]:
    """Fire times of the next years that a plain calendar misses, in UTC: one that looks for wall clock times that exist, the first time they do.

    That is what a time that spring skips becomes, and in autumn the second time round of a job that follows the clock.
    """
    local, missed = ZoneInfo(cron.timezone), []
    for change in clock_changes(cron.timezone, now):
        for fire in cron.fires(change - timedelta(minutes=1)):
            if fire.astimezone(UTC) >= change + timedelta(hours=3):
                break
            wall = fire.astimezone(UTC).astimezone(local)
            if wall.fold or not cron.matches(wall):
                missed.append(fire.astimezone(UTC))
    return missed


def skipped_in_spring(cron: Cron, now: datetime) -> list[str]:
    """The local days in the next years on which the job's time does not exist."""
    zone = ZoneInfo(cron.timezone)
    walls = [moment.astimezone(zone) for moment in not_on_the_clock(cron, now)]
    return sorted({wall.strftime("%Y-%m-%d") for wall in walls if not cron.matches(wall)})


def check_days(entry: Entry, reader: str) -> None:
    """Refuse days that `reader` takes differently from crontab(5). Raises `UsageError`.

    With day of month and day of week both given, all take a day that matches either. They differ in what counts as given: to crontab(5)
    ``*/2`` does not, to Kubernetes and Airflow it does.
    """
    day, weekday = entry.cron.fields[2], entry.cron.fields[4]
    one_is_left_open = "*" in (day.text, weekday.text)
    both_are_plain = not any(field.full or "*" in field.text for field in (day, weekday))
    if not one_is_left_open and not both_are_plain:
        raise UsageError(
            f"{entry.path}: {reader} reads the days of [schedule] cron = '{entry.cron.expression}' differently from cron",
            hint="leave day of month or day of week at '*', or list the days of both",
        )
