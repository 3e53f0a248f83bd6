"""How far a run is from what the same machine can do at best, and what staging, commit and accounting cost.

    python -m benchmarks.bench --parts roofline

``memory``: parse, predict and encode the same chunks on all cores from a file in memory; nothing is stored, and neither the start of the process
nor the loading of the model counts. ``bare``: the same from the S3 server and back, in a process of its own, every chunk's rows going straight
into one multipart upload: no lease, no staged chunks, no commit, no receipt, no profile.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Semaphore
from typing import Any
from unittest import mock

import batch
from batch.execution import score
from batch.execution.about import About
from batch.execution.memory import freed_memory_kept
from batch.execution.phases import Phases
from batch.execution.plan import Plan
from batch.execution.preflight import prepare
from batch.execution.process import collect_as_usual, prepare_process
from batch.formats import FORMATS
from batch.storage import storage_for
from benchmarks.environments import WORK, our_python
from benchmarks.inputs import ROOT_URI
from benchmarks.measured import measure as measured
from benchmarks.profiles import Nothing
from benchmarks.programs import LIMIT_SECONDS, Case, environment, our_command
from benchmarks.state import State

MEMORY = Path("/dev/shm")  # noqa: S108
"""A file system in memory."""
LAUNCH = """
from batch.execution.process import collect_rarely
collect_rarely()
from benchmarks import roofline
roofline.main()
"""
"""Starts as our own program does (decision 020)."""


def measure(state: State, case: Case, rounds: int) -> None:
    """Both figures and our own run beside them, in turn."""
    for number in range(1, rounds + 1):
        for mode in ("ours", "bare", "memory"):
            key = f"roofline/{case.key}/{mode}/{number}"
            if key in state.runs and not state.runs[key].get("error"):
                continue
            figures = state.put(key, _one(case, mode, number))
            print(f"{key:<44} {figures.get('error') or round(figures.get('seconds', figures['wall']), 2)}", flush=True)


def _one(case: Case, mode: str, number: int) -> dict[str, Any]:
    log = WORK / "logs" / f"roofline-{case.model}-{mode}-{number}.log"
    command = our_command(case, target=f"{ROOT_URI}/out/roofline-ours.csv")
    if mode == "ours":
        return measured(command, environment(), LIMIT_SECONDS, log)
    with tempfile.TemporaryDirectory(prefix="roofline-") as folder:
        answer = Path(folder, "answer.json")
        program = [our_python(), "-c", LAUNCH, command[2], mode, str(answer)]
        figures = measured(program, environment(), LIMIT_SECONDS, log)
        if figures["code"] != 0:
            return figures | {"error": (log.read_text().strip().splitlines() or ["failed"])[-1]}
        seconds: dict[str, Any] = json.loads(answer.read_text())
        return figures | seconds


def run(job_path: str, mode: str, scratch: str) -> float:
    """The seconds from the first byte read to the last one encoded (``memory``) or stored (``bare``)."""
    job = batch.load_job(job_path)
    if mode == "memory":
        local = os.path.join(scratch, "in.csv")
        _download(job.input.uri, local)
        job = batch.load_job(job_path, input=local, output=os.path.join(scratch, "out.csv"))
    prepared = prepare(job, About(None, None), force=True)
    plan = prepared.plan(scratch)
    workers = len(os.sched_getaffinity(0))
    gate = Semaphore(workers)
    with freed_memory_kept(), mock.patch.object(score, "make_profiler", return_value=Nothing()):
        context = _context(plan, prepared.models, nullcontext() if mode == "memory" else gate)
        collect_as_usual()
        began = time.monotonic()
        with ThreadPoolExecutor(workers if mode == "memory" else 2 * workers) as pool:
            sections = _sections(plan, context, pool)
            if mode == "memory":
                for _ in sections:
                    pass
            else:
                parts = FORMATS[plan.output_format].assemble(plan.write, sections)
                uri = f"{ROOT_URI}/out/roofline-bare.csv"
                storage_for(uri).replace(uri, parts, -1)
        return time.monotonic() - began


def _context(plan: Plan, models: Any, gate: AbstractContextManager[Any]) -> score.Context:
    from threadpoolctl import threadpool_limits

    opened = score.open_context(plan, models, (), lambda: threadpool_limits(1) and None)
    return score.Context(plan, opened.models, lambda: gate)


def _sections(plan: Plan, context: score.Context, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """The rows of every chunk, in order; as many are under way as a run would have."""
    ahead: list[Future[Any]] = []
    tasks = iter(plan.tasks)
    for task in tasks:
        ahead.append(pool.submit(score.score_range, context, task, Phases()))
        if len(ahead) > 2 * (os.cpu_count() or 1):
            yield ahead.pop(0).result()[1]["rows"]
    while ahead:
        yield ahead.pop(0).result()[1]["rows"]


def _download(uri: str, path: str) -> None:
    storage = storage_for(uri)
    pin = storage.head(uri)
    assert pin is not None, "the input was uploaded before"
    with open(path, "wb") as file:
        starts = range(0, pin.size_bytes, 64 << 20)
        file.writelines(storage.read(pin, start, min(start + (64 << 20), pin.size_bytes)) for start in starts)


def main() -> None:
    """One figure in a process of its own."""
    job_path, mode, answer = sys.argv[1:]
    prepare_process()
    scratch = tempfile.mkdtemp(prefix="roofline-", dir=MEMORY if MEMORY.is_dir() else None)
    try:
        Path(answer).write_text(json.dumps({"seconds": run(job_path, mode, scratch)}))
    finally:
        shutil.rmtree(scratch)
    gc.freeze()
