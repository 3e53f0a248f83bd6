"""Whether the scores are right on average: what was predicted against what came to pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batch.monitor.intervals import Interval, Mean, normal, share_minus_chance
from batch.monitor.metrics import number

BINS = 10
"""Of equal width, of a probability."""
MARGIN_SHARE = 0.02
"""A mean probability may be off by two points,"""
MARGIN_OF_RARER = 0.1
"""and where one of the outcomes is rare, by a tenth of the rarer one: it is planned by how many there will be."""
MARGIN_DEVIATIONS = 0.1
"""The mean of a regressor may be off by so many standard deviations of the true values."""

LACKING = "not enough labels"
TOO_MUCH = "predicts too much"
TOO_LITTLE = "predicts too little"
FITS = "fits"


@dataclass(slots=True)
class Calibration:
    """Running sums over rows whose label is known."""

    is_share: bool
    """The scores are probabilities and the truth is 1.0 or 0.0; else both are values."""
    predicted: Mean = field(default_factory=Mean)
    observed: Mean = field(default_factory=Mean)
    difference: Mean = field(default_factory=Mean)
    """Observed minus predicted, row by row."""
    _bins: np.ndarray = field(default_factory=lambda: np.zeros((3, BINS)))
    """Rows, sum of the probabilities, and rows on which it came to pass."""

    def add(self, score: np.ndarray, truth: np.ndarray) -> None:
        """Take in rows."""
        self.predicted.add(score)
        self.observed.add(truth)
        self.difference.add(truth - score)
        if self.is_share:
            at = np.clip((score * BINS).astype(np.int64), 0, BINS - 1)
            self._bins += [np.bincount(at, weights, BINS) for weights in (None, score, truth)]

    @property
    def interval(self) -> Interval | None:
        """Of observed minus predicted."""
        if self.is_share:
            return share_minus_chance(self.difference, self.predicted.mean)
        return normal(self.difference.mean, self.difference.variance)

    @property
    def margin(self) -> float:
        """How far the two means may be apart before that matters to anybody: with many rows every difference is more than chance."""
        if self.is_share:
            chance = self.predicted.mean
            return min(MARGIN_SHARE, MARGIN_OF_RARER * min(chance, 1 - chance))
        return MARGIN_DEVIATIONS * self.observed.deviation

    @property
    def verdict(self) -> str:
        """One of the two directions where the whole interval is farther from 0 than the margin."""
        low, high = self.interval or (0.0, 0.0)
        if high < -self.margin:
            return TOO_MUCH
        return TOO_LITTLE if low > self.margin else FITS

    def as_dict(self, minimum: int) -> dict[str, Any]:
        """JSON-ready; no numbers below `minimum` rows."""
        if self.difference.rows < minimum:
            return {"predicted": None, "observed": None, "interval": None, "margin": None, "verdict": LACKING}
        return {
            "predicted": number(self.predicted.mean),
            "observed": number(self.observed.mean),
            "interval": [*self.interval] if self.interval else None,
            "margin": self.margin,
            "verdict": self.verdict,
        }

    def bins(self) -> list[dict[str, Any]]:
        """The rows by their probability: how many, the mean of it, and the share on which it came to pass. None for values."""
        if not self.is_share:
            return []
        return [
            {
                "low": place / BINS,
                "high": (place + 1) / BINS,
                "rows": int(rows),
                "predicted": float(predicted / rows) if rows else None,
                "observed": float(observed / rows) if rows else None,
            }
            for place, (rows, predicted, observed) in enumerate(self._bins.T)
        ]
