"""One try at a run, and the receipt that it leaves whether it succeeds or fails."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from batch.errors import BatchError, Interrupted
from batch.execution import attempts
from batch.execution.coordinate import Scored
from batch.execution.identity import canonical, sha256
from batch.execution.memory import PeakMemory
from batch.execution.preflight import DELIVERED, Prepared
from batch.execution.receipt import FORMAT, environment, now
from batch.job import Job


@dataclass(slots=True)
class Attempt:
    """One try at a run: what its receipt will say, whether it succeeds or fails."""

    prepared: Prepared
    trigger: str
    started: float
    started_at: str = ""
    stem: str = ""
    engine: str = ""
    workers: int = 0
    chunks_total: int = 0
    scored: Scored | None = None
    rows: dict[str, int] | None = None
    rejects: list[dict[str, Any]] | None = None
    phases: dict[str, float] | None = None

    def begin(self) -> None:
        """Leave a record before any work that could be killed."""
        job = self.prepared.job
        self.started_at = self.started_at or now()
        facts = {"trigger": self.trigger, "subject": self.prepared.subject, "pid": os.getpid()}
        self.stem = attempts.begin(job.root, job.name, self.prepared.run_id, facts)

    def end(self, state: str, exit_code: int, receipt: dict[str, Any], error: dict[str, str] | None) -> None:
        if not self.stem:
            self.begin()
        attempts.end(self.stem, state, exit_code, receipt, error)

    def fail(self, error: BatchError, memory: PeakMemory) -> None:
        """Hang the failed run's receipt on the error and record the attempt, where the store still lets us."""
        receipt = self.receipt("failed", memory) | {"error": error.as_dict()}
        error.receipt = receipt
        state = "interrupted" if isinstance(error, Interrupted) else "failed"
        with suppress(BatchError):  # the first error is the one to report
            self.end(state, error.exit_code, receipt, error.as_dict())

    def phase(self, name: str) -> _Timer:
        if self.phases is None:
            self.phases = {}
        return _Timer(self.phases, name)

    def receipt(self, state: str, memory: PeakMemory) -> dict[str, Any]:
        """The receipt so far."""
        prepared, job = self.prepared, self.prepared.job
        period = prepared.period
        scored = self.scored or Scored()
        reused = len(scored.records) - scored.scored
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
            "retry_of": None,
            "input": [
                {
                    "uri": file.pin.uri,
                    "etag": file.pin.etag,
                    "version_id": file.pin.version_id,
                    "size_bytes": file.pin.size_bytes,
                    "rows": None,
                }
                for file in prepared.inputs.files
            ],
            "models": [
                {
                    "variant": DELIVERED,
                    "mode": "split",
                    "weight": 1.0,
                    "uri_given": job.model,
                    "name": prepared.model.name,
                    "version": prepared.model.version,
                    "sha256": prepared.model.sha256,
                    "rows": (self.rows or {}).get("predicted", 0),
                }
            ],
            "output": [],
            "rejects": self.rejects or [],
            "rows": self.rows or {"read": 0, "predicted": 0, "rejected": 0},
            "chunks": {"total": self.chunks_total, "scored": scored.scored, "reused": max(0, reused)},
            "timing": {
                "started_at": _iso(self.started),
                "finished_at": now(),
                "seconds": round(time.time() - self.started, 3),
                "phases": {name: round(value, 3) for name, value in {**(self.phases or {}), **inside}.items()},
            },
            "peak_rss_bytes": memory.peak_bytes,
            "engine": self.engine,
            "workers": self.workers,
            "drift": {"state": "unknown", "columns": []},
            "environment": environment(),
            "config_sha256": _config_sha256(job),
        }


class _Timer:
    __slots__ = ("_name", "_phases", "_started")

    def __init__(self, phases: dict[str, float], name: str) -> None:
        self._phases, self._name, self._started = phases, name, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._phases[self._name] = time.perf_counter() - self._started


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _config_sha256(job: Job) -> str:
    return sha256(canonical(job.model_dump(mode="json")))
