"""How far two sets of predictions for the same rows are apart: score shift and decision flips, overall and per group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from batch.monitor.codes import NO_LABEL
from batch.monitor.intervals import Mean

SAMPLE_ROWS = 100_000
"""Quantiles are those of so many pairs, chosen by the digest of the id: exact up to there, a fair sample beyond."""
GROUP_SAMPLE_ROWS = 2_000
"""The same for each group."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Sums:
    """What pairs of rows add up to; memory does not grow with them."""

    def __init__(self, sample_rows: int) -> None:
        self.pairs = 0
        self.labelled = 0
        """Pairs that have a decision at all: none of a regressor's."""
        self.changed = 0
        self._flips: Counter[tuple[int, int]] = Counter()
        self._shift, self._size = Mean(), Mean()
        self._largest = 0.0
        self._sample_rows = sample_rows
        self._sample = np.empty(0, [("key", "<u8"), ("shift", "<f8")])

    def add(
        self, label: np.ndarray, other: np.ndarray, score: np.ndarray, its_score: np.ndarray, keys: np.ndarray
    ) -> None:
        """Take in pairs: see `Shift.add`."""
        shift = its_score - score
        flipped, known = label != other, np.isfinite(shift)
        self.pairs += len(label)
        self.labelled += int(((label != NO_LABEL) | (other != NO_LABEL)).sum())
        self.changed += int((flipped | (known & (shift != 0)) | (np.isnan(score) != np.isnan(its_score))).sum())
        pairs, counts = np.unique(np.stack([label[flipped], other[flipped]]), axis=1, return_counts=True)
        for (before, after), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            self._flips[before, after] += count
        self._add_scores(shift[known], keys[known])

    def _add_scores(self, shift: np.ndarray, keys: np.ndarray) -> None:
        size = np.abs(shift)
        self._shift.add(shift)
        self._size.add(size)
        self._largest = max(self._largest, float(size.max(initial=0.0)))
        fresh = np.empty(len(shift), self._sample.dtype)
        fresh["key"], fresh["shift"] = keys, shift
        both = np.concatenate([self._sample, fresh])
        if len(both) > self._sample_rows:
            both = both[np.argpartition(both["key"], self._sample_rows - 1)[: self._sample_rows]]
        self._sample = both

    @property
    def flipped(self) -> int:
        return sum(self._flips.values())

    def flips(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """The flips by what they are from and to, the most frequent first."""
        return [
            {"from": _text(labels, one), "to": _text(labels, other), "rows": count}
            for (one, other), count in sorted(self._flips.items(), key=lambda each: (-each[1], each[0]))
        ]

    def score_shift(self) -> dict[str, Any] | None:
        """Of the pairs with both scores; None where there are none."""
        if not self._shift.rows:
            return None
        values = np.quantile(self._sample["shift"], QUANTILES)
        return {
            "rows": self._shift.rows,
            "mean": self._shift.mean,
            "mean_absolute": self._size.mean,
            "standard_deviation": self._shift.deviation,
            "largest": self._largest,
            "quantiles": {f"{one:g}": float(value) for one, value in zip(QUANTILES, values, strict=True)},
        }


class Shift:
    """The sums over all pairs, and those of each group."""

    def __init__(self) -> None:
        self._all = Sums(SAMPLE_ROWS)
        self._groups: dict[int, Sums] = {}

    @property
    def pairs(self) -> int:
        return self._all.pairs

    def add(
        self,
        labels: tuple[np.ndarray, np.ndarray],
        scores: tuple[np.ndarray, np.ndarray],
        groups: np.ndarray,
        keys: np.ndarray,
    ) -> None:
        """Take in pairs: codes of both labels, both scores (NaN where there is none), codes of the group, and a random key each."""
        self._all.add(*labels, *scores, keys)
        for group, mine in _by_code(groups):
            sums = self._groups.setdefault(group, Sums(GROUP_SAMPLE_ROWS))
            sums.add(labels[0][mine], labels[1][mine], scores[0][mine], scores[1][mine], keys[mine])

    def as_dict(self, labels: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
        """``pairs``, ``changed``, ``agreement`` (None of regressors), ``score_shift``, ``flips`` and ``groups``; texts are by code."""
        codes = sorted(self._groups, key=lambda code: (code == NO_LABEL, _text(groups, code) or ""))
        found = self._all
        return {
            "pairs": found.pairs,
            "changed": found.changed,
            "agreement": 1 - found.flipped / found.labelled if found.labelled else None,
            "score_shift": found.score_shift(),
            "flips": found.flips(labels),
            "groups": [_group(_text(groups, code), self._groups[code], labels) for code in codes]
            if codes != [NO_LABEL]
            else [],
        }


def _group(name: str | None, sums: Sums, labels: Sequence[str]) -> dict[str, Any]:
    shift = sums.score_shift() or dict.fromkeys(("mean", "mean_absolute", "largest", "quantiles"))
    return {
        "group": name,
        "pairs": sums.pairs,
        "changed": sums.changed,
        "flips": sums.flipped,
        "flips_by_kind": sums.flips(labels),
        "mean_shift": shift["mean"],
        "mean_absolute_shift": shift["mean_absolute"],
        "largest_shift": shift["largest"],
        "quantiles": shift["quantiles"],
    }


def _by_code(codes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each code with the places where it stands."""
    order = np.argsort(codes, kind="stable")
    found, begins = np.unique(codes[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, begins[1:]) if len(found) else [], strict=True)


def _text(texts: Sequence[str], code: int) -> str | None:
    return None if code == NO_LABEL else texts[code]
