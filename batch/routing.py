"""Which model variant scores which row: a pure function of the row's id, so that a customer stays with a variant for good."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

TWO_64 = 2.0**64


def positions(ids: pa.Array, salt: str) -> np.ndarray:
    """Where each id falls in [0, 1): the first 8 bytes of sha256(salt + NUL + id) as a big-endian fraction; NaN for null.

    `ids`: strings. The result is float64 of the same length, and depends on salt and id alone.
    """
    start = hashlib.sha256(salt.encode() + b"\0")
    heads = bytearray()
    for text in ids.fill_null("").to_pylist():
        digest = start.copy()
        digest.update(text.encode())
        heads += digest.digest()[:8]
    found: np.ndarray = np.frombuffer(heads, ">u8").astype(np.float64) / TWO_64
    if ids.null_count:
        found[ids.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return found


def assign(ids: pa.Array, salt: str, weights: Sequence[float]) -> np.ndarray:
    """The variant of each row (int64): intervals of these widths from 0 on, in order; ``len(weights)`` for all the rest.

    A row without an id belongs to the rest.
    """
    bounds = np.array(list(accumulate(weights)))
    at = positions(ids, salt)
    return np.where(np.isnan(at), len(weights), np.searchsorted(bounds, at, side="right"))
