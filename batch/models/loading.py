"""From the checked bytes of a bundle to a model that reproduces its golden rows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from batch.errors import GoldenRowsDiffer, ModelFailed, ModelRefused, SchemaMismatch
from batch.models import bundle, card, golden, trust
from batch.models.bundle import ResolvedModel
from batch.models.estimator import use_one_thread
from batch.models.loaded import LoadedModel
from batch.models.profile import usable
from batch.models.signature import REGISTER_AGAIN


def load_estimator(file: str, body: bytes, sha256: str, pinned: Collection[str]) -> Any:
    """The estimator in a model file, on one thread."""
    estimator = LOADERS[file.rsplit(".", 1)[-1]](body, sha256, pinned)
    use_one_thread(estimator)
    return estimator


LOADERS: dict[str, Callable[[bytes, str, Collection[str]], Any]] = {
    "skops": trust.load_skops,
    "joblib": trust.load_pickle,
    "pkl": trust.load_pickle,
}
"""Suffix of a model file -> how it becomes an object."""


def assemble(resolved: ResolvedModel, files: Mapping[str, bytes], pinned: Collection[str]) -> LoadedModel:
    """Make the model and replay its golden rows; warnings are kept for the caller instead of being printed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = _assemble(resolved, files, pinned)
        except ModelRefused as error:
            if (told := _told(error, resolved.card)) is error:
                raise  # with the cause it has
            raise told from error
        except (
            KeyError,
            TypeError,
            ValueError,
            RecursionError,
            SchemaMismatch,
        ) as error:  # the digests fit, the contents do not
            raise ModelRefused(f"{resolved.uri} does not fit together: {error!r}", hint=REGISTER_AGAIN) from error
    model.warnings.extend(_unique(caught, resolved.card))
    return model


def _assemble(resolved: ResolvedModel, files: Mapping[str, bytes], pinned: Collection[str]) -> LoadedModel:
    file = resolved.card["model_file"]
    if file.rsplit(".", 1)[-1] not in LOADERS or not {file, bundle.GOLDEN, bundle.PROFILE} <= files.keys():
        raise ModelRefused(f"{resolved.uri} is not a complete bundle: it holds {', '.join(sorted(files))}")
    rows = golden.from_bytes(files[bundle.GOLDEN])
    model = LoadedModel(
        estimator=load_estimator(file, files[file], resolved.card["files"][file]["sha256"], pinned),
        signature=resolved.signature,
        outputs=resolved.outputs,
        layout=resolved.card.get("layout", "frame"),
        card=resolved.card,
        golden=golden.features_of(rows),
        profile=usable(json.loads(files[bundle.PROFILE])),
    )
    golden.replay(model, rows, golden.spread_from_json(resolved.card["golden"]["spread"]))
    return model


def _told(error: ModelRefused, recorded: Mapping[str, Any]) -> ModelRefused:
    """The same refusal with the library versions then and now, where they are the likely cause."""
    then, now = recorded["libraries"], card.library_versions()
    saved = f"saved with scikit-learn {then.get('scikit-learn', '?')}, running {now['scikit-learn']}"
    if isinstance(error.__cause__, (AttributeError, ImportError)):
        return ModelRefused(
            f"the model was {saved}: {error.message}",
            hint=f"register it again or install scikit-learn {then.get('scikit-learn', '?')}",
        )
    if isinstance(error, GoldenRowsDiffer):
        changed = [
            f"{name} {then[name]} then, {now[name]} now" for name in then if name in now and then[name] != now[name]
        ]
        return GoldenRowsDiffer(f"{error.message} ({'; '.join(changed) or 'same library versions'})", hint=error.hint)
    if isinstance(error, ModelFailed):
        return ModelFailed(f"the golden rows cannot be replayed: {error.message}", hint=error.hint)
    return error


def _unique(caught: Collection[warnings.WarningMessage], recorded: Mapping[str, Any]) -> list[str]:
    """One line per kind of warning; scikit-learn repeats the version warning for every part of a pipeline."""
    lines = [
        str(warning.message) for warning in caught if type(warning.message).__name__ != "InconsistentVersionWarning"
    ]
    then, now = recorded["libraries"].get("scikit-learn", "?"), card.library_versions()["scikit-learn"]
    if then.split(".")[:2] != now.split(".")[:2]:
        lines.append(f"saved with scikit-learn {then}, running {now}; the golden rows agree")
    return list(dict.fromkeys(lines))
