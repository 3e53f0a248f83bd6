"""Time as the protocol needs it: a clock that only runs forward, waits, and threads that stand beside a run.

It is handed in, so that a simulation can run years of leases and pauses in a second, in an order that a seed decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What `batch.execution` uses instead of `time` and `threading`."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; unaffected by anybody setting the wall clock."""
        ...

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set or the time has passed; tells whether it is set."""
        ...

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a background thread that does not keep the process alive."""
        ...


class SystemClock:
    """The real one."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)

    def start(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()


SYSTEM = SystemClock()
