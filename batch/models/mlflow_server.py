"""An MLflow server by its REST API: what it knows of a model version, and the bytes that it serves."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from batch.errors import BatchError, ModelMissing, ModelRefused, PermissionDenied, StorageUnavailable, UsageError

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"

TIMEOUT_SECONDS = 60.0
"""Without a byte from the server."""
PAUSES_SECONDS = (0.5, 2.0)
"""Before each further attempt at a request that did not come through."""
ANSWER_BYTES = 16 << 20
"""Ceiling for an answer in JSON."""
TOLD_MAX = 300
"""Characters of the server's own message that are told."""

SET_CREDENTIALS = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
CHECK_URI = "is MLFLOW_TRACKING_URI the address of an MLflow server?"


def tracking_uri() -> str:
    """What MLFLOW_TRACKING_URI says; empty where it is not set."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip()


@dataclass(frozen=True, slots=True)
class Server:
    """Where an MLflow server is, and how to show who asks."""

    url: str
    """``https://host/prefix`` without a slash at its end or credentials; empty where none is set."""
    authorization: str = field(default="", repr=False)
    """Of the header of that name."""

    @classmethod
    def from_environment(cls) -> Server:
        """The server that MLFLOW_TRACKING_URI names. Raises `UsageError` where that is no http or https URL."""
        given = tracking_uri()
        if not given:
            return cls("")
        try:
            parts = urlsplit(given)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"MLFLOW_TRACKING_URI is not a URL: {error}", hint=CHECK_URI) from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(
                f"MLFLOW_TRACKING_URI begins with {given.partition(':')[0]!r}: only an http or https server can be asked for models",
                hint="start one with `mlflow server`, or unset the variable to use the registry under the root",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        netloc = host if port is None else f"{host}:{port}"
        own = (unquote(parts.username or ""), unquote(parts.password or ""))
        return cls(urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", "")), _authorization(*own))

    def __str__(self) -> str:
        return (
            f"the MLflow server {self.url}"
            if self.url
            else "an MLflow server that is set: MLFLOW_TRACKING_URI is empty"
        )

    def version(self, name: str, alias: str | None, number: str | None) -> int:
        """The number of the version with the alias, or that very number. Raises `ModelMissing` or `ModelRefused`."""
        if alias:
            path, key, what = "/registered-models/alias", {"alias": alias}, f"model {name!r} with alias {alias!r}"
        else:
            path, key, what = "/model-versions/get", {"version": str(number)}, f"model {name!r} in version {number}"
        told = self.ask(API + path, {"name": name, **key}, what=what).get("model_version")
        try:
            version, status = int(told["version"]), told.get("status", "READY")  # type: ignore[index, union-attr]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageUnavailable(f"{self.url} does not tell the version of {what}", hint=CHECK_URI) from error
        if status != "READY":
            raise ModelRefused(f"{what} on {self.url} is {status}, not READY", hint="register the model again")
        return version

    def folder(self, name: str, version: int) -> str:
        """URI of the artifacts of a version; a ``models:/m-…`` source is followed by the server."""
        what = f"model {name!r} in version {version}"
        query = {"name": name, "version": str(version)}
        folder = self.ask(API + "/model-versions/get-download-uri", query, what=what).get("artifact_uri")
        if not isinstance(folder, str) or not _is_uri(folder):
            raise StorageUnavailable(f"{self.url} does not tell where the files of {what} are", hint=CHECK_URI)
        return folder.rstrip("/")

    def ask(self, path: str, query: Mapping[str, str], *, what: str) -> dict[str, Any]:
        """The JSON object that a GET answers. `what` is asked for, for messages. Raises as `get` does."""
        body = self.get(path, query, what=what, limit_bytes=ANSWER_BYTES)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise StorageUnavailable(f"{self.url}{path} does not answer with a JSON object", hint=CHECK_URI)
        return answer

    def get(self, path: str, query: Mapping[str, str] | None = None, *, what: str, limit_bytes: int) -> bytes:
        """The body of a GET, tried again where it does not come through.

        Raises `StorageUnavailable`, `PermissionDenied`, `ModelMissing`, or `ModelRefused` for a body over the limit.
        """
        url = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        for pause_seconds in PAUSES_SECONDS:
            try:
                return self._get(url, what, limit_bytes)
            except StorageUnavailable:
                time.sleep(pause_seconds)
        return self._get(url, what, limit_bytes)

    def _get(self, url: str, what: str, limit_bytes: int) -> bytes:
        request = urllib.request.Request(url, headers={"User-Agent": "batch-predict"})  # noqa: S310  http(s), see above
        if self.authorization:
            request.add_unredirected_header("Authorization", self.authorization)  # is not handed on to other hosts
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                body: bytes = response.read(limit_bytes + 1)
                length = response.headers.get("Content-Length")
        except urllib.error.HTTPError as error:
            raise self._refused(error, url, what) from error
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
        ) as error:  # URLError, timeouts and cut answers among them
            reason = getattr(error, "reason", None) or error
            raise StorageUnavailable(
                f"the MLflow server does not answer at {url}: {reason}",
                hint="is it running, and MLFLOW_TRACKING_URI right?",
            ) from error
        if len(body) > limit_bytes:
            raise ModelRefused(f"{url} holds more than the limit of {limit_bytes} bytes")
        if length is not None and length.isdigit() and int(length) > len(body):
            raise StorageUnavailable(f"the MLflow server sent {len(body)} of {length} bytes of {url}")
        return body

    def _refused(self, error: urllib.error.HTTPError, url: str, what: str) -> BatchError:
        """What an answer with an error status means. Only MLflow's own errors are in JSON, with an ``error_code``."""
        code, told = error.code, _told(error)
        said = f": {told['message']}" if told.get("message") else ""
        if code == 401:
            return PermissionDenied(f"{url} wants to know who asks (401){said}", hint=SET_CREDENTIALS)
        if code == 403:
            return PermissionDenied(f"reading {url} is not allowed (403){said}", hint=SET_CREDENTIALS)
        if code in {400, 404} and told.get("error_code"):
            return ModelMissing(f"{self.url} has no {what}{said}", hint=f"see {self.url}/#/models for what it has")
        return StorageUnavailable(f"{url} answered {code} {error.reason}{said}", hint=CHECK_URI if code < 500 else "")


def _is_uri(text: str) -> bool:
    try:
        return bool(urlsplit(text).path)
    except ValueError:
        return False


def _authorization(username: str, password: str) -> str:
    """The header value for what the environment gives, as MLflow's own client takes it; else for what the URL gives."""
    username = os.environ.get("MLFLOW_TRACKING_USERNAME") or username
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or password
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    if username and password:
        return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
    return f"Bearer {token}" if token else ""


def _told(error: urllib.error.HTTPError) -> dict[str, str]:
    try:
        told = json.loads(error.read(ANSWER_BYTES))
        return {key: str(told[key])[:TOLD_MAX] for key in ("error_code", "message") if told.get(key)}
    except (OSError, http.client.HTTPException, ValueError, AttributeError, RecursionError):
        return {}
