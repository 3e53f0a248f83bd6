"""Periods: the hour, day, ISO week or month that a scheduled run is about, half-open and in the job's time zone."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from batch.errors import UsageError

EXAMPLES = {"hour": "2026-11-09T06+0100", "day": "2026-11-09", "week": "2026-W46", "month": "2026-11"}


@dataclass(frozen=True, slots=True)
class Period:
    """One named span of time ``[start, end)``."""

    name: str
    """``2026-W46``, ``2026-11-09``, ``2026-11`` or ``2026-11-09T06+0100``."""
    start: datetime
    """Aware, in the job's time zone."""
    end: datetime
    """Aware and exclusive."""

    @property
    def last(self) -> datetime:
        """The last day that belongs to the period, at midnight (an hour's own day)."""
        day = (self.end - timedelta(microseconds=1)).date()
        return datetime(day.year, day.month, day.day, tzinfo=self.start.tzinfo)


def parse_period(name: str, unit: str, zone: str) -> Period:
    """The period called `name`, for a job whose ``[schedule] period`` is `unit`. Raises `UsageError`."""
    tz = ZoneInfo(zone)
    try:
        return _PARSERS[unit](name, tz)
    except (ValueError, OverflowError):
        raise UsageError(
            f"'{name}' is not the name of {_article(unit)}", hint=f"{_article(unit)} is written like {EXAMPLES[unit]}"
        ) from None


def end_of(name: str) -> datetime | None:
    """When the period called `name` ends (exclusive, aware); None for a name that is no period's.

    A name does not tell its time zone, only an hour its offset: the others are taken as of UTC, which orders them all the same.
    """
    for parse in _PARSERS.values():
        with suppress(ValueError):
            return parse(name, ZoneInfo("UTC")).end
    return None


def _article(unit: str) -> str:
    return f"an {unit}" if unit == "hour" else f"a {unit}"


def last_complete(now: datetime, unit: str, zone: str) -> Period:
    """The newest period that has ended at `now` (aware)."""
    local = now.astimezone(ZoneInfo(zone))
    containing = period_at(local, unit, zone)
    if unit == "hour":
        before = containing.start.astimezone(UTC) - timedelta(hours=1)
        return period_at(before, unit, zone)
    return period_at(containing.start - timedelta(days=1), unit, zone)


def period_at(moment: datetime, unit: str, zone: str) -> Period:
    """The period that `moment` (aware) lies in."""
    local = moment.astimezone(ZoneInfo(zone))
    year, week, _ = local.isocalendar()
    names = {
        "hour": local.strftime("%Y-%m-%dT%H%z"),
        "day": local.strftime("%Y-%m-%d"),
        "week": f"{year:04d}-W{week:02d}",
        "month": local.strftime("%Y-%m"),
    }
    return parse_period(names[unit], unit, zone)


def _midnight(tz: ZoneInfo, year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=tz)


def _hour(name: str, tz: ZoneInfo) -> Period:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d[+-]\d{4}", name):
        raise ValueError(name)
    start = datetime.strptime(name, "%Y-%m-%dT%H%z").astimezone(tz)
    end = (start.astimezone(UTC) + timedelta(hours=1)).astimezone(tz)
    return Period(start.strftime("%Y-%m-%dT%H%z"), start, end)


def _day(name: str, tz: ZoneInfo) -> Period:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", name):
        raise ValueError(name)
    first = datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=tz)
    after = first + timedelta(days=1)
    return Period(name, first, after)


def _week(name: str, tz: ZoneInfo) -> Period:
    match = re.fullmatch(r"(\d{4})-W(\d\d)", name)
    if match is None:
        raise ValueError(name)
    monday = datetime.fromisocalendar(int(match[1]), int(match[2]), 1)
    first = _midnight(tz, monday.year, monday.month, monday.day)
    return Period(name, first, first + timedelta(days=7))


def _month(name: str, tz: ZoneInfo) -> Period:
    if not re.fullmatch(r"\d{4}-\d\d", name):
        raise ValueError(name)
    first = datetime.strptime(name, "%Y-%m").replace(tzinfo=tz)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return Period(name, first, following)


_PARSERS = {"hour": _hour, "day": _day, "week": _week, "month": _month}
