"""Which failures under `batch.triggers.schedule` somebody is called for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from batch.errors import BatchError, InputMissing
from batch.execution import ended
from batch.execution.ended import Weight
from batch.triggers.schedule import ScheduledJob


class Calls:
    """The loop tries a fire again and again: its hook is called once per fire and kind of error.

    An input that is only late, within ``[input] wait`` of the fire, is no failure yet.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._last: dict[str, tuple[datetime, str]] = {}
        """Job -> the fire and the error code that the hook was last called for."""

    def weigh(self, error: BatchError, job: ScheduledJob, due: datetime) -> Weight:
        """What a failure of the fire `due` (aware) counts for."""
        if isinstance(error, InputMissing) and self._now() < due + timedelta(seconds=job.wait_seconds):
            return Weight.NOTHING
        weight = ended.weigh(error)
        if weight is Weight.HOOK:
            weight = Weight.METRICS if self._last.get(job.name) == (due, error.code) else weight
            self._last[job.name] = due, error.code
        return weight
