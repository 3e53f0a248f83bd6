"""Resident memory: its peak over this process and its children, as the receipt reports it, and how it is kept low."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
from types import TracebackType
from typing import Self

_INTERVAL_SECONDS = 0.02
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIVE_BACK_BYTES = 1 << 20


def give_back_freed_memory() -> None:
    """Have blocks of 1 MiB and more return to the system when they are freed, here and in the processes started from here.

    By default glibc raises its threshold to the largest block freed so far, and Arrow's own pool keeps what it has: over many
    chunks on several threads that holds some 100 MiB of nothing. Arrow reads its variable when it is first imported, so this
    comes before; without glibc only that half takes effect.
    """
    if "pyarrow" not in sys.modules:
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _GIVE_BACK_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _GIVE_BACK_BYTES)


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
