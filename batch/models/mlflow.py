"""Models of an MLflow server, found and fetched over its REST API; nothing of MLflow is imported.

With ``MLFLOW_TRACKING_URI`` set, ``models:/name@alias`` and ``models:/name/3`` mean the registry of that server. The files of a
version come through the server's artifact proxy, from S3 where the server says that they lie there, or through the server's
``get-artifact`` where they lie on its own disk. Only MLmodel and the model file are fetched.

What MLmodel does not tell (the classes, how many values a row gets) is found out by loading the model once, in a process of its own
first. The next run finds it recorded under ``<root>/probe/mlflow/``, and then resolving costs four small requests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from batch.errors import InputMissing, ModelChanged, ModelMissing, ModelRefused, StorageUnavailable, UsageError
from batch.models import bundle, mlmodel, outputs, signature
from batch.models.bundle import ResolvedModel
from batch.models.mlflow_server import ARTIFACTS, Server, tracking_uri
from batch.models.mlmodel import Flavour
from batch.models.outputs import Outputs
from batch.storage import join, normalise, storage_for

FORMAT = 1
"""Of what is recorded about a model; another one is found out anew."""

MLMODEL = "MLmodel"
_UNKNOWN = Outputs("classifier", (("prediction", "string"),))
"""Stands for the outputs of a model that was not loaded yet."""

_learnt: dict[str, dict[str, Any]] = {}
"""What this process has found out about models, by fingerprint."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One version of a registered model, and where its files are."""

    server: Server
    name: str
    version: int
    folder: str
    """URI of its artifacts, as the server tells it."""

    @property
    def address(self) -> str:
        """The page of the version: opens in a browser, and means this version as a reference."""
        return f"{self.server.url}/#/models/{quote(self.name, safe='')}/versions/{self.version}"

    def read(self, file: str, limit_bytes: int) -> bytes:
        """One of its files. Raises `ModelMissing`, or `ModelRefused` where it is larger or lies where it cannot be fetched."""
        what = f"file {file} of model {self.name!r}, version {self.version}"
        proxied = self._proxied()
        if proxied is not None:
            return self.server.get(ARTIFACTS + quote(f"{proxied}/{file}"), what=what, limit_bytes=limit_bytes)
        if self.folder.startswith("s3://"):
            return _stored(join(self.folder, file), limit_bytes)
        if urlsplit(self.folder).scheme not in {"", "file"}:
            raise ModelRefused(
                f"{self.address} has its files at {self.folder}, from where they cannot be fetched",
                hint="let the MLflow server serve them (mlflow server --artifacts-destination), or keep them in S3",
            )
        # The folder is one of the server's machine, whatever stands under that name on this one.
        query = {"name": self.name, "version": str(self.version), "path": file}
        return self.server.get("/model-versions/get-artifact", query, what=what, limit_bytes=limit_bytes)

    def stamp(self, file: str) -> str:
        """What can be told of the file's content without fetching it: its size, in S3 its ETag; empty where nothing can."""
        if self.folder.startswith("s3://"):
            info = storage_for(self.folder).head(join(self.folder, file))
            return f"{info.size_bytes} {info.etag}" if info else ""
        proxied = self._proxied()
        if proxied is None:
            return ""
        told = self.server.ask(ARTIFACTS.rstrip("/"), {"path": proxied}, what=f"folder {self.folder}")
        try:
            sizes = {one["path"].rsplit("/", 1)[-1]: one.get("file_size") for one in told.get("files", [])}
        except (TypeError, KeyError, AttributeError) as error:
            raise StorageUnavailable(f"{self.server.url} does not list the files in {self.folder}") from error
        return str(sizes.get(file, ""))

    def _proxied(self) -> str | None:
        """The folder as the server's artifact proxy knows it; None where it is not behind the proxy."""
        direct = self.server.url + ARTIFACTS
        if self.folder.startswith(direct):
            return unquote(self.folder[len(direct) :]).strip("/")
        parts = urlsplit(self.folder)
        if parts.scheme == "mlflow-artifacts" and parts.netloc in {"", urlsplit(self.server.url).netloc}:
            return parts.path.strip("/")
        return None


def is_meant(reference: str) -> bool:
    """Whether a reference is about an MLflow server: an address of one, or ``models:/`` while one is set."""
    return reference.startswith(bundle.MLFLOW) or (reference.startswith("models:") and bool(tracking_uri()))


def resolve(reference: str, root: str, pickle_sha256: Collection[str] = ()) -> ResolvedModel:
    """The version that a reference means now. `pickle_sha256` are the digests of pickles that may be loaded.

    Its ``sha256`` is of name, version and the digests of the files. Raises `UsageError`, `ModelMissing`, `ModelRefused`,
    `ModelNotTrusted`, `StorageUnavailable` or `PermissionDenied`.
    """
    logged = find(reference)
    body = logged.read(MLMODEL, mlmodel.MAX_BYTES)
    flavour = mlmodel.read(body, f"{MLMODEL} of {logged.address}")
    known = [logged.name, logged.version, logged.folder, _sha256(body), logged.stamp(flavour.file)]
    fingerprint = _sha256(json.dumps(known).encode())
    record_uri = join(root, "probe", "mlflow", f"{fingerprint}.json") if root else ""
    asked = _Asked(reference, root, record_uri, logged, flavour)
    if fingerprint not in _learnt:
        _learnt[fingerprint] = _recall(record_uri) or _learn(asked, body, pickle_sha256)
    return asked.resolved(_learnt[fingerprint])


def find(reference: str) -> Logged:
    """Ask the server which version is meant and where its files are. Raises as `resolve` does."""
    server = Server.from_environment()
    if reference.startswith("models:"):
        name, alias, number = bundle.parse(reference)
    else:
        (name, number), alias = _of_address(reference, server), None
    version = server.version(name, alias, number)
    folder = server.folder(name, version)
    return Logged(server, name, version, normalise(folder) if folder.startswith("s3:") else folder)


def _of_address(address: str, server: Server) -> tuple[str, str]:
    """Name and version in the address of a version's page, which must be one of the server that is set."""
    if not address.startswith(f"{server.url}/"):
        raise UsageError(
            f"{address} is not on {server}",
            hint="set MLFLOW_TRACKING_URI to the server that the model is on",
        )
    match address[len(server.url) :].split("/"):
        case ["", "#", "models", name, "versions", number] if number.isascii() and number.isdigit():
            return unquote(name), number
    raise UsageError(f"{address} is not the page of a model version", hint="write models:/name@alias or models:/name/3")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is known about a model before its file is."""

    reference: str
    root: str
    record_uri: str
    logged: Logged
    flavour: Flavour

    def resolved(self, learnt: Mapping[str, Any]) -> ResolvedModel:
        files, logged = learnt["files"], self.logged
        digests = {name: file["sha256"] for name, file in files.items()}
        identity = {"format": FORMAT, "name": logged.name, "version": logged.version, "files": digests}
        sha256 = _sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())
        return ResolvedModel(
            uri_given=self.reference,
            uri=logged.address,
            name=logged.name,
            version=logged.version,
            sha256=sha256,
            signature=self.flavour.signature,
            outputs=outputs.from_json(learnt["outputs"]) if "outputs" in learnt else _UNKNOWN,
            card=self._card(learnt),
            size_bytes=sum(file["size_bytes"] for file in files.values()),
            proof_uri=join(self.root, "probe", "models", f"{sha256}.json") if self.root else "",
        )

    def _card(self, learnt: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": self.logged.name,
            "version": self.logged.version,
            "model_file": self.flavour.file,
            "is_skops": self.flavour.is_skops,
            "output_type": self.flavour.output_type,
            "signature": signature.to_json(self.flavour.signature),
            "libraries": self.flavour.libraries,
            "mlflow": {"server": self.logged.server.url, "folder": self.logged.folder, "record_uri": self.record_uri},
            **learnt,
        }


def _learn(asked: _Asked, body: bytes, pickle_sha256: Collection[str]) -> dict[str, Any]:
    """Fetch the model and find out what it returns, by loading it: in a process of its own first."""
    from batch.models.quarantine import prove

    file = asked.flavour.file
    files = {MLMODEL: body, file: asked.logged.read(file, bundle.MAX_BUNDLE_BYTES)}
    learnt: dict[str, Any] = {"format": FORMAT, "files": {name: _fingerprint(one) for name, one in files.items()}}
    draft = asked.resolved(learnt)
    prove(draft, pickle_sha256, record=False)  # what is found out here is recorded when it is loaded for a run
    from batch.models.flavour import assemble

    model = assemble(draft, files, pickle_sha256)
    return {**learnt, "layout": model.layout, "outputs": outputs.to_json(model.outputs)}


def _recall(uri: str) -> dict[str, Any] | None:
    """What an earlier run has found out, if it can be read; what it says of the files is checked when they are fetched."""
    body = storage_for(uri).get(uri) if uri else None
    try:
        found = json.loads(body or b"null")
        if found["format"] != FORMAT or found["layout"] not in {"frame", "array"}:
            return None
        bundle.check_files(found["files"])
        outputs.from_json(found["outputs"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ModelRefused):
        return None
    return dict(found)


def remember(resolved: ResolvedModel) -> None:
    """Record what was found out about a model, so that the next run need not load it to resolve it."""
    uri = resolved.card["mlflow"]["record_uri"]
    if not uri:
        return
    found = {key: resolved.card[key] for key in ("format", "files", "layout", "outputs")}
    body = json.dumps(found, indent=2, sort_keys=True).encode()
    storage = storage_for(uri)
    if storage.get(uri) != body:
        storage.replace(uri, [body], len(body))


def read_files(resolved: ResolvedModel) -> dict[str, bytes]:
    """MLmodel and the model file. Raises `ModelChanged` unless they are what they were when the model was resolved."""
    server, told = Server.from_environment(), resolved.card["mlflow"]
    if server.url != told["server"]:
        raise StorageUnavailable(
            f"{resolved.uri} is not on {server}",
            hint=f"set MLFLOW_TRACKING_URI={told['server']} wherever this runs, also for its workers",
        )
    assert resolved.version is not None, "every version of MLflow has a number"
    logged = Logged(server, resolved.name, resolved.version, told["folder"])
    return {name: _unchanged(logged, name, file) for name, file in resolved.card["files"].items()}


def _unchanged(logged: Logged, name: str, recorded: Mapping[str, Any]) -> bytes:
    body = logged.read(name, bundle.MAX_BUNDLE_BYTES)
    if (digest := _sha256(body)) != recorded["sha256"]:
        raise ModelChanged(
            f"{name} of {logged.address} has sha256 {digest}, but had {recorded['sha256']} when it was first used",
            hint="somebody changed a registered version; register the model as a new one",
        )
    return body


def _stored(uri: str, limit_bytes: int) -> bytes:
    """An object that MLflow keeps in S3 and does not serve itself."""
    try:
        info = storage_for(uri).head(uri)
    except InputMissing:  # the bucket itself is missing
        info = None
    if info is None:
        raise ModelMissing(f"MLflow says that {uri} is there, but it is not", hint="log the model again")
    if info.size_bytes > limit_bytes:
        raise ModelRefused(f"{uri} holds {info.size_bytes} bytes, more than the limit of {limit_bytes}")
    return storage_for(uri).read(info, 0, info.size_bytes)


def _fingerprint(body: bytes) -> dict[str, Any]:
    return {"sha256": _sha256(body), "size_bytes": len(body)}


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
