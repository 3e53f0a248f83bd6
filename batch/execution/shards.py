"""A run without a cluster: any number of processes that know nothing of each other each score a part, and an ordinary run ends it.

Chunks are create-once and named by what they hold, so shards need no lease and may run at the same time, twice or not at all. The run that
follows (``run --finalize``) finds what they have stored, proves that every chunk starts where the one before it ends, scores what is missing, commits and
publishes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from batch.clock import SYSTEM, Clock
from batch.errors import UsageError
from batch.execution import commit, coordinate
from batch.execution.about import About
from batch.execution.coordinate import Progress, Scored
from batch.execution.memory import PeakMemory
from batch.execution.phases import Phases
from batch.execution.plan import Plan, Task
from batch.execution.preflight import Prepared, check_outputs, period_of, prepare, wait_for_input
from batch.execution.process import prepare_process
from batch.execution.scratch import scratch_folder
from batch.execution.standing import done_before, standing
from batch.job import Job
from batch.storage.probe import enforced

SHARDS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts of a run's chunks, by its number from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``i/n``; i from 0, as Kubernetes counts, or from 1 to n, as people do: n is the same part as 0. Raises `UsageError`."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        index, count = map(int, found.groups()) if found else (0, 0)
        if not 0 < count <= SHARDS_MAX or index > count:
            raise UsageError(
                f"--shard {text} is not a part of a whole",
                hint=f"write --shard I/N with I from 0 to N - 1, or from 1 to N, and N up to {SHARDS_MAX}",
            )
        return cls(index % count, count)

    def of(self, plan: Plan) -> tuple[Task, ...]:
        """Its chunks: neighbours, because each proves where the next one starts."""
        total = len(plan.tasks)
        return plan.tasks[self.index * total // self.count : (self.index + 1) * total // self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def run_shard(
    job: Job,
    shard: Shard,
    *,
    period: str | None = None,
    now: datetime | None = None,
    once: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] = lambda _: None,
    clock: Clock = SYSTEM,
) -> dict[str, Any]:
    """Score and store one part of a run's chunks; publishes nothing and leaves no record besides. The arguments are those of `batch.run`.

    Gives what was done, JSON-ready; ``state`` is ``done`` where the whole run was, else ``staged``. Raises what a run raises before its
    commit, without a receipt.
    """
    prepare_process()
    began = time.monotonic()
    about = About(period_of(job, period, now), None)
    if once and (found := done_before(job, about.subject)) is not None:
        return {"job": job.name, "run_id": found.as_dict()["run_id"], "shard": str(shard), "state": "done"}
    if job.input.wait:
        wait_for_input(job, about.period, clock, notice)
    prepared = prepare(job, about, force=force)
    told = {"job": job.name, "run_id": prepared.run_id, "shard": str(shard)}
    if standing(prepared) is not None or commit.load_commit(prepared.folder) is not None:
        return told | {"state": "done"}
    enforced(job.root, single_writer=job.run.single_writer)
    for name, why in prepared.broken.items():
        notice(f"shadow '{name}' is left out: {why}")
    phases = Phases()
    with PeakMemory() as memory, scratch_folder() as scratch:
        state, engine = _score(prepared, shard, scratch, phases, progress, notice)
    seconds = {**phases.seconds, **{f"chunk_{name}": value for name, value in state.phases.items()}}
    return told | {
        "state": "staged",
        "rows": {
            "read": state.totals.rows_read,
            "predicted": state.totals.rows_read - state.totals.rows_rejected,
            "rejected": state.totals.rows_rejected,
        },
        "chunks": {
            "total": len(state.records),
            "scored": state.scored,
            "reused": len(state.records) - state.scored,
        },
        "timing": {
            "seconds": round(time.monotonic() - began, 3),
            "phases": {name: round(value, 3) for name, value in seconds.items()},
        },
        "peak_rss_bytes": memory.peak_bytes,
        "engine": engine,
    }


def _score(
    prepared: Prepared,
    shard: Shard,
    scratch: str,
    phases: Phases,
    progress: Progress | None,
    notice: Callable[[str], None],
) -> tuple[Scored, str]:
    """The chunks of the shard, and the engine that scored them."""
    from batch.execution.scoring import ready

    with phases.phase("plan"):
        plan = prepared.plan(scratch)
        check_outputs(prepared, plan)
    prepared.store_plan(plan)
    state = Scored()
    if not (mine := shard.of(plan)):  # more shards than chunks
        return state, ""
    with ready(prepared, plan, phases, notice) as engine:
        coordinate.score_all(prepared.job, plan, engine, state, lambda: None, progress, mine)
        return state, engine.name
