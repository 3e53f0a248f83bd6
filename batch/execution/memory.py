"""The peak resident memory of this process and its children, as the receipt reports it."""

from __future__ import annotations

import os
import resource
import threading
from types import TracebackType
from typing import Self

_INTERVAL_SECONDS = 0.1


class PeakMemory:
    """Samples the process tree in the background while it is entered; `peak_bytes` is the largest sum seen."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self.peak_bytes = max(self.peak_bytes, tree_rss_bytes(os.getpid()))


def tree_rss_bytes(pid: int) -> int:
    """Resident bytes of a process and all its descendants now; where there is no /proc, this process's own peak."""
    if not os.path.isdir("/proc/self"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    total = 0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            with open(f"/proc/{one}/statm", encoding="ascii") as file:
                total += int(file.read().split()[1]) * resource.getpagesize()
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children", encoding="ascii") as file:
                    waiting += map(int, file.read().split())
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total
