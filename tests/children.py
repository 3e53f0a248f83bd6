"""Runs in processes of their own that start in milliseconds: a fork server has imported everything, each child is a fresh fork.

They are real processes with real clients: they can be killed and stopped, and nothing of them is left in the test.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from pathlib import Path

import batch
from batch.clock import SystemClock
from batch.errors import BatchError

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "batch.execution.runner",
        "batch.execution.engine",
        "batch.execution.repair",
        "batch.models.loading",
        "batch.formats.csv",
        "batch.storage.s3",
        "batch.triggers.watch",
        "sklearn.linear_model",
        "sklearn.compose",
        "tests.run_cases",
    ]
)


class QuickClock(SystemClock):
    """The real clock, so many times faster: leases expire in a second instead of half a minute."""

    def __init__(self, speed: float) -> None:
        self.speed = speed

    def monotonic(self) -> float:
        return super().monotonic() * self.speed

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return super().wait(event, seconds / self.speed)


def start(job_file: str, environment: dict[str, str], *, speed: float = 1.0, said: str = "", **options):
    """Start a run of a job file; its exit code is the program's, and `said` names a file for its error."""
    child = _CONTEXT.Process(target=_run, args=(job_file, environment, speed, said, options))
    child.start()
    return child


def start_watcher(job_file: str, environment: dict[str, str], *, speed: float = 1.0, seed: int = 0):
    """Start a watcher that looks ten times a second until it is killed."""
    child = _CONTEXT.Process(target=_watch, args=(job_file, environment, speed, seed))
    child.start()
    return child


def _watch(job_file: str, environment: dict[str, str], speed: float, seed: int) -> None:
    os.environ.update(environment)
    from batch.triggers.events import Wake
    from batch.triggers.watch import Watcher, watch

    job = batch.load_job(job_file)
    watcher = Watcher(job, lambda _: None, clock=QuickClock(speed), dice=random.Random(seed))
    watch(watcher, interval=0.1, wake=Wake(job.watch.prefix), stop=threading.Event())


def _run(job_file: str, environment: dict[str, str], speed: float, said: str, options) -> None:
    os.environ.update(environment)
    settings = options.pop("set", {})
    try:
        batch.run(batch.load_job(job_file, set=settings), clock=QuickClock(speed), **options)
    except BatchError as error:
        if said:
            Path(said).write_text(f"{error.exit_code} {error.message}\n")
        os._exit(error.exit_code)
    os._exit(0)
