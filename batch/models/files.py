"""Models and training data that somebody saved elsewhere, as ``models register`` takes them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection
from typing import Any

import pandas as pd
import pyarrow as pa

from batch.errors import InputFormatError, SchemaMismatch, UsageError
from batch.formats import format_of
from batch.models import bundle, loading
from batch.models.registration import ModelFile


def read_model(body: bytes, path: str, pinned: Collection[str]) -> tuple[Any, ModelFile]:
    """The estimator in a .skops, .joblib or .pkl file. Raises `ModelNotTrusted` as every load does."""
    suffix = path.rsplit(".", 1)[-1].lower()
    if suffix not in loading.LOADERS:
        raise UsageError(f"{path} is not a model file", hint=f"known suffixes: .{', .'.join(sorted(loading.LOADERS))}")
    sha256 = hashlib.sha256(body).hexdigest()
    estimator = loading.load_estimator(f"model.{suffix}", body, sha256, pinned)
    if suffix == "skops":
        return estimator, ModelFile(bundle.SKOPS, body)
    return estimator, ModelFile(bundle.JOBLIB, body, sha256, pinned)


def read_data(body: bytes, path: str, estimator: Any, target: str | None) -> pd.DataFrame:
    """The features in a CSV or Parquet file: without `target`, and only what the model was fitted on where it knows."""
    frame = read_frame(body, path)
    if target is not None and target not in frame.columns:
        raise SchemaMismatch(f"{path} has no column {target!r}", hint=f"its columns are {', '.join(map(str, frame))}")
    wanted = [name for name in getattr(estimator, "feature_names_in_", frame.columns) if name != target]
    if missing := [name for name in wanted if name not in frame.columns]:
        raise SchemaMismatch(f"{path} lacks {len(missing)} column(s) the model was fitted on: {', '.join(missing)}")
    return frame[wanted]


def read_frame(body: bytes, path: str) -> pd.DataFrame:
    """A CSV or Parquet file of the size of training data. Raises `UsageError` or `InputFormatError`."""
    kind, compression = format_of(path)
    if compression or kind not in {"csv", "parquet"}:
        raise UsageError(
            f"{path} is neither .csv nor .parquet", hint="Parquet keeps the types the model was fitted with"
        )
    try:
        return pd.read_csv(io.BytesIO(body)) if kind == "csv" else pd.read_parquet(io.BytesIO(body))
    except (ValueError, pa.ArrowException) as error:  # pandas' parser errors are ValueErrors
        raise InputFormatError(f"{path} cannot be read as {kind}: {error}") from error
