"""Backfill: past periods oldest first, each one once, and on from where it was stopped."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from click.testing import CliRunner

import batch
from batch.cli import program
from batch.errors import InputMissing, UsageError
from batch.execution.history import list_runs
from batch.storage import storage_for
from batch.triggers.backfill import backfill, periods_between
from tests.run_cases import Bench, encode, rows

WEEKLY = '[schedule]\nperiod = "week"\ntimezone = "Europe/Berlin"\n'


def weekly(bench: Bench, weeks: range, **settings: Any) -> batch.Job:
    for week in weeks:
        bench.put(f"in/2026-W{week:02d}.csv", encode(rows(20), "csv"))
    return bench.job("in/{period}.csv", "out/{period}.csv", WEEKLY, **settings)


def call(bench: Bench, *arguments: str) -> Any:
    return CliRunner().invoke(program, ["backfill", str(bench.folder / "weekly.toml"), *arguments])


@pytest.mark.parametrize(
    ("first", "last", "count"), [("2026-W01", "2026-W53", 53), ("2025-W52", "2026-W02", 3), ("2026-W10", "2026-W10", 1)]
)
def test_the_periods_between(bench: Bench, first: str, last: str, count: int) -> None:
    """Both ends included, none twice, none left out."""
    found = periods_between(weekly(bench, range(0)), first, last)
    assert (found[0].name, found[-1].name, len(found), len({one.name for one in found})) == (first, last, count, count)
    assert all(one.end == following.start for one, following in itertools.pairwise(found))


def test_what_cannot_be_filled(bench: Bench) -> None:
    """The wrong way round, a name that is none, and a job without periods."""
    job = weekly(bench, range(0))
    for first, last in (("2026-W10", "2026-W09"), ("2026-10", "2026-W11")):
        with pytest.raises(UsageError):
            periods_between(job, first, last)
    with pytest.raises(UsageError, match="last one to finish"):
        periods_between(bench.job("in/{period}.csv", "out.csv", WEEKLY), "2026-W10", "2026-W11")
    with pytest.raises(UsageError, match="no periods"):
        periods_between(bench.job("in.csv", "out.csv"), "2026-W10", "2026-W11")


@pytest.mark.slow
def test_a_gap_stops_it_or_not(bench: Bench) -> None:
    """Oldest first; the first failure ends it with its code, --keep-going goes on, and a rerun does only what is missing."""
    weekly(bench, range(1, 6))
    os.remove(f"{bench.root}/in/2026-W03.csv")
    stopped = call(bench, "--from", "2026-W01", "--to", "2026-W05", "--json")
    assert stopped.exit_code == InputMissing.exit_code
    states = [one["state"] for one in json.loads(stopped.stdout)["runs"]]
    assert states == ["completed", "completed", "failed", "not run", "not run"]
    went_on = call(bench, "--from", "2026-W01", "--to", "2026-W05", "--keep-going")
    assert went_on.exit_code == InputMissing.exit_code
    lines = [line.split() for line in went_on.stdout.splitlines()]
    assert [line[0] for line in lines] == ["PERIOD", *(f"2026-W0{week}" for week in range(1, 6))]
    assert [" ".join(line[1:3]) for line in lines[1:]] == [
        "done before",
        "done before",
        "failed 3",
        "completed 0",
        "completed 0",
    ]
    bench.put("in/2026-W03.csv", encode(rows(20), "csv"))
    assert call(bench, "--from", "2026-W01", "--to", "2026-W05").exit_code == 0
    assert len(list_runs(bench.root, trigger="backfill", state="completed")) == 5


def test_what_is_done_costs_one_listing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All periods together, however many they are."""
    job = weekly(bench, range(1, 4))
    periods = periods_between(job, "2026-W01", "2026-W03")
    backfill(job, periods, lambda name: batch.run(job, period=name, once=True).as_dict())
    asked: list[str] = []
    storage = storage_for(bench.root)
    for name in ("head", "list", "get", "create", "replace", "read"):
        real = getattr(storage, name)
        monkeypatch.setattr(storage, name, lambda *a, real=real, name=name, **o: (asked.append(name), real(*a, **o))[1])
    found = backfill(job, periods, lambda name: pytest.fail(f"{name} was run"))
    assert ([one.state for one in found], asked) == (["done before"] * 3, ["list"])


@pytest.mark.slow
def test_several_at_once(bench: Bench) -> None:
    """Each in a process of its own; the table is in the order of the periods, a failure has the child's words."""
    weekly(bench, range(1, 6))
    os.remove(f"{bench.root}/in/2026-W02.csv")
    ended = call(bench, "--from", "2026-W01", "--to", "2026-W05", "--parallel", "2", "--keep-going", "--json")
    found = json.loads(ended.stdout)["runs"]
    assert (ended.exit_code, [one["state"] for one in found]) == (3, ["completed", "failed", *["completed"] * 3])
    assert found[1]["error"]["code"] == "input_missing"
    assert "2026-W02.csv" in found[1]["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["1", "2"])
def test_a_backfill_that_is_stopped_goes_on(bench: Bench, parallel: str) -> None:
    """SIGTERM ends it and its children in time with 143; the same command does the rest, and nothing twice."""
    weekly(bench, range(1, 13))
    command = [sys.executable, "-m", "batch", "backfill", str(bench.folder / "weekly.toml")]
    command += ["--from", "2026-W01", "--to", "2026-W12", "--parallel", parallel]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while not list_runs(bench.root, state="completed"):
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 143
    first = {one["run_id"] for one in list_runs(bench.root, state="completed")}
    assert 0 < len(first) < 12
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    done = list_runs(bench.root, state="completed")
    assert (len(done), len({one["subject"] for one in done})) == (12, 12)
    assert first <= {one["run_id"] for one in done}
