"""A job is due when cron says so, each time exactly once, whatever the clocks do."""

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from batch.cron import FIELDS, Cron, parse_cron
from batch.errors import UsageError


def _field(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}")
    value = number.map(str) | st.sampled_from(names) if names else number.map(str)
    stepped = st.tuples(span | st.just("*") | number.map(str), st.integers(1, 9)).map(
        lambda pair: f"{pair[0]}/{pair[1]}"
    )
    lists = st.lists(value | span, min_size=2, max_size=3).map(",".join)
    return st.just("*") | st.just("*") | value | span | stepped | lists


EXPRESSIONS = st.tuples(
    _field(0, 59), _field(0, 23), _field(1, 28), _field(1, 12, ("JAN", "jul")), _field(0, 7, ("MON", "fri", "SUN"))
).map(" ".join)
"""All of crontab(5)'s syntax; days of the month up to 28, so that each of them comes."""
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])

MOMENTS = st.integers(0, 2 * 366 * 86_400).map(
    lambda seconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
]


def fires(cron: Cron, after: str, until: str) -> list[str]:
    """Local times of all fires between two UTC times."""
    found = []
    for fire in cron.fires(datetime.fromisoformat(after + "Z")):
        if fire.astimezone(UTC) > datetime.fromisoformat(until + "Z"):
            return found
        found.append(fire.strftime("%d %H:%M%z"))
    raise AssertionError("the cron ended")


@pytest.mark.parametrize(
    ("expression", "zone", "after", "until", "expected"),
    [
        # The gap: 02:00 to 03:00 does not exist.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-30T12:00", ["29 03:00+0200", "30 02:30+0200"]),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T12:00", ["29 03:00+0200"]),
        ("30 2 * * SUN", "America/New_York", "2026-03-08T00:00", "2026-03-08T23:00", ["08 03:00-0400"]),
        ("0 6 * * MON", "Europe/Berlin", "2026-03-23T12:00", "2026-03-31T00:00", ["30 06:00+0200"]),
        # The fold: 02:00 to 03:00 (01:00 to 02:00 in New York) comes twice.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "2026-10-26T12:00", ["25 02:30+0200", "26 02:30+0100"]),
        ("30 1 * * *", "America/New_York", "2026-10-31T12:00", "2026-11-01T23:00", ["01 01:30-0400"]),
        ("15,45 2 25 10 *", "Europe/Berlin", "2026-10-25T00:50", "2026-10-26T12:00", []),
        # A job that follows the clock fires in every real hour.
        ("0 * * * *", "Europe/Berlin", "2026-03-28T23:30", "2026-03-29T02:00",
         ["29 01:00+0100", "29 03:00+0200", "29 04:00+0200"]),
        ("0 * * * *", "Europe/Berlin", "2026-10-24T23:30", "2026-10-25T02:00",
         ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
        ("30 * * * *", "America/New_York", "2026-11-01T05:00", "2026-11-01T07:00",
         ["01 01:30-0400", "01 01:30-0500"]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T12:00", []),
    ],
)  # fmt: skip
def test_clock_changes(expression: str, zone: str, after: str, until: str, expected: list[str]) -> None:
    """A fixed time fires once when spring skips it and once when autumn repeats it; an hourly job fires every real hour."""
    assert fires(parse_cron(expression, zone), after, until) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata"])
def test_every_real_hour_of_a_year(zone: str) -> None:
    """An hourly job fires 8,760 times in the year 2026, an hour apart in real time; a daily one 365 times, whatever its hour."""
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)) - timedelta(seconds=1)
    hourly = parse_cron("30 * * * *", zone).fires(start)
    moments = [next(hourly).timestamp() for _ in range(8760)]
    assert {later - earlier for earlier, later in itertools.pairwise(moments)} == {3600.0}
    for hour in range(4):
        daily = parse_cron(f"30 {hour} * * *", zone).fires(start)
        days = [next(daily).date() for _ in range(365)]
        assert days == [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]


@given(EXPRESSIONS, ZONES, MOMENTS)
def test_previous_is_the_last_fire(expression: str, zone: str, moment: datetime) -> None:
    """`previous` is at or before the moment, `next` after it, and no fire lies between them."""
    cron = parse_cron(expression, zone)
    before, after = cron.previous(moment), cron.next(moment)
    assert before.astimezone(UTC) <= moment < after.astimezone(UTC)
    assert cron.next(before) == after
    assert cron.previous(after.astimezone(UTC)) == after


@pytest.mark.parametrize(("zone", "change"), CHANGES)
@pytest.mark.parametrize(
    "expression", ["30 2 * * *", "0 2,3 * * *", "*/20 * * * *", "15 1-3 * * *", "45 1 * * *", "0 3 * * SUN"]
)
def test_next_and_previous_agree_around_a_change(expression: str, zone: str, change: datetime) -> None:
    """From every five minutes of the hours around a change, `next` and `previous` find the same list of fires."""
    cron = parse_cron(expression, zone)
    start = change - timedelta(hours=5)
    listed = []
    for fire in cron.fires(start - timedelta(days=8)):
        listed.append(fire.astimezone(UTC))
        if listed[-1] > change + timedelta(days=8):
            break
    for number in range(12 * 10):
        moment = start + timedelta(minutes=5 * number)
        assert cron.next(moment).astimezone(UTC) == min(one for one in listed if one > moment)
        assert cron.previous(moment).astimezone(UTC) == max(one for one in listed if one <= moment)


@given(EXPRESSIONS)
def test_our_fields_are_those_of_cronsim(expression: str) -> None:
    """What we check and print is what fires: both parsers let the same values through."""
    ours = parse_cron(expression, "UTC")
    theirs = CronSim(ours.text, datetime(2026, 1, 1, tzinfo=UTC))
    sets = [theirs.minutes, theirs.hours, theirs.days, theirs.months, {day % 7 for day in theirs.weekdays}]
    assert [set(field.values) for field in ours.fields] == sets
    assert ours.days_are_either is not theirs.day_and


@given(EXPRESSIONS, ZONES)
def test_fires_match_the_fields(expression: str, zone: str) -> None:
    """Away from clock changes each fire is a wall clock time that the fields let through."""
    cron = parse_cron(expression, zone)
    found = cron.fires(datetime(2026, 5, 1, tzinfo=UTC))
    for fire in (next(found) for _ in range(20)):
        yesterday, tomorrow = fire - timedelta(days=1), fire + timedelta(days=1)
        if yesterday.utcoffset() == tomorrow.utcoffset():
            assert cron.matches(fire)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("0 6 * * mon", "0 6 * * 1"),
        ("0 6 * JAN-MAR,DEC mon-fri", "0 6 * 1-3,12 1-5"),
        ("0 6 * * FRI-7", "0 6 * * 5,6,0"),
        ("5/20 */2 * * 7", "5-59/20 */2 * * 0"),
        ("0  6\t1-1/3 * *", "0 6 1 * *"),
    ],
)
def test_one_spelling_for_all_crons(expression: str, text: str) -> None:
    """Names, 7 for Sunday and ``5/20`` are not read alike everywhere; the printed spelling is."""
    assert parse_cron(expression, "UTC").text == text


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("61 * * * *", "the minute '61' is not within 0 to 59"),
        ("0 25 * * MON", "the hour '25' is not within 0 to 23"),
        ("0 0 0 * *", "the day of month '0' is not within 1 to 31"),
        ("0 0 * 13 *", "the month '13' is not within 1 to 12"),
        ("0 0 * * MUN", "the day of week 'MUN' is not a number, a name, a range, a list or a step"),
        ("0 0 L * *", "the day of month 'L' is not a number, a name, a range, a list or a step"),
        ("0 0 * * MON#1", "the day of week 'MON#1' is not a number, a name, a range, a list or a step"),
        ("0 9-5 * * *", "the hour '9-5' ends before it begins: 9 to 5"),
        ("*/0 * * * *", "the step of the minute '*/0' is 0"),
        ("0 0 30 2 *", "the day of month '30' never comes: the longest month of '2' has 29 days"),
        ("@daily", "there is 1 field, not 5"),
        ("0 0 6 * * MON", "there are 6 fields, not 5"),
        ("1,,2 * * * *", "the minute '' is not a number, a name, a range, a list or a step"),
        ("²  * * * *", "the minute '²' is not a number, a name, a range, a list or a step"),
    ],
)
def test_a_wrong_cron_is_named(expression: str, problem: str) -> None:
    """The message has the key, the value and the field that is wrong."""
    with pytest.raises(UsageError) as refused:
        parse_cron(expression, "UTC")
    assert refused.value.message == f"[schedule] cron = '{expression}': {problem}"


@given(
    st.lists(
        st.sampled_from(["0", "1", "7", "59", "*", "/", "-", ",", "MON", "L", "#"]),
        min_size=1,
        max_size=12,
    ).map(" ".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nonsense is a `UsageError`, and what is not refused has fire times."""
    text = text.replace(" ", "", text.count(" ") - len(FIELDS) + 1)
    try:
        cron = parse_cron(text, "Europe/Berlin")
    except UsageError:
        return
    assert cron.next(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [("* * * * *", 60), ("0 6 * * MON", 7 * 86_400 - 3600), ("0 6 * * *", 82_800), ("5,20 * * * *", 900), ("0 0 29 2 *", 1461 * 86_400),
     ("0 0 29 2 */7", 365 * 86_400)],
)  # fmt: skip
def test_shortest_interval(expression: str, seconds: int) -> None:
    """In real time, the short day of spring included; a year where two fires are more than ten apart."""
    assert (
        parse_cron(expression, "Europe/Berlin").shortest_interval_seconds(datetime(2026, 6, 1, tzinfo=UTC)) == seconds
    )
