"""What a process that scores must be told before numpy and pyarrow are imported: both read it only then."""

from __future__ import annotations

import os


def prepare_process() -> None:
    """One thread per library call, because the engine is the only parallelism, and freed memory back to the system."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from batch.execution.memory import give_back_freed_memory

    give_back_freed_memory()
