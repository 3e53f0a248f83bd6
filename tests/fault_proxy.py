"""An HTTP proxy on loopback that answers wrongly as often as it is told to: a store having a bad day."""

import http.client
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class FaultProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; `faults` maps a method to ``[kind, times left]``.

    Kinds: an HTTP status (the request is not forwarded), ``"lost"`` (forwarded, the answer is not),
    ``"truncated"`` (half of the body, then the end).
    """

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.faults = {}
        self.requests = []
        self._lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, method):
        with self._lock:
            self.requests.append(method)
            fault = self.faults.get(method)
            if not fault or fault[1] <= 0:
                return None
            fault[1] -= 1
            return fault[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.take(self.command)
        if isinstance(fault, int):
            self.answer(fault, [], b"")
            return
        status, headers, answer = self.forward(body)
        if fault == "lost":
            self.hang_up()
            return
        self.answer(status, headers, answer, cut=fault == "truncated")

    def forward(self, body):
        upstream = http.client.HTTPConnection(self.server.upstream.netloc, timeout=30)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def answer(self, status, headers, body, *, cut=False):
        self.send_response(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.hang_up()

    def hang_up(self):
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        """Say nothing."""


for _method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.handle_any)


@contextmanager
def fault_proxy(upstream):
    proxy = FaultProxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
