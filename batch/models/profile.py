"""The reference profile of a model: how its training features and scores were distributed, for drift to be measured against.

A numeric column is cut at its nine inner decile edges into ten bins; bin i counts ``edges[i-1] < x <= edges[i]``, which is
``numpy.searchsorted(edges, x)``. Counts over fixed edges merge by addition, so a run of any size compares exactly. A column
of text, booleans or categories keeps its 50 most frequent values and one count for all the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FORMAT = 1
"""Raised when a reader of the old form would misread the new one; readers keep reading every older form."""

DECILES = tuple(i / 10 for i in range(1, 10))
MAX_VALUES = 50


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
        seconds = pc.divide(values.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
        return {**_numeric(seconds), "kind": "datetime"}
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return _numeric(values)
    if pa.types.is_binary(values.type):
        return {"kind": "binary", "nulls": values.null_count}
    return _categorical(values)


def _numeric(values: pa.ChunkedArray) -> dict[str, Any]:
    numbers = values.drop_null().cast(pa.float64(), safe=False).to_numpy()
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
