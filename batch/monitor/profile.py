"""What the rows of a run look like: counted chunk by chunk in the scoring pass, and merged without a trace of the cuts.

Everything is a count, or a sum that adding makes no error in, so the profile of a file is the sum of the profiles of its parts. Columns are counted in the
bins and values of the champion's reference profile (`batch.models.profile`); rows of a model without one are counted by label, score and
group alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.monitor.exact import as_fraction, packed, unpacked

SECTION = "profile"
GROUPS_MAX = 1_000
"""With more groups than that none is kept: they would not fit into memory, and nobody reads them."""
EXAMPLES_MAX = 20
"""Values that the reference does not know: those first in order, so that merging gives the same ones."""
HEAD = {"numeric": 3, "datetime": 3, "categorical": 2, "binary": 1}
"""Numbers in front of a column's bins: nulls, then of numbers those below and above the reference's range, of values all others."""


@dataclass(slots=True)
class Tally:
    """Scores of some rows: a histogram in given edges, and moments around a fixed centre."""

    counts: np.ndarray
    rows: int = 0
    total: int = 0
    """Sum of the distances from the centre, in the units of `batch.monitor.exact`."""
    squares: int = 0

    def merge(self, other: Tally) -> None:
        """Add the rows of another one with the same edges and centre."""
        self.counts = self.counts + other.counts
        self.rows += other.rows
        self.total += other.total
        self.squares += other.squares

    def as_list(self) -> list[Any]:
        return [self.rows, packed(self.total), packed(self.squares), self.counts.tolist()]

    @classmethod
    def from_list(cls, found: list[Any]) -> Tally:
        return cls(np.array(found[3], np.int64), found[0], unpacked(found[1]), unpacked(found[2]))

    def moments(self, centre: float) -> dict[str, float | None]:
        """Mean and standard deviation of one row; None where there are too few."""
        if not self.rows:
            return {"mean": None, "sd": None}
        total, squares = as_fraction(self.total), as_fraction(self.squares)
        mean = centre + float(total / self.rows)
        if self.rows < 2:
            return {"mean": mean, "sd": None}
        variance = float((squares - total * total / self.rows) / (self.rows - 1))
        return {"mean": mean, "sd": math.sqrt(max(0.0, variance))}


@dataclass(slots=True)
class Group:
    """The rows of one group."""

    rows: int
    scores: Tally | None
    labels: np.ndarray
    """Rows per class; empty where there are none, or too many."""

    def merge(self, other: Group) -> None:
        self.rows += other.rows
        self.labels = self.labels + other.labels
        if self.scores is not None and other.scores is not None:
            self.scores.merge(other.scores)


@dataclass(slots=True)
class Profile:
    """Counts of some rows. Profiles of the same run merge; an empty one is neutral."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Per column: see `HEAD`, then its bins."""
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)
    scores: dict[str, Tally] = field(default_factory=dict)
    """By variant."""
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    """By variant: rows per class."""
    group_by: str = ""
    groups: dict[str | None, Group] = field(default_factory=dict)
    too_many: bool = False

    def merge(self, other: Profile) -> None:
        """Add the rows of another one. Groups by another column (the job was changed between two attempts) make none."""
        for name, counts in other.columns.items():
            self.columns[name] = self.columns[name] + counts if name in self.columns else counts
        for name, texts in other.unseen.items():
            self.unseen[name] = first_texts(self.unseen.get(name, {}), texts)
        for name, tally in other.scores.items():
            merge_into(self.scores, name, tally)
        for name, counts in other.labels.items():
            self.labels[name] = self.labels[name] + counts if name in self.labels else counts
        if other.group_by and self.group_by and self.group_by != other.group_by:
            self.too_many = True
        self.group_by = self.group_by or other.group_by
        for text, group in other.groups.items():
            merge_into(self.groups, text, group)
        self.too_many = self.too_many or other.too_many
        self.limit()

    def limit(self) -> None:
        """Let the groups go where there are too many."""
        self.too_many = self.too_many or len(self.groups) > GROUPS_MAX
        if self.too_many:
            self.groups.clear()

    def to_bytes(self) -> bytes:
        """The section of a chunk: the same bytes for the same rows, however they were counted."""
        groups = [
            [text, one.rows, one.scores.as_list() if one.scores else None, one.labels.tolist()]
            for text, one in sorted(self.groups.items(), key=lambda item: (item[0] is None, item[0] or ""))
        ]
        document = {
            "columns": {name: counts.tolist() for name, counts in self.columns.items()},
            "unseen": self.unseen,
            "scores": {name: tally.as_list() for name, tally in self.scores.items()},
            "labels": {name: counts.tolist() for name, counts in self.labels.items()},
            "groups": {"column": self.group_by, "too_many": self.too_many, "groups": groups},
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> Profile:
        """The inverse of `to_bytes`; b"" is a chunk without a profile."""
        if not body:
            return cls()
        document = json.loads(body)
        groups = document["groups"]
        return cls(
            columns={name: np.array(counts, np.int64) for name, counts in document["columns"].items()},
            unseen=document["unseen"],
            scores={name: Tally.from_list(one) for name, one in document["scores"].items()},
            labels={name: np.array(counts, np.int64) for name, counts in document["labels"].items()},
            group_by=groups["column"],
            groups={
                text: Group(rows, Tally.from_list(scores) if scores else None, np.array(labels, np.int64))
                for text, rows, scores, labels in groups["groups"]
            },
            too_many=groups["too_many"],
        )


def merge_into(known: dict[Any, Any], name: Any, other: Any) -> None:
    """Add to what is known of a name, if anything is."""
    if name in known:
        known[name].merge(other)
    else:
        known[name] = other


def first_texts(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Both counts, of the first texts in order: what is among the first of the whole is so in each part that has it."""
    both = {text: one.get(text, 0) + other.get(text, 0) for text in {*one, *other}}
    return {text: both[text] for text in sorted(both)[:EXAMPLES_MAX]}
