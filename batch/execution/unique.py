"""Ids that stand more than once: found after scoring, from 16 bytes per row, in bounded memory.

Every chunk stores a digest of each predicted row's id. Once all chunks are there the digests are compared, in parts small enough
for memory; a chunk that holds an id which an earlier row has is scored a second time without those rows. A file without
repetitions pays for the digests alone: nothing is read twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from batch.execution.chunk import ChunkRecord, read_section
from batch.execution.plan import Plan, Repeated
from batch.formats.id_text import id_texts

_KEYS = ("0123456789123456", "batch-predict-id")
"""Of the two independent 64-bit hashes that make a digest."""
_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
_PLACED = np.dtype([("high", "<u8"), ("low", "<u8"), ("chunk", "<u4"), ("row", "<u4")])
PART_ROWS = 2_000_000
"""Rows that are compared at a time: about 150 MiB with what sorting them takes."""


def digests(texts: pa.Array) -> np.ndarray:
    """128-bit digests of strings; zero for null, which is like no other id."""
    plain = texts.fill_null("").to_numpy(zero_copy_only=False)
    found = np.zeros(len(texts), _DIGEST)
    for half, key in zip(("high", "low"), _KEYS, strict=True):
        found[half] = pd.util.hash_array(plain, hash_key=key, categorize=False)
    if texts.null_count:
        found[texts.is_null().to_numpy(zero_copy_only=False)] = 0
    return found


class Ids:
    """The ``ids`` section of one chunk while it is scored."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, table: pa.Table, rows: np.ndarray) -> None:
        """Take in predicted rows with their numbers in the chunk."""
        self._parts.append((rows, digests(id_texts(table, self._column))))

    def section(self, rows_read: int) -> bytes:
        """One digest per row that was read, zero for one that was not predicted."""
        found = np.zeros(rows_read, _DIGEST)
        for rows, mine in self._parts:
            found[rows] = mine
        return found.tobytes()


def seen_before(column: str, row: int, file: str) -> str:
    """What is said of a row whose id an earlier one has: where that stands, with its file where there are several."""
    return f"the same {column} is in row {row}{' of ' + file if file else ''}"


def load_ids(record: ChunkRecord) -> np.ndarray:
    """The digests of a chunk, one per row that was read. Raises `ChunkDamaged`."""
    return np.frombuffer(read_section(record, "ids"), _DIGEST)


def find_repeated(plan: Plan, records: Sequence[ChunkRecord], scratch: str) -> dict[int, Repeated]:
    """The rows whose id an earlier predicted row has, by chunk index; `records` are all chunks in order, of the first pass.

    Memory: `PART_ROWS` rows at a time and what is found. `scratch` takes 24 bytes per row where there are more rows than that.
    Raises `ChunkDamaged`.
    """
    again, first = [np.zeros(0, _PLACED)], [np.zeros(0, _PLACED)]
    for mixed in _parts(records, scratch):
        part = mixed[np.lexsort((mixed["low"], mixed["high"]))]  # stable: among equal ones the first row stays in front
        same = np.zeros(len(part), bool)
        same[1:] = (part["high"][1:] == part["high"][:-1]) & (part["low"][1:] == part["low"][:-1])
        begins = np.maximum.accumulate(np.where(same, 0, np.arange(len(part))))
        again.append(part[same])
        first.append(part[begins[same]])
    return _by_chunk(plan, records, np.concatenate(again), np.concatenate(first))


def _by_chunk(plan: Plan, records: Sequence[ChunkRecord], again: np.ndarray, first: np.ndarray) -> dict[int, Repeated]:
    """Repeated rows and the first row of each one's id, both as `_PLACED`, in the words of their files."""
    if not len(again):
        return {}
    files = np.array([task.file for task in plan.tasks], np.int64)
    first_files, first_rows = files[first["chunk"]], rows_before(plan, records)[first["chunk"]] + first["row"] + 1
    order = np.lexsort((again["row"], again["chunk"]))
    chunks, begins = np.unique(again["chunk"][order], return_index=True)
    return {
        int(index): Repeated(again["row"][mine].astype(np.int64), first_rows[mine], first_files[mine])
        for index, mine in zip(chunks, np.split(order, begins[1:]), strict=True)
    }


def rows_before(plan: Plan, records: Sequence[ChunkRecord]) -> np.ndarray:
    """Per chunk of the plan: how many rows of its file stand in front of it (int64)."""
    before = np.zeros(len(plan.tasks), np.int64)
    file, rows = -1, 0
    for record in records:
        if plan.tasks[record.index].file != file:
            file, rows = plan.tasks[record.index].file, 0
        before[record.index] = rows
        rows += record.rows_read
    return before


def _parts(records: Sequence[ChunkRecord], scratch: str) -> Iterator[np.ndarray]:
    """All digests with their places; equal ones are in the same part."""
    count = -(-sum(record.rows_read for record in records) // PART_ROWS)
    if count <= 1:
        yield np.concatenate([np.zeros(0, _PLACED), *map(_placed, records)])
        return
    paths = [os.path.join(scratch, f"ids.{number}") for number in range(count)]
    for record in records:
        mine = _placed(record)
        part = mine["high"] % np.uint64(count)
        for number, path in enumerate(paths):
            with open(path, "ab") as file:
                file.write(mine[part == number].tobytes())
    for path in paths:
        yield np.fromfile(path, _PLACED)
        os.unlink(path)


def _placed(record: ChunkRecord) -> np.ndarray:
    ids = load_ids(record)
    found: np.ndarray = np.empty(len(ids), _PLACED)
    found["high"], found["low"] = ids["high"], ids["low"]
    found["chunk"], found["row"] = record.index, np.arange(len(ids), dtype=np.uint32)
    return np.delete(found, np.flatnonzero((ids["high"] == 0) & (ids["low"] == 0)))


def places_of(wanted: np.ndarray, records: Iterable[ChunkRecord]) -> dict[tuple[int, int], tuple[int, int]]:
    """(chunk, row in it) of each of some digests that a predicted row has. Raises `ChunkDamaged`."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    keys = set(map(tuple, wanted.tolist())) - {(0, 0)}
    for record in records:
        ids = load_ids(record)
        for row in np.flatnonzero(np.isin(ids["high"], wanted["high"])).tolist():
            if (key := ids[row].item()) in keys:
                found[key] = record.index, row
    return found
