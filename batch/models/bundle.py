"""A model bundle: a folder with the model, its card ``model.json``, golden rows and reference profile.

`resolve` turns a reference into the one version it means and reads its card, without importing anything heavy, so that a bad
reference is refused at once. `load` reads the files, checks their digests before anything is parsed, and makes the model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from batch.errors import InputMissing, ModelChanged, ModelMissing, ModelRefused, UsageError
from batch.models import aliases, catalogue, outputs, signature
from batch.models.outputs import Outputs
from batch.models.signature import SignatureColumn
from batch.storage import join, normalise, nothing, storage_for
from batch.uri import parent

if TYPE_CHECKING:
    from batch.models.loaded import LoadedModel

FORMAT = 1
"""Of model.json. Raise it when an older reader would misread a bundle; keep reading every older form."""

MAX_BUNDLE_BYTES = 2 << 30
"""A bundle is read into memory whole; a larger one is refused before it is."""

MAX_CARD_BYTES = 16 << 20
"""Of a model.json that this program has not written; ours have a few kilobytes."""

FILES_AT_A_TIME = 8
"""Of a bundle, on their way together."""

GOLDEN = "golden.parquet"
PROFILE = "profile.json"
SKOPS = "model.skops"
JOBLIB = "model.joblib"
MODEL_SUFFIXES = (".skops", ".joblib", ".pkl")
"""Of a reference that names the model file of a bundle and not its folder."""

MLFLOW = ("http://", "https://")
"""How the URI of a model begins that an MLflow server keeps; a bundle is in S3 or in a folder."""

_VERSION = re.compile(r"[^/]+/[0-9]+/")
"""What a registered version's folder is called under ``<root>/models/``."""

_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """One version of one model, named for good: what a plan and a receipt record."""

    uri_given: str
    uri: str
    """The bundle folder, with the slash at its end."""
    name: str
    version: int | None
    """None for a bundle that was never in a registry."""
    sha256: str
    """Of the bytes of model.json, which holds the digests of all other files."""
    signature: tuple[SignatureColumn, ...]
    outputs: Outputs
    card: dict[str, Any]
    """The parsed model.json."""
    size_bytes: int
    """Sum of the file sizes that model.json records."""
    registered: bool = False
    """Whether it is a version of the registry under the root that was asked: then it was loaded and replayed before."""
    proof_uri: str = ""
    """Where it is recorded that one of another place has passed its trial (see `batch.models.quarantine`)."""


def resolve(reference: str, root: str, *, pickle_sha256: Collection[str] = ()) -> ResolvedModel:
    """The version that a reference means now: ``models:/name@alias``, ``models:/name/3``, a bundle folder or the model file in one.

    With MLFLOW_TRACKING_URI set, ``models:/`` is asked of that server; `pickle_sha256` are the digests of the pickles of MLflow
    that may be loaded, which has to be done to know what they return. Raises `UsageError` for a reference of no such form,
    `ModelMissing` (with the nearest existing names) and `ModelRefused` for a card that cannot be read; of MLflow also
    `ModelNotTrusted`, `StorageUnavailable` and `PermissionDenied`.
    """
    if reference.startswith(("models:", *MLFLOW)):
        from batch.models import mlflow

        if mlflow.is_meant(reference):
            return mlflow.resolve(reference, root, pickle_sha256)
    return resolve_bundle(reference, root)


def resolve_bundle(reference: str, root: str) -> ResolvedModel:
    """The same where ``models:/`` is the registry under the root, wherever MLFLOW_TRACKING_URI points."""
    uri, file = _place(reference, root)
    registered = bool(root) and _VERSION.fullmatch(uri.removeprefix(catalogue.models_folder(root))) is not None
    if not registered:
        _check_card_size(join(uri, catalogue.CARD))
    body = _get(join(uri, catalogue.CARD))
    if body is None and file:
        raise ModelMissing(
            f"there is no {catalogue.CARD} beside {uri}{file}, so nothing says which columns the model takes",
            hint=f"register it: batch-predict models register NAME {file} --data TRAINING.csv",
        )
    if body is None:
        raise ModelMissing(
            f"there is no {catalogue.CARD} in {uri}", hint="name the folder of a bundle, or models:/name@alias"
        )
    card, sha256 = _card(body, uri), hashlib.sha256(body).hexdigest()
    if file and (card["model_file"] != file or file not in card["files"]):
        raise ModelRefused(
            f"{join(uri, catalogue.CARD)} is about {card['model_file']}, not about {file}",
            hint="name the folder of the bundle, or the model file that its card names",
        )
    resolved = ResolvedModel(
        uri_given=reference,
        uri=uri,
        name=card["name"],
        version=card["version"],
        sha256=sha256,
        signature=signature.from_json(card.get("signature")),
        outputs=outputs.from_json(card.get("outputs")),
        card=card,
        size_bytes=sum(file["size_bytes"] for file in card["files"].values()),
        registered=registered,
        proof_uri=join(root, "probe", "models", f"{sha256}.json") if root and not registered else "",
    )
    _check_size(resolved)
    return resolved


def _check_card_size(uri: str) -> None:
    try:
        info = storage_for(uri).head(uri)
    except InputMissing:  # the bucket itself is missing
        return
    if info is not None and info.size_bytes > MAX_CARD_BYTES:
        raise ModelRefused(f"{uri} holds {info.size_bytes} bytes, more than the limit of {MAX_CARD_BYTES}")


def _check_size(resolved: ResolvedModel) -> None:
    if resolved.size_bytes > MAX_BUNDLE_BYTES:
        raise ModelRefused(
            f"{resolved.uri} holds {resolved.size_bytes} bytes, more than the limit of {MAX_BUNDLE_BYTES}"
        )


def _place(reference: str, root: str) -> tuple[str, str]:
    """The folder of a bundle, with the slash at its end, and the name of the file where the reference is one."""
    if reference.startswith("models:"):
        return _registered(reference, root), ""
    uri = normalise(reference)
    if reference.endswith(MODEL_SUFFIXES):
        return parent(uri), uri[len(parent(uri)) :]
    return join(uri, ""), ""


def parse(reference: str) -> tuple[str, str | None, str | None]:
    """Name, alias and version of a ``models:/`` reference, the latter two in text and one of them None. Raises `UsageError`."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError(
            f"model reference {reference!r} is malformed", hint="write models:/name@alias or models:/name/3"
        )
    return match["name"], match["alias"], match["version"]


def _registered(reference: str, root: str) -> str:
    """The bundle folder of a ``models:/`` reference."""
    name, alias, number = parse(reference)
    shelf = catalogue.shelf(root, name)
    if not shelf.versions:
        names = [known for known, found in catalogue.shelves(root).items() if found.versions]
        raise ModelMissing(f"there is no model {name!r} under {root}", hint=_nearest(name, names, "models"))
    if alias and alias not in shelf.aliases:
        raise ModelMissing(f"model {name!r} has no alias {alias!r}", hint=_nearest(alias, shelf.aliases, "aliases"))
    version = aliases.current(root, name, alias, shelf.aliases[alias]).version if alias else int(number or 0)
    if version not in shelf.versions:
        raise ModelMissing(
            f"model {name!r} has no version {version}",
            hint=f"versions: {', '.join(map(str, sorted(shelf.versions)[-10:]))}",
        )
    return catalogue.version_folder(root, name, version)


def _nearest(wanted: str, known: Collection[str], what: str) -> str:
    if not known:
        return f"there are no {what} yet: `models register` adds a model, `models promote` an alias"
    close = get_close_matches(wanted, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"{what}: {', '.join(sorted(known)[:10])}"


def _get(uri: str) -> bytes | None:
    try:
        return storage_for(uri).get(uri)
    except InputMissing:  # the bucket itself is missing
        return None


def _card(body: bytes, uri: str) -> dict[str, Any]:
    """The parsed model.json, checked as far as every reader relies on it."""
    try:
        card: Any = json.loads(body, parse_constant=_no_number)
        if card["format"] != FORMAT:
            raise ModelRefused(
                f"{join(uri, catalogue.CARD)} has format {card['format']}, this program reads format {FORMAT}",
                hint="upgrade batch-predict, or register the model again with this version",
            )
        check_files(card["files"])
        catalogue.check_name(card["name"])
        if card["version"] is not None and not _is_count(card["version"]):
            raise TypeError("version")
        if not isinstance(card["model_file"], str) or card["model_file"] not in card["files"]:
            raise ValueError(f"model_file {card['model_file']!r} is none of its files")
        if not all(isinstance(version, str) for version in card["libraries"].values()):
            raise TypeError("libraries")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise ModelRefused(
            f"{join(uri, catalogue.CARD)} is not a model card: {error!r}", hint=signature.REGISTER_AGAIN
        ) from error
    return dict(card)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # True is an int as well


def check_files(files: Any) -> None:
    """Raise ValueError unless every file is a plain name with a digest and a size: a card must not lead elsewhere."""
    for name, file in files.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"file name {name!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", file["sha256"]) or not _is_count(file["size_bytes"]):
            raise ValueError(f"digest or size of {name!r}")


def load(
    resolved: ResolvedModel, *, pickle_sha256: Collection[str] = (), proven: bool = False, record: bool = True
) -> LoadedModel:
    """The model, ready to predict, with every digest checked and its golden rows replayed.

    A model that is not registered is tried in a process of its own first, unless that was `proven`; `record` under the root that
    it has passed. `pickle_sha256` are the digests of joblib files that may be loaded. Raises `ModelChanged`, `ModelNotTrusted`,
    `GoldenRowsDiffer` or `ModelRefused`.
    """
    files = read_files(resolved, meanwhile=lambda: _import_libraries(resolved))
    if not (resolved.registered or proven):
        from batch.models.quarantine import prove

        prove(resolved, pickle_sha256, record=record)
    if resolved.uri.startswith(MLFLOW):
        from batch.models import flavour, mlflow

        if record and not proven:
            mlflow.remember(resolved)
        return flavour.assemble(resolved, files, pickle_sha256)
    from batch.models import loading

    return loading.assemble(resolved, files, pickle_sha256)


def _import_libraries(resolved: ResolvedModel) -> None:
    """What making the model will need. It takes longer than reading most models, and neither needs the other."""
    import_module("batch.models.loading")
    if resolved.card["model_file"].endswith(".skops"):
        import_module("skops.io")


def read_files(resolved: ResolvedModel, meanwhile: Callable[[], None] = nothing) -> dict[str, bytes]:
    """Every file that model.json names, by name. Raises `ModelChanged` unless all sizes and digests are the recorded ones.

    `meanwhile` is called while they are on their way; not for those of an MLflow server.
    """
    _check_size(resolved)
    if resolved.uri.startswith(MLFLOW):
        from batch.models import mlflow

        return mlflow.read_files(resolved)
    files = resolved.card["files"]
    with ThreadPoolExecutor(min(FILES_AT_A_TIME, len(files)), thread_name_prefix="bundle") as pool:
        reading = [pool.submit(_read_file, resolved.uri, name, file) for name, file in files.items()]
        meanwhile()
        return dict(zip(files, (one.result() for one in reading), strict=True))


def read_profile(resolved: ResolvedModel) -> dict[str, Any]:
    """How the model's training rows were distributed, see `batch.models.profile.usable`; {} where nobody has told.

    Raises `ModelChanged` where the file is not the recorded one.
    """
    recorded = resolved.card["files"].get(PROFILE)
    if recorded is None or resolved.uri.startswith(MLFLOW):
        return {}
    return _profile(resolved.uri, recorded["sha256"], recorded["size_bytes"])


@lru_cache(maxsize=16)
def _profile(folder: str, sha256: str, size_bytes: int) -> dict[str, Any]:
    """Asked for twice at the end of each run; a file with a digest does not change."""
    from batch.models.profile import usable

    return usable(json.loads(_read_file(folder, PROFILE, {"sha256": sha256, "size_bytes": size_bytes})))


def _read_file(folder: str, name: str, recorded: dict[str, Any]) -> bytes:
    uri = join(folder, name)
    info = storage_for(uri).head(uri)
    if info is None:
        raise ModelChanged(f"{uri} is missing, but model.json names it", hint=signature.REGISTER_AGAIN)
    if info.size_bytes != recorded["size_bytes"]:
        raise ModelChanged(
            f"{uri} has {info.size_bytes} bytes, but was registered with {recorded['size_bytes']}", hint=_RESTORE
        )
    body = _get(uri) or b""
    digest = hashlib.sha256(body).hexdigest()
    if digest != recorded["sha256"]:
        raise ModelChanged(f"{uri} has sha256 {digest}, but was registered with {recorded['sha256']}", hint=_RESTORE)
    return body


_RESTORE = "restore the file or register the model again; somebody changed a registered version"
