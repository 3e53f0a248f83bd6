"""Sums of floats that make no error in adding: whatever the order and the cuts, the same number comes out.

A float64 is a whole number times a power of two. The whole numbers are added per exponent, in two halves that stay below 2^53 in
float64, and the few results become one Python integer in units of 2^-1126.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

UNIT = 1126
"""Sums count units of 2^-1126: the 53rd bit of the smallest float64."""
_MANTISSA_BITS = 53
_LOW_BITS = 27
_ROUNDED_BITS = 36
_ROUNDED_ROWS = 1 << 16
"""So many whole numbers of 36 bits add up to fewer than 53: floats do that exactly."""


def exact_sums(values: np.ndarray, codes: np.ndarray, count: int) -> list[int]:
    """Per code from 0 to `count` - 1 the sum, in units of 2^-1126, of the finite float64 `values` that have it (fewer than 2^26)."""
    totals = [0] * count
    if not len(values):
        return totals
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64)
    lowest = int(exponents.min())
    span = int(exponents.max()) - lowest + 1
    places = codes * span + (exponents - lowest)
    high = np.bincount(places, weights=whole >> _LOW_BITS, minlength=count * span)
    low = np.bincount(places, weights=whole & ((1 << _LOW_BITS) - 1), minlength=count * span)
    for place in np.flatnonzero((high != 0) | (low != 0)).tolist():
        code, exponent = divmod(place, span)
        part = (int(high[place]) << _LOW_BITS) + int(low[place])
        totals[code] += part << (exponent + lowest - _MANTISSA_BITS + UNIT)
    return totals


def rounded_sums(values: np.ndarray, codes: np.ndarray, count: int, reach: int) -> list[int]:
    """The exact sums of values that are rounded to multiples of 2^(reach - 36) first: several times as fast.

    A value beyond 2^reach is not rounded, so what a value adds depends on nothing but itself. `reach` lies between -900 and 900.
    """
    whole = np.rint(values * 2.0 ** (_ROUNDED_BITS - reach))
    fits = np.abs(whole) <= 2.0**_ROUNDED_BITS
    totals = [0] * count
    if not fits.all():
        totals = exact_sums(values[~fits], codes[~fits], count)
        whole, codes = whole[fits], codes[fits]
    for start in range(0, len(whole), _ROUNDED_ROWS):
        part = slice(start, start + _ROUNDED_ROWS)
        sums = np.bincount(codes[part], weights=whole[part], minlength=count)
        for code in np.flatnonzero(sums).tolist():
            totals[code] += int(sums[code]) << (reach - _ROUNDED_BITS + UNIT)
    return totals


def packed(total: int) -> list[int]:
    """A sum as [odd number, power of two]: the one short spelling of it."""
    if not total:
        return [0, 0]
    zeros = (total & -total).bit_length() - 1
    return [total >> zeros, zeros - UNIT]


def unpacked(pair: list[int]) -> int:
    """The inverse of `packed`."""
    return pair[0] << (pair[1] + UNIT) if pair[0] else 0


def as_fraction(total: int) -> Fraction:
    """The number that a sum stands for."""
    return Fraction(total, 1 << UNIT)
