"""Which model files may become objects: skops with the allow-list below, a pickle only where its digest is pinned.

The list is ours. A bundle also names the types it needs (for MLflow), but whoever can write a model can write that list,
so it is never read. Each name was needed by a fitted scikit-learn, XGBoost or LightGBM estimator and constructs plain data.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from batch.errors import ModelNotTrusted, ModelRefused

T = TypeVar("T")

MAX_MODEL_BYTES = 2 << 30
"""Ceiling for a model file as stored and, for skops (a zip), as unpacked."""

ALLOWED_TYPES = frozenset(
    {
        "numpy.dtype",
        # forests, trees, boosting
        "sklearn.tree._tree.Tree",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.utils.validation.check_array",
        # safe to list: the function inside a partial is judged by its own name
        "functools.partial",
        # neighbours and kernels
        "scipy.sparse._csr.csr_matrix",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.metrics._dist_metrics.ChebyshevDistance64",
        # neural networks
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        # calibration, stacking, voting
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.utils._bunch.Bunch",
        # preprocessing
        "sklearn.compose._column_transformer.make_column_selector",
        # what a column selector selects by; names of types, nothing more
        "numpy.number",
        "numpy.integer",
        "numpy.floating",
        "builtins.object",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "scipy.interpolate._bsplines.BSpline",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        # losses as scikit-learn before 1.9 spelled their module
        "_loss.CyHalfBinomialLoss",
        "_loss.CyHalfMultinomialLoss",
        "_loss.CyHalfPoissonLoss",
        "_loss.CyHalfSquaredError",
        # boosting libraries
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRegressor",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
        "collections.OrderedDict",
    }
)


def untrusted_types(body: bytes) -> list[str]:
    """The types in a skops file that skops itself does not trust. Nothing is imported or constructed."""
    from skops.io import get_untrusted_types

    return _parse(lambda: list(get_untrusted_types(data=body)))


def load_skops(body: bytes, sha256: str = "", pinned: Collection[str] = ()) -> Any:
    """The object in a skops file; no digest needs to be pinned. Raises `ModelNotTrusted` naming every type off the list."""
    from skops.io import loads

    _check_unpacked_size(body)
    needed = untrusted_types(body)
    if refused := sorted(set(needed) - ALLOWED_TYPES):
        raise ModelNotTrusted(
            f"the model names {len(refused)} type(s) that are not on the allow-list: {', '.join(refused)}",
            hint="build it from scikit-learn's own estimators, and register best_estimator_ rather than a search object",
        )
    _alias_old_loss_module()
    return _parse(lambda: _with_sound_trees(loads(body, trusted=needed)))


def _with_sound_trees(estimator: Any) -> Any:
    from batch.models.trees import check_trees

    check_trees(estimator)
    return estimator


def check_pinned(sha256: str, pinned: Collection[str]) -> None:
    """Raise `ModelNotTrusted` unless the digest of a pickle is pinned."""
    if sha256 not in {pin.lower().removeprefix("sha256:") for pin in pinned}:
        raise ModelNotTrusted(
            f"the model is a pickle, which can run any code when it is loaded, and its digest {sha256} is not pinned",
            hint=f'if you trust it, add to the job file: [trust] pickle_sha256 = ["{sha256}"]',
        )


def load_pickle(body: bytes, sha256: str, pinned: Collection[str]) -> Any:
    """The object in a joblib or pickle file, which can run any code: only where the caller pinned its digest."""
    check_pinned(sha256, pinned)
    import joblib  # type: ignore[import-untyped]

    _alias_old_loss_module()
    return _parse(lambda: joblib.load(io.BytesIO(body)))


def dump_skops(estimator: Any) -> bytes:
    """The estimator as a skops file. Raises `ModelRefused` for what skops cannot store."""
    from skops.io import dumps

    try:
        body: bytes = dumps(estimator)
    except Exception as error:  # skops walks somebody else's objects
        raise ModelRefused(
            f"{type(estimator).__name__} cannot be saved: {type(error).__name__}: {error}",
            hint="lambdas and local functions cannot be saved; build it from scikit-learn's own estimators",
        ) from error
    return body


def _check_unpacked_size(body: bytes) -> None:
    """A small zip may unpack to anything, so its own table of sizes is read first (zipfile never reads past it)."""
    with _parse(lambda: zipfile.ZipFile(io.BytesIO(body))) as archive:
        size_bytes = sum(entry.file_size for entry in archive.infolist())
    if size_bytes > MAX_MODEL_BYTES:
        raise ModelRefused(f"the model unpacks to {size_bytes} bytes, more than the limit of {MAX_MODEL_BYTES}")


def _parse(read: Callable[[], T]) -> T:
    """Run a reader of model bytes; whatever it raises on damaged or incompatible bytes becomes `ModelRefused`.

    The original error stays the ``__cause__``: an AttributeError or ImportError there means another library version.
    """
    try:
        return read()
    except ModelRefused:
        raise
    except Exception as error:  # zip, JSON, recursion, missing modules: the bytes decide what comes out
        raise ModelRefused(
            f"the model file cannot be read: {type(error).__name__}: {error}",
            hint="it is damaged, or was saved with other library versions; save and register it again",
        ) from error


def _alias_old_loss_module() -> None:
    """Files saved before scikit-learn 1.9 look for the loss classes in a top-level module ``_loss``."""
    import sklearn._loss._loss as losses

    sys.modules.setdefault("_loss", losses)
