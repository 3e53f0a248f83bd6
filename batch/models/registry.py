"""The registry under ``<root>/models/``: immutable versions, and aliases whose histories only grow."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batch.errors import InputMissing, ModelMissing, ModelRefused, UsageError
from batch.models import aliases, bundle, catalogue, outputs, signature
from batch.models.aliases import AliasEntry
from batch.models.catalogue import check_name
from batch.storage import join, normalise, storage_for

if TYPE_CHECKING:
    import pandas as pd

    from batch.models.registration import Draft
    from batch.models.signature import Category, Range


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered version of a model."""

    name: str
    version: int
    uri: str
    """The bundle folder, with the slash at its end."""
    sha256: str
    """Of the bytes of model.json."""
    created_at: datetime
    """UTC."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model as ``models list`` shows it."""

    name: str
    latest_version: int
    aliases: dict[str, int] = field(default_factory=dict)
    """Alias -> version."""


def register(
    estimator: Any,
    name: str,
    X: pd.DataFrame,
    y: Any = None,
    *,
    root: str,
    alias: str | None = None,
    metrics: Mapping[str, float] | None = None,
    ranges: Mapping[str, Range] | None = None,
    categories: Mapping[str, Sequence[Category]] | None = None,
    description: str = "",
    by: str = "",
) -> ModelVersion:
    """Store a fitted estimator as the next version of `name`, and point `alias` at it.

    `X`: the DataFrame of raw features it was fitted on (a large part of it will do): the signature, the golden rows and the
    reference profile come from it. `y` is only checked to have as many rows; `metrics` are stored as given. `ranges` and
    `categories` declare what a column may hold; rows outside are rejected before they reach the model.

    Raises `UsageError` for a bad name or an X without column names, `ModelRefused` for a model that could not be loaded again.
    """
    from batch.models.registration import draft

    check_name(name)
    if alias is not None:
        check_name(alias, "alias")
    numbers = _finite(metrics or {})
    made = draft(estimator, X, ranges=ranges, categories=categories)
    if y is not None and len(y) != made.rows:
        raise UsageError(f"X has {made.rows} rows and y has {len(y)}")
    return _store(made, name, root=root, alias=alias, metrics=numbers, description=description, by=by)


def register_file(
    path: str,
    name: str,
    data_path: str,
    *,
    root: str,
    target: str | None = None,
    alias: str | None = None,
    pickle_sha256: Collection[str] = (),
    metrics: Mapping[str, float] | None = None,
    description: str = "",
    by: str = "",
) -> ModelVersion:
    """Register a saved model (.skops, or .joblib/.pkl whose digest is pinned) with its training data (.csv or .parquet).

    `target`: the column of the data that is not a feature. Where the model knows the names it was fitted on, other columns
    of the data are left out as well. Raises as `register` does, and `InputMissing` for data that is not there.
    """
    from batch.models.files import read_data, read_model
    from batch.models.registration import draft

    check_name(name)
    if alias is not None:
        check_name(alias, "alias")
    numbers = _finite(metrics or {})
    estimator, file = read_model(_body(path, ModelMissing), path, pickle_sha256)
    X = read_data(_body(data_path, InputMissing), data_path, estimator, target)
    try:
        made = draft(estimator, X)
    except ModelRefused:
        if not file.pinned:
            raise
        made = draft(estimator, X, file=file)  # skops cannot hold it: keep the pickle, which every job must pin as well
    return _store(made, name, root=root, alias=alias, metrics=numbers, description=description, by=by)


def _body(uri: str, missing: type[ModelMissing | InputMissing]) -> bytes:
    place = normalise(uri)
    body = storage_for(place).get(place)
    if body is None:
        raise missing(f"there is no file {place}")
    return body


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    numbers = {str(key): float(value) for key, value in metrics.items()}
    if odd := [key for key, value in numbers.items() if not math.isfinite(value)]:
        raise UsageError(f"metric {odd[0]!r} is {numbers[odd[0]]}, not a number")
    return numbers


def _store(
    made: Draft, name: str, *, root: str, alias: str | None, metrics: Mapping[str, float], description: str, by: str
) -> ModelVersion:
    """Take a number, write every file of the bundle once, model.json last, then set the alias."""
    from batch.models.writing import files_of

    version, created_at = _claim(root, name, by), datetime.now(UTC)
    about = {
        "format": bundle.FORMAT,
        "name": name,
        "version": version,
        "created_at": created_at.isoformat(),
        "by": by,
        "description": description,
        "metrics": dict(metrics),
    }
    folder = catalogue.version_folder(root, name, version)
    files = files_of(made, about)
    for file, body in files.items():
        _create(join(folder, file), body)
    if alias is not None:
        aliases.set_version(root, name, alias, version, by)
    digest = hashlib.sha256(files[catalogue.CARD]).hexdigest()
    return ModelVersion(name, version, folder, digest, created_at)


def _claim(root: str, name: str, by: str) -> int:
    """The next free number. Of any number of registrars each gets its own: claims are created once and never removed."""
    version = max(catalogue.shelf(root, name).claimed, default=0) + 1
    # The nonce tells two claims apart: creators of equal bytes may both be told that they won.
    body = json.dumps({"format": 1, "by": by, "at": datetime.now(UTC).isoformat(), "nonce": uuid.uuid4().hex}).encode()
    while True:
        folder = catalogue.version_folder(root, name, version)
        if storage_for(folder).create(join(folder, catalogue.CLAIM), body):
            return version
        version += 1


def _create(uri: str, body: bytes) -> None:
    if not storage_for(uri).create(uri, body):
        raise ModelRefused(f"{uri} exists already with other content, in a version that was just claimed")


def list_models(root: str) -> list[ModelSummary]:
    """Every model that has a version, by name."""
    return [
        ModelSummary(
            name,
            max(shelf.versions),
            {alias: aliases.current(root, name, alias, n).version for alias, n in sorted(shelf.aliases.items())},
        )
        for name, shelf in sorted(catalogue.shelves(root).items())
        if shelf.versions
    ]


def describe(root: str, name: str, version: int | None = None) -> dict[str, Any]:
    """model.json of a version (default: the newest), with its `uri`, `sha256`, all `versions` and each alias' `alias_history`."""
    shelf = catalogue.shelf(root, name)
    chosen = version or max(shelf.versions, default=0)
    resolved = bundle.resolve_bundle(f"models:/{name}/{chosen}", root)
    return {
        **resolved.card,
        "signature": signature.to_json(resolved.signature),
        "outputs": outputs.to_json(resolved.outputs),
        "uri": resolved.uri,
        "sha256": resolved.sha256,
        "versions": sorted(shelf.versions),
        "alias_history": {
            alias: [asdict(entry) for entry in aliases.history(root, name, alias)] for alias in sorted(shelf.aliases)
        },
    }


def promote(root: str, name: str, version: int, alias: str, by: str = "") -> AliasEntry:
    """Make `alias` mean `version` from now on. Raises `ModelMissing` where there is no such version."""
    check_name(alias, "alias")
    bundle.resolve_bundle(f"models:/{check_name(name)}/{version}", root)
    return aliases.set_version(root, name, alias, version, by)


def rollback(root: str, name: str, alias: str, by: str = "") -> AliasEntry:
    """Make `alias` mean what it meant before; a second rollback goes one further back.

    Raises `ModelMissing` where there is no such alias or nothing before.
    """
    return aliases.roll_back(root, check_name(name), check_name(alias, "alias"), by)


def alias_history(root: str, name: str, alias: str) -> list[AliasEntry]:
    """Every change of the alias, oldest first; empty where there is no such alias."""
    return aliases.history(root, name, alias)
