"""The small JSON records that runs leave under the root: one spelling when written, one sentence when one cannot be read."""

from __future__ import annotations

import json
from typing import Any

from batch.errors import StorageUnavailable
from batch.execution.identity import canonical
from batch.storage import storage_for


class Unreadable(StorageUnavailable):
    """Bytes that nobody of us wrote, or not like this."""


def create(uri: str, document: dict[str, Any]) -> bool:
    """Store a record unless the key exists; whether what is stored now is ours."""
    return storage_for(uri).create(uri, canonical(document))


def load(uri: str) -> dict[str, Any] | None:
    """A stored record, or None where there is none. Raises `Unreadable` for bytes that are no record."""
    body = storage_for(uri).get(uri)
    if body is None:
        return None
    try:
        document = json.loads(body)
        if not isinstance(document, dict):
            raise TypeError(f"a JSON {type(document).__name__}")
    except (ValueError, TypeError) as error:
        raise Unreadable(
            f"{uri} is not a record of batch-predict: its {len(body)} bytes are not a JSON object ({error})",
            hint="somebody or something changed it: restore it, or score again with --force",
        ) from error
    return document


def replace(uri: str, document: dict[str, Any]) -> None:
    """Store a document for people under a key of its own, over what stands there."""
    body = canonical(document)
    storage_for(uri).replace(uri, [body], len(body))
