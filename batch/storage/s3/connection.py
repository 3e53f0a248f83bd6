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
from batch.storage.s3.failures import EXPIRED, FAILURES, UNREACHED, Request, code_of, is_transient, translated

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
        self._answered = False

    def call(self, request: Request, operation: Callable[[Any], T]) -> T:
        """The result of `operation(client)`, tried until the budget is spent; raises classes of `batch.errors` only."""
        with translated(request, self._endpoint):
            return self._retried(operation)

    def endpoint_url(self, request: Request) -> str:
        """Where the requests go; nothing is asked of the network."""
        with translated(request, self._endpoint):
            return str(self.client().meta.endpoint_url)

    def client(self) -> Any:
        """The client of this process; after a fork a new one, whose lock no thread of the parent can hold."""
        if self._pid != os.getpid():
            self._lock, self._client, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._client is None:
                self._client = make_client(self._access, read_timeout_seconds=self._patience.read_timeout_seconds)
            return self._client

    def _retried(self, operation: Callable[[Any], T]) -> T:
        started, failures = self._clock(), 0
        while True:
            client = self.client()
            try:
                result = operation(client)
            except FAILURES as error:
                failures += 1
                expired = failures == 1 and isinstance(error, boto.ClientError) and code_of(error) in EXPIRED
                if not (expired or is_transient(error)):
                    raise
                pause = min(20.0, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0)  # noqa: S311
                if self._clock() - started + pause > self._budget(error):
                    raise
                if expired or failures >= 2:
                    self._discard(client)
                self._sleep(pause)
            else:
                self._answered = True
                return result

    def _budget(self, error: Exception) -> float:
        unreached = isinstance(error, UNREACHED) and not self._answered
        patience = self._patience
        return min(patience.first_contact_seconds, patience.retry_seconds) if unreached else patience.retry_seconds

    def _discard(self, client: Any) -> None:
        """Have the next call make a new client, unless another thread has seen to that already."""
        with self._lock:
            if self._client is client:
                self._client = None

    def _endpoint(self) -> str:
        client = self._client
        return str(client.meta.endpoint_url) if client is not None else "the configured endpoint"
