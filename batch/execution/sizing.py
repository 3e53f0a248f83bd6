"""How much of a run may be under way at once: from the job's cores and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from batch.errors import MemoryExceeded
from batch.execution.plan import Plan, PlannedFile
from batch.formats import Shape
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
NUMBER_BYTES = 8
"""In Arrow; a text of one, with its delimiter, is about as long."""
NUMBER_TEXT_BYTES = 20
"""Of the longest texts of doubles: what may become of 8 bytes."""
KEPT_BYTES = 64 << 20
"""What a thread that computes may hold of freed memory, where that is kept for its next arrays."""


CLUSTERS = frozenset({"dask", "ray"})
"""Engines whose workers may be on other hosts."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many chunks may be worked on at once, from the job's cores and memory."""

    workers: int
    in_flight: int
    memory_bytes: int
    """Estimated peak of the process tree; with a cluster of others, of one worker."""
    keeps_freed: bool = False
    """Whether there is also room for freed memory that is kept for the next arrays."""
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
    peak = fixed + per_chunk * in_flight
    workers = min(processes or workers, in_flight)
    return Sizing(workers, in_flight, peak, peak + KEPT_BYTES * workers <= job.run.memory, scheduler)


def chunk_bytes_of(plan: Plan) -> int:
    """Bytes that the largest chunk holds at its peak: its text or Arrow data, and its encoded rows twice (section and object)."""
    rows = [_Rows(plan, file) for file in plan.files]
    return max((rows[task.file].held(task.cut.end - task.cut.start) for task in plan.tasks), default=0)


class _Rows:
    """Mean bytes of the rows of a file: as they are held and as they are written."""

    def __init__(self, plan: Plan, file: PlannedFile) -> None:
        shape, self._is_parquet = file.shape, plan.input_format == "parquet"
        numbers = {column.name for column in plan.read.columns if column.type not in {"string", "binary"}}
        width = (shape.decoded_bytes or 0) / max(1, shape.rows or 0) if self._is_parquet else shape.sample_record_bytes
        self._width = max(1.0, width or NUMBER_BYTES * len(shape.columns))  # of a record over 64 KiB there is no sample
        self._written = _written_bytes(plan, shape, self._width, numbers) * (1 + len(plan.shadows))

    def held(self, span: int) -> int:
        """By a chunk of so many bytes of text, or rows of Parquet."""
        rows = span if self._is_parquet else span / self._width
        text = rows * self._width * (1.0 if self._is_parquet else 1.1)
        return int(text + 2 * rows * self._written)


def _written_bytes(plan: Plan, shape: Shape, width: float, numbers: set[str]) -> float:
    """Of an encoded row. In which columns the texts of a row are is not known: perhaps in the kept ones."""
    outputs = NUMBER_TEXT_BYTES * (len(plan.write.columns) - len(plan.kept))
    if plan.write.splice:
        return width + outputs + _names_bytes(plan.write.columns)
    there = len(numbers.intersection(shape.columns))
    named = _names_bytes(shape.columns) if plan.input_format == "jsonl" else 0
    texts = 0.0 if numbers.issuperset(plan.kept) else max(0.0, width - NUMBER_BYTES * there - named)
    count = len(numbers.intersection(plan.kept))
    if plan.output_format == "parquet":
        return texts + NUMBER_BYTES * count + outputs
    kept = texts + NUMBER_TEXT_BYTES * count
    if plan.input_format != "parquet":  # an integer of a double column becomes longer by ".0"
        kept = min(kept, width + 2 * count)
    return kept + outputs + (_names_bytes(plan.write.columns) if plan.output_format == "jsonl" else 0)


def _names_bytes(names: Iterable[str]) -> int:
    """What the names of a JSON record take, with quotes, colon and comma."""
    return sum(len(name.encode()) + 4 for name in names)
