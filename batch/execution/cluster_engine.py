"""An engine whose workers are a cluster's: what Dask and Ray have in common, seen from the coordinator."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from types import TracebackType
from typing import Any

from batch.errors import EngineUnavailable
from batch.execution.chunk import ChunkRecord
from batch.execution.cluster import Outcome, Work, forget_shared
from batch.execution.engine import STOP_SECONDS, Engine
from batch.execution.plan import Task
from batch.execution.sizing import Sizing

WORKERLESS_SECONDS = 60.0
"""How long a cluster may be without any worker, while some are replaced or the first ones start."""
LOOK_SECONDS = 1.0
AGAIN = "run again: what is scored stays scored"


def _never(_: Task) -> ChunkRecord:
    raise AssertionError("tasks run on the cluster")


class ClusterEngine(Engine):
    """Workers that join during the run are used, and those that leave cost the chunk they were at."""

    breaks_together = False
    kind = ""
    """As the cluster is called in messages."""

    def __init__(self, name: str, work: Work, sizing: Sizing) -> None:
        super().__init__(name, None, _never, sizing)
        self.workers = 0
        """The most there were; not known yet."""
        self.work = work
        self.title = f"the {self.kind}{f' at {sizing.scheduler}' if sizing.scheduler else ''}"
        self.ours: dict[Future[ChunkRecord], Any] = {}
        """What runs, each with the cluster's own future, which must be held for as long as it is wanted."""
        self._looked_at = float("-inf")
        self._peopled_at = time.monotonic()

    @abstractmethod
    def slots(self) -> int:
        """How many chunks the cluster can score at a time. Raises anything where it is gone."""

    @abstractmethod
    def start(self, task: Task, done: Callable[[Any], None]) -> Any:
        """Start a task: the cluster's own future, with which it calls `done` from a thread of its own."""

    @abstractmethod
    def outcome(self, theirs: Any) -> Outcome | Exception:
        """What a finished future of the cluster gave; `BrokenExecutor` where its worker died."""

    @abstractmethod
    def cancel(self) -> None:
        """Give up what still runs, and what was sent."""

    @abstractmethod
    def close(self) -> None:
        """Leave the cluster, and end it where it is our own."""

    def check(self) -> None:
        """Learn how many workers there are. Raises `EngineUnavailable` where there are none for long, or the cluster is gone."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        try:
            slots = self.slots()
        except Exception as error:  # the connection is closed in one of a dozen ways
            raise EngineUnavailable(f"{self.title} is gone: {type(error).__name__}: {error}", hint=AGAIN) from error
        self._looked_at = now
        if slots:
            self._peopled_at = now
        elif now - self._peopled_at > WORKERLESS_SECONDS:
            raise EngineUnavailable(
                f"{self.title} has had no worker for {WORKERLESS_SECONDS:g} s", hint=f"start workers, and {AGAIN}"
            )
        self.workers, self.in_flight = max(self.workers, slots), max(1, 2 * slots)

    def dropped(self, error: BaseException) -> EngineUnavailable:
        """What is said of a chunk that the cluster has lost for another reason than its worker's death."""
        return EngineUnavailable(f"{self.title} has dropped a chunk: {type(error).__name__}", hint=AGAIN)

    def submit(self, task: Task) -> Future[ChunkRecord]:
        """Start a task on the cluster."""
        future: Future[ChunkRecord] = Future()

        def settle(theirs: Any) -> None:
            self.ours.pop(future, None)
            outcome = self.outcome(theirs)
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.ours[future] = None  # before it starts: it may be done at once
        theirs = self.start(task, settle)
        if future in self.ours:
            self.ours[future] = theirs
        return future

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            wait_for(list(self.ours), timeout=STOP_SECONDS)  # what is under way is worth a moment
        for leave in (self.cancel, self.close):
            with suppress(Exception):  # a cluster that is gone need not be told goodbye
                leave()
        if error is None:
            forget_shared(self.work)
