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
KILLED_CHUNKS = 63
"""About so many, whatever the size: 90 % of them is a number of chunks."""
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
CEILINGS: dict[str, tuple[str, ...]] = {
    "1 GiB, chunks of 32 MiB (the defaults)": (),
    "512 MiB, chunks of 32 MiB": ("run.memory=512MiB",),
    "360 MiB, chunks of 8 MiB": ("run.memory=360MiB", "run.chunk_bytes=8MiB"),
}
"""What `[run] memory` and smaller chunks bring."""
Prepare = Callable[[str, int, str], Case]


def measure(state: State, prepare: Prepare, rows: int, *, long_rows: int) -> None:
    """All of them, without those that were measured before."""
    _workers(state, prepare("csv", rows, "forest"))
    _ceilings(state, prepare("csv", rows, "logistic"))
    _resumed(state, prepare("csv", rows, "logistic"))
    _small(state, prepare("csv", SMALL, "logistic"))
    for size in sorted({SMALL, MIDDLE, rows}):
        _choices(state, prepare("csv", size, "logistic"))
    if long_rows:
        for size in (rows, long_rows):
            _keep(state, f"cases/long/{size}", _ours(prepare("csv", size, "logistic")))
        _resumed(state, prepare("csv", long_rows, "logistic"))


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
    """A run, with what its receipt says of its time and its chunks."""
    name = case.key.replace("/", "-")
    command = our_command(case, target=f"{ROOT_URI}/out/case.csv", options=[*_settings(pairs), "--json"])

    def measure_it() -> dict[str, Any]:
        figures = _run(command, name)()
        if figures["code"] == 0:
            log = (WORK / "logs" / f"case-{name}.log").read_text()
            receipt, _ = json.JSONDecoder().raw_decode(log, log.index("{"))
            figures |= {"phases": receipt["timing"]["phases"], "chunks": receipt["chunks"]}
        return figures

    return measure_it


def _workers(state: State, case: Case) -> None:
    for workers in (1, 2):
        _keep(state, f"cases/workers/{case.rows}/{workers}", _ours(case, [f"run.workers={workers}"]))


def _ceilings(state: State, case: Case) -> None:
    for number in range(1, SMALL_ROUNDS + 1):
        for name, pairs in CEILINGS.items():
            _keep(state, f"cases/ceiling/{case.rows}/{name}/{number}", _ours(case, pairs))


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
    pin = storage_for(case.source).head(case.source)
    assert pin is not None, "the input was uploaded before"
    pairs = [f"run.chunk_bytes={-(-pin.size_bytes // KILLED_CHUNKS)}"]
    _keep(state, f"cases/resumed/{case.rows}/full", _ours(case, pairs))
    _keep(state, f"cases/resumed/{case.rows}/rest", lambda: _rest(case, pairs))


def _rest(case: Case, pairs: Sequence[str]) -> dict[str, Any]:
    """The run after the killed one."""
    killed = _killed(case, pairs)
    figures = killed | _ours(case, pairs)()
    return figures if killed["killed"] else figures | {"error": "the run was over before it could be killed"}


def _killed(case: Case, pairs: Sequence[str]) -> dict[str, Any]:
    """Start a run and kill it when so many of its chunks are stored."""
    before, enough = _staged(), int(KILLED_AT * KILLED_CHUNKS)
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
