"""What has to be known about a fitted scikit-learn estimator: what it returns, and what is inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_outlier_detector, is_regressor

from batch.errors import ModelFailed, ModelRefused
from batch.models.outputs import Decision, Outputs, probability_names

OWN_THRESHOLD = frozenset({"FixedThresholdClassifier", "TunedThresholdClassifierCV", "SVC", "NuSVC"})
"""Classifiers whose predict() is not the argmax of predict_proba(), also where a small sample does not show it."""

KINDS_OF_CLASS = {"U": "string", "b": "boolean", "i": "long", "u": "long", "f": "double"}
"""numpy kind of ``classes_`` -> MLflow type."""


OTHER_VALUES = "look for values the model was not trained on; declared ranges and categories reject them beforehand"
OTHER_VERSION = "another scikit-learn version probably saved it; fit or save it again with the one that runs here"


def parts(estimator: Any) -> Iterator[Any]:
    """Every object reachable through attributes, lists, tuples and dicts: also the fitted clones get_params() hides."""
    stack, seen = [estimator], set()
    while stack:
        part = stack.pop()
        if id(part) in seen or isinstance(part, type):
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            stack.extend(part.values())
        elif isinstance(part, (list, tuple)):
            stack.extend(part)
        elif isinstance(part, np.ndarray):
            stack.extend(part.ravel().tolist() if part.dtype == object else ())
        elif hasattr(part, "__dict__") and not isinstance(part, (pd.DataFrame, pd.Series)):
            stack.extend(vars(part).values())
            yield part


def use_one_thread(estimator: Any) -> None:
    """Set every ``*n_jobs`` parameter to 1, in place: the engine is the only source of parallelism.

    A forest that adds up its trees on several threads differs between plain repeats (by up to 2e-12).
    """
    # A pipeline of an older scikit-learn lacks parameters that came later; what it does have is found below.
    with suppress(AttributeError):
        if hasattr(estimator, "get_params"):
            names = [name for name in estimator.get_params(deep=True) if name.endswith("n_jobs")]
            estimator.set_params(**dict.fromkeys(names, 1))
    for part in parts(estimator):
        for name, value in vars(part).items():
            if name.endswith("n_jobs") and value != 1:
                setattr(part, name, 1)


def outputs_of(estimator: Any, features: Any) -> Outputs:
    """What the estimator returns for `features`, by calling it. Raises `ModelRefused` for a kind that is not supported."""
    _check_kind(estimator)
    if not is_classifier(estimator):
        values = np.asarray(call(estimator, "predict", features))
        if column_of(values) is None:
            raise ModelRefused(
                f"the regressor predicts {values.shape[1]} values per row; only one is supported",
                hint="register one model per target",
            )
        return Outputs("regressor", (("prediction", _float_type(values)),))
    classes, kind = classes_of(estimator)
    prediction = ("prediction", kind)
    if not hasattr(estimator, "predict_proba") or len(classes) < 2:
        return Outputs("classifier", (prediction,), classes)
    probabilities = np.asarray(call(estimator, "predict_proba", features))
    scores = tuple((name, _float_type(probabilities)) for name in probability_names(classes))
    return Outputs("classifier", (prediction, *scores), classes, _decision(estimator, features, probabilities))


def _check_kind(estimator: Any) -> None:
    name = type(estimator).__name__
    if is_outlier_detector(estimator):
        raise ModelRefused(
            f"{name} detects outliers; only classifiers and regressors can be registered",
            hint="train a classifier on its labels, or score it outside this tool",
        )
    if not (is_classifier(estimator) or is_regressor(estimator)) or not hasattr(estimator, "predict"):
        raise ModelRefused(
            f"{name} is neither a classifier nor a regressor", hint="register an estimator that has predict()"
        )


def classes_of(estimator: Any) -> tuple[tuple[Any, ...], str]:
    """The classes as plain values and their MLflow type."""
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        raise ModelRefused(
            f"{type(estimator).__name__} has no classes_: it is not fitted", hint="fit it before registering it"
        )
    if isinstance(classes, list) or np.ndim(classes) != 1:
        raise ModelRefused(
            "the classifier predicts several targets per row; only one is supported",
            hint="register one model per target",
        )
    values = np.asarray(classes).tolist()
    kind = KINDS_OF_CLASS.get(np.asarray(values).dtype.kind, "") if len({type(v) for v in values}) == 1 else ""
    if not kind:
        raise ModelRefused(
            f"the classes {values[:5]} are not all text, all whole numbers, all numbers or all booleans",
            hint="encode the target as text or integers",
        )
    return tuple(values), kind


def _decision(estimator: Any, features: Any, probabilities: np.ndarray[Any, Any]) -> Decision:
    """``argmax`` saves every second model call, where it gives what predict() gives."""
    if any(type(part).__name__ in OWN_THRESHOLD for part in parts(estimator)):
        return "predict"
    best = np.asarray(estimator.classes_)[np.argmax(probabilities, axis=1)]
    return "argmax" if np.array_equal(best, np.asarray(call(estimator, "predict", features))) else "predict"


def _float_type(values: np.ndarray[Any, Any]) -> str:
    return "float" if values.dtype == np.float32 else "double"


def column_of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """One value per row as a vector, also where the model was fitted on a one-column y; None for several."""
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    return values if values.ndim == 1 else None


def call(estimator: Any, method: str, features: Any) -> Any:
    """Call the model. Whatever it raises becomes `ModelFailed` with the model's own message in one sentence."""
    try:
        return getattr(estimator, method)(features)
    except Exception as error:  # the model is somebody else's code; anything can come out of it
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise ModelFailed.about_rows(
            f"the model raised {type(error).__name__} on {len(features)} rows: {first_line}",
            hint=OTHER_VERSION if isinstance(error, (AttributeError, ImportError)) else OTHER_VALUES,
        ) from error
