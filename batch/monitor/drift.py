"""Drift: whether the rows of a run are distributed as they were before, in training or in the period before.

The measure is the population stability index (PSI), the sum of (p - q) ln(p / q) over the bins of a column, nulls being a bin of their
own. Two samples of the same distribution differ as well: their PSI is about (1/n + 1/m) times a chi-square value with one degree
of freedom less than bins (Yurdakul, Statistical properties of the population stability index, 2018). So a column drifts where its PSI
is over the job's threshold and over what chance gives to any of the columns that are looked at in one run of 500.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from batch.monitor.intervals import chi_square_p

FALSE_ALARMS = 0.002
"""Aimed-at share of runs without drift in which any column is over its limit. The PSI's tails are heavier than chi-square's, so there are a
few more of them: fewer than one in a hundred at any size, which is what is promised."""
HALF = 0.5
"""Added to each bin, so that an empty one has a logarithm; with it the chi-square law holds down to 30 rows."""
MIN_ROWS = 30
"""With fewer nothing is said."""
COLUMNS_MAX = 100
"""Columns that a receipt names."""
STATES = ("ok", "warn", "alert")
TRAINING, PREVIOUS = "training", "previous period"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From which PSI on a column is worth a warning, and an alert, if chance does not explain it."""

    warn: float
    alert: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """One column now and then, as counts of the same bins."""

    about: dict[str, Any]
    now: np.ndarray
    then: np.ndarray


def measure(
    summary: Mapping[str, Any] | None,
    references: Mapping[str, Mapping[str, Any]],
    thresholds: Thresholds,
    previous: Mapping[str, Any] | None = None,
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The ``drift`` of a receipt: the profile of a run (see `batch.monitor.summary`) against training and the previous period's profile.

    `references`: the reference profile by variant. `ignored`: columns of the input that are not compared. ``state`` is the worst of all
    columns, ``unknown`` with a ``reason`` where nothing could be compared.
    """
    if summary is None:
        return unknown("the run has no profile")
    pairs = [*_with_training(summary, references), *(_with_previous(summary, previous) if previous else ())]
    pairs = [one for one in pairs if not _is_ignored(one.about, ignored)]
    usable = [one for one in pairs if min(one.now.sum(), one.then.sum()) >= MIN_ROWS]
    if not usable:
        return unknown(f"fewer than {MIN_ROWS} rows" if pairs else "the model was registered without a profile")
    chance = FALSE_ALARMS / len(usable)
    columns = sorted((_judged(one, thresholds, chance) for one in usable), key=lambda one: -one["psi"])
    worst = max((one["state"] for one in columns), key=STATES.index)
    return {"state": worst, "columns": columns[:COLUMNS_MAX], "compared": len(columns), "reason": ""}


def judged_again(found: Mapping[str, Any], thresholds: Thresholds, ignored: Collection[str] = ()) -> dict[str, Any]:
    """The ``drift`` of a receipt by other thresholds, and with other columns ignored: what chance gives stays what it was."""
    kept = [one for one in found["columns"] if not _is_ignored(one, ignored)]
    columns = [one | _verdict(one["psi"], one["chance"], thresholds) for one in kept]
    state = max((one["state"] for one in columns), key=STATES.index) if columns else "unknown"
    return {"reason": "", **found, "columns": columns, "state": state}


def _is_ignored(about: Mapping[str, Any], ignored: Collection[str]) -> bool:
    return about["role"] == "feature" and about["column"] in ignored


def unknown(reason: str) -> dict[str, Any]:
    """The drift of a run that cannot be compared with anything."""
    return {"state": "unknown", "columns": [], "compared": 0, "reason": reason}


def psi(now: np.ndarray, then: np.ndarray) -> float:
    """The population stability index of two histograms over the same bins; bins that are empty in both do not count."""
    return _psi(now, then)[0]


def chance_psi(bins: int, rows: int, reference_rows: int, chance: float) -> float:
    """The PSI that two samples of one distribution exceed with that chance."""
    if bins < 2:
        return 0.0
    return chi_square_quantile(bins - 1, chance) * (1 / rows + 1 / reference_rows)


@lru_cache(maxsize=1_000)
def chi_square_quantile(freedom: int, chance: float) -> float:
    """The value that a chi-square variable exceeds with that chance, by bisection."""
    low, high = 0.0, 2.0
    while chi_square_p(high, freedom) > chance:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_p(middle, freedom) > chance else (low, middle)
    return high


def _psi(now: np.ndarray, then: np.ndarray) -> tuple[float, int]:
    """The PSI, and over how many bins."""
    used = (now > 0) | (then > 0)
    bins = int(used.sum())
    if bins < 2:
        return 0.0, bins
    p, q = ((counts[used] + HALF) / (counts[used].sum() + HALF * bins) for counts in (now, then))
    return float(((p - q) * np.log(p / q)).sum()), bins


def _judged(pair: _Pair, thresholds: Thresholds, chance: float) -> dict[str, Any]:
    found, bins = _psi(pair.now, pair.then)
    least = chance_psi(bins, int(pair.now.sum()), int(pair.then.sum()), chance)
    measured = {"psi": _rounded(found), "chance": _rounded(least)}
    return pair.about | measured | _verdict(measured["psi"], measured["chance"], thresholds)


def _verdict(found: float, least: float, thresholds: Thresholds) -> dict[str, Any]:
    """`least`: the PSI that chance explains."""
    warn, alert = max(thresholds.warn, least), max(thresholds.alert, least)
    state = "alert" if found > alert else "warn" if found > warn else "ok"
    return {"limit_warn": warn, "limit_alert": alert, "state": state}


def _with_training(summary: Mapping[str, Any], references: Mapping[str, Mapping[str, Any]]) -> Iterator[_Pair]:
    reference = summary["reference"].get("columns", {})
    for name, column in summary["columns"].items():
        yield from _feature(name, column, reference[name], TRAINING)
    for variant, scores in summary["scores"].items():
        trained = references.get(variant, {}).get("scores", {})
        if trained.get("edges"):
            about = _about(scores["column"], "score", "numeric", TRAINING) | {"variant": variant}
            yield _Pair(about, _counts(scores["counts"]), _counts(trained["counts"]))
    for variant, labels in summary["labels"].items():
        trained = dict(references.get(variant, {}).get("scores", {}).get("values", ()))
        if variant not in summary["scores"] and trained.keys() <= labels.keys():
            about = _about("prediction", "score", "categorical", TRAINING) | {"variant": variant}
            yield _Pair(about, _counts([*labels.values()]), _counts([trained.get(text, 0) for text in labels]))


def _with_previous(summary: Mapping[str, Any], previous: Mapping[str, Any]) -> Iterator[_Pair]:
    """What was counted in the same bins then: the same model's, and of another model no numbers."""
    mine, its = summary["reference"].get("columns", {}), previous["reference"].get("columns", {})
    for name, column in summary["columns"].items():
        if name in previous["columns"] and _bins_of(mine[name]) == _bins_of(its.get(name)):
            yield from _feature(name, column, previous["columns"][name], PREVIOUS)
    for variant, scores in summary["scores"].items():
        before = previous["scores"].get(variant)
        if before is not None and before["edges"] == scores["edges"] != []:
            about = _about(scores["column"], "score", "numeric", PREVIOUS) | {"variant": variant}
            yield _Pair(about, _counts(scores["counts"]), _counts(before["counts"]))
    for variant, labels in summary["labels"].items():
        before = previous["labels"].get(variant)
        if variant not in summary["scores"] and before is not None and before.keys() == labels.keys():
            about = _about("prediction", "score", "categorical", PREVIOUS) | {"variant": variant}
            yield _Pair(about, _counts([*labels.values()]), _counts([*before.values()]))


def _bins_of(reference: Mapping[str, Any] | None) -> Any:
    if reference is None:
        return None
    return reference.get("edges") or [value for value, _ in reference.get("values", ())]


def _feature(name: str, now: Mapping[str, Any], then: Mapping[str, Any], against: str) -> Iterator[_Pair]:
    kind = now["kind"]
    if kind == "binary":
        return
    one, other = (_histogram(each) for each in (now, then))
    rows, before = max(1, int(one.sum())), max(1, int(other.sum()))
    about = _about(name, "feature", kind, against) | {
        "nulls": _rounded(now["nulls"] / rows),
        "reference_nulls": _rounded(then["nulls"] / before),
    }
    if kind == "categorical":
        distance = float(np.abs(one / rows - other / before).sum()) / 2
        about |= {"unseen": _rounded(now["other"] / rows), "reference_unseen": _rounded(then["other"] / before)}
        about |= {"total_variation": _rounded(distance), "examples": [text for text, _ in now["unseen"][:5]]}
    else:
        about |= {"outside": _rounded((now["below"] + now["above"]) / rows)}
    yield _Pair(about, one, other)


def _histogram(column: Mapping[str, Any]) -> np.ndarray:
    """Nulls, then all others of a category column, then the bins."""
    if column["kind"] == "categorical":
        return _counts([column["nulls"], column["other"], *(count for _, count in column["values"])])
    return _counts([column["nulls"], *column["counts"]])


def _about(name: str, role: str, kind: str, against: str) -> dict[str, Any]:
    return {"column": name, "role": role, "kind": kind, "against": against}


def _counts(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.float64)


def _rounded(value: float) -> float:
    """Four significant digits."""
    return value if not value or not math.isfinite(value) else round(value, 3 - math.floor(math.log10(abs(value))))
