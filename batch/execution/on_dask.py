"""The engine ``dask``: chunks as tasks of a Dask cluster, one that is there (``[run] scheduler``) or one of our own on this host.

A worker that dies costs its chunk: the scheduler starts that again elsewhere as often as its ``allowed-failures`` says, then we do.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin

from batch.errors import EngineUnavailable
from batch.execution.cluster import WORKER, Outcome, Work
from batch.execution.cluster_engine import ClusterEngine
from batch.execution.engine import STOP_SECONDS
from batch.execution.plan import Task
from batch.execution.sizing import Sizing

CONNECT_SECONDS = 30.0
_sent: dict[str, Work] = {}
"""In a worker: what the plugin of a run has brought."""


class Sent(WorkerPlugin):  # type: ignore[misc]  # Dask's own types are left out
    """Brings the work of a run to every worker, also to those that join later."""

    def __init__(self, work: Work, *, own: bool = False) -> None:
        """`own`: the workers are processes of this run, in its process group."""
        self.work, self.own = work, own
        self.name = f"batch-predict-{work.token}"

    def setup(self, worker: Worker) -> None:
        """Keep it for the first task."""
        if self.own and threading.current_thread() is threading.main_thread():
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # Ctrl-C reaches the group; the coordinator decides what it means
        _sent[self.work.token] = self.work

    def teardown(self, worker: Worker) -> None:
        """Free what the run has loaded."""
        _sent.pop(self.work.token, None)
        WORKER.drop(self.work.token)


def _score(token: str, task: Task) -> Outcome:
    """In a worker."""
    return WORKER.score(token, partial(_sent.__getitem__, token), task)


class DaskEngine(ClusterEngine):
    """Tasks on a Dask cluster."""

    kind = "Dask scheduler"

    def __init__(self, work: Work, sizing: Sizing) -> None:
        """Raises `EngineUnavailable` where the scheduler does not answer."""
        super().__init__("dask", work, sizing)
        self._cluster = None if sizing.scheduler else _own_cluster(sizing.workers)
        try:
            self._client = Client(
                self._cluster or sizing.scheduler, timeout=CONNECT_SECONDS, set_as_default=False, name="batch-predict"
            )
            self._client.register_plugin(Sent(work, own=self._cluster is not None))
        except (OSError, ValueError) as error:
            if self._cluster is not None:
                self._cluster.close(timeout=STOP_SECONDS)
            raise EngineUnavailable(
                f"{self.title} does not answer: {error}",
                hint="check [run] scheduler, for example tcp://scheduler:8786",
            ) from error

    def slots(self) -> int:
        """Threads of all workers."""
        return sum(self._client.nthreads().values())

    def start(self, task: Task, done: Callable[[Any], None]) -> Any:
        """Submit; Dask does not try again by itself."""
        theirs = self._client.submit(_score, self.work.token, task, pure=False, retries=0)
        theirs.add_done_callback(done)
        return theirs

    def outcome(self, theirs: Any) -> Outcome | Exception:
        """An error that a worker raised is a bug of ours; all others are Dask's."""
        try:
            found: Outcome = theirs.result()
        except KilledWorker as error:
            return BrokenExecutor(str(error))
        except BaseException as error:  # CancelledError is one, and nobody but the coordinator can deal with any
            return error if theirs.status == "error" and isinstance(error, Exception) else self.dropped(error)
        return found

    def cancel(self) -> None:
        """Give up what still runs, and what the workers hold."""
        self._client.cancel([one for one in self.ours.values() if one is not None], force=True)
        self._client.unregister_worker_plugin(Sent(self.work).name)

    def close(self) -> None:
        """Disconnect, and end a cluster of our own."""
        try:
            self._client.close(timeout=STOP_SECONDS)
        finally:
            if self._cluster is not None:
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
