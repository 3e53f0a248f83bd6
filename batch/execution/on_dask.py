"""The engine ``dask``: chunks as tasks of a Dask cluster, one that is there (``[run] scheduler``) or one of our own on this host.

A worker that dies costs its chunk: the scheduler starts that again elsewhere as often as its ``allowed-failures`` says, then we do.
"""

from __future__ import annotations

import time
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin

from batch.errors import EngineUnavailable
from batch.execution.chunk import ChunkRecord
from batch.execution.cluster import WORKER, Outcome, Work, forget_shared
from batch.execution.engine import STOP_SECONDS, Engine
from batch.execution.plan import Task
from batch.execution.sizing import Sizing

CONNECT_SECONDS = 30.0
WORKERLESS_SECONDS = 60.0
"""How long a cluster may be without any worker, while some are replaced or the first ones start."""
_sent: dict[str, Work] = {}
"""In a worker: what the plugin of a run has brought."""


class Sent(WorkerPlugin):  # type: ignore[misc]  # Dask's own types are left out
    """Brings the work of a run to every worker, also to those that join later."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.name = f"batch-predict-{work.token}"

    def setup(self, worker: Worker) -> None:
        """Keep it for the first task."""
        _sent[self.work.token] = self.work

    def teardown(self, worker: Worker) -> None:
        """Free what the run has loaded."""
        _sent.pop(self.work.token, None)
        WORKER.drop(self.work.token)


def _score(token: str, task: Task) -> Outcome:
    """In a worker."""
    return WORKER.score(token, partial(_sent.__getitem__, token), task)


class DaskEngine(Engine):
    """Tasks on a Dask cluster. Workers that join during the run are used, workers that leave are not missed."""

    breaks_together = False

    def __init__(self, work: Work, sizing: Sizing) -> None:
        """Raises `EngineUnavailable` where the scheduler does not answer."""
        self._work = work
        self._address = sizing.scheduler
        self._cluster = None if sizing.scheduler else _own_cluster(sizing.workers)
        try:
            self._client = Client(
                self._cluster or sizing.scheduler, timeout=CONNECT_SECONDS, set_as_default=False, name="batch-predict"
            )
            self._client.register_plugin(Sent(work))
        except (OSError, ValueError) as error:
            self._close_cluster()
            raise EngineUnavailable(
                f"the Dask scheduler at {self._address} does not answer: {error}",
                hint="check [run] scheduler, for example tcp://scheduler:8786",
            ) from error
        self._ours: dict[Future[ChunkRecord], Any] = {}
        """What runs, each with Dask's own future, which must be held for as long as it is wanted."""
        self._peopled_at = time.monotonic()
        super().__init__("dask", None, self._never, sizing)
        self.workers = 0
        self.check()

    @staticmethod
    def _never(_: Task) -> ChunkRecord:
        raise AssertionError("tasks run on the cluster")

    def check(self) -> None:
        """Learn how many workers there are. Raises `EngineUnavailable` where there are none for long, or the scheduler is gone."""
        try:
            threads = sum(self._client.nthreads().values())
        except Exception as error:  # the connection is closed in one of a dozen ways
            raise EngineUnavailable(
                f"the Dask scheduler{self._where} is gone: {type(error).__name__}: {error}",
                hint="run again: what is scored stays scored",
            ) from error
        now = time.monotonic()
        if threads:
            self._peopled_at = now
        elif now - self._peopled_at > WORKERLESS_SECONDS:
            raise EngineUnavailable(
                f"the Dask scheduler{self._where} has had no worker for {WORKERLESS_SECONDS:g} s",
                hint="start workers, and run again: what is scored stays scored",
            )
        self.workers, self.in_flight = max(self.workers, threads), max(1, 2 * threads)

    @property
    def _where(self) -> str:
        return f" at {self._address}" if self._address else ""

    def submit(self, task: Task) -> Future[ChunkRecord]:
        """Start a task on the cluster."""
        future: Future[ChunkRecord] = Future()
        theirs = self._client.submit(_score, self._work.token, task, pure=False, retries=0)
        self._ours[future] = theirs
        theirs.add_done_callback(partial(self._settle, future))
        return future

    def _settle(self, future: Future[ChunkRecord], theirs: Any) -> None:
        """Called by Dask's thread, with its future done."""
        self._ours.pop(future, None)
        try:
            outcome = theirs.result()
        except KilledWorker as error:
            outcome = BrokenExecutor(str(error))
        except BaseException as error:  # CancelledError is one, and nobody but the coordinator can deal with any
            outcome = error if theirs.status == "error" and isinstance(error, Exception) else self._dropped(error)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _dropped(self, error: BaseException) -> EngineUnavailable:
        return EngineUnavailable(
            f"the Dask scheduler{self._where} has dropped a chunk: {type(error).__name__}",
            hint="run again: what is scored stays scored",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            wait_for(list(self._ours), timeout=STOP_SECONDS)  # what is under way is worth a moment
        with suppress(Exception):  # a cluster that is gone need not be told goodbye
            self._client.cancel(list(self._ours.values()), force=True)
            self._client.unregister_worker_plugin(f"batch-predict-{self._work.token}")
        with suppress(Exception):
            self._client.close(timeout=STOP_SECONDS)
        self._close_cluster()
        if error is None:
            forget_shared(self._work)

    def _close_cluster(self) -> None:
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=STOP_SECONDS)


def _own_cluster(workers: int) -> LocalCluster:
    """Worker processes on this host, watched and replaced by Dask; a chunk that kills one is ours to judge at once."""
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": True}
    with dask.config.set(settings):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # without an address Dask serves its pages on all interfaces
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,  # the ceiling is kept by what is in flight
            silence_logs=50,
        )
