"""The reference profile of a model: how its training features and scores were distributed, for drift to be measured against.

A numeric column is cut at its nine inner decile edges into ten bins; bin i counts ``edges[i-1] < x <= edges[i]``, which is
``numpy.searchsorted(edges, x)``. Counts over fixed edges merge by addition, so a run of any size compares exactly. A column
of text, booleans or categories keeps its 50 most frequent values and one count for all the others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FORMAT = 1
"""Raised when a reader of the old form would misread the new one; readers keep reading every older form."""

DECILES = tuple(i / 10 for i in range(1, 10))
MAX_VALUES = 50
BINS_MAX = 1_000
"""Edges or values of a column that anybody may have written into a profile.json."""


def profile(features: pa.Table, scores: pa.ChunkedArray, score_name: str) -> dict[str, Any]:
    """profile.json: every feature column, and the model's scores; a pure function of the rows."""
    return {
        "format": FORMAT,
        "rows": features.num_rows,
        "columns": {name: column_profile(features[name]) for name in features.column_names},
        "scores": {"column": score_name, "rows": len(scores), **column_profile(scores)},
    }


def column_profile(values: pa.ChunkedArray) -> dict[str, Any]:
    """One column: numbers (timestamps as seconds since 1970) by decile bins, the rest by value."""
    if pa.types.is_timestamp(values.type):
        return {**_numeric(values), "kind": "datetime"}
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _numeric(values)
    if pa.types.is_binary(values.type):
        return {"kind": "binary", "nulls": values.null_count}
    return _categorical(values)


def as_numbers(values: pa.ChunkedArray) -> np.ndarray:
    """Numbers and timestamps (seconds since 1970) as float64, NaN where they are null."""
    if pa.types.is_timestamp(values.type):
        values = pc.divide(values.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)
    found: np.ndarray = values.cast(pa.float64(), safe=False).to_numpy()
    return found


def _numeric(values: pa.ChunkedArray) -> dict[str, Any]:
    numbers = as_numbers(values.drop_null())
    finite = numbers[np.isfinite(numbers)]
    edges = np.quantile(finite, DECILES) if len(finite) else np.empty(0)
    return {
        "kind": "numeric",
        "nulls": values.null_count,
        "edges": edges.tolist(),
        "counts": np.bincount(np.searchsorted(edges, numbers), minlength=len(edges) + 1).tolist(),
        "minimum": float(finite.min()) if len(finite) else None,
        "maximum": float(finite.max()) if len(finite) else None,
        "mean": float(finite.mean()) if len(finite) else None,
    }


def _categorical(values: pa.ChunkedArray) -> dict[str, Any]:
    counted = [(pair["values"], pair["counts"]) for pair in pc.value_counts(values.drop_null()).to_pylist()]
    counted.sort(key=lambda pair: (-pair[1], str(pair[0])))
    return {
        "kind": "categorical",
        "nulls": values.null_count,
        "values": [[value, count] for value, count in counted[:MAX_VALUES]],
        "other": sum(count for _, count in counted[MAX_VALUES:]),
        "distinct": len(counted),
    }


def usable(document: Any) -> dict[str, Any]:
    """What of a profile.json can be counted against: parts that do not make sense are left out, {} where nothing does.

    A bundle may come from elsewhere: its profile only ever decides what is counted, so it is no reason to refuse the model.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return {}
    columns, scores = document.get("columns"), document.get("scores")
    found = {name: one for name, one in columns.items() if _makes_sense(one)} if isinstance(columns, dict) else {}
    kept: dict[str, Any] = {"format": FORMAT, "columns": found}
    return kept | {"scores": scores} if _makes_sense(scores) else kept


def _makes_sense(one: Any) -> bool:
    """Whether a column profile has the form that `column_profile` gives."""
    try:
        kind, counts = one["kind"], [one["nulls"]]
        if kind == "binary":
            return _are_counts(counts)
        if kind == "categorical":
            values = [value for value, _ in one["values"]]
            counts += [one["other"], *(count for _, count in one["values"])]
            same = {type(value) for value in values} <= {str} or {type(value) for value in values} <= {bool}
            return same and len(values) == len(set(values)) <= BINS_MAX and _are_counts(counts)
        edges, limits = one["edges"], [one["minimum"], one["maximum"], one["mean"]]
        numbers = [*edges, *(value for value in limits if value is not None)]
        fine = kind in {"numeric", "datetime"} and len(edges) < BINS_MAX and edges == sorted(edges)
        return (
            fine
            and len(one["counts"]) == len(edges) + 1
            and _are_finite(numbers)
            and _are_counts(counts + one["counts"])
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _are_counts(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 2**53 for value in values)


def _are_finite(values: list[Any]) -> bool:
    return all(type(value) in {int, float} and math.isfinite(value) for value in values)
