"""Committed chunks that were damaged or deleted are scored again, and must come out as they were committed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from batch.execution.chunk import UNIQUE, ChunkDamaged, ChunkRecord
from batch.execution.commit import load_commit
from batch.execution.plan import Plan, Repeated
from batch.execution.preflight import Prepared
from batch.execution.scratch import scratch_folder

if TYPE_CHECKING:
    from batch.execution.score import Context

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

        job, plan = self._prepared.job, self._plan()
        context = open_context(plan, self._prepared.models, job.trust.pickle_sha256)
        repeated = self._repeated(context).get(record.index) if record.uri.endswith(UNIQUE) else None
        rescore(context, record, repeated)
        self.done.add(record.uri)

    def _repeated(self, context: Context) -> dict[int, Repeated]:
        """Which rows have an id that was seen before: as the first pass over the chunks tells, which is put back where it is damaged."""
        from batch.execution.score import score_chunk
        from batch.execution.unique import find_repeated

        document = load_commit(self._prepared.folder)
        assert document is not None, "only what is committed is repaired"
        starts = [entry["start"] for entry in document["chunks"]]
        tasks = [replace(task, start=start) for task, start in zip(context.plan.tasks, starts, strict=True)]
        with scratch_folder() as scratch:
            return find_repeated(context.plan, [score_chunk(context, task) for task in tasks], scratch)
