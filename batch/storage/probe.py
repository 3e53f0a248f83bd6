"""What a store really does, tried in the root itself: whether it creates once, keeps bytes, lists what is there and pins reads.

Some S3-compatible servers accept a conditional write and ignore the condition, and some pass when asked politely and fail in a
race. Every decision of the product rests on that condition, so it is tried before the first run and again once a month.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from batch.errors import BatchError, InputChanged, StorageUnavailable
from batch.storage import Storage, join, storage_for

CREATE_ONCE = "create-once"
VALID_FOR = timedelta(days=30)
RACERS = 2
ROUNDS = 5
BODY_BYTES = 100_000
"""More than the 64 KiB in which servers and clients buffer."""

_known: set[tuple[str, ...]] = set()
"""(root, endpoint) that this process has found to be sound, or, with `CREATE_ONCE` behind, to be so but for that."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that every run relies on, and whether it held."""

    name: str
    is_kept: bool
    found: str
    """What was seen, as the end of a sentence about the store."""
    hint: str = ""
    """What to do where it is not kept."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe of one root found."""

    root: str
    endpoint: str
    skew_seconds: float
    """How far this machine's clock is ahead of the store's; negative: behind."""
    promises: tuple[Promise, ...]

    @property
    def broken(self) -> list[Promise]:
        """The promises that are not kept."""
        return [promise for promise in self.promises if not promise.is_kept]

    def error(self, promise: Promise) -> StorageUnavailable:
        """The refusal of a run because of a promise that is not kept."""
        return StorageUnavailable(
            f"The store at {self.endpoint} {promise.found} (tried in {self.root})", hint=promise.hint
        )


def probe(root: str) -> Verdict:
    """Try the store in `root`, with about 30 small requests below ``<root>/probe/``; nothing stays behind.

    Raises `PermissionDenied` or `StorageUnavailable` where it cannot be listed, written or read at all.
    """
    storage = storage_for(root)
    # The Date header is in whole seconds: half a second is the middle of what it may mean.
    skew = (datetime.now(UTC) - storage.now(root)).total_seconds() - 0.5
    with _place(storage, root) as place:
        promises = tuple(check(storage, place) for check in _CHECKS)
    return Verdict(root, storage.endpoint(root), 0.0 if abs(skew) <= 1 else skew, promises)


def enforced(root: str, *, single_writer: bool) -> None:
    """Refuse a store on which a run could lose or double something. One request where it was found sound within 30 days.

    `single_writer`: the job says that nobody else ever runs it, so the store need not create once.

    Raises `StorageUnavailable` naming the promise that is not kept.
    """
    known = (root, storage_for(root).endpoint(root))
    if known in _known or (single_writer and (*known, CREATE_ONCE) in _known):
        return
    if _stored(root) == []:
        _known.add(known)
        return
    verdict = probe(root)  # also where it was broken the last time: an upgraded server is sound at once
    for promise in verdict.broken:
        if not (single_writer and promise.name == CREATE_ONCE):
            with suppress(BatchError):  # the refusal is the one to report
                _store(verdict)
            raise verdict.error(promise)
    if verdict.broken:  # of no use to another process, which may run a job that does not say so
        _known.add((*known, CREATE_ONCE))
    else:
        _store(verdict)
        _known.add(known)


def known_refusal(root: str, *, single_writer: bool) -> StorageUnavailable | None:
    """The refusal that the last run under the root met, without trying the store; None where it was sound or is not known."""
    for promise in _stored(root) or []:
        if not (single_writer and promise.name == CREATE_ONCE):
            return Verdict(root, storage_for(root).endpoint(root), 0.0, (promise,)).error(promise)
    return None


def _record_uri(root: str) -> str:
    endpoint = storage_for(root).endpoint(root)
    return join(root, "probe", f"{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}.json")


def _store(verdict: Verdict) -> None:
    """Remember a verdict in the root: format 1 says that all is sound, format 2 names what is not."""
    at = storage_for(verdict.root).now(verdict.root).isoformat()
    document: dict[str, Any] = {"format": 1, "endpoint": verdict.endpoint, "at": at}
    if verdict.broken:
        broken = [{"name": one.name, "found": one.found, "hint": one.hint} for one in verdict.broken]
        document |= {"format": 2, "broken": broken}
    body, uri = json.dumps(document).encode(), _record_uri(verdict.root)
    storage_for(uri).replace(uri, [body], len(body))


def _stored(root: str) -> list[Promise] | None:
    """The broken promises that a stored verdict names, if it is there and young; None for one that cannot be read."""
    body = storage_for(root).get(_record_uri(root))
    try:
        found = json.loads(body or b"")
        is_young = datetime.now(UTC) - datetime.fromisoformat(found["at"]) < VALID_FOR
        if not is_young or found["format"] not in {1, 2}:
            return None
        broken = found["broken"] if found["format"] == 2 else []
        promises = [Promise(str(one["name"]), False, str(one["found"]), str(one["hint"])) for one in broken]
        return promises if promises or found["format"] == 1 else None
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _place(storage: Storage, root: str) -> Iterator[str]:
    """A folder for this probe alone, removed afterwards as far as that is permitted."""
    place = join(root, "probe", secrets.token_hex(8))
    try:
        yield place
    finally:
        with suppress(BatchError):  # deleting is a courtesy, and the first error is the one to report
            for info in list(storage.list(f"{place}/")):
                storage.delete(info.uri)


def _creates_once(storage: Storage, place: str) -> Promise:
    hint = (
        "use a store that honours If-None-Match, or, only if nothing else ever runs this job or writes to this root, "
        "set [run] single_writer = true"
    )
    storage.create(f"{place}/once", b"first")
    second = storage.create(f"{place}/once", b"second")
    if storage.refuses_conditions:
        return Promise(CREATE_ONCE, False, 'answers conditional writes with "not implemented" (501)', hint)
    if second or storage.get(f"{place}/once") != b"first":
        return Promise(CREATE_ONCE, False, "accepts If-None-Match and overwrites the object all the same", hint)
    with ThreadPoolExecutor(RACERS) as pool:
        for number in range(ROUNDS):
            winners = _race(storage, f"{place}/race-{number}", pool)
            if len(winners) != 1 or storage.get(f"{place}/race-{number}") != winners[0]:
                found = f"let {len(winners)} of {RACERS} concurrent creators of one object win"
                return Promise(CREATE_ONCE, False, found, hint)
    return Promise(CREATE_ONCE, True, f"creates an object once, also for {RACERS} at a time")


def _race(storage: Storage, uri: str, pool: ThreadPoolExecutor) -> list[bytes]:
    """The bodies whose creators were told that they won."""
    together = threading.Barrier(RACERS)
    bodies = [f"racer {number}".encode() for number in range(RACERS)]

    def create(body: bytes) -> bool:
        together.wait()
        return storage.create(uri, body)

    return [body for body, won in zip(bodies, pool.map(create, bodies), strict=True) if won]


def _keeps_bytes(storage: Storage, place: str) -> Promise:
    hint = "something between here and the store changes what is sent: look for a proxy, or upgrade the server"
    body = bytes(range(256)) * 2 + b"\r\n\x1a\x00" + secrets.token_bytes(BODY_BYTES)
    pin = storage.replace(f"{place}/bytes", [body], len(body), metadata={"commit": "probe:1"})
    if pin.size_bytes != len(body) or storage.get(pin.uri) != body:
        return Promise("bytes", False, f"gives other bytes back than the {len(body)} it was sent", hint)
    if storage.read(pin, 500, 520) + storage.read(pin, 65_530, 65_560) != body[500:520] + body[65_530:65_560]:
        return Promise("bytes", False, "gives other bytes for a range than the object holds there", hint)
    if pin.uri.startswith("s3://") and pin.metadata.get("commit") != "probe:1":
        return Promise("bytes", False, "drops the metadata of an object, by which a run knows its own output", hint)
    return Promise("bytes", True, "keeps bytes, ranges and metadata as they were sent")


def _lists_what_is_there(storage: Storage, place: str) -> Promise:
    hint = "use a store whose listings are consistent: a run resumes from what a listing shows"
    wanted = [f"{place}/list/{name}" for name in ("a", "b c", "é")]
    for uri in wanted:
        storage.create(uri, b"x")
    if [info.uri for info in storage.list(f"{place}/list/")] != wanted:
        return Promise("listing", False, "does not list objects right after they were stored", hint)
    return Promise("listing", True, "lists an object as soon as it is stored")


def _pins_reads(storage: Storage, place: str) -> Promise:
    hint = "use a store whose objects have an ETag that changes with their bytes"
    pin = storage.replace(f"{place}/pin", [b"before"], 6)
    storage.replace(pin.uri, [b"behind"], 6)
    try:
        storage.read(pin, 0, 6)
    except InputChanged:
        return Promise("pinned reads", True, "tells when an object was replaced since it was looked at")
    return Promise("pinned reads", False, "does not tell that an object was replaced since it was looked at", hint)


_CHECKS: tuple[Callable[[Storage, str], Promise], ...] = (
    _creates_once,
    _keeps_bytes,
    _lists_what_is_there,
    _pins_reads,
)
