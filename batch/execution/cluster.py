"""What engines on other hosts have in common: what a worker is sent once, how it scores, and what it can read.

A worker needs what `score_chunk` needs: the plan, the models, and a way to the storage. It is sent the first two once per run and reads
and stores for itself; only tasks and records travel.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from batch.errors import BatchError, UsageError
from batch.execution.chunk import ChunkRecord
from batch.execution.identity import library_versions
from batch.execution.plan import Plan, PlannedFile, Task
from batch.execution.process import prepare_process
from batch.formats.text import UnprovenStart
from batch.storage import Source, join, storage_for

PIECE_BYTES = 8 << 20
Outcome = ChunkRecord | BatchError | UnprovenStart
"""What a worker gives back. Errors too come back as values: a cluster would log them as failures of its own."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is sent once; picklable, and small: 10,000 tasks stay with the coordinator."""

    plan: Plan
    resolved: Any
    pickles: tuple[str, ...]
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    """Of this engine: two runs in one worker do not mix."""
    libraries: dict[str, str] = field(default_factory=library_versions)


def make_work(plan: Plan, resolved: Any, pickles: Collection[str]) -> Work:
    """The work of a run, without its tasks, and with inputs that every host can read."""
    return Work(replace(plan, tasks=(), files=tuple(_share(plan))), resolved, tuple(pickles))


def forget_shared(work: Work) -> None:
    """Delete the decompressed copies that the workers have read; `clean` would, some days later."""
    with suppress(BatchError):
        for file in work.plan.files:
            if file.pin.uri != file.name:
                storage_for(file.pin.uri).delete(file.pin.uri)


def _share(plan: Plan) -> Iterator[PlannedFile]:
    """The files of a plan; a decompressed copy, which lies in a folder of this host, is put under the root first."""
    for number, file in enumerate(plan.files):
        if file.pin.uri == file.name:
            yield file
            continue
        uri = join(plan.folder, "input", f"{number:06d}")
        pin = storage_for(uri).head(uri)
        if pin is None or pin.size_bytes != file.pin.size_bytes:
            pin = storage_for(uri).replace(uri, _pieces(file.source), file.pin.size_bytes)
        yield replace(file, pin=pin)


def _pieces(source: Source) -> Iterator[bytes]:
    for start in range(0, source.size_bytes, PIECE_BYTES):
        yield source.read(start, min(start + PIECE_BYTES, source.size_bytes))


class Worker:
    """One process of a cluster: it loads the models of a run when the first of its chunks arrives, and keeps them for the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Any] = {}

    def score(self, token: str, work: Callable[[], Work], task: Task) -> Outcome:
        """Score a chunk; `work` gives what the run has sent, and is called for its first chunk only."""
        from batch.execution.score import score_chunk

        try:
            with self._lock:  # several threads of one worker load one set of models
                if token not in self._open:
                    self._open.clear()  # of a run before this one
                    self._open[token] = _open(work())
                context = self._open[token]
            return score_chunk(context, task)
        except (BatchError, UnprovenStart) as error:
            return error

    def drop(self, token: str) -> None:
        """Free what a run has loaded."""
        with self._lock:
            self._open.pop(token, None)


WORKER = Worker()
"""Of this process."""


def _open(work: Work) -> Any:
    """Raises `UsageError` where this worker would write other bytes than the coordinator, and what loading raises."""
    prepare_process()
    from batch.execution.engine import one_thread_each
    from batch.execution.score import open_context

    if (mine := library_versions()) != work.libraries:
        odd = [
            f"{name} {mine.get(name)} instead of {version}"
            for name, version in work.libraries.items()
            if mine.get(name) != version
        ]
        raise UsageError(
            f"worker process {os.getpid()} on {os.uname().nodename} has {', '.join(odd)}",
            hint="start the workers in the environment of the coordinator: other versions may score otherwise",
        )
    return open_context(work.plan, work.resolved, work.pickles, one_thread_each)
