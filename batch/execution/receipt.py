"""The receipt: it accounts for every row and names input, models, output and environment by digest."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batch.monitor.drift import unknown
from batch.storage import ObjectInfo

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """What became of the rows; read = predicted + rejected, always."""

    read: int
    predicted: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """How one run ended. `document` is the receipt as it is stored."""

    document: dict[str, Any]
    already_done: bool = field(default=False, compare=False)
    """The run was done before; nothing was scored or written this time."""

    @property
    def run_id(self) -> str:
        return str(self.document["run_id"])

    @property
    def state(self) -> str:
        return str(self.document["state"])

    @property
    def rows(self) -> Rows:
        return Rows(**self.document["rows"])

    @property
    def output(self) -> list[dict[str, Any]]:
        return list(self.document["output"])

    def as_dict(self) -> dict[str, Any]:
        """The stored form, JSON-ready."""
        return self.document


def environment() -> dict[str, str]:
    """Versions of everything that may change a bit, and the processor."""
    from importlib.metadata import version

    from batch import __version__
    from batch.execution.identity import library_versions

    return {
        "python": platform.python_version(),
        **library_versions(),
        "skops": version("skops"),
        "batch-predict": __version__,
        "cpu": _processor(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def now() -> str:
    """UTC, to the millisecond, as it stands in records."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def named(pin: ObjectInfo) -> dict[str, Any]:
    """An input as a receipt names it, its rows not counted yet."""
    version = {"etag": pin.etag, "version_id": pin.version_id}
    return {"uri": pin.uri, **version, "size_bytes": pin.size_bytes, "rows": None}


def unstarted(job: str | None, trigger: str, error: dict[str, str]) -> dict[str, Any]:
    """The receipt of a run that failed before it had an id: every field is there, and most are empty."""
    at = now()
    return {
        "format": FORMAT,
        "run_id": None,
        "job": job,
        "state": "failed",
        "trigger": trigger,
        "subject": None,
        "period": None,
        "retry_of": None,
        "input": [],
        "models": [],
        "output": [],
        "rejects": [],
        "rows": {"read": 0, "predicted": 0, "rejected": 0},
        "chunks": {"total": 0, "scored": 0, "reused": 0},
        "timing": {"started_at": at, "finished_at": at, "seconds": 0.0, "phases": {}},
        "peak_rss_bytes": 0,
        "engine": "",
        "workers": 0,
        "drift": unknown("the run has not completed"),
        "environment": environment(),
        "config_sha256": None,
        "error": error,
    }
