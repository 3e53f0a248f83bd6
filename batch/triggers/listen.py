"""``watch --listen``: a small HTTP server that takes notifications and wakes the watcher.

::

    POST /         a body of any kind that `events` reads: 200, whatever it tells of; 400 where it is not JSON
    GET  /healthz  200 and a JSON object, for a liveness probe; needs no token

It is made for one sender inside a network that is trusted or behind a proxy that speaks TLS, and so that others can do little:
a limit on each body, on the time of each request and on the number of connections; and all that a notification can do is to
have the watcher list its prefix a moment earlier.
"""

from __future__ import annotations

import hmac
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import parse_qs

from batch.errors import UsageError
from batch.triggers.events import Sparingly, Wake, decode, notification_in

BODY_BYTES_MAX: Final = 1024 * 1024
"""Most have 1 KiB; SeaweedFS names each chunk of 4 MiB in about 220 bytes, so that an object of 18 GiB is told just so."""
REQUEST_SECONDS: Final = 10.0
"""From the connection to the last byte of the body."""
CONNECTIONS_MAX: Final = 32
TOKEN_VARIABLE: Final = "BATCH_WEBHOOK_TOKEN"  # noqa: S105 (the name of one)
_DISCARD_BYTES_MAX: Final = 8 * BODY_BYTES_MAX
_STOP_SECONDS: Final = 2.0
_ALLOWED: Final = {"/": "POST, HEAD", "/healthz": "GET, HEAD"}
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"

Note = Callable[[str], None]


def address_of(text: str) -> tuple[str, int]:
    """Host and port of ``8080``, ``0.0.0.0:8080`` or ``[::]:8080``; without a host: loopback. Raises `UsageError`."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise UsageError(f"--listen {text!r} is not a port", hint="write PORT or HOST:PORT, such as 0.0.0.0:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def listen(
    host: str,
    port: int,
    wake: Wake,
    *,
    token: str = "",
    note: Note = lambda _: None,
    request_seconds: float = REQUEST_SECONDS,
    connections_max: int = CONNECTIONS_MAX,
) -> Listener:
    """Begin to listen; to be left by ``with`` or `Listener.close`. Raises `UsageError` where the address cannot be had.

    Port 0 takes a free one: see `Listener.port`. `token`: a secret that each notification must carry, see `_Handler._is_allowed`.
    """
    if not token and host not in _LOOPBACK:
        note(f"${TOKEN_VARIABLE} is not set: whoever reaches {host}:{port} can have the prefix listed early")
    try:
        return Listener(_Server(host, port, wake, token, Sparingly(note), request_seconds, connections_max))
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--listen: {host}:{port} cannot be listened on: {why}", hint="choose another port") from None


class Listener:
    """A server that runs in threads of its own until it is closed."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.host = str(server.server_address[0])
        self.port = int(server.server_address[1])
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="listen", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where notifications go."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def close(self) -> None:
        """Stop listening and hang up on whoever is connected; may be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    """A thread per connection, a limited number of connections, and no word on the standard streams."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, host: str, port: int, wake: Wake, token: str, note: Note, request_seconds: float, connections_max: int
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.wake = wake
        self.token = token.encode()
        self.note = note
        self.request_seconds = request_seconds
        self.notifications = 0
        self.objects = 0
        self._connections_max = connections_max
        self._live: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without looking the host's name up, which can take seconds and serves nothing here."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def take(self, body: Any) -> int:
        """Wake the watcher if the body tells of objects below its prefix; how many."""
        notification = notification_in(body)
        self.note(notification.note)
        told = self.wake.tell(notification.uris)
        with self._changed:
            self.notifications += 1
            self.objects += told
        return told

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            is_admitted = len(self._live) < self._connections_max
            if is_admitted:
                self._live.add(request)
        if is_admitted:
            super().process_request(request, client_address)
        else:
            self.note(f"more than {self._connections_max} connections at once; the others are sent away (503)")
            with suppress(OSError):
                request.settimeout(0.1)
                request.sendall(_BUSY)
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._live.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that went away is not our failure, and a bug is answered with 500 and noted there."""

    def hang_up(self) -> None:
        """End all connections, and wait until their threads have closed them."""
        with self._changed:
            for connection in self._live:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._live, _STOP_SECONDS)


class _Patient(io.RawIOBase):
    """What a connection sends until a deadline; the timeout of a socket alone would let one byte come every few seconds."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._connection = connection
        self._ends_at = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One request: HTTP/1.0, so that each connection ends with its answer."""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Patient(self.connection, self._ours.request_seconds))

    @property
    def _ours(self) -> _Server:
        return cast("_Server", self.server)

    def do_POST(self) -> None:
        """A notification."""
        try:
            self._receive()
        except TimeoutError:
            self._answer(HTTPStatus.REQUEST_TIMEOUT, error="the body did not arrive in time")
        except ConnectionError:
            self.close_connection = True
        except Exception as error:  # whatever it is, the next notification is to be taken
            self._ours.note(f"a bug in the listener: {type(error).__name__}: {error}")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, error="a bug in the listener")

    def _receive(self) -> None:
        length = self._length()
        if self._path != "/":
            self._refuse_path()
        elif not self._is_allowed():
            self._ours.note("a request without the right token was refused (401)")
            self._answer(HTTPStatus.UNAUTHORIZED, error=f"the token of ${TOKEN_VARIABLE} is missing or another one")
        elif length is None:
            self._answer(HTTPStatus.LENGTH_REQUIRED, error="Content-Length is missing or is no number")
        elif length > BODY_BYTES_MAX:
            said = f"the body has {length} bytes, and {BODY_BYTES_MAX} are taken"
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error=said)
        else:
            self._take(self.rfile.read(length))
            return
        self._discard(length)

    def _take(self, body: bytes) -> None:
        try:
            value = decode(body)
        except ValueError:
            self._ours.note("a request whose body is not JSON was refused (400)")
            self._answer(HTTPStatus.BAD_REQUEST, error="the body is not JSON in UTF-8")
            return
        self._answer(HTTPStatus.OK, told=self._ours.take(value))

    def do_GET(self) -> None:
        """Whether the listener is there."""
        if self._path == "/healthz":
            self._answer(HTTPStatus.OK, ok=True, notifications=self._ours.notifications, objects=self._ours.objects)
        else:
            self._refuse_path()

    def do_HEAD(self) -> None:
        """The same without a body; also of ``/``, by which MinIO looks whether its target is there."""
        self._answer(HTTPStatus.OK if self._path in _ALLOWED else HTTPStatus.NOT_FOUND)

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _length(self) -> int | None:
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def _is_allowed(self) -> bool:
        """Whether the request has the token: as ``Authorization: Bearer TOKEN`` or, for senders that set no header, ``?token=``."""
        wanted = self._ours.token
        if not wanted:
            return True
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        offered = [given.strip().encode("latin-1")] if scheme.lower() == "bearer" else []
        offered += [each.encode() for each in parse_qs(self.path.partition("?")[2]).get("token", [])]
        return any(hmac.compare_digest(each, wanted) for each in offered)

    def _refuse_path(self) -> None:
        allowed = _ALLOWED.get(self._path)
        if allowed:
            said = f"{self.command} is not for {self._path}: use {allowed.partition(',')[0]}"
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, allow=allowed, error=said)
        else:
            self._answer(HTTPStatus.NOT_FOUND, error="there are / and /healthz")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses: methods that have no ``do_``, and what is not HTTP."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse_path()
        else:
            self._answer(HTTPStatus(code), error=HTTPStatus(code).phrase)

    def _answer(self, status: HTTPStatus, *, allow: str = "", **facts: str | int) -> None:
        body = b"" if self.command == "HEAD" or not facts else json.dumps(facts).encode() + b"\n"
        self.send_response(status)
        if allow:
            self.send_header("Allow", allow)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _discard(self, length: int | None) -> None:
        """Read what was refused: a connection that is closed over unread bytes is reset, and the answer may be lost."""
        left = min(length or 0, _DISCARD_BYTES_MAX)
        with suppress(OSError):
            while left > 0 and (block := self.rfile.read(min(left, 65536))):
                left -= len(block)

    def version_string(self) -> str:
        """The ``Server`` header, without the version of anything."""
        return "batch-predict"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the base)
        """Nothing: notes say what an operator can use."""
