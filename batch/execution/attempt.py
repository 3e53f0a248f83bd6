"""One try at a run, and the receipt that it leaves whether it succeeds or fails."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batch.clock import Clock
from batch.errors import BatchError, Interrupted
from batch.execution import attempts, lease, register
from batch.execution.committed import Commits
from batch.execution.coordinate import Scored
from batch.execution.identity import canonical, sha256
from batch.execution.lease import Lease
from batch.execution.memory import PeakMemory
from batch.execution.phases import Phases
from batch.execution.preflight import Prepared
from batch.execution.receipt import FORMAT, environment, named, now
from batch.execution.variants import DELIVERED, splits_of
from batch.job import Job
from batch.models.bundle import ResolvedModel
from batch.monitor.drift import unknown
from batch.storage.probe import enforced


@dataclass(slots=True)
class Attempt:
    """One try at a run: what its receipt will say, whether it succeeds or fails."""

    prepared: Prepared
    trigger: str
    started: float
    retry_of: str | None = None
    """The run whose rejects are mended."""
    stem: str = ""
    """Of its records; empty until it holds the lease."""
    engine: str = ""
    workers: int = 0
    chunks_total: int = 0
    lease: Lease | None = None
    scored: Scored | None = None
    commits: Commits = field(default_factory=Commits)
    """What it publishes from: its own commit, and those of runs that came in between."""
    repaired: int = 0
    """Committed chunks that had to be scored again."""
    rows: dict[str, int] | None = None
    variants: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Of what was committed: see `ChunkRecord.variants`."""
    rejects: list[dict[str, Any]] = field(default_factory=list)
    phases: Phases = field(default_factory=Phases)
    drift: dict[str, Any] = field(default_factory=lambda: unknown("the run has not completed"))

    def acquire(self, output: str, clock: Clock) -> None:
        """Take the lease of an output, on a store that can be relied on. Raises `StorageUnavailable` or `Busy`."""
        job = self.prepared.job
        enforced(job.root, single_writer=job.run.single_writer)
        folder = register.register_folder(job.root, output)
        self.lease = lease.acquire(folder, output=output, job=job.name, run_id=self.prepared.run_id, clock=clock)

    def begin(self) -> None:
        """Leave a record before any work that could be killed, and tell the end of those who left none."""
        job, run_id, mine = self.prepared.job, self.prepared.run_id, self.lease
        assert mine is not None, "the lease comes first"
        before = mine.before
        if before is not None and before.holder is not None and before.body["state"] == "held":
            attempts.lost(job.root, before.body["job"], before.body["run_id"], before.number)
        facts = {"trigger": self.trigger, "subject": self.prepared.subject, "lease": mine.uri}
        self.stem = attempts.begin(job.root, job.name, run_id, mine.epoch, facts)

    def end(self, state: str, exit_code: int, receipt: dict[str, Any], error: dict[str, str] | None) -> None:
        attempts.end(self.stem, state, exit_code, receipt, error)

    def fail(self, error: BatchError, memory: PeakMemory) -> None:
        """Hang the failed run's receipt on the error and record the attempt, where the store still lets us."""
        receipt = self.receipt("failed", memory) | {"error": error.as_dict()}
        error.receipt = receipt
        state = "interrupted" if isinstance(error, Interrupted) else "failed"
        if self.stem:
            with suppress(BatchError):  # the first error is the one to report
                self.end(state, error.exit_code, receipt, error.as_dict())

    @property
    def scored_uris(self) -> set[str]:
        """The chunks of the result that this attempt itself scored."""
        found = self.scored.records.values() if self.scored is not None else ()
        return {record.uri for record in found if not record.reused}

    def still_mine(self) -> None:
        """Raises `Busy` when another run has taken over."""
        assert self.lease is not None, "the lease comes first"
        self.lease.check()

    def let_go(self) -> None:
        """Free the lease, if we have it."""
        if self.lease is not None:
            self.lease.release()

    def receipt(self, state: str, memory: PeakMemory) -> dict[str, Any]:
        """The receipt so far."""
        prepared, job = self.prepared, self.prepared.job
        period = prepared.period
        scored = self.scored or Scored()
        new = scored.scored + self.repaired
        known = len(scored.records) if self.scored is not None else self.chunks_total if self.rows else 0
        inside = {f"chunk_{name}": seconds for name, seconds in scored.phases.items()}
        return {
            "format": FORMAT,
            "run_id": prepared.run_id,
            "job": job.name,
            "state": state,
            "trigger": self.trigger,
            "subject": prepared.subject,
            "period": period
            and {"name": period.name, "start": period.start.isoformat(), "end": period.end.isoformat()},
            "retry_of": self.retry_of,
            "input": [named(file.pin) for file in prepared.inputs.files],
            "models": self._models(),
            "output": [],
            "rejects": self.rejects,
            "rows": self.rows or {"read": 0, "predicted": 0, "rejected": 0},
            "chunks": {"total": self.chunks_total, "scored": new, "reused": max(0, known - new)},
            "timing": {
                "started_at": _iso(self.started),
                "finished_at": now(),
                "seconds": round(time.time() - self.started, 3),
                "phases": {name: round(value, 3) for name, value in {**self.phases.seconds, **inside}.items()},
            },
            "peak_rss_bytes": memory.peak_bytes,
            "engine": self.engine,
            "workers": self.workers,
            "drift": self.drift,
            "environment": environment(),
            "config_sha256": _config_sha256(job),
        }

    def _models(self) -> list[dict[str, Any]]:
        """The variants, with what each of them scored."""
        prepared, job = self.prepared, self.prepared.job
        predicted = (self.rows or {}).get("predicted", 0)
        given = sum(one.weight for one in splits_of(job))
        champion = self.variants.get(DELIVERED, (predicted, ""))
        found = [_told(DELIVERED, "split", round(max(0.0, 1.0 - given), 12), job.model, prepared.model, champion)]
        for one in job.variants:
            scored = self.variants.get(one.name, (0, prepared.broken.get(one.name, "")))
            weight = one.weight if one.mode == "split" else 0.0
            found.append(_told(one.name, one.mode, weight, one.model, prepared.models.get(one.name), scored))
        return found


def _told(
    name: str, mode: str, weight: float, given: str, model: ResolvedModel | None, scored: tuple[int, str]
) -> dict[str, Any]:
    rows, error = scored
    return {
        "variant": name,
        "mode": mode,
        "weight": weight,
        "uri_given": given,
        "name": model.name if model else None,
        "version": model.version if model else None,
        "sha256": model.sha256 if model else None,
        "rows": rows,
        **({"error": error} if error else {}),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _config_sha256(job: Job) -> str:
    return sha256(canonical(job.model_dump(mode="json")))
