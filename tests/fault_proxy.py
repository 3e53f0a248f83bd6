"""An HTTP proxy on loopback that answers wrongly as often as it is told to: a store having a bad day."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
OLD_KINDS = {"lost": "reset_after", "truncated": "trunc"}
"""What `FaultProxy.faults` calls them."""


@dataclass
class Rule:
    """One way to fail, and which requests it is for; see `FaultProxy.add`."""

    kind: str
    method: str | None = None
    key: str | None = None
    query: str | None = None
    times: int | None = None
    after: int = 0
    probability: float = 1.0
    dice: random.Random = field(default_factory=random.Random)
    options: dict[str, Any] = field(default_factory=dict)
    hits: int = 0
    """How often it was applied."""
    seen: int = 0
    """How many requests it was for, applied or not."""

    def applies(self, method: str, target: str) -> bool:
        """Whether this request is to fail; counts it."""
        path, _, query = target.partition("?")
        wanted = ((self.key, unquote(path)), (self.query, query))
        if self.method not in {None, method} or any(part is not None and part not in text for part, text in wanted):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        if self.dice.random() >= self.probability:
            return False
        self.hits += 1
        return True


@dataclass
class Answer:
    """What the upstream said, or what is said in its place."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class FaultProxy(ThreadingHTTPServer):
    """Forwards to `upstream`, unless one of `rules` (or `faults`) says otherwise.

    `on_request(number, method, path, phase)` is called with phase ``before`` and, once the upstream has applied the
    request, ``after``; a client that is gone when the first call returns has its request dropped.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, list[Any]] = {}
        """The short form: a method -> ``[kind, times left]``; the kind is a status, "lost" or "truncated"."""
        self.requests: list[str] = []
        self.rules: list[Rule] = []
        self.on_request: Callable[[int, str, str, str], object] | None = None
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[Any] = set()
        self.send_to(upstream)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def send_to(self, upstream: str) -> None:
        """Forward to another server from now on, such as the same one restarted on another port."""
        self.upstream = urlsplit(upstream)

    def add(
        self,
        kind: str,
        *,
        method: str | None = None,
        key: str | None = None,
        query: str | None = None,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> Rule:
        """Add a rule for the requests whose method is this one and whose path and query contain these strings.

        Of them, `after` go well first, and at most `times` fail, each with this probability. Of several rules that
        apply, the first one counts, except that `drop_headers`, `ignore_headers` and `skew` go with any other.
        Kinds and their options:

        - ``err`` (status=503, code="SlowDown", message): an error of S3 in XML, nothing is forwarded
        - ``err_after``: the same, and the request was applied
        - ``reset_before``, ``reset_after``: the connection is reset instead of an answer
        - ``late`` (seconds=1): the connection is closed at once, and the request is applied later
        - ``dup``: applied twice; the second answer is given
        - ``trunc``: half of the body, then the end; ``close_delim`` (n=0): no Content-Length, and n bytes of the body
        - ``corrupt`` (at=-1: in the middle): one bit of the body is another
        - ``stall``, ``stall_body`` (seconds=1): silence before the headers, or in the middle of the body
        - ``ok_err`` (code, message, forward=False): status 200 and an ``<Error>``
        - ``redirect`` (status=301, code="PermanentRedirect", endpoint, region): the bucket is elsewhere
        - ``drop_headers`` (names): headers of the request are left out. They are signed: only for an upstream that does
          not look at signatures. ``ignore_headers`` (names) signs again, with the keys of this process's environment
        - ``skew`` (seconds): the Date of the answer is so much later
        """
        if kind not in {*_KINDS, *_MODIFIERS}:
            raise ValueError(kind)
        rule = Rule(kind, method, key, query, times, after, probability, random.Random(seed), options)
        with self._lock:
            self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget the rules: a good day again."""
        with self._lock:
            self.rules.clear()

    def take(self, method: str, target: str) -> tuple[int, Rule | None, list[Rule]]:
        """Count a request: its number, the rule by which it fails, and the rules that go with any other."""
        with self._lock:
            self.requests.append(method)
            found = [rule for rule in self.rules if rule.kind in _MODIFIERS and rule.applies(method, target)]
            fault = self._old_fault(method) or next(
                (rule for rule in self.rules if rule.kind in _KINDS and rule.applies(method, target)), None
            )
            return len(self.requests), fault, found

    def _old_fault(self, method: str) -> Rule | None:
        fault = self.faults.get(method)
        if not fault or fault[1] <= 0:
            return None
        fault[1] -= 1
        if isinstance(fault[0], int):
            return Rule("err", options={"status": fault[0], "code": None})
        return Rule(OLD_KINDS[fault[0]])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.closing.set()
        super().server_close()
        with self._lock:
            held = list(self._connections)
        for connection in held:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke: that is what happens here."""
        if not isinstance(sys.exception(), OSError | http.client.HTTPException):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        self.sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.number, fault, self.modifiers = self.server.take(self.command, self.path)
        self.tell("before")
        if self.is_client_gone():
            self.close_connection = True
            return
        try:
            if fault is None:
                self.give(self.forward())
            else:
                _KINDS[fault.kind](self, **fault.options)
        except (OSError, http.client.HTTPException):
            self.hang_up()

    def tell(self, phase: str) -> None:
        if self.server.on_request is not None:
            self.server.on_request(self.number, self.command, self.path, phase)

    def is_client_gone(self) -> bool:
        """Whether the other end of the connection was closed, as that of a killed process is."""
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def forward(self) -> Answer:
        """Have the upstream apply the request; its answer."""
        answer = self.exchange(self.request_headers())
        self.tell("after")
        return answer

    def exchange(self, headers: dict[str, str]) -> Answer:
        upstream = http.client.HTTPConnection(self.server.upstream.netloc, timeout=60)
        try:
            upstream.request(self.command, self.path, self.sent, headers)
            answer = upstream.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            upstream.close()

    def request_headers(self) -> dict[str, str]:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        for rule in self.modifiers:
            if rule.kind == "skew":
                continue
            names = {name.lower() for name in rule.options["names"]}
            headers = {name: value for name, value in headers.items() if name.lower() not in names}
            if rule.kind == "ignore_headers":
                headers = self.signed(headers)
        return headers

    def signed(self, headers: dict[str, str]) -> dict[str, str]:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        kept = {name: value for name, value in headers.items() if name.lower() not in {"authorization", "x-amz-date"}}
        request = AWSRequest(self.command, f"http://{self.headers['Host']}{self.path}", kept, self.sent)
        keys = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        S3SigV4Auth(keys, "s3", os.environ.get("AWS_REGION", "us-east-1")).add_auth(request)
        return dict(request.headers.items())

    def give(self, answer: Answer, *, until: int | None = None, has_length: bool = True, pause: float = 0.0) -> None:
        """Answer; only `until` bytes of the body and then the end, or all of it with a pause in the middle."""
        has_body = self.command != "HEAD" and answer.status not in {204, 304}
        body = answer.body if has_body else b""
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if has_length and answer.status not in {204, 304}:
            self.send_header("Content-Length", self.length_of(answer))
        if not has_length:
            self.send_header("Connection", "close")
        self.end_headers()
        if pause:
            self.wfile.write(body[: len(body) // 2])
            self.server.closing.wait(pause)
            body = body[len(body) // 2 :]
        self.wfile.write(body[:until])
        if until is not None:
            self.hang_up()

    def length_of(self, answer: Answer) -> str:
        if self.command == "HEAD":
            return next((value for name, value in answer.headers if name.lower() == "content-length"), "0")
        return str(len(answer.body))

    def date_time_string(self, timestamp: float | None = None) -> str:
        shift = sum(rule.options["seconds"] for rule in self.modifiers if rule.kind == "skew")
        return super().date_time_string(time.time() + shift if timestamp is None else timestamp)

    def hang_up(self) -> None:
        """Close the connection in good order (FIN)."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Break the connection off (RST)."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


for _method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
    setattr(Handler, f"do_{_method}", Handler.handle_any)


def error_document(code: str | None, message: str, **more: str) -> bytes:
    """The body of an S3 error, or none without a code."""
    if code is None:
        return b""
    inner = "".join(f"<{name}>{text}</{name}>" for name, text in {"Code": code, "Message": message, **more}.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><Error>{inner}<RequestId>fault</RequestId></Error>'.encode()


def xml(status: int, body: bytes, *headers: tuple[str, str]) -> Answer:
    return Answer(status, [("Content-Type", "application/xml"), *headers], body)


def err(handler: Handler, status: int = 503, code: str | None = "SlowDown", message: str = "told to fail") -> None:
    handler.give(xml(status, error_document(code, message)))


def err_after(handler: Handler, **options: Any) -> None:
    handler.forward()
    err(handler, **options)


def reset_before(handler: Handler) -> None:
    handler.reset()


def reset_after(handler: Handler) -> None:
    handler.forward()
    handler.reset()


def late(handler: Handler, seconds: float = 1.0) -> None:
    handler.hang_up()
    headers = handler.request_headers()

    def deliver() -> None:
        if not handler.server.closing.wait(seconds):
            with contextlib.suppress(OSError, http.client.HTTPException):
                handler.exchange(headers)
                handler.tell("after")

    threading.Thread(target=deliver, daemon=True).start()


def dup(handler: Handler) -> None:
    handler.forward()
    handler.give(handler.forward())


def trunc(handler: Handler) -> None:
    answer = handler.forward()
    handler.give(answer, until=len(answer.body) // 2)


def close_delim(handler: Handler, n: int = 0) -> None:
    handler.give(handler.forward(), until=n, has_length=False)


def corrupt(handler: Handler, at: int = -1) -> None:
    answer = handler.forward()
    body = bytearray(answer.body)
    if body:
        body[len(body) // 2 if at < 0 else at] ^= 1
    handler.give(Answer(answer.status, answer.headers, bytes(body)))


def stall(handler: Handler, seconds: float = 1.0) -> None:
    answer = handler.forward()
    handler.server.closing.wait(seconds)
    handler.give(answer)


def stall_body(handler: Handler, seconds: float = 1.0) -> None:
    handler.give(handler.forward(), pause=seconds)


def ok_err(handler: Handler, code: str = "InternalError", message: str = "told to fail", forward: bool = False) -> None:
    if forward:
        handler.forward()
    handler.give(xml(200, error_document(code, message)))


def redirect(
    handler: Handler,
    status: int = 301,
    code: str = "PermanentRedirect",
    endpoint: str | None = None,
    region: str | None = None,
) -> None:
    more = ({"Endpoint": endpoint} if endpoint else {}) | ({"Region": region} if region else {})
    headers = [("x-amz-bucket-region", region)] if region else []
    headers += [("Location", f"http://{endpoint}{handler.path}")] if endpoint else []
    handler.give(xml(status, error_document(code, "elsewhere", **more), *headers))


_KINDS: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (
        err, err_after, reset_before, reset_after, late, dup, trunc, close_delim, corrupt, stall, stall_body, ok_err, redirect,
    )
}  # fmt: skip
_MODIFIERS = {"drop_headers", "ignore_headers", "skew"}


P = TypeVar("P", bound=FaultProxy)


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of `upstream`, in a thread of its own."""
    with served(FaultProxy(upstream)) as proxy:
        yield proxy


@contextmanager
def served(proxy: P) -> Iterator[P]:
    """Have a proxy answer in a thread of its own until the end."""
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
