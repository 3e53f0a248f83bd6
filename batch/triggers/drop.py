"""The drop folder: which versions of which objects wait to be scored, and which were scored or given up on.

Nothing here is claimed or locked, and nothing is decided: the lease of an output decides who works, and a record under ``done/``
ends it. So any number of watchers may look at one folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from batch import placeholders
from batch.errors import InputChanged, InputMissing, OutputRefused, UsageError
from batch.execution import records
from batch.execution.about import About
from batch.execution.history import PARKED
from batch.execution.inputs import is_skipped, pattern_of
from batch.execution.receipt import now
from batch.formats import strip_suffixes
from batch.job import Job
from batch.storage import ObjectInfo, join, storage_for
from batch.uri import parent

SETTLE_SECONDS_LOCAL: Final = 5.0
"""A file in a local folder may still be being written; an object is there when it is whole."""
MOVED: Final = "drop"
"""Name of the user metadata that ties a moved file to its subject."""
_COPY_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Failure:
    """How often a dropped version has failed."""

    count: int
    last_at: datetime
    """By the store's clock."""


def check_folder(job: Job) -> None:
    """Refuse a job that would watch what it writes, or write all results to one place. Raises `UsageError` or `OutputRefused`."""
    prefix = job.watch.prefix
    if not prefix:
        raise UsageError(f"job '{job.name}' watches nothing", hint='add [watch] prefix = "s3://bucket/drop/"')
    if not prefix.endswith("/"):
        raise UsageError(f"[watch] prefix {prefix} does not end in '/'", hint=f'write prefix = "{prefix}/"')
    for key, uri in (("output.uri", job.output.uri), ("rejects.uri", job.rejects.uri), ("root", join(job.root, ""))):
        if uri.startswith(prefix):
            raise OutputRefused(
                f"{key} {uri} lies inside the watched prefix {prefix}: what is written there would be read again",
                hint="write somewhere else",
            )
        if placeholders.uses_period(uri):
            raise UsageError(f"{key} {uri} is about a period, and a dropped file is not", hint="write {stem} instead")
    if not job.output.uri.endswith("/") and not placeholders.names_in(job.output.uri) & {"stem", "run_id"}:
        raise UsageError(
            f"every dropped file would be written to {job.output.uri}", hint="end it with '/', or use {stem} in it"
        )
    if job.rejects.uri and not placeholders.names_in(job.rejects.uri) & {"stem", "run_id"}:
        raise UsageError(
            f"the rejects of every dropped file would be written to {job.rejects.uri}", hint="use {stem} in it"
        )
    if job.watch.after == "move" and parent(prefix.rstrip("/")) in {"s3://", ""}:
        raise UsageError(f'after = "move" needs a prefix inside a bucket, not {prefix}', hint="watch a folder of it")


def subject_of(info: ObjectInfo) -> str:
    """What the run over a dropped version is about."""
    return About(dropped=info).subject


def listing(job: Job) -> list[ObjectInfo]:
    """Everything below the prefix, one request per 1,000 keys. Raises `InputMissing` for a local folder that is not there."""
    if not job.watch.prefix.startswith("s3://") and not os.path.isdir(job.watch.prefix):
        raise InputMissing(f"there is no folder {job.watch.prefix}", hint="check [watch] prefix, or make it")
    return list(storage_for(job.watch.prefix).list(job.watch.prefix))


def is_text(info: ObjectInfo) -> bool:
    """Whether a name can be told at all: a local file's may be any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in info.uri)


class Sentinels:
    """Which files the markers in a listing release; a manifest is read once per version."""

    def __init__(self, job: Job) -> None:
        self._name = job.watch.sentinel
        self._manifests: dict[tuple[str, str], frozenset[str]] = {}
        self.unreadable: set[str] = set()
        """Manifests that are none, or that are not whole yet."""

    def released(self, found: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
        """The files that may be taken. Without a sentinel: all of them."""
        present = {info.uri: info for info in found}
        for uri, info in present.items():
            if not self._name or (not self._is_marker(uri) and self._releases(uri, present)):
                yield info

    def _is_marker(self, uri: str) -> bool:
        name, (before, _, after) = uri.rsplit("/", 1)[-1], self._name.partition("{name}")
        return name == self._name or ("{name}" in self._name and name.startswith(before) and name.endswith(after))

    def _releases(self, uri: str, present: dict[str, ObjectInfo]) -> bool:
        marker = present.get(parent(uri) + self._name.replace("{name}", uri.rsplit("/", 1)[-1]))
        if marker is None:
            return False
        return not self._name.endswith(".json") or uri in self._named(marker)

    def _named(self, marker: ObjectInfo) -> frozenset[str]:
        key = (marker.uri, marker.etag)
        if key not in self._manifests:
            named = _files_of(marker)
            self._manifests[key] = named or frozenset()
            (self.unreadable.discard if named is not None else self.unreadable.add)(marker.uri)
        return self._manifests[key]


def _files_of(manifest: ObjectInfo) -> frozenset[str] | None:
    """What a manifest names; None where it is none, or not whole yet."""
    body = storage_for(manifest.uri).get(manifest.uri)
    try:
        named = [str(entry["uri"]) for entry in json.loads(body or b"")["files"]]
    except (ValueError, TypeError, KeyError):
        return None
    beside = parent(manifest.uri)
    return frozenset(name if "://" in name or name.startswith("/") else beside + name for name in named)


def ready(
    job: Job, found: Iterable[ObjectInfo], sentinels: Sentinels, at: datetime
) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """The files that match the pattern and are released, oldest first: those left alone for long enough at `at`, and the others.

    `at`: by the store's clock.
    """
    pattern = pattern_of(job.watch.prefix + job.watch.pattern)
    before = at - timedelta(seconds=settle_seconds(job))
    settled: list[ObjectInfo] = []
    resting: list[ObjectInfo] = []
    for info in sorted(sentinels.released(found), key=lambda info: (info.modified_at, info.uri)):
        if not is_skipped(info.uri[len(job.watch.prefix) :]) and pattern.fullmatch(info.uri):
            (settled if info.modified_at <= before else resting).append(info)
    return settled, resting


def settle_seconds(job: Job) -> float:
    """How long a file must have been left alone."""
    if job.watch.settle is not None:
        return job.watch.settle
    return 0.0 if job.watch.prefix.startswith("s3://") else SETTLE_SECONDS_LOCAL


def failures(job: Job) -> dict[str, Failure]:
    """Subject -> how often it failed: one request, and nothing is read."""
    folder = _failure_folder(job)
    found: dict[str, Failure] = {}
    for info in storage_for(folder).list(folder):
        subject = info.uri[len(folder) :].split(".", 1)[0]
        known = found.get(subject)
        last = max(known.last_at, info.modified_at) if known else info.modified_at
        found[subject] = Failure(known.count + 1 if known else 1, last)
    return found


def record_failure(job: Job, info: ObjectInfo, number: int, exit_code: int, error: dict[str, str]) -> None:
    """Count a failure where every watcher sees it."""
    document = {"format": 1, "at": now(), "uri": info.uri, "exit_code": exit_code, "error": error}
    records.create(join(_failure_folder(job), f"{subject_of(info)}.{number:08d}.json"), document)


def _failure_folder(job: Job) -> str:
    return join(job.root, "attempts", job.name, "drops", "")


def park(job: Job, info: ObjectInfo, receipt: dict[str, Any], exit_code: int, count: int, beside: str) -> None:
    """Give a dropped version up: nobody tries it again. `beside`: where its receipt stands for people, or ""."""
    document = receipt | {"state": "parked", "exit_code": exit_code, "attempts": count, "parked_at": now()}
    if beside:
        records.replace(beside, document)
    records.create(join(job.root, "done", job.name, subject_of(info), PARKED), document)


def places_of(job: Job, info: ObjectInfo) -> list[str]:
    """What a dropped file's run writes, without suffixes: its output, rejects and receipt. Empty where only the run can tell."""
    output = output_of(job, info)
    return [output, f"{output}.rejects", f"{output}.receipt"] if output else []


def output_of(job: Job, info: ObjectInfo) -> str:
    """The output of a dropped file without its format's suffix, or "" where only its run can tell."""
    template = join(job.output.uri, "{stem}") if job.output.uri.endswith("/") else strip_suffixes(job.output.uri)
    if "run_id" in placeholders.names_in(template):
        return ""
    return placeholders.render(template, stem=strip_suffixes(info.uri[len(job.watch.prefix) :]))


def receipt_uri(output: str) -> str:
    """Where the receipt of a dropped file stands: beside its output."""
    return f"{strip_suffixes(output)}.receipt.json"


def move_away(job: Job, info: ObjectInfo) -> str:
    """Move a file that is done out of the watched prefix, beside it; gives its new URI, or "" where it has changed meanwhile.

    An earlier version that was moved there stays: the later one gets its subject behind its name.
    """
    storage, mark = storage_for(info.uri), subject_of(info)
    target = f"{job.watch.prefix.rstrip('/')}-done/{info.uri[len(job.watch.prefix) :]}"
    standing = storage.head(target)
    if standing is not None and standing.metadata.get(MOVED) != mark:
        target = f"{target}.{mark}"
    pieces = (storage.read(info, start, min(start + _COPY_BYTES, info.size_bytes)) for start in _starts(info))
    try:
        storage.replace(target, pieces, info.size_bytes, metadata={MOVED: mark})
    except InputChanged:
        return ""
    current = storage.head(info.uri)
    if current is None or current.etag != info.etag:
        return ""
    storage.delete(info.uri)
    return target


def _starts(info: ObjectInfo) -> range:
    return range(0, info.size_bytes, _COPY_BYTES)
