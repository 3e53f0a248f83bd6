"""An S3 server with one object of any size that nobody stores: each byte of it follows from its place, everything else is forwarded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from tests.fault_proxy import Answer, FaultProxy, Handler, served

RECORD_BYTES = 512
"""Of each record and of the header."""
FEATURES = [f"x{number}" for number in range(8)]
_ID_DIGITS = 12
_PERIOD = 4_096
"""After so many rows the features come again; ids never do."""
_STEP_ROWS = 16_384


def features() -> pd.DataFrame:
    """The features of the first rows; they come again after these."""
    values = np.random.default_rng(5).normal(size=(_PERIOD, len(FEATURES)))
    return pd.DataFrame(values, columns=FEATURES)


def _padded(line: str) -> bytes:
    """The line, its last field filled up."""
    assert len(line) < RECORD_BYTES
    return (line + "n" * (RECORD_BYTES - 1 - len(line)) + "\n").encode()


def _template() -> np.ndarray:
    lines = [_padded("0" * _ID_DIGITS + "," + ",".join(map(repr, row)) + ",") for row in features().to_numpy().tolist()]
    return np.frombuffer(b"".join(lines), np.uint8).reshape(_PERIOD, RECORD_BYTES)


class Generated:
    """A CSV of so many rows: ``id``, `FEATURES` and a long note, as bytes on demand."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.size_bytes = (1 + rows) * RECORD_BYTES
        self.etag = f'"generated-{rows}"'
        self._header = _padded(",".join(["id", *FEATURES, ""]))
        self._template = _template()

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes ``[start, end)``, some records at a time."""
        first, last = start // RECORD_BYTES, -(-end // RECORD_BYTES)
        for record in range(first, last, _STEP_ROWS):
            stop = min(record + _STEP_ROWS, last)
            text = self._records(record, stop)
            yield text[max(0, start - record * RECORD_BYTES) : end - record * RECORD_BYTES]

    def _records(self, first: int, last: int) -> bytes:
        """Whole records; record 0 is the header."""
        numbers = np.arange(max(first, 1), last) - 1
        lines = self._template[numbers % _PERIOD]
        for digit in range(_ID_DIGITS):
            lines[:, digit] = ord("0") + numbers // 10 ** (_ID_DIGITS - 1 - digit) % 10
        return (self._header if first == 0 else b"") + lines.tobytes()


class StreamingS3(FaultProxy):
    """Forwards to `upstream`, except what asks for one of `generated`, by ``bucket/key``."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.RequestHandlerClass = _Handler
        self.generated: dict[str, Generated] = {}


class _Handler(Handler):
    server: StreamingS3

    def handle_any(self) -> None:
        made = self.server.generated.get(urlsplit(self.path).path.lstrip("/"))
        if made is None:
            super().handle_any()
        elif self.command in {"GET", "HEAD"}:
            self._stream(made)
        else:
            self.modifiers = []
            self.give(Answer(405, [], b""))

    def _stream(self, made: Generated) -> None:
        self.modifiers = []
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2]) + 1, made.size_bytes)) if asked else (0, made.size_bytes)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", made.etag)
        self.send_header("Last-Modified", "Mon, 09 Nov 2026 06:00:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{made.size_bytes}")
        self.end_headers()
        if self.command == "GET":
            for piece in made.pieces(start, end):
                self.wfile.write(piece)


for _method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.handle_any)


@contextmanager
def streaming_s3(upstream: str) -> Iterator[StreamingS3]:
    """A server on loopback in front of `upstream`."""
    with served(StreamingS3(upstream)) as proxy:
        yield proxy
