"""How many rejected rows a run may have."""

from __future__ import annotations

from dataclasses import dataclass

from batch.job import Job


@dataclass(frozen=True, slots=True)
class Budget:
    """How many rejected rows a job puts up with."""

    max_share: float | None
    max_rows: int | None
    stop_rows: int

    def allowed(self, rows_read: int) -> int:
        """The most rows that may be rejected of so many."""
        limits = [] if self.max_rows is None else [self.max_rows]
        if self.max_share is not None:
            limits.append(int(self.max_share * rows_read + 1e-9))
        return min(limits, default=0)


def budget_of(job: Job) -> Budget:
    """The job's budget; ``max_rows`` alone replaces the default share."""
    share_given = "max_share" in job.rejects.model_fields_set or job.rejects.max_rows is None
    return Budget(job.rejects.max_share if share_given else None, job.rejects.max_rows, job.rejects.stop_rows)
