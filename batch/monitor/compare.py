"""Two versions of a model side by side, on rows that both score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from batch.errors import InputMissing, SchemaMismatch, UsageError
from batch.formats.id_text import id_texts
from batch.models import bundle
from batch.models.files import read_frame
from batch.models.outputs import Outputs
from batch.models.signature import from_frame
from batch.monitor.delivered import Codes
from batch.monitor.labels import class_codes, truth_of
from batch.monitor.metrics import Scoreboard, has_probability
from batch.monitor.shift import Shift
from batch.storage import normalise, storage_for

ROWS = 50_000
"""Compared at a time."""


class Comparison:
    """Two sides that score the same rows."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self.labels, self.groups, self.shift = Codes(), Codes(), Shift()
        self.board = Scoreboard(outputs.kind, has_probability(outputs))
        self.unlabelled = 0

    def add(self, labels: Any, scores: Any, groups: np.ndarray, keys: np.ndarray) -> None:
        """Take in pairs: see `Shift.add`."""
        self.shift.add(labels, scores, groups, keys)

    def judge(self, labels: Any, scores: Any, codes: np.ndarray, truth: np.ndarray) -> None:
        """Take in pairs whose label is known: see `truth_of`."""
        known = ~np.isnan(truth) & ~np.isnan(scores[0]) & ~np.isnan(scores[1])
        if not self.board.has_score and self.outputs.kind == "classifier":
            known = codes >= 0
        self.unlabelled += int((~known).sum())
        right = tuple(one[known] == codes[known] for one in labels)
        self.board.add((right[0], right[1]), (scores[0][known], scores[1][known]), truth[known])

    def as_dict(self) -> dict[str, Any]:
        """What `Shift.as_dict` gives, and ``metrics``; empty without labels."""
        return self.shift.as_dict(self.labels.texts, self.groups.texts) | {"metrics": self.board.as_dict()}


def compare_models(
    root: str, name: str, a: str, b: str, *, data: str, target: str = "", group_by: str = ""
) -> dict[str, Any]:
    """Score a CSV or Parquet file with two versions of a model, and compare them; `a` and `b` are versions or aliases.

    `target`: the column with the labels; `group_by`: any column. Raises `ModelMissing`, `SchemaMismatch`, `InputMissing`, or
    `UsageError` for models of different kinds. The file is read into memory whole: it is of the size of training data.
    """
    sides = [
        bundle.resolve(f"models:/{name}/{one}" if one.isdigit() else f"models:/{name}@{one}", root) for one in (a, b)
    ]
    _same_kind(sides[0].outputs, sides[1].outputs)
    place = normalise(data)
    body = storage_for(place).get(place)
    if body is None:
        raise InputMissing(f"there is no file {place}", hint="name the file to compare on")
    frame = read_frame(body, place)
    for column in filter(None, (target, group_by)):
        if column not in frame.columns:
            raise SchemaMismatch(f"{place} has no column {column!r}", hint=f"its columns: {', '.join(map(str, frame))}")
    models = [bundle.load(one) for one in sides]
    found = Comparison(sides[0].outputs)
    for start in range(0, len(frame), ROWS):
        part = frame.iloc[start : start + ROWS]
        tables = [model.predict(from_frame(part, one.signature)) for model, one in zip(models, sides, strict=True)]
        labels = tuple(_labels(table, found) for table in tables)
        scores = tuple(_scores(table, one.outputs) for table, one in zip(tables, sides, strict=True))
        groups = found.groups.of(_texts(part[group_by]) if group_by else pa.nulls(len(part), pa.string()))
        found.add(labels, scores, groups, np.arange(start, start + len(part)).astype(np.uint64) * 0x9E3779B97F4A7C15)
        if target:
            found.judge(labels, scores, *truth_of(_texts(part[target]), found.outputs, found.labels))
    names = [f"{one.name}/{one.version}" for one in sides]
    return {"first": names[0], "second": names[1], "data": place, "group_by": group_by} | found.as_dict()


def _same_kind(one: Outputs, other: Outputs) -> None:
    if (one.kind, one.classes) != (other.kind, other.classes):
        raise UsageError(
            f"a {one.kind} of {list(one.classes)} and a {other.kind} of {list(other.classes)} cannot be compared",
            hint="compare models with the same outputs",
        )


def _texts(column: Any) -> pa.Array:
    return id_texts(pa.table({"value": pa.array(column, from_pandas=True)}), "value")


def _labels(table: pa.Table, found: Comparison) -> np.ndarray:
    if found.outputs.kind == "regressor":
        return np.full(table.num_rows, 0)
    return class_codes(id_texts(table, "prediction"), found.outputs, found.labels)


def _scores(table: pa.Table, outputs: Outputs) -> np.ndarray:
    if outputs.kind == "classifier" and len(outputs.columns) == 1:
        return np.full(table.num_rows, np.nan)
    scores: np.ndarray = table[outputs.score].to_numpy().astype(np.float64)
    return scores
