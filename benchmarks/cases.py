"""Further questions about batch-predict alone: workers, size, resuming, small files, `--help`, and what `auto` chooses."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from batch.storage import storage_for
from benchmarks.environments import WORK, our_python
from benchmarks.inputs import ROOT_URI
from benchmarks.measured import ROOT
from benchmarks.measured import measure as measured
from benchmarks.programs import LIMIT_SECONDS, Case, environment, our_command
from benchmarks.state import State

SMALL = 1_000
MIDDLE = 100_000
SMALL_ROUNDS = 3
"""Of what takes seconds; the rest is measured once."""
KILLED_AT = 0.9
KILLED_CHUNK_BYTES = 4 << 20
"""So small that 90 % of the chunks is a number of chunks."""
CHOICES: dict[str, tuple[str, ...]] = {
    "auto": (),
    "inline 32MiB": ("run.engine=inline",),
    "inline 8MiB": ("run.engine=inline", "run.chunk_bytes=8MiB"),
    "threads x1 32MiB": ("run.engine=threads", "run.workers=1"),
    "threads x2 8MiB": ("run.engine=threads", "run.workers=2", "run.chunk_bytes=8MiB"),
    "threads x2 32MiB": ("run.engine=threads", "run.workers=2"),
    "processes x1 32MiB": ("run.engine=processes", "run.workers=1"),
    "processes x2 32MiB": ("run.engine=processes", "run.workers=2"),
}
Prepare = Callable[[str, int, str], Case]


def measure(state: State, prepare: Prepare, rows: int, *, long_rows: int) -> None:
    """All of them, without those that were measured before."""
    _workers(state, prepare("csv", rows, "forest"))
    _resumed(state, prepare("csv", rows, "logistic"))
    _small(state, prepare("csv", SMALL, "logistic"))
    for size in sorted({SMALL, MIDDLE, rows}):
        _choices(state, prepare("csv", size, "logistic"))
    if long_rows:
        for size in (rows, long_rows):
            _keep(state, f"cases/long/{size}", _ours(prepare("csv", size, "logistic")))


def _keep(state: State, key: str, make: Callable[[], dict[str, Any]]) -> None:
    if key in state.runs and not state.runs[key].get("error"):
        return
    figures = make()
    if figures["code"] != 0 and not figures.get("error"):
        figures |= {"error": f"ended with {figures['code']}"}
    state.put(key, figures)
    print(f"{key:<44} {figures.get('error') or round(figures['wall'], 2)}", flush=True)


def _settings(pairs: Sequence[str]) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


def _run(command: Sequence[str], name: str) -> Callable[[], dict[str, Any]]:
    return lambda: measured(command, environment(), LIMIT_SECONDS, WORK / "logs" / f"case-{name}.log")


def _ours(case: Case, pairs: Sequence[str] = ()) -> Callable[[], dict[str, Any]]:
    target = f"{ROOT_URI}/out/case.csv"
    return _run(our_command(case, target=target, options=_settings(pairs)), case.key.replace("/", "-"))


def _workers(state: State, case: Case) -> None:
    for workers in (1, 2):
        _keep(state, f"cases/workers/{case.rows}/{workers}", _ours(case, [f"run.workers={workers}"]))


def _choices(state: State, case: Case) -> None:
    for number in range(1, (SMALL_ROUNDS if case.rows <= MIDDLE else 1) + 1):
        for name, pairs in CHOICES.items():
            _keep(state, f"cases/auto/{case.rows}/{name}/{number}", _ours(case, [*pairs, "run.memory=2GiB"]))


def _small(state: State, case: Case) -> None:
    model = f"{ROOT_URI}/models/{case.model}/1/model.skops"
    bare = [our_python(), str(ROOT / "benchmarks" / "bare_script.py"), case.source, f"{ROOT_URI}/out/bare.csv", model]
    programs = {
        "ours": _ours(case),
        "bare": _run(bare, "bare"),
        "help": _run([our_command(case)[0], "--help"], "help"),
    }
    for number in range(1, SMALL_ROUNDS + 1):
        for name, make in programs.items():
            _keep(state, f"cases/small/{case.rows}/{name}/{number}", make)


def _resumed(state: State, case: Case) -> None:
    """The share of a full run that is left for the run after one that was killed."""
    pairs = [f"run.chunk_bytes={KILLED_CHUNK_BYTES}"]
    _keep(state, f"cases/resumed/{case.rows}/full", _ours(case, pairs))
    _keep(state, f"cases/resumed/{case.rows}/rest", lambda: _rest(case, pairs))


def _rest(case: Case, pairs: Sequence[str]) -> dict[str, Any]:
    """The run after the killed one, with what its receipt says of the chunks."""
    killed = _killed(case, pairs)
    command = our_command(case, target=f"{ROOT_URI}/out/case.csv", options=[*_settings(pairs), "--json"])
    figures = killed | _run(command, "rest")()
    if not killed["killed"]:
        return figures | {"error": "the run was over before it could be killed"}
    if figures["code"] == 0:
        log = (WORK / "logs" / "case-rest.log").read_text()
        receipt, _ = json.JSONDecoder().raw_decode(log, log.index("{"))
        figures |= {"reused": receipt["chunks"]["reused"], "chunks": receipt["chunks"]["total"]}
    return figures


def _killed(case: Case, pairs: Sequence[str]) -> dict[str, Any]:
    """Start a run and kill it when so many of its chunks are stored."""
    storage = storage_for(case.source)
    pin = storage.head(case.source)
    assert pin is not None, "the input was uploaded before"
    chunks = -(-pin.size_bytes // KILLED_CHUNK_BYTES)
    enough = max(1, int(KILLED_AT * chunks))
    before = _staged()
    command = our_command(case, target=f"{ROOT_URI}/out/case.csv", options=_settings(pairs))
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(_staged() - before) < enough:
            time.sleep(0.05)
        killed = process.poll() is None
        process.kill()
    return {"killed": killed}


def _staged() -> set[str]:
    prefix = f"{ROOT_URI}/runs/"
    return {info.uri for info in storage_for(prefix).list(prefix) if "/chunks/" in info.uri}
