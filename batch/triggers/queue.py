"""Notifications by a queue (SQS): receives for as long as the watcher runs, and outlasts every outage of the queue.

A queue belongs to one watched prefix; any number of watchers may share it. Each message wakes one of them, and the others find
by their own poll that there is nothing left to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from batch.clock import SYSTEM, Clock
from batch.errors import BatchError, UsageError
from batch.triggers.events import Sparingly, Wake, notification_in

if TYPE_CHECKING:
    from batch.storage.s3.queue import Message, Queue

WAIT_SECONDS: Final = 20
"""Of one long poll, the longest that there is: 4,320 requests a day while nothing happens."""
FIRST_PAUSE_SECONDS: Final = 1.0
LAST_PAUSE_SECONDS: Final = 60.0
"""Between two tries while the queue is away; it doubles."""
EMPTY_SECONDS: Final = 1.0
"""An empty answer sooner than that did not wait; the next request does, so that no server is asked in a tight loop."""
STOP_SECONDS: Final = 1.0

Note = Callable[[str], None]


@contextmanager
def polling(
    url: str, wake: Wake, *, note: Note = lambda _: None, wait_seconds: int = WAIT_SECONDS, clock: Clock = SYSTEM
) -> Iterator[None]:
    """Poll in a thread of its own for as long as the block lasts. Raises `UsageError` before that for a URL that is none.

    Leaving takes at most `STOP_SECONDS`: a long poll that is under way then ends by itself behind it, and tells nothing any more.
    """
    queue = _open(url, wait_seconds)
    stop = threading.Event()
    work = threading.Thread(
        target=_poll, args=(queue, wake, stop, Sparingly(note, clock=clock), clock), name="queue", daemon=True
    )
    work.start()
    try:
        yield
    finally:
        stop.set()
        work.join(STOP_SECONDS)


def poll_queue(
    url: str,
    wake: Wake,
    stop: threading.Event,
    *,
    note: Note = lambda _: None,
    wait_seconds: int = WAIT_SECONDS,
    clock: Clock = SYSTEM,
) -> None:
    """Wake the watcher by the queue's messages until `stop` is set, and at most `wait_seconds` longer.

    A message is deleted when it has been told, also one that cannot be read or is about other objects: it would come for ever.
    Failures are told once each and waited out; only a URL that is none raises (`UsageError`).
    """
    _poll(_open(url, wait_seconds), wake, stop, Sparingly(note, clock=clock), clock)


def _open(url: str, wait_seconds: int) -> Queue:
    from batch.storage.s3.queue import Queue

    try:
        return Queue(url, wait_seconds=wait_seconds)
    except UsageError as error:
        raise UsageError(f"[watch] queue: {error.message}", hint=error.hint) from None


def _poll(queue: Queue, wake: Wake, stop: threading.Event, note: Note, clock: Clock) -> None:
    failures = 0
    try:
        while not stop.is_set():
            try:
                _receive(queue, wake, stop, note, clock)
                failures = 0
            except BatchError as error:
                queue.close()
                if not stop.is_set():
                    note(f"the queue is of no use at the moment, files are found by the poll: {_line(error)}")
                clock.wait(stop, min(LAST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures, 10)))
                failures += 1
    finally:
        queue.close()


def _receive(queue: Queue, wake: Wake, stop: threading.Event, note: Note, clock: Clock) -> None:
    asked_at = clock.monotonic()
    messages = queue.receive()
    if not messages and clock.monotonic() - asked_at < EMPTY_SECONDS:
        clock.wait(stop, EMPTY_SECONDS)
    # After a stop nobody here would act on them: they come again, to another watcher.
    if messages and not stop.is_set():
        _tell(messages, wake, note)
        queue.delete(messages)


def _tell(messages: Sequence[Message], wake: Wake, note: Note) -> None:
    for message in messages:
        notification = notification_in(message.body)
        note(notification.note)
        if notification.uris and not wake.tell(notification.uris):
            note(f"the queue also tells of objects outside {wake.prefix}; they are ignored")


def _line(error: BatchError) -> str:
    return f"{error.message} (hint: {error.hint})" if error.hint else error.message
