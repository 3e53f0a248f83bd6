"""Periods: what they are called, where they begin and end, and that a run is about one of them once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batch
from batch.errors import InputMissing, UsageError
from batch.execution.history import list_runs
from batch.period import EXAMPLES, last_complete, parse_period, period_at
from batch.storage import storage_for
from tests.clocks import FakeClock
from tests.run_cases import Bench, encode, estimator, rows
from tests.run_cases import register as register_model

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
WEEKLY = '[schedule]\nperiod = "week"\ntimezone = "Europe/Berlin"\n'


@pytest.mark.parametrize(
    ("unit", "name", "start", "end"),
    [
        ("week", "2026-W46", "2026-11-09T00:00+01:00", "2026-11-16T00:00+01:00"),
        ("week", "2026-W01", "2025-12-29T00:00+01:00", "2026-01-05T00:00+01:00"),
        ("week", "2026-W53", "2026-12-28T00:00+01:00", "2027-01-04T00:00+01:00"),
        ("week", "2026-W13", "2026-03-23T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("day", "2026-03-29", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        ("day", "2026-10-25", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        ("month", "2026-12", "2026-12-01T00:00+01:00", "2027-01-01T00:00+01:00"),
        ("hour", "2026-10-25T02+0200", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
        ("hour", "2026-10-25T02+0100", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
        ("hour", "2026-03-29T01+0100", "2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"),
    ],
)
def test_a_period_is_half_open_in_its_zone(unit: str, name: str, start: str, end: str) -> None:
    """ISO weeks cross the year, and days are 23 or 25 hours long where the clocks change."""
    found = parse_period(name, unit, "Europe/Berlin")
    first, after = found.start.astimezone(UTC), found.end.astimezone(UTC)
    assert (found.name, first, after) == (name, datetime.fromisoformat(start), datetime.fromisoformat(end))
    assert period_at(first, unit, "Europe/Berlin").name == name
    assert period_at(after - timedelta(microseconds=1), unit, "Europe/Berlin").name == name


@given(
    moment=st.integers(946_684_800, 2_145_916_800).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    unit=st.sampled_from(list(EXAMPLES)),
    zone=st.sampled_from(ZONES),
)
def test_periods_tile_time(moment: datetime, unit: str, zone: str) -> None:
    """Every moment lies in one period; the one before it ends where it begins, and has another name."""
    containing = period_at(moment, unit, zone)
    before = last_complete(moment, unit, zone)
    assert containing.start <= moment < containing.end
    assert before.end == containing.start
    assert before.name != containing.name
    assert parse_period(containing.name, unit, zone) == containing


@pytest.mark.parametrize(
    ("unit", "name"),
    [("week", "2026-W54"), ("week", "2026-46"), ("day", "2026-02-30"), ("month", "2026-13"), ("hour", "x")],
)
def test_a_name_that_is_none(unit: str, name: str) -> None:
    """One sentence, and what a name looks like."""
    with pytest.raises(UsageError, match=name) as caught:
        parse_period(name, unit, "UTC")
    assert EXAMPLES[unit] in caught.value.hint


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    register_model(str(tmp_path))
    return Bench(str(tmp_path), "models:/tiny@champion", tmp_path)


def weekly(bench: Bench, **settings: Any) -> batch.Job:
    return bench.job("exports/{period}/in.csv", "out/{period}.csv", WEEKLY, **settings)


def test_a_period_is_done_once_whatever_moves(bench: Bench) -> None:
    """A doubled cron, a late one and a rerun of the same week are one run, also after the alias has moved on."""
    bench.put("exports/2026-W46/in.csv", encode(rows(), "csv"))
    job = weekly(bench)
    monday = datetime.fromisoformat("2026-11-16T06:00+01:00")
    first = batch.run(job, now=monday, once=True, trigger="cron")
    assert (first.as_dict()["period"]["name"], first.as_dict()["subject"]) == ("2026-W46", "2026-W46")
    batch.register(estimator(0.5), "tiny", rows(200)[["age", "spend", "product"]], root=bench.root, alias="champion")
    body = bench.get("out/2026-W46.csv")
    for moment in (monday, monday + timedelta(days=3)):
        again = batch.run(job, now=moment, once=True, trigger="cron")
        assert (again.already_done, again.run_id) == (True, first.run_id)
    assert bench.get("out/2026-W46.csv") == body
    assert batch.run(job, period="2026-W46").run_id != first.run_id  # without --once the new model is another run
    found = list_runs(bench.root, period="2026-W46", trigger="cron", input_part="exports/2026-W46")
    assert [one["run_id"] for one in found] == [first.run_id]
    assert list_runs(bench.root, input_part="2026-W45") == []


def test_once_looks_again_when_it_has_the_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two crons fire, the alias moves in between, and the first one ends while the second waits for the lease."""
    bench.put("exports/2026-W46/in.csv", encode(rows(), "csv"))
    from batch.execution import lease

    real, first = lease.acquire, []

    def late(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(lease, "acquire", real)
        first.append(batch.run(weekly(bench, model=old), period="2026-W46"))
        return real(*arguments, **options)

    old = "models:/tiny/1"
    batch.register(estimator(0.5), "tiny", rows(200)[["age", "spend", "product"]], root=bench.root, alias="champion")
    monkeypatch.setattr(lease, "acquire", late)
    second = batch.run(weekly(bench), period="2026-W46", once=True)
    assert (second.already_done, second.run_id) == (True, first[0].run_id)


def test_a_missing_input_names_the_nearest_keys(bench: Bench) -> None:
    """Of the same job's other periods, where the folder of this one is not there."""
    for week in ("2026-W43", "2026-W44", "2026-W45"):
        bench.put(f"exports/{week}/in.csv", b"x\n")
    with pytest.raises(InputMissing, match=r"2026-W46/in\.csv") as caught:
        batch.run(weekly(bench), period="2026-W46")
    assert caught.value.exit_code == 3
    assert "2026-W45/in.csv" in caught.value.hint
    (line,) = list_runs(bench.root, period="2026-W46")
    assert (line["state"], line["exit_code"], line["run_id"]) == ("failed", 3, None)


class Late(FakeClock):
    """A clock during whose third wait the file arrives."""

    waits = 0

    def __init__(self, arrive: Any) -> None:
        super().__init__()
        self.arrive = arrive

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits += 1
        if self.waits == 3:
            self.arrive()
        return super().wait(event, seconds)


def test_a_late_input_is_waited_for(bench: Bench) -> None:
    """`[input] wait` polls until the file is there, and says so."""
    clock = Late(lambda: bench.put("exports/2026-W46/in.csv", encode(rows(), "csv")))
    said: list[str] = []
    receipt = batch.run(weekly(bench, input__wait="2h"), period="2026-W46", clock=clock, notice=said.append)
    assert (receipt.rows.predicted, len(said), clock.waits >= 3) == (60, 3, True)
    assert said[0].startswith("waiting up to 7200 s: there is no input")


def test_an_input_that_never_comes_is_missing(bench: Bench) -> None:
    """After the time is up: exit 3, as without a wait."""
    clock = FakeClock()
    began = clock.monotonic()
    with pytest.raises(InputMissing):
        batch.run(weekly(bench, input__wait="10m"), period="2026-W46", clock=clock)
    assert clock.monotonic() - began == pytest.approx(600)
    assert [one.uri for one in storage_for(bench.root).list(f"{bench.root}/done/")] == []
