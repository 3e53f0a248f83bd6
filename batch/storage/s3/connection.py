"""Patience: one client per process, and the loop that outlasts an outage of the store.

botocore retries a request a few times within seconds; the loop here goes on for minutes, because an outage of a store
is longer than that and a client whose retry quota is spent fails on the first error from then on.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore import exceptions as boto

from batch.storage.s3.client import Access, make_client
from batch.storage.s3.failures import FAILURES, UNREACHED, Request, is_misdirected, is_stale, is_transient
from batch.storage.s3.refusals import Place, translated

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what."""

    retry_seconds: float = 120.0
    """Time budget of one call for outages of the store."""
    first_contact_seconds: float = 10.0
    """The budget until the store has answered once: before that a wrong address is more likely than an outage."""
    read_timeout_seconds: float = 60.0
    """Silence on an open connection that counts as a failure."""


class Connection:
    """A client that is made when it is first needed, once per process, and anew when it keeps failing."""

    def __init__(
        self,
        access: Access | None,
        patience: Patience,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._access = access
        self._patience = patience
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._client: Any = None
        self._pid = 0
        self._place = Place()
        self._answered = False

    def call(self, request: Request, operation: Callable[[Any], T]) -> T:
        """The result of `operation(client)`, tried until the budget is spent; raises classes of `batch.errors` only."""
        with translated(request, self._whereabouts):
            return self._retried(operation)

    def endpoint_url(self, request: Request) -> str:
        """Where the requests go; nothing is asked of the network."""
        with translated(request, self._whereabouts):
            return str(self.client().meta.endpoint_url)

    def client(self) -> Any:
        """The client of this process; after a fork a new one, whose lock no thread of the parent can hold."""
        if self._pid != os.getpid():
            self._lock, self._client, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._client is None:
                self._client = self._made()
            return self._client

    def _made(self) -> Any:
        """A new client, with credentials that are read anew and a full retry quota."""
        patience = self._patience
        client = make_client(
            self._access,
            # botocore tries three times, and an address where nobody answers is to be given up in time.
            connect_timeout_seconds=max(1.0, min(5.0, patience.first_contact_seconds / 3)),
            read_timeout_seconds=patience.read_timeout_seconds,
        )
        self._place = Place(str(client.meta.endpoint_url), str(client.meta.region_name))
        return client

    def _retried(self, operation: Callable[[Any], T]) -> T:
        started, failures, is_renewed = self._clock(), 0, False
        while True:
            client = self.client()
            try:
                result = operation(client)
            except FAILURES as error:
                self._answered = self._answered or isinstance(error, boto.ClientError)
                if is_stale(error) and not is_renewed:
                    is_renewed = True
                    self._discard(client)
                    continue
                failures += 1
                pause = min(20.0, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0)  # noqa: S311
                if not is_transient(error) or self._clock() - started + pause > self._budget_seconds(error):
                    raise
                if failures >= 2:
                    self._discard(client)
                self._sleep(pause)
            else:
                self._answered = True
                return result

    def _budget_seconds(self, error: Exception) -> float:
        """How long to go on: hardly, while the store has never answered, and not at all where it cannot."""
        patience = self._patience
        if self._answered or not isinstance(error, UNREACHED):
            return patience.retry_seconds
        return 0.0 if is_misdirected(error) else min(patience.first_contact_seconds, patience.retry_seconds)

    def _discard(self, client: Any) -> None:
        """Have the next call make a new client, unless another thread has seen to that already."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _whereabouts(self) -> Place:
        return self._place
