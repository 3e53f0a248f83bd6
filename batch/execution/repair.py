"""Committed chunks that were damaged or deleted are scored again, and must come out as they were committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from batch.execution.chunk import ChunkDamaged, ChunkRecord
from batch.execution.plan import Plan
from batch.execution.preflight import Prepared

T = TypeVar("T")


class Repair:
    """What one run can do about its own damaged chunks; the plan and the model are only loaded when one is found."""

    def __init__(self, prepared: Prepared, plan: Callable[[], Plan]) -> None:
        self._prepared = prepared
        self._plan = plan
        self.done: set[str] = set()
        """URIs of the chunks that were scored again."""

    def around(self, act: Callable[[], T]) -> T:
        """The result of `act`, which is tried again after each damaged chunk has been put back.

        Raises `ChunkDamaged` for a chunk of another run, one that was damaged twice, and one that comes out differently.
        """
        while True:
            try:
                return act()
            except ChunkDamaged as damage:
                if damage.record.uri in self.done or not damage.record.uri.startswith(self._prepared.folder + "/"):
                    raise
                self._put_back(damage.record)

    def _put_back(self, record: ChunkRecord) -> None:
        from batch.execution.score import open_context, rescore

        job = self._prepared.job
        rescore(open_context(self._plan(), self._prepared.model, job.trust.pickle_sha256), record)
        self.done.add(record.uri)
