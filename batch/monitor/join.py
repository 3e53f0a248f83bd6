"""Two tables joined by id in bounded memory: both are parted by a digest of the id, and the parts are joined one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batch.execution.unique import digests

PART_ROWS = 1_000_000
"""Rows of one side that are joined at a time."""
_DIGEST = (("high", "<u8"), ("low", "<u8"))
Field = tuple[str, str] | tuple[str, str, tuple[int, ...]]


class Spill:
    """One side of a join: fixed-width rows in files of a scratch folder, parted by id."""

    def __init__(self, folder: str, name: str, fields: Sequence[Field], parts: int) -> None:
        """`fields`: (name, numpy type) of what is kept of a row besides its id, with a shape where it is several numbers."""
        self._paths = [os.path.join(folder, f"{name}.{number}") for number in range(parts)]
        self.parts = parts
        self.fields = [field[0] for field in fields]
        self.dtype = np.dtype([*_DIGEST, *fields])
        self.rows = 0
        self.without_id = 0
        """Rows that have no id: nothing can be joined with them."""

    def add(self, ids: pa.Array, values: dict[str, np.ndarray]) -> None:
        """Append rows; `ids` are strings, and the arrays are as long."""
        found = digests(ids)
        rows: np.ndarray = np.empty(len(found), self.dtype)
        rows["high"], rows["low"] = found["high"], found["low"]
        for name, column in values.items():
            rows[name] = column
        known = ids.is_valid().to_numpy(zero_copy_only=False)
        self.rows += len(rows)
        self.without_id += int((~known).sum())
        part = rows["high"] % np.uint64(len(self._paths))
        for number, path in enumerate(self._paths):
            with open(path, "ab") as file:
                file.write(rows[known & (part == number)].tobytes())

    def part(self, number: int) -> tuple[np.ndarray, int]:
        """The rows of one part by ascending id, each id once; and how many rows are left out because theirs is there again.

        An id that stands there more than once names nobody: none of its rows is joined.
        """
        path = self._paths[number]
        rows: np.ndarray = np.fromfile(path, self.dtype) if os.path.exists(path) else np.empty(0, self.dtype)
        rows = rows[np.lexsort((rows["low"], rows["high"]))]
        same = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
        again = np.zeros(len(rows), bool)
        again[1:] |= same
        again[:-1] |= same
        return rows[~again], int(again.sum())


@dataclass(frozen=True, slots=True)
class Joined:
    """One part of a join: rows of both sides, pair by pair, and the rows that only one side has."""

    left: np.ndarray
    right: np.ndarray
    only_left: np.ndarray
    only_right: np.ndarray
    repeated_left: int
    """Rows that were left out because their id is there more than once."""
    repeated_right: int


def parts_for(rows: int) -> int:
    """How many parts a side of so many rows needs."""
    return max(1, -(-rows // PART_ROWS))


def join(left: Spill, right: Spill) -> Iterator[Joined]:
    """The inner join by id, part by part, with what is left over; both sides have the same number of parts."""
    for number in range(left.parts):
        one, repeated_left = left.part(number)
        other, repeated_right = right.part(number)
        at = _places(one, other)
        found = at >= 0
        taken = np.zeros(len(other), bool)
        taken[at[found]] = True
        yield Joined(one[found], other[at[found]], one[~found], other[~taken], repeated_left, repeated_right)


def _places(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where each row of `one` is in `other` (both ascending, ids once each), -1 where it is not."""
    both = np.concatenate([one[["high", "low"]], other[["high", "low"]]])
    origin = np.concatenate([np.arange(len(one)), np.arange(len(other))])
    side = np.repeat([0, 1], [len(one), len(other)])
    order = np.lexsort((side, both["low"], both["high"]))
    high, low, side = both["high"][order], both["low"][order], side[order]
    pair = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1]) & (side[:-1] == 0) & (side[1:] == 1))
    at = np.full(len(one), -1)
    at[origin[order[pair]]] = origin[order[pair + 1]]
    return at
