"""The arms of a split: each scored rows of its own, so they are compared as samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from batch.models.outputs import Outputs
from batch.monitor.codes import Codes
from batch.monitor.delivered import Batch
from batch.monitor.intervals import Mean, chi_square_p
from batch.monitor.metrics import (
    AUC_ROWS,
    MIN_ROWS,
    chance_of_truth,
    has_probability,
    number,
    row_metrics,
    unpaired,
    unpaired_areas,
    unpaired_interval,
)

MISMATCH_P = 0.001
"""Shares that chance gives less often than that are not what the weights say."""


class Arm:
    """One arm of a split."""

    def __init__(self) -> None:
        self.rows = 0
        self.score = Mean()
        self.labels: dict[int, int] = {}
        self.groups: dict[int, tuple[int, Mean]] = {}
        """Rows and mean score."""
        self.metrics: dict[str, Mean] = {}
        self._curve: list[np.ndarray] = []

    def add(self, batch: Batch, mine: np.ndarray) -> None:
        """Take in the rows of a batch that are this arm's (bool)."""
        self.rows += int(mine.sum())
        scored = mine & ~np.isnan(batch.scores)
        self.score.add(batch.scores[scored])
        for code, count in zip(*np.unique(batch.labels[mine], return_counts=True), strict=True):
            self.labels[int(code)] = self.labels.get(int(code), 0) + int(count)
        for code, count in zip(*np.unique(batch.groups[mine], return_counts=True), strict=True):
            rows, score = self.groups.get(int(code), (0, Mean()))
            score.add(batch.scores[scored & (batch.groups == code)])
            self.groups[int(code)] = rows + int(count), score

    def judge(self, rows: np.ndarray, known: np.ndarray, outputs: Outputs) -> None:
        """Take in rows of this arm whose label is known; both arrays are as a join gives them."""
        values = row_metrics(
            outputs.kind,
            rows["label"] == known["code"],
            rows["score"],
            known["truth"],
            chance_of_truth(rows["chances"], known["code"]),
            has_score=has_probability(outputs),
        )
        for name, each in values.items():
            self.metrics.setdefault(name, Mean()).add(each)
        if has_probability(outputs) and sum(one.shape[1] for one in self._curve) < AUC_ROWS:
            self._curve.append(np.stack([known["truth"], rows["score"]]))

    @property
    def curve(self) -> np.ndarray | None:
        """Truth and score of at most `AUC_ROWS` rows, shape (2, rows)."""
        return np.concatenate(self._curve, axis=1)[:, :AUC_ROWS] if self._curve else None


def judge(arms: dict[str, Arm], rows: np.ndarray, known: np.ndarray, names: Codes, outputs: Outputs) -> None:
    """Take in rows of any arms whose label is known."""
    for code in np.unique(rows["variant"]).tolist():
        mine = rows["variant"] == code
        arms[names.texts[code]].judge(rows[mine], known[mine], outputs)


def arm_metrics(one: Arm, other: Arm) -> dict[str, Any]:
    """The metrics of both, and their differences as of two samples."""
    found = unpaired(one.metrics, other.metrics)
    if one.curve is not None and other.curve is not None:
        found["roc_auc"] = unpaired_areas(one.curve, other.curve)
    return found


def sample_ratio(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the arms of a split have the shares that the weights say: a chi-square test of their rows.

    Fabijan et al., Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD 2019: where it fails, something but the hash
    decides who is in which arm, and no other number means what it seems to.
    """
    arms = [one for one in models if one["mode"] == "split" and one["weight"] > 0]
    total, weight = sum(one["rows"] for one in arms), sum(one["weight"] for one in arms)
    if total == 0 or len(arms) < 2:
        return {"p": None, "mismatch": False, "arms": []}
    expected = [total * one["weight"] / weight for one in arms]
    statistic = sum((one["rows"] - each) ** 2 / each for one, each in zip(arms, expected, strict=True))
    p = chi_square_p(statistic, len(arms) - 1)
    counts = [
        {"variant": one["variant"], "rows": one["rows"], "expected": each}
        for one, each in zip(arms, expected, strict=True)
    ]
    return {"p": p, "mismatch": p < MISMATCH_P, "arms": counts}


def unpaired_shift(one: Mean, other: Mean) -> dict[str, Any] | None:
    """The difference of two mean scores with its interval (None below `MIN_ROWS`); None where there are no scores."""
    if not one.rows or not other.rows:
        return None
    between = unpaired_interval(one, other) if min(one.rows, other.rows) >= MIN_ROWS else None
    return {
        "first": number(one.mean),
        "second": number(other.mean),
        "difference": number(other.mean - one.mean),
        "interval": [*between] if between else None,
    }


def shares(one: Arm, other: Arm, texts: list[str]) -> list[dict[str, Any]]:
    """The share of each predicted class."""
    codes = sorted(code for code in {*one.labels, *other.labels} if code >= 0)
    return [
        {
            "label": texts[code],
            "first": one.labels.get(code, 0) / one.rows if one.rows else None,
            "second": other.labels.get(code, 0) / other.rows if other.rows else None,
        }
        for code in codes
    ]


def arm_groups(one: Arm, other: Arm, texts: list[str]) -> list[dict[str, Any]]:
    """Rows and mean scores per group."""
    codes = sorted({*one.groups, *other.groups}, key=lambda code: (code < 0, texts[code] if code >= 0 else ""))
    found = []
    for code in codes:
        (rows, score), (its_rows, its_score) = (side.groups.get(code, (0, Mean())) for side in (one, other))
        group = texts[code] if code >= 0 else None
        found.append({"group": group, "rows": [rows, its_rows], "score": unpaired_shift(score, its_score)})
    return found
