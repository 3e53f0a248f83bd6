"""What has to hold before a model gets a version number: it can be saved, loaded by our own rules, and predicts the same."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
from threadpoolctl import threadpool_limits

from batch.errors import ModelFailed, ModelNotTrusted, ModelRefused
from batch.models import bundle, frames, golden, loading, trust
from batch.models.card import library_versions
from batch.models.estimator import outputs_of, parts
from batch.models.loaded import Layout, LoadedModel, as_features
from batch.models.profile import profile
from batch.models.signature import Category, Range, SignatureColumn

SAMPLE_ROWS = 10_000
"""Rows, evenly spaced over X, on which the saved model is compared with the original and the scores are profiled."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The saved estimator and how it may be loaded again."""

    name: str
    """``model.skops`` or ``model.joblib``."""
    body: bytes
    sha256: str = ""
    pinned: Collection[str] = ()
    """Digests of pickles that the registrar trusts."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that passed; everything about it that does not depend on its name and number."""

    file: ModelFile
    model: LoadedModel
    golden: pa.Table
    spread: dict[str, float]
    profile: dict[str, Any]
    libraries: dict[str, str]
    rows: int


_DRAFTING = threading.Lock()


def draft(
    estimator: Any,
    X: pd.DataFrame,
    *,
    file: ModelFile | None = None,
    ranges: Mapping[str, Range] | None = None,
    categories: Mapping[str, Sequence[Category]] | None = None,
) -> Draft:
    """Save, load again and compare. Raises `ModelRefused` or `ModelNotTrusted` for what could not be used later.

    `file`: the saved form, where the estimator came from a file that is to be kept as it is; default: skops.
    """
    columns = frames.infer(X, ranges=ranges or {}, categories=categories or {})
    # One thread, as in a run: the golden outputs then do not depend on this machine's cores, and single rows go ten times
    # faster through OpenMP. The lock, because overlapping limits leave wrong ones behind.
    with _DRAFTING, threadpool_limits(limits=1):
        return _draft(estimator, X, columns, file)


def _draft(estimator: Any, X: pd.DataFrame, columns: tuple[SignatureColumn, ...], file: ModelFile | None) -> Draft:
    file = file or ModelFile(bundle.SKOPS, trust.dump_skops(estimator))
    restored = _restored(estimator, file)
    sample = X.iloc[golden.positions(len(X), SAMPLE_ROWS)]
    table = frames.from_frame(sample, columns)
    model = _model(restored, columns, table)
    predicted = model.predict(table)
    features = frames.from_frame(X.iloc[golden.positions(len(X))], columns)
    golden_rows, spread = golden.record(model, features)
    _check_same(model, estimator, sample, predicted, spread)
    golden.replay(model, golden_rows, spread)  # a model that answers differently each time ends here
    return Draft(
        file=file,
        model=model,
        golden=golden_rows,
        spread=spread,
        profile=profile(frames.from_frame(X, columns), predicted[model.outputs.score], model.outputs.score),
        libraries=library_versions({type(part).__module__.partition(".")[0] for part in parts(restored)}),
        rows=len(X),
    )


def _restored(estimator: Any, file: ModelFile) -> Any:
    """The estimator as a later run will see it."""
    try:
        return loading.load_estimator(file.name, file.body, file.sha256, file.pinned)
    except ModelNotTrusted as error:
        if any(hasattr(part, "best_estimator_") for part in parts(estimator)):
            raise ModelNotTrusted(
                f"{type(estimator).__name__} is a search and not a model: {error.message}",
                hint="register the model it found: its best_estimator_",
            ) from error
        raise


def _model(estimator: Any, columns: tuple[SignatureColumn, ...], table: pa.Table) -> LoadedModel:
    """The model with what it returns, found out by calling it on the sample."""
    fitted_on_values = hasattr(estimator, "n_features_in_") and not hasattr(estimator, "feature_names_in_")
    layout: Layout = "array" if fitted_on_values else "frame"
    features = as_features(frames.to_frame(table, columns), layout)
    return LoadedModel(estimator, columns, outputs_of(estimator, features), layout)


def _check_same(
    model: LoadedModel, estimator: Any, sample: pd.DataFrame, predicted: pa.Table, spread: Mapping[str, float]
) -> None:
    """Refuse a model that predicts something else once it was saved, loaded and given typed Arrow columns."""
    original = LoadedModel(estimator, model.signature, model.outputs, model.layout)
    frame = sample[[column.name for column in model.signature]]
    try:
        expected = original.predict_features(as_features(frame, model.layout))
    except ModelFailed as error:
        raise ModelRefused(f"the model does not accept X as it is: {error.message}", hint=error.hint) from error
    if found := golden.first_difference(model.outputs, expected, predicted, spread):
        name, row = found
        raise ModelRefused(
            f"row {row + 1} of {len(sample)} gives {name} = {expected[name][row].as_py()!r}, "
            f"but {predicted[name][row].as_py()!r} after saving and loading",
            hint="use one kind of missing value per column (NaN, or None throughout) and a deterministic model",
        )
