"""How long each phase of a piece of work took."""

from __future__ import annotations

import time


class Phases:
    """Seconds per phase, of one chunk or of a whole attempt."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def phase(self, name: str) -> _Phase:
        """A block whose time counts for this phase; a phase that comes again adds up."""
        return _Phase(self.seconds, name)

    def add(self, name: str, seconds: float) -> None:
        """Time that was measured otherwise."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


class _Phase:
    __slots__ = ("_name", "_seconds", "_started")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name, self._started = seconds, name, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.perf_counter() - self._started
