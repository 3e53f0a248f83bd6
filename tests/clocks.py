"""A clock that only moves when it is told to, or when somebody waits on it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class FakeClock:
    """`batch.clock.Clock` without time: background threads never start, and each wait passes at once."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.seconds = 0.0
        self.meanwhile = meanwhile
        """What others do while somebody waits."""

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self.seconds += seconds
            self.meanwhile()
        return event.is_set()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """No thread: the test says when a heart beats."""
