"""Schedules as lines for crontab(5), right under Debian's cron as well as under cronie."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from batch.cron import Cron, CronField
from batch.triggers.print_entries import EXIT_CODES, Entry, Surroundings, skipped_in_spring

_WIDTHS: Final = {"minute": 2, "hour": 2, "day of month": 2, "month": 2, "day of week": 1}


def print_crontab(entries: Sequence[Entry], around: Surroundings) -> dict[str, str]:
    """One file, for ``crontab FILE`` or to be added to what ``crontab -l`` prints."""
    lines = [*_head(), *(f"{name}={value}" for name, value in around.environment.items())]
    for entry in entries:
        lines += ["", *_job(entry, around)]
    return {"crontab": "\n".join(lines) + "\n"}


def _head() -> Iterator[str]:
    yield "# Printed by `batch-predict schedule --as crontab`. Install it with: crontab THIS_FILE (replaces the user's whole crontab)."
    yield "# No flock: a run takes a lease in the storage, on whatever host it is started, and a run that is done is not done again."
    yield "# Cron has no deadline and does not catch up what it missed; the next fire does the last complete period."
    yield "# Exit codes (cron itself ignores them, their message is in the mail):"
    yield from (f"#   {line}" for line in EXIT_CODES)
    yield "# Cron mails what a job prints to MAILTO, default: the user's own mailbox. Progress goes there too; to keep only failures, put"
    yield "# a wrapper such as chronic(1) in front of the command. Credentials (AWS_PROFILE=…) stand above the lines, as NAME=value."


def _job(entry: Entry, around: Surroundings) -> Iterator[str]:
    cron = entry.cron
    command = " ".join(map(shlex.quote, [around.program, *entry.arguments()])).replace("%", r"\%")
    yield f"# {entry.name}: {cron.expression} {cron.timezone}"
    if _is_this_clock(cron.timezone, around):
        yield f"# For a machine on {cron.timezone} time, as the one that printed this: print it again for one on another time, because"
        yield "# Debian's and Ubuntu's cron do not know CRON_TZ (cronie does: Fedora, RHEL, Arch) and would take the machine's time."
        yield f"CRON_TZ={cron.timezone}"
        yield f"{cron.text} {command}"
        return
    yield f"# This machine is not on {cron.timezone} time, and Debian's and Ubuntu's cron do not know CRON_TZ (cronie does). So this line asks four"
    yield "# times an hour what time it is there, which is right under every cron and on every machine with a time zone database."
    for day in skipped_in_spring(cron, around.now)[:1]:
        yield f"# The job's time does not exist on {day}, when the clocks go forward: it is not run that day. Choose another hour."
    yield f"CRON_TZ={cron.timezone}"
    yield f"{_quarters(cron.fields[0])} * * * * {_guard(cron)} && {command}"


def _is_this_clock(zone: str, around: Surroundings) -> bool:
    """Whether the machine's clock shows the zone's time, each day of the next two years."""
    days = (around.now + timedelta(days=number) for number in range(2 * 366))
    return all(_offset(day, around) == day.astimezone(ZoneInfo(zone)).utcoffset() for day in days)


def _offset(moment: datetime, around: Surroundings) -> timedelta | None:
    return moment.astimezone(UTC).astimezone(around.machine).utcoffset()


def _quarters(minutes: CronField) -> str:
    """The minutes at which it may be time elsewhere: zones differ by multiples of 15 minutes."""
    if minutes.full:
        return "*"
    return ",".join(map(str, sorted({(minute + shift) % 60 for minute in minutes.values for shift in (0, 15, 30, 45)})))


def _guard(cron: Cron) -> str:
    """A command that succeeds when it is time in the job's zone."""
    minute, hour, day, month, weekday = map(_pattern, cron.fields)
    days = f"({day} {month} .|.. {month} {weekday})" if cron.days_are_either else f"{day} {month} {weekday}"
    return rf"TZ={cron.timezone} date '+\%M \%H \%d \%m \%w' | grep -Eq '^{minute} {hour} {days}$'"


def _pattern(field: CronField) -> str:
    width = _WIDTHS[field.name]
    return "." * width if field.full else "(" + "|".join(f"{value:0{width}d}" for value in sorted(field.values)) + ")"
