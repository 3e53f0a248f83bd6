"""How sure one may be of a difference: 95 % intervals that need running sums only, and the area under the ROC curve.

Means over rows have normal intervals. A share (accuracy) may rest on a handful of rows on which the sides differ, where the normal
interval is too narrow; so paired shares follow Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012) 479-488, and
those of different rows Agresti and Caffo, The American Statistician 54 (2000) 280-288. A root of a mean (RMSE) goes by the delta method.

The area under the ROC curve and its covariance are those of DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845, by the
midranks of Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393: exact, the same each time, and n log n, where a bootstrap is
neither of the first two.

Of one side alone, a share has the interval of Wilson, Journal of the American Statistical Association 22 (1927) 209-212, and its distance
from a mean probability one with the four added rows of Agresti and Coull, The American Statistician 52 (1998) 119-126.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
Interval = tuple[float, float]


@dataclass(slots=True)
class Mean:
    """A mean over rows and how it scatters, from running moments.

    Batches are merged as in Chan, Golub and LeVeque, The American Statistician 37 (1983) 242-247: a sum of squares would lose all digits
    where the mean is large against the scatter, and an interval of width 0 is sure of anything.
    """

    rows: int = 0
    average: float = 0.0
    scatter: float = 0.0
    """Sum of the squared distances from the average."""

    def add(self, values: np.ndarray) -> None:
        """Take in rows."""
        if len(values):
            average = float(values.mean())
            self._merge(len(values), average, float(((values - average) ** 2).sum()))

    def _merge(self, rows: int, average: float, scatter: float) -> None:
        together, apart = self.rows + rows, average - self.average
        self.scatter += scatter + apart**2 * self.rows * rows / together
        self.average += apart * rows / together
        self.rows = together

    @property
    def mean(self) -> float:
        return self.average if self.rows else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the rows themselves (over n)."""
        return math.sqrt(self.scatter / self.rows) if self.rows else math.nan

    @property
    def variance(self) -> float:
        """Of the mean."""
        return self.scatter / (self.rows - 1) / self.rows if self.rows > 1 else math.inf


def normal(difference: float, variance: float) -> Interval | None:
    """Around a difference whose variance is known; None where it is not."""
    if not (math.isfinite(variance) and math.isfinite(difference)):
        return None
    half = Z_95 * math.sqrt(variance)
    return difference - half, difference + half


def paired_shares(rows: int, gained: float, lost: float) -> Interval:
    """Difference of two shares of the same rows, `gained` of which are right on the second side alone and `lost` on the first alone."""
    up, down = (gained + 1) / (rows + 2), (lost + 1) / (rows + 2)
    half = Z_95 * math.sqrt((up + down - (up - down) ** 2) / (rows + 2))
    return up - down - half, up - down + half


def unpaired_shares(one: Mean, other: Mean) -> Interval:
    """Difference of two shares of different rows, second minus first."""
    shares = [(side.mean * side.rows + 1) / (side.rows + 2) for side in (one, other)]
    variance = sum(p * (1 - p) / (side.rows + 2) for p, side in zip(shares, (one, other), strict=True))
    difference, half = shares[1] - shares[0], Z_95 * math.sqrt(variance)
    return difference - half, difference + half


def of_roots(one: Mean, other: Mean, variance_of_difference: float) -> Interval | None:
    """Difference of the roots of two means, by the delta method; None where one is 0 and has no slope.

    The variance of the difference of the means themselves tells how they hang together.
    """
    if not (one.rows and other.rows and one.mean > 0 and other.mean > 0):
        return None
    covariance = (one.variance + other.variance - variance_of_difference) / 2
    slopes = [1 / (2 * math.sqrt(side.mean)) for side in (one, other)]
    variance = slopes[0] ** 2 * one.variance + slopes[1] ** 2 * other.variance - 2 * slopes[0] * slopes[1] * covariance
    return normal(math.sqrt(other.mean) - math.sqrt(one.mean), max(0.0, variance))


def wilson(rows: int, share: float) -> Interval | None:
    """Of a share of some rows."""
    if not rows:
        return None
    weight = Z_95**2 / rows
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # Rounding must not leave the share itself outside where it is 0 or 1.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def of_root(side: Mean) -> Interval | None:
    """Of the root of a mean, by the delta method; None where that is 0 and has no slope."""
    if not side.rows or side.mean <= 0:
        return None
    found = normal(math.sqrt(side.mean), side.variance / (4 * side.mean))
    return found and (max(0.0, found[0]), found[1])


def share_minus_chance(difference: Mean, chance: float) -> Interval | None:
    """Of how far a share is from the mean probability that was given for it, over the same rows.

    `difference`: of what happened (1 or 0) and the probability, row by row; `chance`: the mean probability. Two rows on which it happened and
    two on which it did not are added: where hardly anything happened, the rows by themselves do not scatter enough.
    """
    with_four = Mean(difference.rows, difference.average, difference.scatter)
    with_four.add(np.array([1.0, 1.0, 0.0, 0.0]) - chance)
    return normal(with_four.mean, with_four.variance)


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, Interval | None]:
    """1 - (mean squared error) / (variance of the truth), and its interval by the delta method; NaN where the truth does not vary."""
    error, spread = (truth - predicted) ** 2, (truth - truth.mean()) ** 2
    if len(truth) < 2 or not spread.any():
        return math.nan, None
    share = error.mean() / spread.mean()
    # How much each row moves the ratio of the two means.
    influence = (error - share * spread) / spread.mean()
    value = float(1 - share)
    return value, normal(value, float(influence.var(ddof=1)) / len(truth))


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
    return areas, _covariance(of_positives) / m + _covariance(of_negatives) / n


def _covariance(parts: np.ndarray) -> np.ndarray:
    k, rows = parts.shape
    return np.cov(parts).reshape(k, k) if rows > 1 else np.full((k, k), np.nan)


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
