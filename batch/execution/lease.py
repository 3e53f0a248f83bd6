"""The lease: who may work on an output now. It saves work; what is right never depends on it.

Epoch files ``lease/<epoch:08d>`` are taken by create-once; the highest epoch rules. The holder rewrites its own file every
`BEAT_SECONDS`. Somebody else who wants the output takes the next epoch at once where the file says "released" or its holder is
a dead process of this host, and otherwise watches the file on its own monotonic clock: a change means busy, no change for
`WATCH_SECONDS` means that the holder is gone. Clocks are never compared, and If-Match is not used.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from batch.clock import Clock
from batch.errors import BatchError, Busy
from batch.execution import records
from batch.execution.holder import Holder
from batch.execution.identity import canonical
from batch.execution.receipt import now
from batch.storage import join, storage_for

TTL_SECONDS = 20.0
"""How long after its last heartbeat a holder may go on without looking again."""
BEAT_SECONDS = 5.0
WATCH_SECONDS = 1.5 * TTL_SECONDS
_POLL_SECONDS = 1.0
_RELEASE_SECONDS = 5.0
_KEPT_EPOCHS = 8
"""Behind the newest one, so that a contender that was paused for a while does not find its number free again."""

_FACTS = ("output", "job", "run_id")

_held: set[Lease] = set()
"""By this process; `release_all` is for the moment before it is ended."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch file as it was read."""

    number: int
    uri: str
    body: dict[str, Any]

    @property
    def holder(self) -> Holder | None:
        """Who took it; None where the body is not one of ours."""
        known = self.body.get("state") in {"held", "released"} and all(
            isinstance(self.body.get(name), str) for name in _FACTS
        )
        with contextlib.suppress(KeyError, TypeError):
            return Holder.of(self.body["holder"]) if known else None
        return None

    @property
    def is_free(self) -> bool:
        """Released, or held by a process that is certainly dead."""
        holder = self.holder
        if holder is None:  # not written by us: wait whether it changes, then go on
            return False
        return self.body["state"] == "released" or holder.is_dead()

    @property
    def nonce(self) -> str:
        """Changes with every heartbeat."""
        return str(self.body.get("nonce", ""))


class Lease:
    """A held lease with its heartbeat. Ask `check` before each act that others can see; `release` it in the end."""

    def __init__(self, folder: str, epoch: int, facts: dict[str, Any], clock: Clock, before: Epoch | None) -> None:
        self.epoch = epoch
        self.uri = join(folder, f"{epoch:08d}")
        self.before = before
        """The epoch that this one follows: of a run that ended, or that was lost."""
        self._folder = join(folder, "")
        self._facts = facts
        self._clock = clock
        self._sequence = 0
        self._deadline = 0.0
        self._lost = False
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def take(self) -> bool:
        """Create the epoch file; False when somebody else was first."""
        began = self._clock.monotonic()
        if not storage_for(self.uri).create(self.uri, self._body("held")):
            return False
        self._deadline = began + TTL_SECONDS
        _held.add(self)
        self._clock.start("lease", self._keep)
        return True

    def check(self) -> None:
        """Go on only as the holder. Raises `Busy` when another run has taken over."""
        if not self._lost and self._clock.monotonic() > self._deadline:
            self.renew()
        if self._lost:
            raise Busy(
                f"another run took over {self._facts['output']} while this one was not heard of for {WATCH_SECONDS:.0f} s",
                hint="nothing is lost: that run goes on from the chunks of this one",
            )

    def renew(self) -> None:
        """One heartbeat: rewrite our own epoch file, then look for a higher one."""
        began = self._clock.monotonic()
        body = self._body("held")
        storage_for(self.uri).replace(self.uri, [body], len(body))
        if any(number > self.epoch for number in _numbers(self._folder)):
            self._lost = True
        else:
            self._deadline = began + TTL_SECONDS

    def release(self) -> None:
        """Say that we are done, and clear away older epochs. Nothing here is worth failing for."""
        if self not in _held:
            return
        _held.discard(self)
        self._stop.set()
        # A heartbeat that is under way would say "held" again behind our back.
        self._clock.wait(self._idle, _RELEASE_SECONDS)
        with contextlib.suppress(BatchError):
            if not self._lost:
                body = self._body("released")
                storage_for(self.uri).replace(self.uri, [body], len(body))
            for number in _numbers(self._folder):
                if number < self.epoch - _KEPT_EPOCHS:
                    storage_for(self._folder).delete(join(self._folder, f"{number:08d}"))

    def _keep(self) -> None:
        """The heartbeat's thread. A store that does not answer costs nothing until the deadline, and then only a look."""
        while not self._clock.wait(self._stop, BEAT_SECONDS) and not self._lost:
            self._idle.clear()
            try:
                if not self._stop.is_set():
                    self.renew()
            except BatchError:
                continue
            finally:
                self._idle.set()

    def _body(self, state: str) -> bytes:
        self._sequence += 1
        return canonical(
            {
                "format": 1,
                "epoch": self.epoch,
                "state": state,
                "sequence": self._sequence,
                "nonce": secrets.token_hex(8),
                "at": now(),
                **self._facts,
            }
        )


def acquire(folder: str, *, output: str, job: str, run_id: str, clock: Clock) -> Lease:
    """Take the lease of an output (its register's folder), waiting only to see whether its holder lives.

    Raises `Busy` when it does.
    """
    place = join(folder, "lease")
    facts = {"output": output, "job": job, "run_id": run_id, "holder": Holder.myself().as_dict()}
    while True:
        top = newest(place)
        if top is not None and not top.is_free:
            _watch(top, place, clock)
        lease = Lease(place, top.number + 1 if top else 1, facts, clock, top)
        if lease.take():
            return lease


def newest(place: str) -> Epoch | None:
    """The epoch that rules in a lease folder, or None where there never was one."""
    while numbers := _numbers(join(place, "")):
        uri = join(place, f"{numbers[-1]:08d}")
        try:
            body = records.load(uri)
        except records.Unreadable:
            body = {}
        if body is not None:
            return Epoch(numbers[-1], uri, body)
    return None


def release_all() -> None:
    """Release what this process still holds: the last thing before it is ended from outside."""
    for lease in list(_held):
        lease.release()


def _watch(top: Epoch, place: str, clock: Clock) -> None:
    """Return when the holder has released it or is gone. Raises `Busy` when it, or a successor, shows a sign of life."""
    started = clock.monotonic()
    while clock.monotonic() - started < WATCH_SECONDS:
        clock.wait(threading.Event(), _POLL_SECONDS)
        found = newest(place)
        if found is None or (found.number == top.number and found.is_free):
            return
        if found.number != top.number or found.nonce != top.nonce:
            if found.is_free:
                return
            raise Busy(_holder_sentence(found), hint="it will finish, or be taken over when it stops: try again later")


def _holder_sentence(found: Epoch) -> str:
    holder = found.holder
    if holder is None:
        return f"somebody else writes to the lease {found.uri}"
    return (
        f"{found.body['output']} is being worked on by job '{found.body['job']}' (run {found.body['run_id']}, "
        f"process {holder.pid} on {holder.host})"
    )


def _numbers(folder: str) -> list[int]:
    names = (info.uri[len(folder) :] for info in storage_for(folder).list(folder))
    return sorted(int(name) for name in names if name.isdecimal())
