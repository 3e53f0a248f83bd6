"""From the profile of a run to the numbers of a report: a value for each group, how sure it is, and how it changed.

The value of a model with two classes is its mean probability, of a regressor its mean prediction: both have the interval of a mean. With
more classes, or without probabilities, it is the share of rows that are predicted as one class: Wilson's interval (E. B. Wilson, Journal of
the American Statistical Association 22 (1927) 209-212). Differences of means have normal intervals, those of shares are Agresti and Caffo's.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from batch.monitor.intervals import Z_95, Interval, Mean, normal, unpaired_shares

MINIMUM_ROWS = 30
"""Below that there is no number, only "not enough data": the normal interval of a mean needs about that many."""
CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class Measure:
    """What the numbers of a report are of."""

    kind: str
    """``share`` (mean probability of one class), ``mean`` (of a regressor), ``classes`` (rows predicted as one class), or ``none``."""
    column: str
    """Of the output."""
    label: str
    """The class that the share is of, else ""."""
    outcome: str
    """The job's word for it, else ""."""

    def as_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return {"kind": self.kind, "column": self.column, "label": self.label, "outcome": self.outcome}


@dataclass(slots=True)
class Cell:
    """The rows of one group (or all) in one period."""

    rows: int = 0
    mean: float | None = None
    sd: float | None = None
    labels: Counter[str] = field(default_factory=Counter)

    def value(self, measure: Measure) -> float | None:
        """None for too few rows."""
        if self.rows < MINIMUM_ROWS:
            return None
        return self.labels[measure.label] / self.rows if measure.kind == "classes" else self.mean

    def interval(self, measure: Measure) -> Interval | None:
        """95 %, around the value; None where there is no value or no scatter is known."""
        if self.value(measure) is None:
            return None
        if measure.kind == "classes":
            return wilson(self.labels[measure.label], self.rows)
        if self.mean is None or self.sd is None:
            return None
        half = Z_95 * self.sd / math.sqrt(self.rows)
        low, high = self.mean - half, self.mean + half
        return (max(0.0, low), min(1.0, high)) if measure.kind == "share" else (low, high)


def wilson(hits: float, rows: int) -> Interval:
    """The 95 % interval of a share."""
    share, z2 = hits / rows, Z_95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return max(0.0, centre - half), min(1.0, centre + half)


def change(now: Cell, before: Cell | None, measure: Measure) -> dict[str, Any]:
    """The difference from one period to the next: ``change``, ``change_interval`` and, in words, ``verdict``."""
    nothing = {"change": None, "change_interval": None}
    if before is None:
        return {**nothing, "verdict": "nothing to compare with"}
    values = now.value(measure), before.value(measure)
    if values[0] is None or values[1] is None:
        return {**nothing, "verdict": "not enough data"}
    difference, interval = values[0] - values[1], _difference(now, before, measure)
    if interval is None:
        return {"change": difference, "change_interval": None, "verdict": "not enough data"}
    low, high = interval
    verdict = "up" if low > 0 else "down" if high < 0 else "no clear change"
    return {"change": difference, "change_interval": [low, high], "verdict": verdict}


def _difference(now: Cell, before: Cell, measure: Measure) -> Interval | None:
    if measure.kind == "classes":
        sides = [Mean(one.rows, one.labels[measure.label] / one.rows) for one in (before, now)]
        return unpaired_shares(*sides)
    if now.mean is None or before.mean is None or now.sd is None or before.sd is None:
        return None
    return normal(now.mean - before.mean, now.sd**2 / now.rows + before.sd**2 / before.rows)


def overall(profile: dict[str, Any] | None, receipt: dict[str, Any]) -> Cell:
    """All delivered rows of a run, whichever variants scored them."""
    if profile is None:
        return Cell(receipt["rows"]["predicted"])
    names = [one["variant"] for one in receipt["models"] if one["mode"] == "split"]
    found = pooled([profile["scores"][name] for name in names if name in profile["scores"]])
    for name in names:
        found.labels.update(profile["labels"].get(name, {}))
    found.rows = receipt["rows"]["predicted"]
    return found


def pooled(parts: list[dict[str, Any]]) -> Cell:
    """Several sets of rows as one, by the moments of each (Chan, Golub and LeVeque 1983)."""
    known = [one for one in parts if one["rows"] and one["mean"] is not None]
    rows = sum(one["rows"] for one in known)
    if not rows:
        return Cell(0)
    mean = sum(one["rows"] * one["mean"] for one in known) / rows
    scatter = sum(one["rows"] * ((one["sd"] or 0.0) ** 2 + (one["mean"] - mean) ** 2) for one in known)
    return Cell(rows, mean, math.sqrt(scatter / rows))


def groups(profile: dict[str, Any] | None) -> dict[str | None, Cell] | None:
    """The cells by group; None where the run has none, or more than are kept."""
    found = (profile or {}).get("groups")
    if found is None or found["too_many"]:
        return None
    return {
        one["group"]: Cell(one["rows"], one["mean"], one["sd"], Counter(one["labels"] or {})) for one in found["groups"]
    }


def measure_of(profile: dict[str, Any] | None, outcome: str) -> Measure:
    """What the numbers of a run are of."""
    if profile is None:
        return Measure("none", "", "", outcome)
    score, labels = profile["scores"].get(CHAMPION), profile["labels"].get(CHAMPION) or {}
    classes = profile.get("classes") or sorted(labels, key=_as_number)
    if (
        score is None or len(classes) > 2
    ):  # of more than two classes the score is the probability of the first: of no interest alone
        return Measure("classes", "prediction", max(labels, key=lambda text: (labels[text], text), default=""), outcome)
    if not classes:
        return Measure("mean", score["column"], "", outcome)
    return Measure("share", score["column"], classes[1] if len(classes) == 2 else "", outcome)


def _as_number(text: str) -> tuple[float, str]:
    """How classes are ordered where a profile does not say it."""
    try:
        return float(text), text
    except ValueError:
        return math.inf, text
