"""From the checked bytes of a model of MLflow to a model that is ready to predict.

No golden rows come with it. What it returns is found out by calling it on one plain row; a model that does not take that row is
judged by what it says about itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sklearn.base import is_classifier

from batch.errors import ModelFailed, ModelRefused, SchemaMismatch
from batch.models import card, frames
from batch.models.bundle import ResolvedModel
from batch.models.estimator import classes_of, outputs_of
from batch.models.loaded import Layout, LoadedModel, as_features, plain_row
from batch.models.loading import load_estimator
from batch.models.outputs import Outputs, probability_names
from batch.models.signature import SignatureColumn


def assemble(resolved: ResolvedModel, files: Mapping[str, bytes], pinned: Collection[str]) -> LoadedModel:
    """Make the model; warnings are kept for the caller instead of being printed. Raises `ModelNotTrusted` or `ModelRefused`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = _assemble(resolved, files, pinned)
        except ModelRefused as error:
            if (told := _told(error, resolved)) is error:
                raise  # with the cause it has
            raise told from error
    lines = [str(one.message) for one in caught if type(one.message).__name__ != "InconsistentVersionWarning"]
    model.warnings.extend(dict.fromkeys([_unproven(resolved), *lines]))
    return model


def _assemble(resolved: ResolvedModel, files: Mapping[str, bytes], pinned: Collection[str]) -> LoadedModel:
    known, file = resolved.card, resolved.card["model_file"]
    suffix = "skops" if known["is_skops"] else "pkl"
    estimator = load_estimator(f"model.{suffix}", files[file], known["files"][file]["sha256"], pinned)
    if "outputs" in known:
        return LoadedModel(estimator, resolved.signature, resolved.outputs, known["layout"], card=known)
    if not hasattr(estimator, "fit") or not hasattr(estimator, "predict"):
        raise ModelRefused(f"{resolved.uri} holds a {type(estimator).__name__}, which is not an estimator")
    fitted_on_values = hasattr(estimator, "n_features_in_") and not hasattr(estimator, "feature_names_in_")
    layout: Layout = "array" if fitted_on_values else "frame"
    found = _outputs(estimator, resolved.signature, layout, known["output_type"])
    return LoadedModel(estimator, resolved.signature, found, layout, card=known)


def _outputs(estimator: Any, columns: tuple[SignatureColumn, ...], layout: Layout, output_type: str) -> Outputs:
    """What the model returns. Without rows that prove it, the prediction is never taken from the probabilities."""
    try:
        features = as_features(frames.to_frame(plain_row(columns), columns), layout)
        return replace(outputs_of(estimator, features), decision="predict")
    except (ModelFailed, SchemaMismatch):
        return _outputs_by_name(estimator, output_type)


def _outputs_by_name(estimator: Any, output_type: str) -> Outputs:
    if not is_classifier(estimator):
        return Outputs("regressor", (("prediction", output_type),))
    classes, kind = classes_of(estimator)
    scored = hasattr(estimator, "predict_proba") and len(classes) > 1
    scores = tuple((name, "double") for name in probability_names(classes)) if scored else ()
    return Outputs("classifier", (("prediction", kind), *scores), classes)


def _versions(resolved: ResolvedModel) -> str:
    then, now = resolved.card["libraries"].get("scikit-learn", "?"), card.library_versions()["scikit-learn"]
    return f"saved with scikit-learn {then}, running {now}"


def _unproven(resolved: ResolvedModel) -> str:
    return f"{resolved.uri} has no golden rows: nothing proves that it predicts here as it did there ({_versions(resolved)})"


def _told(error: ModelRefused, resolved: ResolvedModel) -> ModelRefused:
    """The same refusal with the library versions then and now, where they are the likely cause."""
    if not isinstance(error.__cause__, (AttributeError, ImportError)):
        return error
    return ModelRefused(
        f"{resolved.uri} was {_versions(resolved)}: {error.message}",
        hint="log it again with the libraries that run here, or install those it was logged with",
    )
