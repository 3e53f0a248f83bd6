"""How much of a run may be under way at once: from the job's cores and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from batch.errors import MemoryExceeded
from batch.execution.plan import Plan
from batch.job import Job
from batch.units import format_bytes

BASE_BYTES = 300 << 20
"""Of one process with the libraries and a small model loaded, before any chunk."""
CHUNK_OVERHEAD_BYTES = 40 << 20
"""Blocks being decoded, a predict batch and its encoding."""
COLUMN_BYTES = 16 << 10
"""Of one column: in a process its part of the model's signature, profile and golden rows, and in a chunk that of its blocks."""
PARQUET_COLUMN_BYTES = 96 << 10
"""The latter for Parquet, where each column of a row group has a reader with buffers of its own."""


CLUSTERS = frozenset({"dask", "ray"})
"""Engines whose workers may be on other hosts."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many chunks may be worked on at once, from the job's cores and memory."""

    workers: int
    in_flight: int
    memory_bytes: int
    """Estimated peak of the process tree; with a cluster of others, of one worker."""
    scheduler: str = ""
    """Address of the cluster of an engine that has one; empty: a cluster of our own on this host."""


def size(job: Job, plan: Plan, engine: str, model_bytes: int) -> Sizing:
    """Workers and chunks in flight that keep ``run.memory``. Raises `MemoryExceeded` when not even one chunk fits."""
    workers = min(job.run.workers or len(os.sched_getaffinity(0)), max(1, len(plan.tasks)))
    if engine == "inline":
        workers = 1
    columns = max((len(file.shape.columns) for file in plan.files), default=0)
    of_column = PARQUET_COLUMN_BYTES if plan.input_format == "parquet" else COLUMN_BYTES
    per_chunk = chunk_bytes_of(plan) + CHUNK_OVERHEAD_BYTES + of_column * columns
    base = BASE_BYTES + 3 * model_bytes + COLUMN_BYTES * columns
    scheduler = job.run.scheduler if engine in CLUSTERS else ""
    processes = workers if engine in {"processes", *CLUSTERS} else 0
    if (
        scheduler
    ):  # this host only coordinates; what one worker needs is known, and how many there are the engine learns
        workers = processes = 1
    wanted = {"inline": 1, "threads": 2 * workers}.get(engine, workers)
    while processes > 1 and base * (1 + processes) + per_chunk * processes > job.run.memory:
        processes -= 1
    fixed = base if scheduler else base * (1 + processes)
    room = (job.run.memory - fixed) // per_chunk
    if room < 1:
        need = fixed + per_chunk
        raise MemoryExceeded(
            f"one chunk needs about {format_bytes(need)} ({need} bytes), over memory = {format_bytes(job.run.memory)} "
            f"({job.run.memory} bytes)",
            hint="raise [run] memory, or lower [run] chunk_bytes",
        )
    in_flight = min(wanted, room)
    return Sizing(min(processes or workers, in_flight), in_flight, fixed + per_chunk * in_flight, scheduler)


def chunk_bytes_of(plan: Plan) -> int:
    """Bytes that the largest chunk holds at its peak: its text, and its encoded rows twice (section and object)."""
    if not plan.tasks:
        return 0
    if plan.input_format == "parquet":
        shapes = [plan.files[task.file].shape for task in plan.tasks]
        widths = [(shape.decoded_bytes or 0) / max(1, shape.rows or 1) for shape in shapes]
        text = max(int((task.cut.end - task.cut.start) * width) for task, width in zip(plan.tasks, widths, strict=True))
        return (2 + len(plan.shadows)) * text
    text = max(task.cut.end - task.cut.start for task in plan.tasks)
    share = 1.0 if plan.read.keep_line else min(1.0, len(plan.write.columns) / max(1, len(plan.files[0].shape.columns)))
    return int(text * (1.1 + 2 * share * (1 + len(plan.shadows))))
