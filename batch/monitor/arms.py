"""The arms of a split: each scored rows of its own, so they are compared as samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from batch.models.outputs import Outputs
from batch.monitor.delivered import Batch, Codes
from batch.monitor.metrics import Mean, chi_square_p, has_probability, row_metrics, unpaired

MISMATCH_P = 0.001
"""Shares that chance gives less often than that are not what the weights say."""


class Arm:
    """One arm of a split."""

    def __init__(self) -> None:
        self.rows = 0
        self.score = Mean()
        self.labels: dict[int, int] = {}
        self.groups: dict[int, Mean] = {}
        self.metrics: dict[str, Mean] = {}

    def add(self, batch: Batch, mine: np.ndarray) -> None:
        """Take in the rows of a batch that are this arm's (bool)."""
        self.rows += int(mine.sum())
        scored = mine & ~np.isnan(batch.scores)
        self.score.add(batch.scores[scored])
        for code, count in zip(*np.unique(batch.labels[mine], return_counts=True), strict=True):
            self.labels[int(code)] = self.labels.get(int(code), 0) + int(count)
        for code in np.unique(batch.groups[mine]).tolist():
            self.groups.setdefault(code, Mean()).add(batch.scores[scored & (batch.groups == code)])


def judge(arms: dict[str, Arm], rows: np.ndarray, known: np.ndarray, names: Codes, outputs: Outputs) -> None:
    """Take in rows whose label is known; both arrays are as a join gives them."""
    for code in np.unique(rows["variant"]).tolist():
        mine = (rows["variant"] == code) & (known["code"] >= 0)
        values = row_metrics(
            outputs.kind,
            rows["label"][mine] == known["code"][mine],
            rows["score"][mine],
            known["truth"][mine],
            has_score=has_probability(outputs),
        )
        for name, each in values.items():
            arms[names.texts[code]].metrics.setdefault(name, Mean()).add(each)


def sample_ratio(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the arms of a split have the shares that the weights say: a chi-square test of their rows."""
    arms = [one for one in models if one["mode"] == "split" and one["weight"] > 0]
    total, weight = sum(one["rows"] for one in arms), sum(one["weight"] for one in arms)
    if total == 0 or len(arms) < 2:
        return {"p": None, "mismatch": False}
    expected = [total * one["weight"] / weight for one in arms]
    statistic = sum((one["rows"] - each) ** 2 / each for one, each in zip(arms, expected, strict=True))
    p = chi_square_p(statistic, len(arms) - 1)
    return {"p": p, "mismatch": p < MISMATCH_P}


def unpaired_shift(one: Mean, other: Mean) -> dict[str, Any] | None:
    """The difference of two mean scores with its interval; None where there are no scores."""
    if not one.rows or not other.rows:
        return None
    found = unpaired("mse", one, other)  # a direction is needed for a verdict only, and a score has none
    return {key: found[key] for key in ("first", "second", "difference", "interval")}


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
    codes = sorted({*one.groups, *other.groups})
    return [
        {
            "group": texts[code] if code >= 0 else None,
            "rows": [one.groups.get(code, Mean()).rows, other.groups.get(code, Mean()).rows],
        }
        | {"score": unpaired_shift(one.groups.get(code, Mean()), other.groups.get(code, Mean()))}
        for code in codes
    ]
