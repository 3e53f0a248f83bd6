"""What a process that scores is told at its start: before numpy and pyarrow are imported, which read some of it only then."""

from __future__ import annotations

import gc
import os

START_OBJECTS = 100_000
"""New objects between two garbage collections while a program starts; Python's own number is 700."""
_usual = gc.get_threshold()


def prepare_process() -> None:
    """One thread per library call, because the engine is the only parallelism, and freed memory back to the system."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from batch.execution.memory import give_back_freed_memory

    give_back_freed_memory()


def collect_rarely() -> None:
    """Hardly ever look for garbage while libraries are imported: they create a million objects, and nearly all of them stay.

    For programs of our own; `collect_as_usual` ends it.
    """
    if gc.get_threshold() == _usual:
        gc.set_threshold(START_OBJECTS, *_usual[1:])


def collect_as_usual() -> None:
    """Look for garbage as Python does again, but not among what is there by now. Without `collect_rarely` nothing changes."""
    if gc.get_threshold() != _usual:
        gc.freeze()
        gc.set_threshold(*_usual)
