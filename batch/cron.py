"""When a job is due: ``[schedule] cron`` in ``[schedule] timezone``, as fire times.

The five fields are those of crontab(5): ``*``, numbers, names, ``a-b``, ``a,b`` and ``/step``. Fire times come from `cronsim`, which
keeps the rules of Debian's cron for the two hours a year that do not exist or exist twice:

- A job at fixed times (neither minute nor hour begins with ``*``) fires once a day whatever the clock does: a time that spring skips is made
  up for when the clock has jumped, and a time that autumn repeats counts the first time only.
- A job with ``*`` in its minutes or hours follows the clock: every real hour once, so 23 or 25 times on those days.
"""

from __future__ import annotations

import calendar
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from batch.errors import UsageError

FIELDS: Final = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 7),
)
_NAMES: Final = {
    "month": {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name},
    "day of week": {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))},
}
_DAYS_IN_MONTH: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_YEAR: Final = timedelta(days=365)
# Longer than any change of a clock: a look back so far and then forward again passes over no fire time.
_OVER_A_CLOCK_CHANGE: Final = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class CronField:
    """One of the five fields."""

    name: str
    text: str
    """As every cron reads it: numbers for names, 0 for Sunday, and the end of a stepped range written out."""
    values: frozenset[int]
    """What it lets through; of days of the week 0 (Sunday) to 6."""

    @property
    def starred(self) -> bool:
        """Begins with ``*``: crontab(5) then treats the field as not given, whatever its step."""
        return self.text.startswith("*")

    @property
    def full(self) -> bool:
        """Lets everything through."""
        return (
            len(self.values) == {"minute": 60, "hour": 24, "day of month": 31, "month": 12, "day of week": 7}[self.name]
        )


@dataclass(frozen=True, slots=True)
class Cron:
    """A checked cron expression in a time zone. Build it with `parse_cron`."""

    expression: str
    """As the job file has it."""
    timezone: str
    fields: tuple[CronField, CronField, CronField, CronField, CronField]

    @property
    def text(self) -> str:
        """The expression in the one spelling that all crons read alike."""
        return " ".join(field.text for field in self.fields)

    @property
    def days_are_either(self) -> bool:
        """Day of month and day of week are both given: crontab(5) then takes a day that matches either of them."""
        return not self.fields[2].starred and not self.fields[4].starred

    @property
    def follows_the_clock(self) -> bool:
        """``*`` in minutes or hours: fires in every real hour that matches, see the module."""
        return self.fields[0].starred or self.fields[1].starred

    def matches(self, local: datetime) -> bool:
        """Whether the fields let this wall clock time through."""
        minute, hour, day, month, weekday = (field.values for field in self.fields)
        by_day, by_weekday = local.day in day, local.isoweekday() % 7 in weekday
        on_day = by_day or by_weekday if self.days_are_either else by_day and by_weekday
        return on_day and local.minute in minute and local.hour in hour and local.month in month

    def fires(self, after: datetime) -> Iterator[datetime]:
        """Every fire time after `after` (aware), in order, each once, in the job's zone."""
        from cronsim import CronSim

        # `text`, because cronsim takes 5-5/2 for 5/2. Compared in UTC: two times of one zone compare by their wall clock, which goes back in autumn. And cronsim gives a time that
        # spring skipped as the end of the gap, where another fire time may be already.
        newest = after.astimezone(UTC)
        for fire in CronSim(self.text, after.astimezone(ZoneInfo(self.timezone))):
            if fire.astimezone(UTC) > newest:
                newest = fire.astimezone(UTC)
                yield fire

    def next(self, after: datetime) -> datetime:
        """The first fire time after `after` (aware), in the job's zone."""
        return next(self.fires(after))

    def previous(self, at: datetime) -> datetime:
        """The last fire time at or before `at` (aware), in the job's zone."""
        found = self._earlier(at)
        for fire in self.fires(found.astimezone(UTC) - _OVER_A_CLOCK_CHANGE):
            if fire.astimezone(UTC) > at.astimezone(UTC):
                break
            found = fire
        return found

    def _earlier(self, at: datetime) -> datetime:
        """A fire time at or before `at`; around a change of the clock not always the last one."""
        from cronsim import CronSim

        start = at.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        backwards = CronSim(self.text, start.astimezone(ZoneInfo(self.timezone)), reverse=True)
        return next(fire for fire in backwards if fire.astimezone(UTC) <= at.astimezone(UTC))

    def shortest_interval_seconds(self, after: datetime) -> int:
        """The least time between two fires, among the next 400 or as many as there are in ten years."""
        end = after.astimezone(UTC) + 10 * _YEAR
        coming = itertools.takewhile(lambda fire: fire.astimezone(UTC) < end, self.fires(after))
        moments = [fire.timestamp() for fire in itertools.islice(coming, 400)]
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        return int(min(gaps, default=_YEAR.total_seconds()))


def parse_cron(expression: str, timezone: str) -> Cron:
    """Check a cron expression. Raises `UsageError` that names the key, the value and the field that is wrong."""
    try:
        return Cron(" ".join(expression.split()), timezone, _fields(expression))
    except ValueError as error:
        raise UsageError(
            f"[schedule] cron = '{expression}': {error}",
            hint="the five fields are minute, hour, day of month, month and day of week, such as '0 6 * * MON'",
        ) from None


def _fields(expression: str) -> tuple[CronField, CronField, CronField, CronField, CronField]:
    parts = expression.split()
    if len(parts) != len(FIELDS):
        count = "is 1 field" if len(parts) == 1 else f"are {len(parts)} fields"
        raise ValueError(f"there {count}, not {len(FIELDS)}")
    minute, hour, day, month, weekday = (_field(part, *about) for part, about in zip(parts, FIELDS, strict=True))
    longest = max(_DAYS_IN_MONTH[number] for number in month.values)
    if min(day.values) > longest and (day.starred or weekday.starred):
        raise ValueError(
            f"the day of month '{day.text}' never comes: the longest month of '{month.text}' has {longest} days"
        )
    return minute, hour, day, month, weekday


def _field(text: str, name: str, low: int, high: int) -> CronField:
    values: set[int] = set()
    spellings = []
    for term in text.upper().split(","):
        found, spelling = _term(term, name, low, high)
        values |= found
        spellings.append(spelling)
    if name == "day of week":
        values = {value % 7 for value in values}
    return CronField(name, ",".join(spellings), frozenset(values))


def _term(term: str, name: str, low: int, high: int) -> tuple[set[int], str]:
    """The values of one part between commas, and how every cron reads it."""
    span, slash, step_text = term.partition("/")
    step = _number(step_text, term, name) if slash else 1
    if step < 1:
        raise ValueError(f"the step of the {name} '{term}' is 0")
    if span == "*":
        return set(range(low, high + 1, step)), term
    first_text, dash, last_text = span.partition("-")
    first = _value(first_text, term, name, low, high)
    last = _value(last_text, term, name, low, high) if dash else high if slash else first
    if last < first:
        raise ValueError(f"the {name} '{term}' ends before it begins: {first} to {last}")
    values = set(range(first, last + 1, step))
    if name == "day of week" and 7 in values | {last}:  # Sunday's second number is not known everywhere
        return values, ",".join(str(value % 7) for value in sorted(values))
    if first == last:
        return values, str(first)
    return values, f"{first}-{last}/{step}" if step > 1 else f"{first}-{last}"


def _value(text: str, term: str, name: str, low: int, high: int) -> int:
    known = _NAMES.get(name, {})
    if text in known:
        return known[text]
    number = _number(text, term, name)
    if not low <= number <= high:
        raise ValueError(f"the {name} '{term}' is not within {low} to {high}")
    return number


def _number(text: str, term: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the {name} '{term}' is not a number, a name, a range, a list or a step")
    return int(text)
