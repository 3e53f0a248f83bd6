"""Two versions of a model side by side, on rows that both score."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import InputMissing, SchemaMismatch, UsageError
from batch.formats.id_text import id_texts
from batch.models import bundle
from batch.models.catalogue import check_name
from batch.models.files import read_frame
from batch.models.outputs import Outputs
from batch.models.signature import SignatureColumn, from_frame
from batch.monitor.codes import NO_LABEL, Codes, codes_of_classes, spelled
from batch.monitor.labels import Labelling, truth_of
from batch.monitor.metrics import AUC_ROWS, Scoreboard, chance_of_truth, chances_of, has_probability
from batch.monitor.shift import Shift
from batch.storage import normalise, storage_for

if TYPE_CHECKING:
    import pandas as pd

    from batch.models.loaded import LoadedModel

ROWS = 50_000
"""Compared at a time."""
SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: multiples of it are as if drawn at random, so the rows with the smallest ones are a fair sample."""


class Comparison:
    """Two sides that score the same rows."""

    def __init__(self, outputs: Outputs, labels_from: str = "", group_by: str = "", auc_rows: int = AUC_ROWS) -> None:
        """`labels_from`: where the labels are, for messages; "" without any."""
        self.outputs = outputs
        self.labels, self.groups, self.shift = codes_of_classes(outputs), Codes(group_by), Shift()
        self.board = Scoreboard(outputs.kind, has_probability(outputs), auc_rows)
        self.labelling = Labelling(labels_from)

    def add(self, labels: Any, scores: Any, groups: np.ndarray, keys: np.ndarray) -> None:
        """Take in pairs: see `Shift.add`."""
        self.shift.add(labels, scores, groups, keys)

    def judge(self, labels: Any, scores: Any, chances: Any, codes: np.ndarray, truth: np.ndarray) -> None:
        """Take in pairs with their labels: `codes` and `truth` are as `truth_of` gives them, `chances` as `Batch` has them."""
        known = self.labelling.count(codes)
        one, other = (side[known] == codes[known] for side in labels)
        mine, its = (chance_of_truth(side[known], codes[known]) for side in chances)
        self.board.add((one, other), (scores[0][known], scores[1][known]), truth[known], (mine, its))

    def as_dict(self) -> dict[str, Any]:
        """What `Shift.as_dict` gives, the column of the ``score``, and with labels ``labels`` and ``metrics``, else None and {}.

        Raises `SchemaMismatch` where there are labels and none is what the model predicts.
        """
        has_score = self.outputs.kind == "regressor" or len(self.outputs.columns) > 1
        return self.shift.as_dict(self.labels.texts, self.groups.texts) | {
            "score": self.outputs.score if has_score else None,
            "labels": self.labelling.as_dict(self.outputs) if self.labelling.source else None,
            "metrics": self.board.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class _Scored:
    """What one side says of some rows."""

    labels: np.ndarray
    scores: np.ndarray
    chances: np.ndarray


def compare_models(
    root: str,
    name: str,
    a: str,
    b: str,
    *,
    data: str,
    target: str = "",
    group_by: str = "",
    pickle_sha256: Collection[str] = (),
) -> dict[str, Any]:
    """Score a CSV or Parquet file with two versions of a model, and compare them; `a` and `b` are versions or aliases.

    `target`: the column with the labels; `group_by`: any column. A row that a run would reject (null where the model knows none, or
    infinite) is left out and counted. Raises `ModelMissing`, `SchemaMismatch`, `InputMissing`, `ModelFailed`, or `UsageError` for models
    of different kinds. The file is read into memory whole: it is of the size of training data.
    """
    references = [f"models:/{check_name(name)}{'/' if one.isdigit() else '@'}{one}" for one in (a, b)]
    sides = [bundle.resolve_bundle(one, root) for one in references]
    check_same_kind(sides[0].outputs, sides[1].outputs)
    place, frame = _read(data, (target, group_by))
    models = [bundle.load(one, pickle_sha256=pickle_sha256) for one in sides]
    found = Comparison(sides[0].outputs, place if target else "", group_by, auc_rows=len(frame))
    left_out = 0
    for start in range(0, len(frame), ROWS):
        part = frame.iloc[start : start + ROWS]
        tables = [from_frame(part, one.signature) for one in sides]
        usable = _usable(tables[0], sides[0].signature) & _usable(tables[1], sides[1].signature)
        left_out += int((~usable).sum())
        one, other = _scored(models, tables, usable, found)
        keys = np.arange(start, start + len(part), dtype=np.uint64)[usable] * SPREAD
        part = part[usable]
        groups = found.groups.of(_texts(part[group_by]) if group_by else pa.nulls(len(part), pa.string()))
        found.add((one.labels, other.labels), (one.scores, other.scores), groups, keys)
        if target:
            codes, truth = truth_of(_texts(part[target]), found.outputs, found.labels)
            found.judge(
                (one.labels, other.labels), (one.scores, other.scores), (one.chances, other.chances), codes, truth
            )
    names = [f"{one.name}/{one.version}" for one in sides]
    about = {"first": names[0], "second": names[1], "mode": "data", "data": place, "group_by": group_by}
    return about | {"left_out": left_out} | found.as_dict()


def _read(data: str, columns: tuple[str, ...]) -> tuple[str, pd.DataFrame]:
    """URI and content of a file that must have some columns ("" for none)."""
    place = normalise(data)
    body = storage_for(place).get(place)
    if body is None:
        raise InputMissing(f"there is no file {place}", hint="name the file to compare on")
    frame = read_frame(body, place)
    for column in filter(None, columns):
        if column not in frame.columns:
            raise SchemaMismatch(f"{place} has no column {column!r}", hint=f"its columns: {', '.join(map(str, frame))}")
    return place, frame


def check_same_kind(one: Outputs, other: Outputs) -> None:
    """Raises `UsageError` for models whose predictions mean different things."""
    if why := differ_in_kind(one, other):
        raise UsageError(f"{why} cannot be compared", hint="compare models with the same outputs")


def differ_in_kind(one: Outputs, other: Outputs) -> str:
    """The two kinds of predictions in words where they are not the same, else ""."""
    same = (one.kind, one.classes, len(one.columns)) == (other.kind, other.classes, len(other.columns))
    return "" if same else f"{_kind(one)} and {_kind(other)}"


def _kind(outputs: Outputs) -> str:
    if outputs.kind == "regressor":
        return "a regressor"
    without = " without probabilities" if len(outputs.columns) == 1 else ""
    return f"a classifier of {', '.join(map(str, outputs.classes))}{without}"


def _usable(table: pa.Table, columns: tuple[SignatureColumn, ...]) -> np.ndarray:
    """Which rows the model can be asked about: no null in a required column, nothing infinite (bool)."""
    found = np.ones(table.num_rows, bool)
    for column in columns:
        values = table[column.name]
        if column.required:
            found &= values.is_valid().to_numpy()
        if pa.types.is_floating(values.type):
            found &= ~pc.fill_null(pc.is_inf(values), fill_value=False).to_numpy()
    return found


def _scored(
    models: list[LoadedModel], tables: list[pa.Table], usable: np.ndarray, found: Comparison
) -> Iterator[_Scored]:
    for model, table in zip(models, tables, strict=True):
        rows = model.predict(table.filter(pa.array(usable)))
        labels = np.full(rows.num_rows, NO_LABEL)
        if model.outputs.kind == "classifier":
            labels = found.labels.of(spelled(id_texts(rows, "prediction"), model.outputs))
        scores = np.full(rows.num_rows, np.nan)
        if model.outputs.kind == "regressor" or len(model.outputs.columns) > 1:
            scores = _numbers(rows, model.outputs.score)
        chances = [_numbers(rows, name) for name in chances_of(model.outputs)]
        yield _Scored(labels, scores, np.stack(chances, axis=1) if chances else np.empty((rows.num_rows, 0)))


def _texts(column: Any) -> pa.Array:
    return id_texts(pa.table({"value": pa.array(column, from_pandas=True)}), "value")


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    found: np.ndarray = table[name].to_numpy().astype(np.float64)
    return found
