"""Metrics of predictions whose labels are known, and how sure one may be that two of them differ.

Means over rows (accuracy, log loss, Brier score, MAE, MSE) come from running sums, with normal intervals. The area under the ROC curve and
its covariance follow DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), by the midranks of Sun and Xu, IEEE Signal Processing Letters
21 (2014), over at most `AUC_ROWS` rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.models.outputs import Outputs

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
Z_95 = 1.959963984540054
MIN_ROWS = 100
"""Below that a difference is not judged."""
AUC_ROWS = 1_000_000
CLIP = 1e-15
"""Probabilities are kept so far from 0 and 1 in the log loss."""


def has_probability(outputs: Outputs) -> bool:
    """Whether there is the probability of one class, and so log loss, Brier score and ROC curve."""
    return outputs.kind == "classifier" and len(outputs.classes) == 2 and len(outputs.columns) == 2


def row_metrics(
    kind: str, correct: np.ndarray, score: np.ndarray, truth: np.ndarray, *, has_score: bool
) -> dict[str, np.ndarray]:
    """What each row adds to the mean metrics. `kind`: classifier or regressor.

    Of a classifier: `correct` (bool), and where it has the probability of one class, `score` (that) and `truth` (1.0 for that class,
    else 0.0). Of a regressor `score` and `truth` are the values.
    """
    if kind == "regressor":
        error = score - truth
        return {"mae": np.abs(error), "mse": error**2}
    found = {"accuracy": correct.astype(np.float64)}
    if has_score:
        chance = np.clip(np.where(truth == 1.0, score, 1.0 - score), CLIP, 1.0)
        found |= {"log_loss": -np.log(chance), "brier": (score - truth) ** 2}
    return found


@dataclass(slots=True)
class Mean:
    """A mean over rows, from running sums."""

    rows: int = 0
    total: float = 0.0
    square: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take in rows."""
        self.rows += len(values)
        self.total += float(values.sum())
        self.square += float((values**2).sum())

    @property
    def mean(self) -> float:
        return self.total / self.rows if self.rows else math.nan

    @property
    def variance(self) -> float:
        """Of the mean itself."""
        if self.rows < 2:
            return math.inf
        return max(0.0, self.square - self.rows * self.mean**2) / (self.rows - 1) / self.rows


@dataclass(slots=True)
class Scoreboard:
    """Metrics of two sides on the same rows, and their paired differences (second minus first)."""

    kind: str
    has_score: bool
    sides: tuple[dict[str, Mean], dict[str, Mean]] = field(default_factory=lambda: ({}, {}))
    differences: dict[str, Mean] = field(default_factory=dict)
    _kept: list[np.ndarray] = field(default_factory=list)
    _rows: int = 0

    def add(self, correct: tuple[Any, Any], scores: tuple[Any, Any], truth: np.ndarray) -> None:
        """Take in rows whose label is known: see `row_metrics`."""
        one, other = (
            row_metrics(self.kind, right, score, truth, has_score=self.has_score)
            for right, score in zip(correct, scores, strict=True)
        )
        for name, values in one.items():
            self.sides[0].setdefault(name, Mean()).add(values)
            self.sides[1].setdefault(name, Mean()).add(other[name])
            self.differences.setdefault(name, Mean()).add(other[name] - values)
        if self.kind == "classifier" and self.has_score and self._rows < AUC_ROWS:
            self._kept.append(np.stack([truth, *scores])[:, : AUC_ROWS - self._rows])
            self._rows += self._kept[-1].shape[1]

    def as_dict(self) -> dict[str, Any]:
        """Per metric: both values, the difference with its 95 % interval, and a verdict on the second side."""
        found = {}
        for name, difference in self.differences.items():
            values = self.sides[0][name].mean, self.sides[1][name].mean
            found[name] = _entry(name, difference.rows, values, difference.mean, difference.variance)
        if self._kept:
            truth, one, other = np.concatenate(self._kept, axis=1)
            areas, covariance = delong(truth, np.stack([one, other]))
            variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
            found["roc_auc"] = _entry("roc_auc", len(truth), (areas[0], areas[1]), areas[1] - areas[0], variance)
        if "mse" in found:
            roots = {side: math.sqrt(found["mse"][side] or 0.0) for side in ("first", "second")}
            found["rmse"] = {"rows": found["mse"]["rows"], **roots}
        return found


def _entry(name: str, rows: int, values: tuple[float, float], difference: float, variance: float) -> dict[str, Any]:
    half = Z_95 * math.sqrt(variance) if math.isfinite(variance) else math.inf
    low, high = difference - half, difference + half
    known = rows >= MIN_ROWS and math.isfinite(difference) and math.isfinite(half)
    return {
        "rows": rows,
        "first": _number(values[0]),
        "second": _number(values[1]),
        "difference": _number(difference),
        "interval": [low, high] if known else None,
        "verdict": _verdict(name, low, high) if known else f"not enough data: {rows} rows, {MIN_ROWS} are needed",
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _verdict(name: str, low: float, high: float) -> str:
    if low <= 0.0 <= high:
        return "no difference seen"
    return "better" if (low > 0.0) == HIGHER_IS_BETTER[name] else "worse"


def unpaired(name: str, one: Mean, other: Mean) -> dict[str, Any]:
    """Two sides on different rows: the difference of their means and its interval."""
    rows = min(one.rows, other.rows)
    difference = other.mean - one.mean
    return _entry(name, rows, (one.mean, other.mean), difference, one.variance + other.variance)


def delong(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC curve of several scores of the same rows, and their covariance.

    `truth`: 1.0 for the positives, length n; `scores`: shape (k, n). Returned are k areas and a (k, k) matrix; NaN without both classes.
    """
    positive, k = truth == 1.0, len(scores)
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return np.full(k, np.nan), np.full((k, k), np.nan)
    whole = np.stack([_midranks(one) for one in scores])
    inside = np.stack([_midranks(one[positive]) for one in scores])
    outside = np.stack([_midranks(one[~positive]) for one in scores])
    areas = (whole[:, positive].sum(axis=1) - m * (m + 1) / 2) / (m * n)
    of_positives = (whole[:, positive] - inside) / n
    of_negatives = 1.0 - (whole[:, ~positive] - outside) / m
    covariance = np.cov(of_positives).reshape(k, k) / m if m > 1 else np.full((k, k), np.nan)
    return areas, covariance + (np.cov(of_negatives).reshape(k, k) / n if n > 1 else np.nan)


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts + 1) / 2)[inverse]


def chi_square_p(statistic: float, freedom: int) -> float:
    """The chance of a chi-square value at least so large, for a whole number of degrees of freedom.

    Closed forms: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4.4 and 26.4.5.
    """
    half = statistic / 2
    if freedom % 2 == 0:
        term, total = 1.0, 1.0
        for number in range(1, freedom // 2):
            term *= half / number
            total += term
        return math.exp(-half) * total
    total = math.erfc(math.sqrt(half))
    term = math.sqrt(2 * statistic / math.pi) * math.exp(-half)
    for number in range(1, (freedom + 1) // 2):
        total += term
        term *= statistic / (2 * number + 1)
    return total
