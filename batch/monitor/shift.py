"""How far two sets of predictions for the same rows are apart: score shift and decision flips, overall and per group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from batch.monitor.delivered import NO_LABEL

SAMPLE_ROWS = 100_000
"""Quantiles are those of so many pairs, chosen by the digest of the id: exact up to there, a fair sample beyond."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Shift:
    """Sums over pairs of rows; memory does not grow with them."""

    def __init__(self) -> None:
        self.pairs = 0
        self._changed = 0
        self._groups: Counter[int] = Counter()
        self._flips: Counter[tuple[int, int]] = Counter()
        self._group_flips: Counter[int] = Counter()
        self._scored = 0
        self._sums = np.zeros(3)
        """Of the shift, its size and its square."""
        self._largest = 0.0
        self._group_sums: dict[int, np.ndarray] = {}
        """Scored pairs, sum of the shift and of its size."""
        self._sample = np.empty(0, [("key", "<u8"), ("shift", "<f8")])

    def add(
        self,
        labels: tuple[np.ndarray, np.ndarray],
        scores: tuple[np.ndarray, np.ndarray],
        groups: np.ndarray,
        keys: np.ndarray,
    ) -> None:
        """Take in pairs: codes of both labels, both scores (NaN where there is none), codes of the group, and a random key each."""
        one, other = labels
        shift = scores[1] - scores[0]
        flipped, known = one != other, np.isfinite(shift)
        self.pairs += len(one)
        self._changed += int((flipped | (known & (shift != 0)) | (np.isnan(scores[0]) != np.isnan(scores[1]))).sum())
        for group, count in _counted(groups):
            self._groups[group] += count
        for group, count in _counted(groups[flipped]):
            self._group_flips[group] += count
        pairs, counts = np.unique(np.stack([one[flipped], other[flipped]]), axis=1, return_counts=True)
        for (before, after), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            self._flips[before, after] += count
        self._add_scores(shift[known], groups[known], keys[known])

    def _add_scores(self, shift: np.ndarray, groups: np.ndarray, keys: np.ndarray) -> None:
        size = np.abs(shift)
        self._scored += len(shift)
        self._sums += [shift.sum(), size.sum(), (shift**2).sum()]
        self._largest = max(self._largest, float(size.max(initial=0.0)))
        for group in np.unique(groups).tolist():
            mine = groups == group
            sums = np.array([mine.sum(), shift[mine].sum(), size[mine].sum()])
            self._group_sums[group] = self._group_sums.get(group, np.zeros(3)) + sums
        fresh = np.empty(len(shift), self._sample.dtype)
        fresh["key"], fresh["shift"] = keys, shift
        both = np.concatenate([self._sample, fresh])
        self._sample = both[np.argsort(both["key"], kind="stable")[:SAMPLE_ROWS]]

    def as_dict(self, labels: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
        """``pairs``, ``changed``, ``agreement``, ``score_shift``, ``flips`` and ``groups``; the texts are by code."""
        flips = sum(self._flips.values())
        return {
            "pairs": self.pairs,
            "changed": self._changed,
            "agreement": 1 - flips / self.pairs if self.pairs else None,
            "score_shift": self._score_shift(),
            "flips": [
                {"from": _text(labels, one), "to": _text(labels, other), "rows": count}
                for (one, other), count in sorted(self._flips.items(), key=lambda each: (-each[1], each[0]))
            ],
            "groups": [
                self._group(code, groups) for code in sorted(self._groups, key=lambda code: _text(groups, code) or "")
            ]
            if set(self._groups) != {NO_LABEL}
            else [],
        }

    def _score_shift(self) -> dict[str, Any] | None:
        if not self._scored:
            return None
        mean, size, square = (self._sums / self._scored).tolist()
        return {
            "rows": self._scored,
            "mean": mean,
            "mean_absolute": size,
            "standard_deviation": max(0.0, square - mean**2) ** 0.5,
            "largest": self._largest,
            "quantiles": {
                f"{one:g}": float(value)
                for one, value in zip(QUANTILES, np.quantile(self._sample["shift"], QUANTILES), strict=True)
            },
        }

    def _group(self, code: int, groups: Sequence[str]) -> dict[str, Any]:
        scored, shift, size = self._group_sums.get(code, np.zeros(3)).tolist()
        return {
            "group": _text(groups, code),
            "pairs": self._groups[code],
            "flips": self._group_flips[code],
            "mean_shift": shift / scored if scored else None,
            "mean_absolute_shift": size / scored if scored else None,
        }


def _counted(codes: np.ndarray) -> list[tuple[int, int]]:
    found, counts = np.unique(codes, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def _text(texts: Sequence[str], code: int) -> str | None:
    return None if code == NO_LABEL else texts[code]
