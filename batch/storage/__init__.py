"""Objects by URI: one small protocol over S3-compatible stores and plain folders.

Every decision of the product rests on one primitive, ``create`` (create-once); everything else may be repeated at will.
The two back ends keep the same promises: a read is pinned to one version of one object, ``replace`` swaps a whole object
for another whole object, and nothing half-written is ever visible under its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Protocol

from batch.uri import join as join
from batch.uri import normalise as normalise


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One version of one stored object, as HEAD or LIST told it."""

    uri: str
    """Full URI: ``s3://bucket/key`` or an absolute path."""
    size_bytes: int
    etag: str
    """Without quotes. A local file's is ``size-mtime_ns-inode``."""
    version_id: str | None
    """None where the store does not version (or the listing does not say)."""
    modified_at: datetime
    """UTC."""
    metadata: dict[str, str] = field(default_factory=dict)
    """User metadata, lower-case keys; always empty for local files and in listings."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A write that was begun and never finished: an open multipart upload, or a partial file beside its place."""

    uri: str
    """Of the object it would have become (S3), or of the partial file (local)."""
    upload_id: str
    """Empty for a local file."""
    begun_at: datetime
    """UTC, by the store."""


def nothing() -> None:
    """Do nothing: what `Storage.replace` does before it writes where it is not told otherwise."""


class Storage(Protocol):
    """What the product needs of a store. Every method takes a full URI and raises only classes of ``batch.errors``."""

    @property
    def refuses_conditions(self) -> bool:
        """The store has answered a conditional write with "not implemented", so that `create` only looks before it writes."""
        ...

    def endpoint(self, uri: str) -> str:
        """Where the store is, for messages and as the name of its peculiarities: a URL, or "this machine's files"."""
        ...

    def head(self, uri: str) -> ObjectInfo | None:
        """Describe the object, or None where there is none."""
        ...

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose URI begins with `prefix` (a string prefix, as in S3), in the byte order of their keys.

        `start_after`: a full URI; only keys after it are listed. A missing bucket or folder lists nothing locally and
        raises `InputMissing` on S3.
        """
        ...

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        """Bytes ``[start, end)`` of exactly this version; checked for length, range and ETag.

        Raises `InputChanged` when the object is no longer the one that was pinned.
        """
        ...

    def get(self, uri: str) -> bytes | None:
        """The whole current body of a small object (records, not inputs), or None where there is none."""
        ...

    def create(self, uri: str, body: bytes) -> bool:
        """Store `body` unless the key exists. True: the stored object is ours (also when only the answer was lost).

        False: somebody else's object is there. Exactly one of any number of concurrent creators gets True,
        except that creators of equal bytes may all get True.
        """
        ...

    def replace(
        self,
        uri: str,
        parts: Iterable[bytes],
        size_bytes: int,
        *,
        metadata: dict[str, str] | None = None,
        before: Callable[[], None] = nothing,
    ) -> ObjectInfo:
        """Store the concatenation of `parts` (`size_bytes` in all) under the key, as a whole or not at all.

        `size_bytes` may be -1 where it is not known beforehand. `metadata` is kept on S3 and ignored locally. `before` is called
        when all parts have been taken, right before each attempt at the request that makes the object visible; what it raises
        comes out of here, and that attempt is not made.
        """
        ...

    def delete(self, uri: str) -> None:
        """Remove the object; a missing one is not an error."""
        ...

    def now(self, uri: str) -> datetime:
        """What time it is (UTC) by the clock that stamps `ObjectInfo.modified_at` there: for ages, never for a decision."""
        ...

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Writes below the prefix that were begun and not finished; none where the store cannot list them."""
        ...

    def abandon(self, write: Unfinished) -> None:
        """Give back what an unfinished write holds; one that is gone meanwhile is not an error."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """A pinned object that can be read by range: what the formats see of an input."""

    storage: Storage
    pin: ObjectInfo
    name: str = ""
    """The URI that messages name, where it differs from the pinned object's (a spooled copy); default: the pin's."""

    @property
    def uri(self) -> str:
        return self.name or self.pin.uri

    @property
    def size_bytes(self) -> int:
        return self.pin.size_bytes

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``[start, min(end, size))`` of the pinned version."""
        end = min(end, self.pin.size_bytes)
        return self.storage.read(self.pin, start, end) if end > start else b""


def _s3() -> Storage:
    from batch.storage.s3 import S3Storage

    return S3Storage()


def _local() -> Storage:
    from batch.storage.local import LocalStorage

    return LocalStorage()


BACK_ENDS: dict[str, Callable[[], Storage]] = {"s3": _s3, "file": _local}
"""Scheme -> what makes its back end, with imports that are paid only then."""


@cache
def open_storage(scheme: str) -> Storage:
    """The back end for a scheme (``s3`` or ``file``), one per process: clients are never shared across a fork."""
    return BACK_ENDS[scheme]()


def storage_for(uri: str) -> Storage:
    """The back end that holds `uri`: ``s3://…`` or a path (see `batch.uri.normalise`)."""
    return open_storage("s3" if uri.startswith("s3://") else "file")
