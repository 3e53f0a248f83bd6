"""Plain folders with the promises of an object store: create-once, whole-object replace, reads pinned to one version.

Objects are made under a hidden temporary name beside their place and then linked (create) or renamed (replace) to it, so a
reader sees a whole object or none.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from batch.errors import BatchError, InputChanged, InputMissing, OutputRefused, PermissionDenied, StorageUnavailable
from batch.storage import ObjectInfo, Unfinished, nothing

_PARTIAL = ".partial-"


class LocalStorage:
    """`batch.storage.Storage` over absolute paths."""

    refuses_conditions = False

    def endpoint(self, uri: str) -> str:
        return "this machine's files"

    def head(self, uri: str) -> ObjectInfo | None:
        with _translated("look at", uri):
            try:
                status = os.stat(uri)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _info(uri, status) if os.path.isfile(uri) else None

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        with _translated("list", prefix):
            for path in _files(prefix[: prefix.rfind("/") + 1], prefix, start_after):
                if _PARTIAL not in path:
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        yield _info(path, os.stat(path))

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        with _translated("read", pin.uri):
            try:
                file = open(pin.uri, "rb", buffering=0)  # noqa: SIM115  closed below
            except FileNotFoundError:
                raise _changed(pin, "was deleted") from None
            with file:
                body = _read_pinned(file.fileno(), pin, start, end - start)
        if len(body) != end - start:
            raise _changed(pin, f"gave {len(body)} bytes from {start} where {end - start} were expected")
        return body

    def get(self, uri: str) -> bytes | None:
        with _translated("read", uri):
            try:
                with open(uri, "rb") as file:
                    return file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def create(self, uri: str, body: bytes) -> bool:
        with _translated("write", uri), _partial(uri, [body]) as partial:
            try:
                os.link(partial, uri)
            except FileExistsError:
                return self.get(uri) == body
            _sync_folder(uri)
            return True

    def replace(
        self,
        uri: str,
        parts: Iterable[bytes],
        size_bytes: int,
        *,
        metadata: dict[str, str] | None = None,
        before: Callable[[], None] = nothing,
    ) -> ObjectInfo:
        with _translated("write", uri), _partial(uri, parts) as partial:
            info = _info(uri, os.stat(partial))
            assert size_bytes in {-1, info.size_bytes}, f"{info.size_bytes} bytes written, {size_bytes} announced"
            before()
            os.replace(partial, uri)
            _sync_folder(uri)
            return info

    def delete(self, uri: str) -> None:
        with _translated("delete", uri), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(uri)

    def now(self, uri: str) -> datetime:
        return datetime.now(UTC)

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        with _translated("list", prefix):
            folder = prefix[: prefix.rfind("/") + 1]
            for path in _files(folder, prefix, ""):
                if _PARTIAL in path:
                    with suppress(FileNotFoundError):
                        yield Unfinished(path, "", datetime.fromtimestamp(os.stat(path).st_mtime, UTC))

    def abandon(self, write: Unfinished) -> None:
        self.delete(write.uri)


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
    return ObjectInfo(uri, status.st_size, etag, None, datetime.fromtimestamp(status.st_mtime, UTC))


def _files(folder: str, prefix: str, start_after: str) -> Iterator[str]:
    """Files below `folder` in byte order of their full path; a folder sorts as its name with a slash."""
    try:
        with os.scandir(folder or "/") as entries:
            near = (entry for entry in entries if entry.path.startswith(prefix) or prefix.startswith(f"{entry.path}/"))
            found = [(entry.path + "/" if entry.is_dir() else entry.path) for entry in near]
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in sorted(found, key=os.fsencode):
        if path.endswith("/"):
            if (path.startswith(prefix) or prefix.startswith(path)) and not _wholly_before(path, start_after):
                yield from _files(path, prefix, start_after)
        elif path.startswith(prefix) and path > start_after:
            yield path


def _wholly_before(folder: str, start_after: str) -> bool:
    return folder < start_after and not start_after.startswith(folder)


def _read_pinned(descriptor: int, pin: ObjectInfo, start: int, length: int) -> bytes:
    """Compare the file with the pin before and after, so that a write in between is noticed."""
    pieces: list[bytes] = []
    _check(descriptor, pin)
    missing = length
    while missing > 0 and (piece := os.pread(descriptor, missing, start + length - missing)):
        pieces.append(piece)
        missing -= len(piece)
    _check(descriptor, pin)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check(descriptor: int, pin: ObjectInfo) -> None:
    if _info(pin.uri, os.fstat(descriptor)).etag != pin.etag:
        raise _changed(pin, "was replaced")


def _changed(pin: ObjectInfo, what: str) -> InputChanged:
    return InputChanged(f"{pin.uri} {what} while it was being used", hint="run again once nobody writes to it")


@contextmanager
def _partial(uri: str, parts: Iterable[bytes]) -> Iterator[str]:
    """The path of a synced temporary file with the parts, beside the object's place; removed in any case."""
    folder = os.path.dirname(uri)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{_PARTIAL}{secrets.token_hex(8)}")
    try:
        with open(path, "xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _sync_folder(uri: str) -> None:
    """Make a new name survive a power loss."""
    descriptor = os.open(os.path.dirname(uri), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(action: str, uri: str) -> Iterator[None]:
    """The one place where an OSError becomes a sentence."""
    try:
        yield
    except BatchError:
        raise
    except PermissionError:
        raise PermissionDenied(
            f"no permission to {action} {uri}", hint="check the owner and mode of the path"
        ) from None
    except IsADirectoryError:
        raise InputMissing(f"{uri} is a folder, not a file", hint="end it with '/' to mean all files in it") from None
    except NotADirectoryError:
        raise OutputRefused(f"cannot {action} {uri}: a part of the path is a file, not a folder") from None
    except OSError as error:
        hint = (
            "free some space and run again: the run resumes"
            if error.errno in {errno.ENOSPC, errno.EDQUOT}
            else "check that the path can be written"
        )
        raise StorageUnavailable(f"cannot {action} {uri}: {error.strerror}", hint=hint) from None
