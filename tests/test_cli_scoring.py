"""What `run` and `check` print when they refuse: the same document shapes as when they succeed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from batch.cli import program
from tests.run_cases import Bench, register

JOB = 'name = "j"\nroot = "{root}"\nmodel = "models:/m@champion"\n[input]\nuri = "{root}/in.csv"\n[output]\nuri = "{root}/o.csv"\n'


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "j.toml"
    path.write_text(JOB.format(root=tmp_path / "root"))
    return str(path)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A root with a registered model."""
    return Bench(str(tmp_path / "root"), register(str(tmp_path / "models")), tmp_path)


def call(*arguments: str):
    return CliRunner().invoke(program, list(arguments), prog_name="batch-predict")


@pytest.mark.parametrize(("more", "exit_code"), [((), 3), (("--set", "run.colour=1"), 2)])
def test_a_run_that_never_began_has_a_receipt(job: str, more: tuple[str, ...], exit_code: int) -> None:
    """`run --json` prints a receipt in state failed with the error, also before there is a run id."""
    ended = call("run", job, "--json", *more)
    receipt = json.loads(ended.stdout)
    assert (ended.exit_code, receipt["state"], receipt["run_id"]) == (exit_code, "failed", None)
    assert {"input", "models", "output", "rows", "timing", "environment", "error"} <= set(receipt)


def test_check_names_every_problem_of_a_job_file(job: str) -> None:
    """`check --json` has one shape for all refusals, an invalid job file included: one refusal per problem."""
    ended = call("check", job, "--json", "--set", "run.colour=1", "--set", "input.max_rows=-1")
    found = json.loads(ended.stdout)
    assert (ended.exit_code, found["ok"], found["estimate"]) == (2, False, None)
    assert {one["message"].split(":")[0] for one in found["refusals"]} == {"run.colour", "input.max_rows"}


def test_check_refuses_on_stderr(job: str) -> None:
    """Without --json a refusal of `check` stands on stderr like any error, and stdout stays empty."""
    ended = call("check", job, "--once", "--trigger", "cron")
    assert (ended.exit_code, ended.stdout) == (3, "")
    assert ended.stderr.startswith("error: there is no input")


@pytest.mark.slow
def test_check_looks_at_the_first_rows(bench: Bench) -> None:
    """Bad rows within the budget are told; more than the budget are a refusal with its exit code, before anything is scored."""
    bench.put("in.csv", b"customer_id,product,age,spend\n1,basic,30,0.5\n2,plus,old,0.5\n3,pro,40,0.1\n")
    bench.job("in.csv", "out.csv", "[rejects]\nmax_rows = 1\n")
    path = str(bench.folder / "weekly.toml")
    within, over = call("check", path), call("check", path, "--set", "rejects.max_rows=0")
    assert (within.exit_code, over.exit_code) == (0, 5)
    assert within.stdout.startswith("weekly: ready to run (about 3 rows, 1 chunks, about ")
    assert within.stdout.endswith(
        f"1 of the first 3 rows would be rejected; row 2 of {bench.root}/in.csv: age is 'old', which is not of type long\n"
    )
    assert over.stderr.startswith(
        "error: 1 of the first 3 rows would be rejected (type: 1), allowed are 0 in the whole input; row 2 of "
    )
    call("run", path)
    assert call("check", path).stdout == "weekly: nothing to do, the run is done\n"


def test_an_unknown_trigger_is_refused(job: str) -> None:
    """The receipt's trigger is one of a closed set."""
    assert call("run", job, "--trigger", "bogus").exit_code == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads the process table of Linux")
def test_workers_leave_with_their_coordinator(bench: Bench, tmp_path: Path) -> None:
    """After kill -9 of a run with worker processes no worker is left behind."""
    rows = "".join(f"{number:06d},Lamp,{number % 70},{number % 9}.5\n" for number in range(200_000))
    bench.put("in/big.csv", ("customer_id,product,age,spend\n" + rows).encode())
    path = bench.folder / "weekly.toml"
    bench.job("in/big.csv", "out/big.csv")
    command = [
        str(Path(sys.executable).with_name("batch-predict")),
        "run",
        str(path),
        "--engine",
        "processes",
        "--workers",
        "2",
    ]
    running = subprocess.Popen([*command, "--set", "run.chunk_bytes=4KiB"], stderr=subprocess.DEVNULL)
    workers = _children_once_there(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert workers
    deadline = time.monotonic() + 20
    while (left := [pid for pid in workers if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _children_once_there(pid: int) -> list[int]:
    """The worker processes, as soon as two of them (and the resource tracker) run."""
    deadline = time.monotonic() + 30
    found: list[int] = []
    while len(found) < 3 and time.monotonic() < deadline:
        found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        time.sleep(0.05)
    time.sleep(2)  # until their initialisers have run: imports and the model
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False
