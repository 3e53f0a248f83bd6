"""What a run that was asked for on the command line, or by a schedule, leaves besides predictions: the report, where the job has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch.job import Job


def report_on(job: Job, receipt: dict[str, Any], notice: Callable[[str], None]) -> None:
    """Deliver the report of a completed run as far as it is not delivered yet; what goes wrong with it is a notice.

    Dropped files have none: theirs are many and small, and `batch-predict report` makes one where somebody asks.
    """
    wanted = bool(job.report.group_by or job.report.webhook)
    if not wanted or not str(receipt["state"]).startswith("completed"):
        return
    from batch.report.deliver import deliver

    deliver(job, receipt, notice=notice)
