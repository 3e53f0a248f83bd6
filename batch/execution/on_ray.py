"""The engine ``ray``: chunks as Ray tasks, on a cluster that is there (``[run] scheduler``) or one of our own on this host.

A Ray of our own opens ports on all interfaces of this host; Ray has no setting against that.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

import ray
from ray import exceptions

from batch.errors import EngineUnavailable
from batch.execution.chunk import ChunkRecord
from batch.execution.cluster import WORKER, Outcome, Work, forget_shared
from batch.execution.engine import STOP_SECONDS, Engine
from batch.execution.plan import Task
from batch.execution.sizing import Sizing

WORKERLESS_SECONDS = 60.0
_DEATHS = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError)


def _score(token: str, work: list[Any], task: Task) -> Outcome:
    """In a worker. The reference comes inside a list: Ray would fetch and unpickle a bare one for every chunk."""
    return WORKER.score(token, partial(ray.get, work[0]), task)


class RayEngine(Engine):
    """Tasks on a Ray cluster, one core each."""

    breaks_together = False

    def __init__(self, work: Work, sizing: Sizing) -> None:
        """Raises `EngineUnavailable` where the cluster does not answer."""
        options: dict[str, Any] = {"address": sizing.scheduler} if sizing.scheduler else {
            "address": "local", "num_cpus": sizing.workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1",
        }  # fmt: skip
        self._where = f" at {sizing.scheduler}" if sizing.scheduler else ""
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise EngineUnavailable(
                f"the Ray cluster{self._where} does not answer: {error}",
                hint="check [run] scheduler, for example auto or ray://head:10001",
            ) from error
        self._work = work
        self._sent = [ray.put(work)]
        # No retries of Ray's own: a chunk that kills its worker is told from its neighbours by running alone.
        self._task = ray.remote(num_cpus=1, max_retries=0)(_score)
        self._ours: dict[Future[ChunkRecord], Any] = {}
        self._peopled_at = time.monotonic()
        super().__init__("ray", None, self._never, sizing)
        self.workers = 0
        self.check()

    @staticmethod
    def _never(_: Task) -> ChunkRecord:
        raise AssertionError("tasks run on the cluster")

    def check(self) -> None:
        """Learn how many cores there are. Raises `EngineUnavailable` where there are none for long, or the cluster is gone."""
        try:
            cores = int(ray.cluster_resources().get("CPU", 0))
        except Exception as error:  # the connection is closed in one of several ways
            raise EngineUnavailable(
                f"the Ray cluster{self._where} is gone: {type(error).__name__}",
                hint="run again: what is scored stays scored",
            ) from error
        now = time.monotonic()
        if cores:
            self._peopled_at = now
        elif now - self._peopled_at > WORKERLESS_SECONDS:
            raise EngineUnavailable(
                f"the Ray cluster{self._where} has had no core for {WORKERLESS_SECONDS:g} s",
                hint="start nodes, and run again: what is scored stays scored",
            )
        self.workers, self.in_flight = max(self.workers, cores), max(1, 2 * cores)

    def submit(self, task: Task) -> Future[ChunkRecord]:
        """Start a task on the cluster."""
        future: Future[ChunkRecord] = Future()
        reference = self._task.remote(self._work.token, self._sent, task)
        self._ours[future] = reference
        reference.future().add_done_callback(partial(self._settle, future))
        return future

    def _settle(self, future: Future[ChunkRecord], theirs: Future[Any]) -> None:
        self._ours.pop(future, None)
        error = theirs.exception()
        outcome = theirs.result() if error is None else error
        if isinstance(outcome, _DEATHS):
            outcome = BrokenExecutor(str(outcome).splitlines()[0])
        elif isinstance(outcome, exceptions.RayTaskError):  # a bug of ours, raised in the worker
            outcome = outcome.cause or outcome
        elif isinstance(outcome, exceptions.RayError):
            outcome = EngineUnavailable(
                f"the Ray cluster{self._where} has dropped a chunk: {type(outcome).__name__}",
                hint="run again: what is scored stays scored",
            )
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            wait_for(list(self._ours), timeout=STOP_SECONDS)  # what is under way is worth a moment
        with suppress(Exception):  # a cluster that is gone need not be told goodbye
            for reference in list(self._ours.values()):
                ray.cancel(reference, force=True)
        with suppress(Exception):
            ray.shutdown()
        if error is None:
            forget_shared(self._work)
