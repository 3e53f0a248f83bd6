"""The watcher: looks into the drop folder again and again, and scores what it finds there, each version once.

The listing is the truth; an event only has it made sooner. A file that fails is told of and tried again with growing pauses, then
parked with its error while the others go on. What is wrong with the store or with the model is no file's fault and costs none a try.

The job's on-failure hook is called once per file, when it is parked, and once per outage, when no file can be scored: a try that is made
again in a minute is nothing to call somebody for.
"""

from __future__ import annotations

import random
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from batch.clock import SYSTEM, Clock
from batch.errors import (
    BatchError,
    Busy,
    InputChanged,
    InputMissing,
    Interrupted,
    ModelFailed,
    ModelRefused,
    OutputRefused,
    PermissionDenied,
    StorageUnavailable,
    UsageError,
)
from batch.execution import attempts, ended, history, hook, records
from batch.execution.coordinate import Progress
from batch.execution.metrics import End
from batch.execution.receipt import named, unstarted
from batch.job import Job
from batch.storage import ObjectInfo, storage_for
from batch.triggers import drop
from batch.triggers.drop import Failure

AMONG: Final = 16
"""A watcher takes one of so many oldest files, by chance: several watchers then rarely want the same one. And where the store fails
over so many, it is the store."""


class Wake(Protocol):
    """What the watcher waits on between two looks."""

    def wait(self, seconds: float) -> object:
        """Return after the time, or earlier when something may have been dropped."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that happened, for the log."""

    event: str
    """One of these.

    done, failed, parked; moved, stays (it could not be moved); gone (deleted or replaced); left (alone, for its name or form); away
    (the store does not answer, or there is no model: no file can be scored); notice (what a run goes on without).
    """
    uri: str
    exit_code: int = 0
    message: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Watcher:
    """One process that looks at one drop folder."""

    job: Job
    tell: Callable[[Told], None]
    progress: Progress | None = None
    working: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered while a file is scored: the heartbeat of a container."""
    clock: Clock = SYSTEM
    """Of the leases."""
    dice: random.Random = field(default_factory=random.Random)
    done: dict[str, bool] = field(default_factory=dict)
    """Subject -> whether it was given up on; as far as this watcher knows."""
    exit_code: int = 0
    """Of the first file that failed in the last poll."""
    soon: float | None = None
    """Seconds after which something that was not ready in the last poll will be."""

    def __post_init__(self) -> None:
        drop.check_folder(self.job)
        self._sentinels = drop.Sentinels(self.job)
        self._knows = False
        self._told: set[tuple[str, str]] = set()
        self._outage = ""
        """The error code of what no file could be scored for in the last poll; the hook was called for it."""
        self._suspects: set[str] = set()
        """Subjects over which the store failed in the last poll: they come last, so that they keep no other file waiting."""

    @property
    def has_listed(self) -> bool:
        """Whether the folder could be looked at, ever."""
        return self._knows

    def poll(self) -> int:
        """Look once, and score what waits; how many files were done.

        Raises `StorageUnavailable` or `PermissionDenied` where the store does not do its part, `ModelRefused` where no file can be
        scored, and `UsageError` for the job itself.
        """
        try:
            done = self._look()
        except (StorageUnavailable, PermissionDenied, ModelRefused, InputMissing) as error:
            if error.code != self._outage:
                self._call(ended.end_of(self.job, error, "watch"), self.job.watch.prefix)
            self._outage = error.code
            raise
        self._outage = ""
        return done

    def _look(self) -> int:
        self.exit_code, self.soon = 0, None
        found = drop.listing(self.job)
        if not self._knows:
            self.done |= history.done_subjects(self.job.root, self.job.name)
            self._knows = True
        self._tell_once((info for info in found if not drop.is_text(info)), "its name is not UTF-8: it is left alone")
        found = [info for info in found if drop.is_text(info)]
        if not found:
            return 0
        at = storage_for(self.job.watch.prefix).now(self.job.watch.prefix)
        ready, resting = drop.ready(self.job, found, self._sentinels, at)
        manifests = [info for info in found if info.uri in self._sentinels.unreadable]
        self._tell_once(manifests, 'is not a manifest: {"files": [{"uri": "…"}]} is')
        self._look_again((info.modified_at - at).total_seconds() + drop.settle_seconds(self.job) for info in resting)
        waiting = [info for info in ready if drop.subject_of(info) not in self.done]
        done = self._work(waiting, self._owners(ready), at) if waiting else 0
        self._tidy(ready)
        return done

    def _work(self, waiting: list[ObjectInfo], owners: dict[str, ObjectInfo], at: datetime) -> int:
        """Score one file after the other. Where the store fails over some and not over others, it is not the store."""
        failed = drop.failures(self.job)
        held: list[tuple[ObjectInfo, BatchError]] = []
        done = 0
        for info in self._in_turn(waiting):
            before = failed.get(drop.subject_of(info))
            if not self._is_due(before, at):
                continue
            try:
                done += self._take(info, before, owners)
            except (StorageUnavailable, PermissionDenied) as error:
                self._ask_store()
                held.append((info, error))
                if not done and len(held) >= AMONG:
                    break
        self._suspects = {drop.subject_of(info) for info, _ in held}
        if held and not done:
            raise held[0][1]
        for info, fault in held:
            self._failed(info, failed.get(drop.subject_of(info)), fault, fault.exit_code, owners)
        return done

    def _ask_store(self) -> None:
        """Raise what the store says where it is away altogether: each file would wait for it as long as the last one did."""
        for place in (self.job.root, self.job.watch.prefix):
            storage_for(place).now(place)

    def _tell_once(self, strange: Iterable[ObjectInfo], why: str) -> None:
        """What is wrong with the folder itself, once per version."""
        for info in strange:
            if (info.uri, info.etag) not in self._told:
                self._told.add((info.uri, info.etag))
                self.tell(Told("left", info.uri.encode(errors="backslashreplace").decode(), message=why))

    def _look_again(self, waits: Iterable[float]) -> None:
        self.soon = min(waits if self.soon is None else (self.soon, *waits), default=self.soon)

    def _in_turn(self, waiting: list[ObjectInfo]) -> Iterator[ObjectInfo]:
        rest = [info for info in waiting if drop.subject_of(info) not in self._suspects]
        while rest:
            yield rest.pop(self.dice.randrange(min(AMONG, len(rest))))
        yield from (info for info in waiting if drop.subject_of(info) in self._suspects)

    def _tidy(self, ready: list[ObjectInfo]) -> None:
        """Move what is done out of the way, where the job asks for it; what cannot be moved stays, and is told of."""
        if self.job.watch.after != "move":
            return
        for info in ready:
            if self.done.get(drop.subject_of(info)) is not False:
                continue
            try:
                target = drop.move_away(self.job, info)
            except BatchError as error:
                self.tell(Told("stays", info.uri, error.exit_code, error.message, {"hint": error.hint}))
            else:
                if target:
                    self.tell(Told("moved", info.uri, message=target))

    def _owners(self, ready: list[ObjectInfo]) -> dict[str, ObjectInfo]:
        """What a run would write -> the file that it is of: one that is done, else the oldest."""
        owners: dict[str, ObjectInfo] = {}
        for info in sorted(ready, key=lambda info: self.done.get(drop.subject_of(info)) is not False):
            places = drop.places_of(self.job, info)
            if not any(owners.get(place, info).uri != info.uri for place in places):
                owners.update(dict.fromkeys(places, info))
        return owners

    def _is_due(self, before: Failure | None, at: datetime) -> bool:
        """Whether it is a file's turn after a failure."""
        if before is None or before.count >= self.job.watch.attempts:
            return True
        wait = (_next_try(self.job, before) - at).total_seconds()
        if wait > 0:
            self._look_again([wait])
        return wait <= 0

    def _take(self, info: ObjectInfo, before: Failure | None, owners: dict[str, ObjectInfo]) -> bool:
        """Score one file; whether it is done. Raises what is no file's fault."""
        taken = [owners[place] for place in drop.places_of(self.job, info) if owners.get(place, info).uri != info.uri]
        try:
            if taken:
                raise OutputRefused(
                    f"what {info.uri} gives would be written over what {taken[0].uri} gives",
                    hint="give it a name of its own; mended rejects go to batch-predict retry",
                )
            with self.working():
                self._score(info)
        except Busy:
            return False  # another watcher is at it
        except (InputChanged, InputMissing) as error:
            if not self._is_gone(info):
                self._failed(info, before, error, error.exit_code, owners)
            return False
        except (StorageUnavailable, PermissionDenied, UsageError, Interrupted):
            raise
        except BatchError as error:
            if isinstance(error, ModelRefused) and not isinstance(error, ModelFailed):
                raise  # it would park all of them
            self._failed(info, before, error, error.exit_code, owners)
            return False
        except Exception as error:  # a bug: one file's failure is not the others'
            bug = BatchError(f"a bug: {type(error).__name__}: {error}")
            self._failed(info, before, bug, 1, owners, traceback=traceback.format_exc())
            return False
        return True

    def _score(self, info: ObjectInfo) -> None:
        job = self.job.model_copy(update={"input": self.job.input.model_copy(update={"uri": info.uri})})

        def beside(receipt: dict[str, Any]) -> None:
            records.replace(drop.receipt_uri(receipt["output"][0]["uri"]), receipt)

        receipt = ended.run(
            job, dropped=info, once=True, trigger="watch", progress=self.progress, told=beside, clock=self.clock,
            notice=lambda text: self.tell(Told("notice", info.uri, message=text)), weigh=ended.never_call,
        )  # fmt: skip
        document = receipt.as_dict()
        self.done[drop.subject_of(info)] = receipt.state == "parked"
        if not receipt.already_done:
            facts = {key: document[key] for key in ("run_id", "state", "rows")}
            self.tell(Told("done", info.uri, message=document["output"][0]["uri"], facts=facts))

    def _is_gone(self, info: ObjectInfo) -> bool:
        """Deleting or replacing a file is harmless: its version is nobody's any more."""
        current = storage_for(info.uri).head(info.uri)
        if current is not None and current.etag == info.etag:
            return False
        self.tell(Told("gone", info.uri, message="deleted or replaced since it was listed"))
        return True

    def _failed(
        self,
        info: ObjectInfo,
        before: Failure | None,
        error: BatchError,
        exit_code: int,
        owners: dict[str, ObjectInfo],
        **more: str,
    ) -> None:
        """Tell of a failure and count it; the last one parks the file."""
        self.exit_code = self.exit_code or exit_code
        count = (before.count if before is not None else 0) + 1
        drop.record_failure(self.job, info, count, exit_code, error.as_dict())
        facts: dict[str, Any] = {"attempt": f"{count} of {self.job.watch.attempts}", "hint": error.hint, **more}
        if count < self.job.watch.attempts:
            self._look_again([self.job.watch.backoff * 2 ** (count - 1)])
            self.tell(Told("failed", info.uri, exit_code, error.message, facts))
            return
        place = drop.output_of(self.job, info)
        is_owner = place and owners.get(place, info).uri == info.uri
        receipt = error.receipt or self._receipt(info, error, exit_code)
        drop.park(self.job, info, receipt, exit_code, count, drop.receipt_uri(place) if is_owner else "")
        self.done[drop.subject_of(info)] = True
        self.tell(Told("parked", info.uri, exit_code, error.message, facts))
        self._call(End(receipt, exit_code), info.uri)

    def _call(self, end: End, uri: str) -> None:
        with self.working():
            hook.call(self.job, end, lambda text: self.tell(Told("notice", uri, message=text)))

    def _receipt(self, info: ObjectInfo, error: BatchError, exit_code: int) -> dict[str, Any]:
        """Of a failure that left no record, because no run began: `runs` tells of it too."""
        subject = drop.subject_of(info)
        receipt = unstarted(self.job.name, "watch", error.as_dict()) | {"subject": subject, "input": [named(info)]}
        attempts.refused(self.job.root, self.job.name, subject, "watch", exit_code, receipt)
        return receipt


def _next_try(job: Job, before: Failure) -> datetime:
    return before.last_at + timedelta(seconds=job.watch.backoff * 2 ** (before.count - 1))


def watch(
    watcher: Watcher, *, interval: float, wake: Wake, stop: threading.Event, beat: Callable[[], None] = lambda: None
) -> None:
    """Look every `interval` seconds, or when woken, until `stop` is set; a store that is away, or a model, is told of and waited out.

    Raises `UsageError` for the job itself, `PermissionDenied` only where the first look already lacks it.
    """
    while not stop.is_set():
        beat()
        try:
            watcher.poll()
        except (StorageUnavailable, PermissionDenied, ModelRefused, InputMissing) as error:
            if isinstance(error, PermissionDenied) and not watcher.has_listed:
                raise
            watcher.tell(Told("away", watcher.job.watch.prefix, error.exit_code, error.message, {"hint": error.hint}))
        _wait(interval if watcher.soon is None else min(interval, max(0.1, watcher.soon)), wake, stop, beat)


def _wait(interval: float, wake: Wake, stop: threading.Event, beat: Callable[[], None]) -> None:
    """Wait in pieces, so that a long interval does not look like a watcher that hangs."""
    left = interval
    while left > 0 and not stop.is_set():
        piece = min(left, 20.0)
        if wake.wait(piece):
            return
        beat()
        left -= piece
