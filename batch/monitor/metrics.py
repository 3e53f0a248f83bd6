"""Metrics of predictions whose labels are known, of two sides, and whether the second is better.

Everything but the area under the ROC curve comes from running sums; that takes at most `AUC_ROWS` rows of memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.models.outputs import Outputs
from batch.monitor.intervals import Interval, Mean, delong, normal, of_roots, paired_shares, unpaired_shares

HIGHER_IS_BETTER = {
    "accuracy": True,
    "roc_auc": True,
    "r2": True,
    "f1": True,
    "precision": True,
    "recall": True,
    "log_loss": False,
    "brier": False,
    "mae": False,
    "mse": False,
    "rmse": False,
}
"""Every metric whose direction is known."""
MIN_ROWS = 100
"""Below that a difference is not judged."""
MIN_CLASS_ROWS = 10
"""Nor is the difference of two curves with fewer rows of one of the classes."""
AUC_ROWS = 1_000_000
"""Rows of a join come by the hash of their ids: the first ones are a fair sample."""
CLIP = 1e-15
"""Probabilities are kept so far from 0 in the log loss."""


def has_probability(outputs: Outputs) -> bool:
    """Whether there is the probability of one class, and so Brier score and ROC curve."""
    return outputs.kind == "classifier" and len(outputs.classes) == 2 and len(outputs.columns) == 2


def chances_of(outputs: Outputs) -> tuple[str, ...]:
    """The columns with the probabilities of all classes, in their order, of a model that has more than two."""
    many = outputs.kind == "classifier" and len(outputs.classes) > 2
    return outputs.names[1:] if many else ()


def chance_of_truth(chances: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
    """The probability that each row's true class was given; None without columns.

    `chances`: shape (rows, classes); `codes`: the true classes as numbers of columns.
    """
    return chances[np.arange(len(codes)), codes] if chances.shape[1] else None


def row_metrics(
    kind: str,
    correct: np.ndarray,
    score: np.ndarray,
    truth: np.ndarray,
    chance: np.ndarray | None = None,
    *,
    has_score: bool,
) -> dict[str, np.ndarray]:
    """What each row adds to the mean metrics. `kind`: classifier or regressor.

    Of a classifier: `correct` (bool); where it has the probability of one class, `score` (that) and `truth` (1.0 for that class, else
    0.0); and `chance`, the probability of the true class, where it has more. Of a regressor `score` and `truth` are the values.
    """
    if kind == "regressor":
        error = score - truth
        return {"mae": np.abs(error), "mse": error**2}
    found = {"accuracy": correct.astype(np.float64)}
    if has_score:
        chance = np.where(truth == 1.0, score, 1.0 - score)
    if chance is not None:
        found["log_loss"] = -np.log(np.clip(chance, CLIP, 1.0))
    if has_score:
        found["brier"] = (score - truth) ** 2
    return found


@dataclass(slots=True)
class Scoreboard:
    """Metrics of two sides on the same rows, and their paired differences (second minus first)."""

    kind: str
    has_score: bool
    auc_rows: int = AUC_ROWS
    """Rows that the ROC curve takes."""
    sides: tuple[dict[str, Mean], dict[str, Mean]] = field(default_factory=lambda: ({}, {}))
    differences: dict[str, Mean] = field(default_factory=dict)
    rows: int = 0
    _gained: int = 0
    _lost: int = 0
    _kept: list[np.ndarray] = field(default_factory=list)
    _kept_rows: int = 0

    def add(
        self,
        correct: tuple[Any, Any],
        scores: tuple[Any, Any],
        truth: np.ndarray,
        chances: tuple[Any, Any] = (None, None),
    ) -> None:
        """Take in rows whose label is known: see `row_metrics`."""
        one, other = (
            row_metrics(self.kind, right, score, truth, chance, has_score=self.has_score)
            for right, score, chance in zip(correct, scores, chances, strict=True)
        )
        for name, values in one.items():
            self.sides[0].setdefault(name, Mean()).add(values)
            self.sides[1].setdefault(name, Mean()).add(other[name])
            self.differences.setdefault(name, Mean()).add(other[name] - values)
        self.rows += len(truth)
        if self.kind == "classifier":
            self._gained += int((correct[1] & ~correct[0]).sum())
            self._lost += int((correct[0] & ~correct[1]).sum())
        if self.has_score and self._kept_rows < self.auc_rows:
            self._kept.append(np.stack([truth, *scores])[:, : self.auc_rows - self._kept_rows])
            self._kept_rows += self._kept[-1].shape[1]

    def as_dict(self) -> dict[str, Any]:
        """Per metric: both values, the difference with its 95 % interval, and a verdict on the second side."""
        found = {}
        for name, difference in self.differences.items():
            one, other = self.sides[0][name], self.sides[1][name]
            between = normal(difference.mean, difference.variance)
            if name == "accuracy":
                between = paired_shares(difference.rows, self._gained, self._lost)
            found[name] = entry(name, difference.rows, (one.mean, other.mean), between)
        if self._kept:
            truth, *scores = np.concatenate(self._kept, axis=1)
            areas, covariance = delong(truth, np.stack(scores))
            variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
            between = normal(areas[1] - areas[0], max(0.0, variance))
            found["roc_auc"] = entry("roc_auc", len(truth), (areas[0], areas[1]), between, fewest=fewest(truth))
        if "mse" in found:
            one, other = self.sides[0]["mse"], self.sides[1]["mse"]
            between = of_roots(one, other, self.differences["mse"].variance)
            found["rmse"] = entry("rmse", one.rows, (_root(one), _root(other)), between)
        return found


def unpaired(one: dict[str, Mean], other: dict[str, Mean]) -> dict[str, Any]:
    """The same of two sides on different rows."""
    found = {}
    for name in [name for name in one if name in other]:
        mine, its = one[name], other[name]
        rows, between = min(mine.rows, its.rows), unpaired_interval(mine, its)
        if name == "accuracy":
            between = unpaired_shares(mine, its)
        found[name] = entry(name, rows, (mine.mean, its.mean), between)
        if name == "mse":
            between = of_roots(mine, its, mine.variance + its.variance)
            found["rmse"] = entry("rmse", rows, (_root(mine), _root(its)), between)
    return found


def unpaired_interval(one: Mean, other: Mean) -> Interval | None:
    """Of the difference of two means over different rows."""
    return normal(other.mean - one.mean, one.variance + other.variance)


def unpaired_areas(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """The areas under the ROC curves of two sides on different rows; both are of shape (2, rows): truth and score."""
    areas, variances = [], []
    for truth, score in (one, other):
        area, covariance = delong(truth, score[None])
        areas.append(float(area[0]))
        variances.append(float(covariance[0, 0]))
    rows = min(one.shape[1], other.shape[1])
    between = normal(areas[1] - areas[0], sum(variances))
    return entry("roc_auc", rows, (areas[0], areas[1]), between, fewest=min(fewest(one[0]), fewest(other[0])))


def entry(
    name: str, rows: int, values: tuple[float, float], interval: Interval | None, *, fewest: int | None = None
) -> dict[str, Any]:
    """One metric of two sides, judged where there is enough data. `fewest`: rows of the rarer class, where that matters."""
    lacking = ""
    if rows < MIN_ROWS:
        lacking = f"not enough data: {rows} rows, {MIN_ROWS} are needed"
    elif fewest is not None and fewest < MIN_CLASS_ROWS:
        lacking = f"not enough data: {fewest} rows of one class, {MIN_CLASS_ROWS} are needed"
    elif interval is None:
        lacking = "not enough data: the difference has no interval"
    return {
        "rows": rows,
        "first": number(values[0]),
        "second": number(values[1]),
        "difference": number(values[1] - values[0]),
        "interval": None if lacking or interval is None else [*map(float, interval)],
        "verdict": lacking or _verdict(name, *(interval or (0.0, 0.0))),
    }


def number(value: float) -> float | None:
    """As JSON has it: null for what is none."""
    return float(value) if math.isfinite(value) else None


def fewest(truth: np.ndarray) -> int:
    """Rows of the rarer of two classes."""
    positive = int((truth == 1.0).sum())
    return min(positive, len(truth) - positive)


def _root(side: Mean) -> float:
    return math.sqrt(side.mean) if side.rows else math.nan


def _verdict(name: str, low: float, high: float) -> str:
    if low <= 0.0 <= high:
        return "no difference seen"
    return "better" if (low > 0.0) == HIGHER_IS_BETTER[name] else "worse"
