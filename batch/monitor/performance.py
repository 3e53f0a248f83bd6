"""How well one model did on the rows whose label is known: values with 95 % intervals, of all its rows and of each group.

Everything comes from running sums, but for the area under the ROC curve and R squared: those take a sample of at most `AUC_ROWS` rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.models.outputs import Outputs
from batch.monitor.calibration import LACKING, Calibration
from batch.monitor.intervals import Interval, Mean, delong, normal, of_root, r_squared, wilson
from batch.monitor.metrics import (
    AUC_ROWS,
    HIGHER_IS_BETTER,
    MIN_CLASS_ROWS,
    chance_of_truth,
    fewest,
    has_probability,
    number,
    row_metrics,
)

MEETS, BELOW, NOT_COMPARABLE = "meets", "below", "not comparable"
Value = tuple[float, Interval | None]
Values = dict[str, Value | None]
"""By metric; None where there are too few rows to tell."""


@dataclass(slots=True)
class Tally:
    """Running sums of some rows."""

    calibration: Calibration | None
    means: dict[str, Mean] = field(default_factory=dict)
    rows: int = 0

    def add(self, values: dict[str, np.ndarray], score: np.ndarray, truth: np.ndarray) -> None:
        """Take in rows: see `row_metrics`."""
        self.rows += len(truth)
        for name, each in values.items():
            self.means.setdefault(name, Mean()).add(each)
        if self.calibration is not None:
            self.calibration.add(score, truth)


class Performance:
    """Of one model of a run."""

    def __init__(self, outputs: Outputs, sample_rows: int = AUC_ROWS) -> None:
        self.outputs = outputs
        self.has_score = has_probability(outputs)
        self.whole = self._tally()
        self.groups: dict[int, Tally] = {}
        """By code."""
        self._sample_rows = sample_rows
        self._sample: list[np.ndarray] = []
        """Truth, score and group code, shape (3, rows). Rows come by the hash of their ids: the first ones are a fair sample."""

    def _tally(self) -> Tally:
        is_scored = self.has_score or self.outputs.kind == "regressor"
        return Tally(Calibration(self.has_score) if is_scored else None)

    def add(self, rows: np.ndarray, known: np.ndarray) -> None:
        """Take in rows and their labels, both as a join gives them."""
        score, truth = rows["score"], known["truth"]
        chance = chance_of_truth(rows["chances"], known["code"])
        correct = rows["label"] == known["code"]
        values = row_metrics(self.outputs.kind, correct, score, truth, chance, has_score=self.has_score)
        self.whole.add(values, score, truth)
        for code, mine in parted(rows["group"]):
            part = {name: each[mine] for name, each in values.items()}
            self.groups.setdefault(code, self._tally()).add(part, score[mine], truth[mine])
        room = self._sample_rows - sum(one.shape[1] for one in self._sample)
        if room > 0 and self.whole.calibration is not None:
            self._sample.append(np.stack([truth, score, rows["group"]])[:, :room])

    def values(self, minimum: int) -> Values:
        """Of all rows."""
        return self._values(self.whole, self._sampled(), minimum)

    def group_values(self, minimum: int) -> Iterator[tuple[int, Tally, Values]]:
        """Of each group: its code, its sums and its metrics."""
        sample = self._sampled()
        places = dict(parted(sample[2]))
        for code, tally in self.groups.items():
            yield code, tally, self._values(tally, sample[:, places.get(code, [])], minimum)

    def _sampled(self) -> np.ndarray:
        return np.concatenate(self._sample, axis=1) if self._sample else np.empty((3, 0))

    def _values(self, tally: Tally, sample: np.ndarray, minimum: int) -> Values:
        names = ["accuracy", *(["roc_auc", "brier"] if self.has_score else []), "log_loss"]
        if self.outputs.kind == "regressor":
            names = ["mae", "rmse", "mse", "r2"]
        elif not self.has_score and not self.outputs.names[1:]:
            names = ["accuracy"]
        found: Values = {}
        for name in names:
            if name in {"roc_auc", "r2"}:
                found[name] = _of_sample(name, sample[0], sample[1], minimum)
            else:
                found[name] = _of_sums(name, tally.means) if tally.rows >= minimum else None
        return found


def parted(codes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The different codes and where each stands: one sort, however many there are."""
    order = np.argsort(codes, kind="stable")
    ends = np.flatnonzero(np.diff(codes[order])) + 1
    for mine in np.split(order, ends):
        if len(mine):
            yield int(codes[mine[0]]), mine


def _of_sums(name: str, means: dict[str, Mean]) -> Value:
    if name == "rmse":
        return math.sqrt(means["mse"].mean), of_root(means["mse"])
    one = means[name]
    if name == "accuracy":
        return one.mean, wilson(one.rows, one.mean)
    between = normal(one.mean, one.variance)
    return one.mean, between and (max(0.0, between[0]), between[1])


def _of_sample(name: str, truth: np.ndarray, score: np.ndarray, minimum: int) -> Value | None:
    if len(truth) < minimum:
        return None
    if name == "r2":
        return r_squared(truth, score)
    if fewest(truth) < MIN_CLASS_ROWS:
        return None
    (area,), ((variance,),) = delong(truth, score[None])
    between = normal(float(area), float(variance))
    return float(area), between and (max(0.0, between[0]), min(1.0, between[1]))


def plain(found: Value | None) -> dict[str, Any]:
    """A value as JSON has it."""
    value, between = found if found is not None else (math.nan, None)
    return {"value": number(value), "interval": [*between] if between else None}


def judged(values: Values, registered: dict[str, float], *, hidden: Collection[str] = ("mse",)) -> dict[str, Any]:
    """Metrics as JSON has them, each beside the value that the model was registered with, and a verdict.

    Those that are `hidden` are told only where they were registered; a registered metric that labels and predictions do not give has no
    value.
    """
    told = {name: found for name, found in values.items() if name not in hidden or name in registered}
    metrics = {
        name: plain(found) | {"registered": registered.get(name), "verdict": verdict(name, found, registered.get(name))}
        for name, found in told.items()
    }
    others = {name: value for name, value in registered.items() if name not in metrics}
    return metrics | {
        name: plain(None) | {"registered": value, "verdict": NOT_COMPARABLE} for name, value in others.items()
    }


def verdict(name: str, found: Value | None, registered: float | None) -> str:
    """Whether a model still is what it was registered as: below it only if the whole interval lies on the worse side."""
    if found is None:
        return LACKING
    value, between = found
    if registered is None or not math.isfinite(value):
        return NOT_COMPARABLE
    low, high = between or (value, value)
    is_below = high < registered if HIGHER_IS_BETTER[name] else low > registered
    if between is None and is_below:  # nothing says by how much chance alone moves the value
        return NOT_COMPARABLE
    return BELOW if is_below else MEETS
