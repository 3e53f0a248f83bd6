"""Schedules as systemd units: a service and a timer per job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final
from zoneinfo import ZoneInfo

from batch.cron import FIELDS, Cron, CronField
from batch.triggers.print_entries import (
    EXIT_CODES,
    NEEDS_A_PERSON,
    STOP_SECONDS,
    Entry,
    Surroundings,
    as_lines,
    clock_changes,
    local_paths,
    not_on_the_clock,
)

_DAYS: Final = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_RUN: Final = 3  # values in a row that are worth writing as a range


def print_systemd(entries: Sequence[Entry], around: Surroundings) -> dict[str, str]:
    """Two files per job, for ``/etc/systemd/system/``."""
    files = {}
    for entry in entries:
        files[f"batch-predict-{entry.name}.service"] = _service(entry, around)
        files[f"batch-predict-{entry.name}.timer"] = _timer(entry, around)
    return files


def on_calendar(cron: Cron, now: datetime) -> list[str]:
    """The values of ``OnCalendar=`` that together are due when the cron is, except where clocks change."""
    minute, hour, day, month, weekday = cron.fields
    zone = "UTC" if _same_in_utc(cron, now) else cron.timezone
    time = f"{_numbers(hour)}:{_numbers(minute)}:00 {zone}"
    date, any_date = f"*-{_numbers(month)}-{_numbers(day)}", f"*-{_numbers(month)}-*"
    if not cron.days_are_either:
        return [f"{_weekdays(weekday)}{date} {time}"]
    if day.full or weekday.full:
        return [f"{any_date} {time}"]
    return [f"{date} {time}", f"{_weekdays(weekday)}{any_date} {time}"]


def around_clock_changes(cron: Cron, now: datetime) -> list[str]:
    """Values of ``OnCalendar=`` for the fires that systemd leaves out where clocks change.

    Measured with systemd 252: a time that spring skips is skipped, and of an hour that autumn repeats only the first is used.
    """
    if _same_in_utc(cron, now):
        return []
    return [
        f"{hour:%Y-%m-%d %H}:{','.join(f'{fire:%M}' for fire in fires)}:00 UTC"
        for hour, fires in groupby(not_on_the_clock(cron, now), key=lambda fire: fire.replace(minute=0))
    ]


def _same_in_utc(cron: Cron, now: datetime) -> bool:
    """Due in every hour of every day of a zone that differs from UTC by whole hours: then its clock does not matter."""
    _, hour, day, month, weekday = cron.fields
    always = cron.follows_the_clock and all(field.full for field in (hour, day, month, weekday))
    zone = ZoneInfo(cron.timezone)
    offsets = [moment.astimezone(zone).utcoffset() for moment in (now, *clock_changes(cron.timezone, now))]
    return always and not any(offset % timedelta(hours=1) for offset in offsets if offset is not None)


def _service(entry: Entry, around: Surroundings) -> str:
    command = " ".join(_quote(word).replace("$", "$$") for word in [around.program, *entry.arguments()])
    environment = [f"Environment={_quote(f'{name}={value}')}" for name, value in around.environment.items()]
    writes = [f"ReadWritePaths={_quote(path)}" for path in local_paths(entry.job)]
    if writes:
        writes.insert(
            0,
            "# All else is read-only. These folders must exist before the first run, or the service fails with 226/NAMESPACE.",
        )
    codes = "\n".join(f"#   {line}" for line in EXIT_CODES)
    return f"""\
# Printed by `batch-predict schedule --as systemd`.
# Exit codes:
{codes}
[Unit]
Description=Batch predictions of {entry.name.replace("%", "%%")}
Wants=network-online.target
After=network-online.target
# The timer's own starts would count as well.
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={command}
# User=batch: whom the run belongs to, default root. Credentials (AWS_PROFILE=…) stand in this file, if it exists.
EnvironmentFile=-/etc/batch-predict.env
{as_lines(environment)}# Another run holds the lease and does the work.
SuccessExitStatus=75
# Tried again until it is done, which resumes: storage that does not answer (69), a killed run. Not: what a person must mend.
Restart=on-failure
RestartSec=5min
RestartPreventExitStatus={" ".join(map(str, (1, *NEEDS_A_PERSON)))}
# The deadline of one run.
TimeoutStartSec={entry.deadline_seconds(around.now)}s
# From SIGTERM to SIGKILL; a run keeps its state and stops within 8 s.
TimeoutStopSec={STOP_SECONDS}s
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
{as_lines(writes)}"""


def _timer(entry: Entry, around: Surroundings) -> str:
    cron = entry.cron
    times = [f"OnCalendar={value}" for value in on_calendar(cron, around.now)]
    changes = [f"OnCalendar={value}" for value in around_clock_changes(cron, around.now)]
    if changes:
        about = "# Where clocks change systemd leaves these out; they are listed for five years: print this again before they end."
        changes.insert(0, about)
    return f"""\
# Printed by `batch-predict schedule --as systemd`. Install both files in /etc/systemd/system/, then:
#   systemctl daemon-reload && systemctl enable --now batch-predict-{entry.name}.timer
[Unit]
Description=When batch predictions of {entry.name.replace("%", "%%")} are due: {cron.expression.replace("%", "%%")} {cron.timezone}

[Timer]
{as_lines(times)}{as_lines(changes)}# A fire that was missed while the machine was off is made up for once.
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def _quote(word: str) -> str:
    """One word of a command line, an assignment or a list of paths, safe from systemd's quotes and ``%``."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = all(char.isalnum() or char in "-_./:=@,+%" for char in escaped)
    return escaped if plain else f'"{escaped}"'


def _numbers(field: CronField) -> str:
    """A component of a calendar event: ``*``, ``00/15``, ``09..17`` or a list."""
    high = {name: top for name, _, top in FIELDS}[field.name]
    values = sorted(field.values)
    if field.full:
        return "*"
    # Hours are listed: where 02/5 meets a gap, systemd 252 finds no time any more and the timer fails (EDEADLK); 02,07,12 goes on.
    step = values[1] - values[0] if len(values) >= _RUN and field.name != "hour" else 1
    if step > 1 and values == list(range(values[0], high + 1, step)):
        return f"{values[0]:02d}/{step}"
    return ",".join(f"{a:02d}..{b:02d}" if a < b else f"{a:02d}" for a, b in _spans(values))


def _weekdays(field: CronField) -> str:
    """``Mon..Fri `` or nothing where every day will do; the week starts on Monday, as systemd has it."""
    if field.full:
        return ""
    spans = _spans(sorted(value or 7 for value in field.values))
    return ",".join(f"{_DAYS[a % 7]}..{_DAYS[b % 7]}" if a < b else _DAYS[a % 7] for a, b in spans) + " "


def _spans(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Sorted values as (first, last) of each run of neighbours that is long enough, else one by one."""
    for _, group in groupby(enumerate(values), key=lambda pair: pair[1] - pair[0]):
        run = [value for _, value in group]
        yield from [(run[0], run[-1])] if len(run) >= _RUN else ((value, value) for value in run)
