"""Golden rows: up to 50 rows of the training frame with the outputs they had at registration, replayed on every load.

They prove that this environment computes what the registering one computed. The rows are replayed in ONE call, as they were
recorded, because the number of rows per call changes the last bits of dense linear algebra; how far a model's outputs move
between one call and row-by-row calls is recorded as its ``spread`` and widens the tolerance of a model that needs it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import GoldenRowsDiffer, ModelRefused
from batch.models.loaded import LoadedModel
from batch.models.outputs import Outputs
from batch.models.signature import REGISTER_AGAIN

MAX_ROWS = 50
OUTPUT_PREFIX = "output:"
"""In golden.parquet the outputs stand behind the features under this prefix, so that no feature can collide with them."""

RELATIVE_TOLERANCE = 1e-9
SPREAD_FACTOR = 10
FLOAT32_TOLERANCE = 1e-5


def positions(rows: int, limit: int = MAX_ROWS) -> list[int]:
    """At most `limit` row numbers (0-based), evenly spaced over `rows`, first and last included."""
    if rows <= limit:
        return list(range(rows))
    return [index * (rows - 1) // (limit - 1) for index in range(limit)]


def record(model: LoadedModel, features: pa.Table) -> tuple[pa.Table, dict[str, float]]:
    """The golden table (features, then outputs) and the spread of each numeric output column."""
    together = model.predict(features)
    if any(name.startswith(OUTPUT_PREFIX) for name in features.column_names):
        raise ModelRefused(f"no feature may have a name that begins with {OUTPUT_PREFIX!r}", hint="rename the column")
    table = features
    for name in together.column_names:
        table = table.append_column(OUTPUT_PREFIX + name, together[name])
    alone = pa.concat_tables(model.predict(features.slice(row, 1)) for row in range(features.num_rows))
    spread = {
        name: float(np.max(np.abs(_numbers(alone, name) - _numbers(together, name))))
        for name in together.column_names
        if _is_measured(model.outputs, name)
    }
    return table, spread


def replay(model: LoadedModel, golden: pa.Table, spread: Mapping[str, float]) -> None:
    """Predict the golden rows again, in one call, and compare. Raises `GoldenRowsDiffer` naming column, row and values."""
    now = model.predict(features_of(golden))
    then = golden.select([OUTPUT_PREFIX + name for name in model.outputs.names]).rename_columns(
        list(model.outputs.names)
    )
    if found := first_difference(model.outputs, then, now, spread):
        name, row = found
        raise GoldenRowsDiffer(
            f"golden row {row + 1} of {golden.num_rows} gives {name} = {now[name][row].as_py()!r} here, "
            f"but gave {then[name][row].as_py()!r} when the model was registered",
            hint="run the library versions it was registered with, or register the model again",
        )


def spread_from_json(spec: Any) -> dict[str, float]:
    """The ``golden.spread`` of model.json. Raises `ModelRefused` unless it holds finite numbers: any output is near infinity."""
    try:
        spread = {name: float(value) for name, value in spec.items()}
        if not all(0 <= value < np.inf for value in spread.values()):
            raise ValueError(f"{spread}")
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ModelRefused(f"the spread in model.json cannot be read: {error!r}", hint=REGISTER_AGAIN) from error
    return spread


def first_difference(
    outputs: Outputs, then: pa.Table, now: pa.Table, spread: Mapping[str, float]
) -> tuple[str, int] | None:
    """Column and row (0-based) of the first output that is not within tolerance, column by column; None where all are."""
    for name in outputs.names:
        if _is_measured(outputs, name):
            row = _first_distant(then[name], now[name], spread.get(name, 0.0))
        else:
            row = _first_unequal(then[name], now[name])
        if row is not None:
            return name, row
    return None


def features_of(golden: pa.Table) -> pa.Table:
    """The golden table without its outputs."""
    return golden.select([name for name in golden.column_names if not name.startswith(OUTPUT_PREFIX)])


def tolerance(golden: np.ndarray[Any, Any], spread: float) -> float:
    """How far a numeric output may lie from its golden value: the largest of three bounds, for one column.

    The relative bound is taken of the column's largest value, because a value near 0 is the difference of larger ones.
    """
    scale = float(np.max(np.abs(golden), initial=0.0))
    bound = max(RELATIVE_TOLERANCE * scale, SPREAD_FACTOR * spread)
    return max(bound, FLOAT32_TOLERANCE * max(1.0, scale)) if golden.dtype == np.float32 else bound


def _is_measured(outputs: Outputs, name: str) -> bool:
    """Probabilities and a regressor's prediction are compared as numbers; classes, also numeric ones, must be equal."""
    return outputs.kind == "regressor" or name != "prediction"


def _numbers(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = table[name].to_numpy()
    return values


def _first_distant(then: pa.ChunkedArray, now: pa.ChunkedArray, spread: float) -> int | None:
    golden, fresh = then.to_numpy(), now.to_numpy()
    distant = ~(np.abs(fresh - golden) <= tolerance(golden, spread))
    return int(np.argmax(distant)) if distant.any() else None


def _first_unequal(then: pa.ChunkedArray, now: pa.ChunkedArray) -> int | None:
    pairs = zip(then.to_pylist(), now.to_pylist(), strict=True)
    return next((row for row, (golden, fresh) in enumerate(pairs) if golden != fresh), None)


def to_bytes(golden: pa.Table) -> bytes:
    """golden.parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(golden, sink)
    return bytes(sink.getvalue())


def from_bytes(body: bytes) -> pa.Table:
    """Read golden.parquet. Raises `ModelRefused` when it is not Parquet, empty, or more than `MAX_ROWS` rows."""
    try:
        file = pq.ParquetFile(io.BytesIO(body))
        # Asked before a row is decoded: a small file may unpack to anything.
        if file.metadata.num_rows > MAX_ROWS:
            raise ModelRefused(
                f"golden.parquet holds {file.metadata.num_rows} rows, more than the limit of {MAX_ROWS}",
                hint=REGISTER_AGAIN,
            )
        golden = file.read()
    except (pa.ArrowException, OSError) as error:  # pages and footers that make no sense are OSErrors
        raise ModelRefused(f"golden.parquet cannot be read: {error}", hint=REGISTER_AGAIN) from error
    if not golden.num_rows:
        raise ModelRefused(
            "golden.parquet holds no rows, so nothing proves that the model works here", hint=REGISTER_AGAIN
        )
    return golden
