"""The engine ``ray``: chunks as Ray tasks, on a cluster that is there (``[run] scheduler``) or one of our own on this host.

A Ray of our own opens ports on all interfaces of this host; Ray has no setting against that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from typing import Any

import ray
from ray import exceptions

from batch.errors import EngineUnavailable
from batch.execution.cluster import WORKER, Outcome, Work
from batch.execution.cluster_engine import ClusterEngine
from batch.execution.plan import Task
from batch.execution.sizing import Sizing

_DEATHS = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError)


def _score(token: str, work: list[Any], task: Task) -> Outcome:
    """In a worker. The reference comes inside a list: Ray would fetch and unpickle a bare one for every chunk."""
    return WORKER.score(token, partial(ray.get, work[0]), task)


class RayEngine(ClusterEngine):
    """Tasks on a Ray cluster, one core each."""

    kind = "Ray cluster"

    def __init__(self, work: Work, sizing: Sizing) -> None:
        """Raises `EngineUnavailable` where the cluster does not answer."""
        super().__init__("ray", work, sizing)
        options: dict[str, Any] = {"address": sizing.scheduler}
        if not sizing.scheduler:
            cores = sizing.workers
            options = {"address": "local", "num_cpus": cores, "include_dashboard": False}
            options |= {"_node_ip_address": "127.0.0.1"}
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise EngineUnavailable(
                f"{self.title} does not answer: {error}",
                hint="check [run] scheduler, for example auto or ray://head:10001",
            ) from error
        self._sent = [ray.put(work)]
        # No retries of Ray's own: a chunk that kills its worker is told from its neighbours by running alone.
        self._task = ray.remote(num_cpus=1, max_retries=0)(_score)

    def slots(self) -> int:
        """Cores of all nodes."""
        return int(ray.cluster_resources().get("CPU", 0))

    def start(self, task: Task, done: Callable[[Any], None]) -> Any:
        """Submit."""
        reference = self._task.remote(self.work.token, self._sent, task)
        reference.future().add_done_callback(done)
        return reference

    def outcome(self, theirs: Any) -> Outcome | Exception:
        """An error that a worker raised is a bug of ours; all others are Ray's."""
        error = theirs.exception()
        if error is None:
            found: Outcome = theirs.result()
            return found
        if isinstance(error, _DEATHS):
            return BrokenExecutor(str(error).splitlines()[0])
        if isinstance(error, exceptions.RayTaskError):
            cause: Exception = error.cause or error
            return cause
        return self.dropped(error)

    def cancel(self) -> None:
        """Give up what still runs."""
        for reference in list(self.ours.values()):
            if reference is not None:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster; one of our own ends with it."""
        ray.shutdown()
