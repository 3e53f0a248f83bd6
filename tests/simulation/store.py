"""A strongly consistent store in memory whose requests are lost, doubled and late; it answers as `batch.storage.s3` does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Protocol, TypeVar

from batch.errors import BatchError, InputChanged, StorageUnavailable
from batch.storage import ObjectInfo, Unfinished, nothing
from tests.simulation.faults import ZOMBIE_WRITES
from tests.simulation.world import Actor, Process, World

T = TypeVar("T")

EPOCH = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
PATIENCE = 6
"""How often a request is tried again."""


class Hiccup(Exception):
    """No answer, or one that asks to try again."""


@dataclass(frozen=True)
class Stored:
    """One version of one object."""

    body: bytes
    etag: str
    at: float
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Upload:
    """An open multipart upload."""

    uri: str
    at: float
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Sender:
    """Whose request it is."""

    actor: Actor
    late: bool = False
    """It takes effect after its sender has stopped waiting for it."""


class Witness(Protocol):
    """Who is told of every request and of every effect, as it happens; the test itself sends as None."""

    def asked(self, sender: Sender, verb: str, uri: str) -> None: ...

    def wrote(self, sender: Sender | None, uri: str, before: Stored | None, after: Stored) -> None: ...

    def deleted(self, sender: Sender | None, uri: str, before: Stored) -> None: ...

    def listed(self, sender: Sender | None, prefix: str, uris: list[str]) -> None: ...


class SimStore:
    """`batch.storage.Storage` in memory. A process's `faults` say what becomes of its requests; the test itself is spared."""

    refuses_conditions = False

    def __init__(
        self, world: World, witness: Witness, *, root: str, published: frozenset[str], one_put_bytes: int = 1 << 20
    ) -> None:
        self.world = world
        self.witness = witness
        self.root = root
        self.published = published
        """URIs that are replaced, not created: what lands late there is told of in `scenarios.late_outputs`."""
        self.one_put_bytes = one_put_bytes
        """Larger objects are uploaded in parts."""
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Upload] = {}
        self.writes = 0
        """Requests that changed anything, so far."""

    # What the product calls.

    def head(self, uri: str) -> ObjectInfo | None:
        return self._patiently(lambda: self._ask("HEAD", uri, lambda _: self._info(uri)))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        yield from self._patiently(
            lambda: self._ask("LIST", prefix, lambda sender: self._listing(sender, prefix, start_after))
        )

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        def effect(sender: Sender | None) -> bytes:
            stored = self.objects.get(pin.uri)
            if stored is None or stored.etag != pin.etag:
                raise InputChanged(f"{pin.uri} changed while it was read", hint="Run again on the new object.")
            return stored.body[start:end]

        return self._patiently(lambda: self._ask("READ", pin.uri, effect))

    def get(self, uri: str) -> bytes | None:
        return self._patiently(lambda: self._ask("GET", uri, lambda _: self._body(uri)))

    def create(self, uri: str, body: bytes) -> bool:
        def once() -> bool:
            if self._ask("PUT-NEW", uri, lambda sender: self._put_new(sender, uri, body)):
                return True
            return self.refused(uri, body)

        return self._patiently(once)

    def refused(self, uri: str, body: bytes) -> bool:
        """Whose object stands there: a request that was sent twice is refused because of its own first copy."""
        standing = self._ask("GET", uri, lambda _: self._body(uri))
        if standing is None:
            raise Hiccup
        return standing == body

    def replace(
        self,
        uri: str,
        parts: Iterable[bytes],
        size_bytes: int,
        *,
        metadata: dict[str, str] | None = None,
        before: Callable[[], None] = nothing,
    ) -> ObjectInfo:
        rest = iter(parts)
        taken = _take(rest, self.one_put_bytes) if size_bytes <= self.one_put_bytes else b""
        if max(size_bytes, len(taken)) > self.one_put_bytes:
            return self._in_parts(uri, chain([taken], rest) if taken else rest, metadata or {}, before)
        assert size_bytes in {-1, len(taken)}, f"{len(taken)} bytes for {uri}, {size_bytes} announced"

        def put() -> None:
            before()
            self._ask("PUT", uri, lambda sender: self._put(sender, uri, taken, metadata or {}))

        self._patiently(put)
        return self._confirm(uri, len(taken))

    def delete(self, uri: str) -> None:
        self._patiently(lambda: self._ask("DELETE", uri, lambda sender: self._delete(sender, uri)))

    def now(self, uri: str) -> datetime:
        return self._patiently(lambda: self._ask("HEAD-BUCKET", self.root, lambda _: self._time(self.world.now)))

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        def effect(sender: Sender | None) -> list[Unfinished]:
            found = [(upload.uri, name, upload.at) for name, upload in self.uploads.items()]
            return [Unfinished(uri, name, self._time(at)) for uri, name, at in sorted(found) if uri.startswith(prefix)]

        yield from self._patiently(lambda: self._ask("UPLOADS", prefix, effect))

    def abandon(self, write: Unfinished) -> None:
        self._patiently(lambda: self._ask("ABORT", write.uri, lambda _: self._abort(write.upload_id)))

    # Uploads in parts.

    def _in_parts(
        self, uri: str, parts: Iterable[bytes], metadata: dict[str, str], before: Callable[[], None]
    ) -> ObjectInfo:
        standing = self.head(uri)
        name = self._patiently(lambda: self._ask("CREATE-UPLOAD", uri, lambda _: self._open(uri, metadata)))

        def complete() -> bool:
            before()
            return bool(self._ask("COMPLETE", uri, lambda sender: self._complete(sender, name)))

        try:
            sizes = [self._send(uri, name, number, part) for number, part in enumerate(parts, 1)]
            settled = self._patiently(complete)
            stored = self._confirm(uri, sum(sizes))
            if not settled and standing is not None and standing.etag == stored.etag:
                raise StorageUnavailable(f"{uri}: the store did not complete the upload")
        except BaseException:
            with suppress(BatchError, Hiccup):
                self._ask("ABORT", uri, lambda _: self._abort(name))
            raise
        return stored

    def _send(self, uri: str, name: str, number: int, part: bytes) -> int:
        self._patiently(lambda: self._ask("PART", uri, lambda _: self._part(name, number, part)))
        return len(part)

    def _confirm(self, uri: str, size_bytes: int) -> ObjectInfo:
        stored = self.head(uri)
        if stored is None or stored.size_bytes != size_bytes:
            raise StorageUnavailable(f"{uri}: {size_bytes} bytes were written, but something else stands there")
        return stored

    # Effects: each is one atomic step of the store.

    def _put_new(self, sender: Sender | None, uri: str, body: bytes) -> bool:
        if uri in self.objects:
            return False
        self._put(sender, uri, body, {})
        return True

    def _put(self, sender: Sender | None, uri: str, body: bytes, metadata: dict[str, str], etag: str = "") -> str:
        self.writes += 1
        etag = etag or hashlib.md5(body).hexdigest()
        before = self.objects.get(uri)
        self.objects[uri] = after = Stored(body, etag, self.world.now, metadata)
        self.witness.wrote(sender, uri, before, after)
        return "stored"

    def _delete(self, sender: Sender | None, uri: str) -> str:
        self.writes += 1
        before = self.objects.pop(uri, None)
        if before is not None:
            self.witness.deleted(sender, uri, before)
        return "deleted"

    def _open(self, uri: str, metadata: dict[str, str]) -> str:
        self.writes += 1
        name = f"upload-{self.writes}"
        self.uploads[name] = Upload(uri, self.world.now, metadata)
        return name

    def _part(self, name: str, number: int, part: bytes) -> str:
        self.writes += 1
        if name not in self.uploads:
            return "no such upload"
        self.uploads[name].parts[number] = part
        return "stored"

    def _complete(self, sender: Sender | None, name: str) -> bool:
        upload = self.uploads.pop(name, None)
        if upload is None:
            return False
        parts = [part for _, part in sorted(upload.parts.items())]
        digests = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
        self._put(sender, upload.uri, b"".join(parts), upload.metadata, f"{digests}-{len(parts)}")
        return True

    def _abort(self, name: str) -> str:
        self.writes += 1
        return "aborted" if self.uploads.pop(name, None) is not None else "no such upload"

    def _body(self, uri: str) -> bytes | None:
        stored = self.objects.get(uri)
        return stored.body if stored is not None else None

    def _info(self, uri: str, *, listed: bool = False) -> ObjectInfo | None:
        stored = self.objects.get(uri)
        if stored is None:
            return None
        metadata = {} if listed else dict(stored.metadata)
        return ObjectInfo(uri, len(stored.body), stored.etag, None, self._time(stored.at), metadata)

    def _listing(self, sender: Sender | None, prefix: str, start_after: str) -> list[ObjectInfo]:
        uris = sorted(uri for uri in self.objects if uri.startswith(prefix) and uri > start_after)
        self.witness.listed(sender, prefix, uris)
        return [info for uri in uris if (info := self._info(uri, listed=True)) is not None]

    def _time(self, at: float) -> datetime:
        return EPOCH + timedelta(seconds=at)

    # The wire.

    def _patiently(self, operation: Callable[[], T]) -> T:
        """The answer to a request that is sent again until it is answered, or the patience is spent."""
        for failures in range(PATIENCE):
            with suppress(Hiccup):
                return operation()
            self.world.pause(0.25 * 2**failures)
        self._give_up()
        raise StorageUnavailable("the store did not answer", hint="the same command goes on where this one stopped")

    def _ask(self, verb: str, uri: str, effect: Callable[[Sender | None], Any]) -> Any:
        """One request on its way there and back; control is handed over on both."""
        actor = self.world.current()
        if actor is None:
            return effect(None)
        process = actor.process
        process.requests += 1
        self.witness.asked(Sender(actor), verb, uri)
        fault = self._fault(process, verb, uri)
        what = f"#{process.requests} {verb} {uri.removeprefix(self.root + '/')}"
        self.world.pause(self._latency(process))
        self._befall(process, fault, "before", what)
        if fault == "refused":
            self.world.log(process, f"{what}: refused")
            raise Hiccup
        if fault in {"late", "fail late"}:
            self._send_late(actor, what, effect)
        elif fault != "fail":
            answer = effect(Sender(actor))
            self.world.log(process, f"{what} -> {_brief(answer)}{f' ({fault})' if fault else ''}")
        if fault == "double":
            self._send_late(actor, what, effect)
        self._befall(process, fault, "after", what)
        self.world.pause(self._latency(process))
        if fault in {"lost", "late"}:
            raise Hiccup
        if fault.startswith("fail"):
            self.world.log(process, f"{what}: {fault}, the store is given up")
            self._give_up()
            raise StorageUnavailable(f"{verb} {uri}: no answer", hint="the same command goes on where this one stopped")
        return answer

    def _give_up(self) -> None:
        """Note it of the process: what it could not do in its last moments is nobody's fault."""
        actor = self.world.current()
        if actor is not None:
            actor.process.gave_up = True

    def _send_late(self, actor: Actor, what: str, effect: Callable[[Sender | None], Any]) -> None:
        sender = Sender(actor, late=True)
        self.world.later(self._delay(), f"{actor.process.name}'s {what}", lambda: _brief(effect(sender)))

    def _fault(self, process: Process, verb: str, uri: str) -> str:
        if process.faults is None:
            return ""
        fault: str = process.faults.draw(process.requests, verb, uri)
        if fault in ZOMBIE_WRITES and uri in self.published and not process.faults.output_may_land_late:
            return "lost"
        return fault

    def _befall(self, process: Process, fault: str, moment: str, what: str) -> None:
        """What happens to the process itself."""
        if f"pause {moment}" in fault:
            seconds = process.faults.pause_seconds()
            self.world.log(process, f"is stopped for {seconds:.0f} s {moment} {what}")
            process.paused_until = self.world.now + seconds
            self.world.pause()
        if f"kill {moment}" in fault:
            self.world.log(process, f"{moment} {what}")
            self.world.kill(process)

    def _latency(self, process: Process) -> float:
        if process.faults is None:
            return 0.0
        kind = self.world.random.random()
        return 0.0 if kind < 0.6 else kind * 0.3 if kind < 0.96 else kind * 2.5

    def _delay(self) -> float:
        """How late a request takes effect: mostly soon, sometimes after everybody has forgotten it."""
        return self.world.random.choice([0.1, 1.0, 5.0, 30.0, 120.0]) * self.world.random.uniform(0.5, 1.5)


def _take(rest: Iterator[bytes], limit: int) -> bytes:
    """Everything, or, where that is more than the limit, as many pieces as just exceed it."""
    taken = b""
    for piece in rest:
        taken += piece
        if len(taken) > limit:
            break
    return taken


def _brief(answer: Any) -> str:
    """An answer as a word in the trace: the same in every replay, so without digests, nonces and lengths of receipts."""
    if isinstance(answer, list):
        return f"{len(answer)} objects"
    return "found" if isinstance(answer, (ObjectInfo, bytes)) else str(answer)
