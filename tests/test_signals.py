"""SIGTERM and Ctrl-C end a run within ten seconds whatever it is doing, free its lease, and lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batch.execution import attempts, lease, records, register
from batch.execution.history import list_runs
from tests.deadly import Stuck, deadly_bench

ROOT = Path(__file__).parents[1]


def started(bench, settings, engine):
    """A run in a process of its own, once its model has begun not to come back."""
    bench.job("in.csv", "out.csv")
    options = [text for key, value in settings.items() for text in ("--set", f"{key.replace('__', '.')}={toml(value)}")]
    command = [sys.executable, "-m", "batch", "run", str(bench.folder / "weekly.toml"), *options, "--engine", engine]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(Path(bench.root).glob("runs/weekly/*/chunks/*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(1)
    return process


def toml(value):
    return repr(value).replace("'", '"') if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inline", "threads", "processes"])
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_that_hangs(tmp_path, engine, number, exit_code):
    """A model call that never returns does not keep the program: it exits in time, and the output is free at once."""
    bench, settings = deadly_bench(tmp_path, Stuck())
    process = started(bench, settings, engine)
    asked = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=15)
    assert time.monotonic() - asked < 10
    assert (process.returncode, "hint: run the same command again" in said) == (exit_code, True)
    place = f"{register.register_folder(bench.root, bench.root + '/out.csv')}/lease"
    assert lease.newest(place).body["state"] == "released"
    assert not os.path.exists(f"{bench.root}/out.csv")


@pytest.mark.slow
def test_an_interrupted_run_is_listed_as_such(tmp_path):
    """`runs` shows the attempt with its exit code."""
    bench, settings = deadly_bench(tmp_path, Stuck())
    process = started(bench, settings, "threads")
    process.terminate()
    process.communicate(timeout=15)
    (line,) = list_runs(bench.root)
    assert (line["state"], line["exit_code"], line["error"]["code"]) == ("interrupted", 143, "interrupted")
    (tries,) = attempts.of_job(bench.root, "weekly").values()
    assert records.load(tries.ends[1])["receipt"]["state"] == "failed"
