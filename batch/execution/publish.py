"""Publishing: a repeatable, byte-identical act that follows from the commit.

Which run's commit an output key holds is written in its register first; whoever publishes looks again before each attempt at the
write and afterwards, and, if outrun, publishes the newest entry instead. So the key ends with the newest entry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from batch.errors import StorageUnavailable
from batch.execution import ownership, rejects_file
from batch.execution.chunk import ChunkDamaged, ChunkRecord
from batch.execution.committed import COMMIT_KEY, Commits, Files
from batch.execution.register import Entry, newest, numbers
from batch.storage import join, storage_for


@dataclass(frozen=True, slots=True)
class Written:
    """One file as a run's commit stands for it."""

    uri: str
    size_bytes: int
    sha256: str
    etag: str | None
    """None where another run's file stands there: a newer one came in between."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Published:
    """One output and its rejects file; the latter is None where there is nothing to tell."""

    output: Written
    rejects: Written | None


class _Outrun(Exception):
    """A newer entry stands in the register: what is being written must not take effect."""


def publish(root: str, output: str, folder: str, commits: Commits) -> Published:
    """Store what the newest register entry stands for, rejects file first, until it is the newest.

    Tells of the files of the run in `folder`. Raises `ChunkDamaged` before its output is written where one of its staged chunks is
    gone or not what the commit says.
    """
    while True:
        entry = newest(root, output)
        assert entry is not None, "a run enters itself before it publishes"
        ruling = join(root, "runs", entry.document["job"], entry.run_id)
        try:
            published = _write(root, commits.files(ruling, output), entry)
        except _Outrun:
            continue
        except StorageUnavailable as error:
            # A newer publisher may have replaced the object before it could be confirmed: then this was no failure.
            if numbers(root, output)[-1] != entry.n:
                continue
            # Another run's chunks are gone because it is done and was cleaned: its file is its own affair, and we are over.
            if ruling == folder or not isinstance(error, ChunkDamaged):
                raise
            return _unwritten(commits.files(folder, output))
        if numbers(root, output)[-1] == entry.n:
            return published if ruling == folder else _unwritten(commits.files(folder, output))


def write_rejects(
    root: str, job: str, spec: dict[str, Any], records: dict[int, ChunkRecord], mark: str, look: Callable[[], None]
) -> Written:
    """Store a rejects file; `look` is asked before each attempt at the write, and raises to stop it."""

    def before(sha256: str) -> None:
        ownership.remember_rejects(root, job, spec["uri"], sha256, mark)
        look()

    return _store(spec["uri"], rejects_file.bytes_of(spec, records), -1, mark, before)


def _write(root: str, files: Files, entry: Entry) -> Published:
    job, mark = str(entry.document["job"]), str(entry.document["commit"])

    def look() -> None:
        if numbers(root, files.output)[-1] != entry.n:
            raise _Outrun

    rejects = None
    if files.rejects is not None and rejects_file.is_wanted(files.rejects):
        rejects = write_rejects(root, job, files.rejects, files.records, mark, look)
    return Published(_store(files.output, files.bytes(), files.size_bytes, mark, lambda _: look()), rejects)


def _unwritten(mine: Files) -> Published:
    """What our files would be, where a newer run's stand: a receipt tells it, so that they can be put back and verified."""
    rejects = None
    if mine.rejects is not None and mine.rejects["rows"]:
        rejects = _measured(mine.rejects["uri"], rejects_file.bytes_of(mine.rejects, mine.records))
    return Published(_measured(mine.output, mine.bytes()), rejects)


def _measured(uri: str, pieces: Iterable[bytes]) -> Written:
    digest, size_bytes = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size_bytes += len(piece)
    return Written(uri, size_bytes, digest.hexdigest(), None)


def _store(uri: str, pieces: Iterable[bytes], size_bytes: int, mark: str, before: Callable[[str], None]) -> Written:
    """Store one file; `before` is given the sha256 of all its bytes, right before each attempt to make them visible.

    A publisher that was paused for minutes, or has waited for the store, looks at the register there: without that it would put
    an old file over the newer one until its next look.
    """
    digest = hashlib.sha256()
    info = storage_for(uri).replace(
        uri,
        _hashed(pieces, digest),
        size_bytes,
        metadata={COMMIT_KEY: mark},
        before=lambda: before(digest.hexdigest()),
    )
    return Written(uri, info.size_bytes, digest.hexdigest(), info.etag)


def _hashed(pieces: Iterable[bytes], digest: Any) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece
