"""A model that is ready to predict: Arrow in, Arrow out, shared by any number of threads."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from batch.errors import ModelFailed
from batch.formats.types import arrow_type
from batch.models import frames
from batch.models.estimator import call, column_of
from batch.models.outputs import Outputs
from batch.models.signature import SignatureColumn

TIMED_ROWS = 2_000
UNTIMED_SECONDS_PER_ROW = 1e-5
"""Of a model that cannot be timed: what a small pipeline takes, an order of magnitude."""

Layout = Literal["frame", "array"]
"""What the estimator was fitted on: a DataFrame, or the bare values of one."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An estimator with what it expects and returns. Nothing in it changes after loading, so threads may share it."""

    estimator: Any
    signature: tuple[SignatureColumn, ...]
    outputs: Outputs
    layout: Layout = "frame"
    card: dict[str, Any] = field(default_factory=dict)
    """The parsed model.json; empty while the model is being registered."""
    golden: pa.Table | None = None
    """The feature columns of the golden rows."""
    profile: dict[str, Any] = field(default_factory=dict)
    """How the training features and scores were distributed, see `batch.models.profile.usable`; {} where nobody has told."""
    warnings: list[str] = field(default_factory=list)
    """What is worth telling once: for example that another scikit-learn version saved the model."""

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, arrow_type(kind)) for name, kind in self.outputs.columns])

    def predict(self, table: pa.Table) -> pa.Table:
        """The output columns for the rows of `table`, in order; columns outside the signature are ignored.

        Raises `ModelFailed` when the model raises, returns the wrong number of rows or a value that is not finite, and
        `SchemaMismatch` when a signature column is missing or has another type.
        """
        if not table.num_rows:
            return self.schema.empty_table()
        return self.predict_features(as_features(frames.to_frame(table, self.signature), self.layout))

    def predict_features(self, features: Any) -> pa.Table:
        """The same for a frame (or array, see `Layout`) that is already what the estimator was fitted on."""
        columns = self._classify(features) if self.outputs.kind == "classifier" else [self._regress(features)]
        return pa.table(columns, schema=self.schema)

    def _classify(self, features: Any) -> list[pa.Array]:
        classes = pa.array(list(self.outputs.classes), type=self.schema.types[0])
        if len(self.outputs.columns) == 1:
            return [self._labels(features)]
        probabilities = self._checked(call(self.estimator, "predict_proba", features), features)
        if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
            raise ModelFailed(f"the model gave probabilities of shape {probabilities.shape} for {len(classes)} classes")
        if self.outputs.decision == "argmax":
            labels = classes.take(pa.array(np.argmax(probabilities, axis=1)))
        else:
            labels = self._labels(features)
        first = 1 if len(classes) == 2 else 0
        scores = [np.ascontiguousarray(probabilities[:, i]) for i in range(first, len(classes))]
        return [
            labels,
            *(pa.array(score, type=kind) for score, kind in zip(scores, self.schema.types[1:], strict=True)),
        ]

    def _labels(self, features: Any) -> pa.Array:
        values = np.asarray(call(self.estimator, "predict", features))
        _check_length(values, features)
        try:
            labels = pa.array(values.tolist(), type=self.schema.types[0])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ModelFailed(
                f"the model predicts classes that are not {self.outputs.columns[0][1]}: {error}"
            ) from error
        if labels.null_count or pd.isna(values).any():
            bad = np.flatnonzero(pd.isna(values)).tolist()
            raise ModelFailed.about_rows(f"the model predicts no class for row {bad[0]} of the batch", rows=bad)
        return labels

    def _regress(self, features: Any) -> pa.Array:
        values = column_of(self._checked(call(self.estimator, "predict", features), features))
        if values is None:
            raise ModelFailed("the model gave several values per row, where it gave one when it was registered")
        return pa.array(np.ascontiguousarray(values), type=self.schema.types[0])

    def _checked(self, returned: Any, features: Any) -> np.ndarray[Any, Any]:
        """Right length, finite, and of the float type that was recorded at registration."""
        kind = self.schema.types[-1].to_pandas_dtype()
        values = np.asarray(returned).astype(kind, copy=False)
        _check_length(values, features)
        if not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values))
            raise ModelFailed.about_rows(
                f"the model gave {values[tuple(bad[0])]} for row {bad[0][0]} of the batch (0-based)",
                rows=np.unique(bad[:, 0]).tolist(),
            )
        return values

    def seconds_per_row(self) -> float:
        """Seconds one row costs in one call on the golden rows, repeated to about 2,000 rows; without them on plain rows."""
        rows = plain_row(self.signature) if self.golden is None else self.golden
        table = pa.concat_tables([rows] * -(-TIMED_ROWS // rows.num_rows))
        started = time.perf_counter()
        try:
            with warnings.catch_warnings(action="ignore"):
                self.predict(table)
        except ModelFailed:
            if self.golden is not None:
                raise
            return UNTIMED_SECONDS_PER_ROW  # the model does not take such a row, which says nothing about real ones
        seconds = time.perf_counter() - started
        return seconds / int(table.num_rows)


def plain_row(columns: Sequence[SignatureColumn]) -> pa.Table:
    """One row that any table could hold: the first declared category, else zero, the empty text, or the year 1970."""
    arrays = {}
    for column in columns:
        plain = "" if column.type in {"string", "binary"} else 0
        value = column.categories[0] if column.categories else plain
        arrays[column.name] = pa.array([value]).cast(arrow_type(column.type))
    return pa.table(arrays)


def as_features(frame: pd.DataFrame, layout: Layout) -> Any:
    """What is handed to the estimator."""
    return frame.to_numpy() if layout == "array" else frame


def _check_length(values: np.ndarray[Any, Any], features: Any) -> None:
    got = len(values) if values.ndim else 1
    if got != len(features):
        raise ModelFailed(
            f"the model returned {got} rows for {len(features)}",
            hint="a text vectoriser must stand in a ColumnTransformer that names its column",
        )
