"""How each attempt at a run began and ended: two small create-once records per attempt, numbered by the lease's epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from batch.execution import records
from batch.execution.receipt import now
from batch.storage import join, storage_for

_NAME = re.compile(r"(?P<run>.+)\.(?P<number>[0-9]{8,})\.(?P<kind>start|end)\.json")


@dataclass(slots=True)
class Tries:
    """Which records exist of one run: epoch -> URI."""

    starts: dict[int, str]
    ends: dict[int, str]

    @property
    def last(self) -> int:
        """Number of the newest attempt."""
        return max((*self.starts, *self.ends))

    @property
    def open(self) -> list[int]:
        """Attempts that have not ended, as far as anybody knows."""
        return sorted(self.starts.keys() - self.ends.keys())


def begin(root: str, job: str, run: str, epoch: int, facts: dict[str, Any]) -> str:
    """Record the start of an attempt; gives the URI stem of its two records.

    The number is the epoch, or the next free one where a register was wiped and counts from the beginning again.
    """
    while True:
        stem = _stem(root, job, run, epoch)
        if records.create(f"{stem}.start.json", {"format": 1, "run_id": run, "at": now(), **facts}):
            return stem
        epoch += 1


def end(stem: str, state: str, exit_code: int | None, receipt: dict[str, Any] | None, error: Any) -> None:
    """Record how the attempt ended; a record that is there already stays."""
    document = {"format": 1, "at": now(), "state": state, "exit_code": exit_code, "error": error, "receipt": receipt}
    records.create(f"{stem}.end.json", document)


def lost(root: str, job: str, run: str, epoch: int) -> None:
    """Record that an attempt never ended: whoever holds the lease after it knows."""
    error = {"code": "lost", "message": "the process ended without a word: killed, or its machine failed", "hint": ""}
    stem = _stem(root, job, run, epoch)
    if storage_for(stem).head(f"{stem}.start.json") is not None:
        end(stem, "lost", None, None, error)


def refused(root: str, job: str, about: str, trigger: str, exit_code: int, receipt: dict[str, Any]) -> None:
    """Record an attempt that never got as far as a run id: its input or its model could not even be named."""
    run = f"refused-{about}"
    known = of_job(root, job, run).get(run)
    stem = begin(root, job, run, 1 + known.last if known else 1, {"trigger": trigger, "subject": about})
    end(stem, "failed", exit_code, receipt, receipt["error"])


def of_job(root: str, job: str, run: str = "") -> dict[str, Tries]:
    """Which attempts there are at the runs of a job (or at one run): one LIST, and nothing is read."""
    folder = join(root, "attempts", job, "")
    found: dict[str, Tries] = {}
    for info in storage_for(folder).list(folder + (f"{run}." if run else "")):
        if match := _NAME.fullmatch(info.uri[len(folder) :]):
            tries = found.setdefault(match["run"], Tries({}, {}))
            kind = tries.starts if match["kind"] == "start" else tries.ends
            kind[int(match["number"])] = info.uri
    return found


def _stem(root: str, job: str, run: str, epoch: int) -> str:
    return join(root, "attempts", job, f"{run}.{epoch:08d}")
