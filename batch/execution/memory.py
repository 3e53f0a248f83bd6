"""Resident memory: its peak over this process and its children, as the receipt reports it, and how it is kept low."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

_INTERVAL_SECONDS = 0.02
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_GIVE_BACK_BYTES = 1 << 20
_KEEP_BYTES = 32 << 20
"""Larger blocks always come from the system; the largest threshold that glibc takes."""


def give_back_freed_memory() -> None:
    """Have blocks of 1 MiB and more return to the system when they are freed, here and in the processes started from here.

    By default glibc raises its threshold to the largest block freed so far, and Arrow's own pool keeps what it has: over many
    chunks on several threads that holds some 100 MiB of nothing. Arrow reads its variable when it is first imported, so this
    comes before; without glibc only that half takes effect. There are as many heaps as threads compute at once, and one more.
    """
    if "pyarrow" not in sys.modules:
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _set_thresholds(_GIVE_BACK_BYTES, _GIVE_BACK_BYTES)
    if hasattr(os, "sched_getaffinity"):  # like glibc, only on Linux
        _call("mallopt", _M_ARENA_MAX, len(os.sched_getaffinity(0)) + 1)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Meanwhile freed blocks of less than 32 MiB stay with the process; after it they are given back.

    A model call makes and frees arrays of some MiB, and from the system they come page by page, each of them zeroed.
    """
    keep_freed_memory()
    try:
        yield
    finally:
        _set_thresholds(_GIVE_BACK_BYTES, _GIVE_BACK_BYTES)
        _call("malloc_trim", 0)


def keep_freed_memory() -> None:
    """From now on freed blocks of less than 32 MiB stay with this process."""
    _set_thresholds(_KEEP_BYTES, 8 * _KEEP_BYTES)


def _set_thresholds(block: int, top: int) -> None:
    _call("mallopt", _M_TRIM_THRESHOLD, top)
    _call("mallopt", _M_MMAP_THRESHOLD, block)


def _call(name: str, *arguments: int) -> None:
    """A function of glibc; without glibc nothing happens."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)


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
