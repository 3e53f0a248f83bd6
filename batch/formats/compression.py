"""Compressed text: spooling a .gz or .zst input to a local file, and compressing one chunk of output.

Neither gzip nor zstd can be entered in the middle, so a compressed input is decompressed once, in one pass and constant memory, and
read by range from then on. The limits are checked on every block before it is written, so a bomb neither fills the disk
nor takes time. Output chunks are one member (frame) each, because members may be concatenated.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batch.errors import InputEmpty, InputFormatError, InputTooLarge, StorageUnavailable
from batch.formats import format_of
from batch.storage import Source

PIECE_BYTES = 8 << 20
"""Compressed bytes per ranged read."""
SLICE_BYTES = 64 << 10
"""Compressed bytes handed to zlib at once."""
DECODED_BYTES = 1 << 20
"""Decoded bytes per step."""
RATIO_FROM_BYTES = 64 << 20
"""The ratio says nothing about small files, so it counts from here on."""
GZIP_LEVEL = 6
GZIP_WBITS = 31  # zlib: 15 for the largest window, 16 for gzip's header and trailer


def compress_member(body: bytes, compression: str) -> bytes:
    """`body` as one gzip member or one zstd frame, the same bytes every time; b"" stays b"", "" compresses nothing."""
    if not body or not compression:
        return body
    if compression == "gz":
        return gzip.compress(body, GZIP_LEVEL, mtime=0)
    return bytes(pa.Codec("zstd").compress(body, asbytes=True))


def decompress_member(body: bytes, compression: str) -> bytes:
    """What `compress_member` was given; for sections, which fit into memory."""
    if not body or not compression:
        return body
    if compression == "gz":
        return gzip.decompress(body)
    return bytes(pa.CompressedInputStream(pa.BufferReader(body), "zstd").read())


def spool(source: Source, compression: str, path: str, *, max_decompressed_bytes: int, max_ratio: float) -> int:
    """Decompress `source` into the local file `path`; returns the decoded bytes.

    `compression` is "gz" or "zst"; all members (frames) are read. Raises `InputFormatError` for a truncated or damaged stream
    or for anything behind it, and `InputTooLarge` for more than `max_decompressed_bytes`, or for more than `max_ratio`
    times the stored size once 64 MiB are decoded. No file is left behind then.
    """
    if not source.size_bytes:
        raise InputEmpty(f"{source.uri} is empty: it holds 0 bytes", hint="upload the whole file again")
    limits = _Limits(source.uri, source.size_bytes, max_decompressed_bytes, max_ratio)
    decode = _gzip_blocks if compression == "gz" else _zstd_blocks
    try:
        return _write(path, decode(source), limits)
    except BaseException:
        if os.path.exists(path):
            os.unlink(path)
        raise


@dataclass(frozen=True, slots=True)
class _Limits:
    uri: str
    stored_bytes: int
    decoded_bytes_max: int
    ratio_max: float

    def check(self, decoded_bytes: int) -> None:
        """Raise `InputTooLarge` when so many decoded bytes are too many."""
        if decoded_bytes > self.decoded_bytes_max:
            raise InputTooLarge(
                f"{self.uri} decompresses to more than {self.decoded_bytes_max} bytes "
                f"(stopped at {decoded_bytes}; {self.stored_bytes} are stored)",
                hint="raise input.max_decompressed_bytes if the file is what you expect",
            )
        if decoded_bytes > RATIO_FROM_BYTES and decoded_bytes > self.ratio_max * self.stored_bytes:
            raise InputTooLarge(
                f"{self.uri} decompresses to more than {self.ratio_max:g} times its size "
                f"({decoded_bytes} bytes so far from {self.stored_bytes} stored)",
                hint="raise input.max_ratio if the file is what you expect",
            )


def _write(path: str, blocks: Iterator[bytes], limits: _Limits) -> int:
    total = 0
    try:
        with open(path, "wb") as file:
            for block in blocks:
                total += len(block)
                limits.check(total)
                file.write(block)
    except OSError as error:
        raise StorageUnavailable(
            f"{limits.uri} cannot be decompressed to {path} after {total} bytes: {error.strerror}",
            hint="free some disk space or point TMPDIR to another disk",
        ) from error
    return total


def _pieces(source: Source) -> Iterator[bytes]:
    """The stored bytes in order; the next piece is fetched while the current one is decoded."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as ahead:
        coming = ahead.submit(source.read, 0, PIECE_BYTES)
        for offset in range(PIECE_BYTES, source.size_bytes + PIECE_BYTES, PIECE_BYTES):
            piece = coming.result()
            coming = ahead.submit(source.read, offset, offset + PIECE_BYTES)
            yield piece


def decoded_blocks(source: Source, compression: str) -> Iterator[bytes]:
    """The text of a stored file, block by block; "" as compression means that it is stored as it is."""
    return {"": _pieces, "gz": _gzip_blocks, "zst": _zstd_blocks}[compression](source)


def _gzip_blocks(source: Source) -> Iterator[bytes]:
    """Decoded blocks of all members. zlib's object stops behind the first member, hence the loop."""
    decoder: Any = None
    read_bytes = 0
    for rest in _slices(source):
        read_bytes += len(rest)
        pending = False
        while rest or pending:
            if decoder is None:
                rest = rest.lstrip(b"\0")  # noqa: PLW2901 - padding to a block size is allowed behind a member
                if not rest:
                    break
                decoder = zlib.decompressobj(GZIP_WBITS)
            try:
                block = decoder.decompress(rest, DECODED_BYTES)
            except zlib.error as error:
                raise _damaged(source.uri, "gzip", read_bytes - len(rest), str(error)) from error
            if block:
                yield block
            # A full block may leave more inside the decoder although all input is consumed.
            pending = len(block) == DECODED_BYTES and not decoder.eof
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail  # noqa: PLW2901
            decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise _damaged(source.uri, "gzip", read_bytes, "the stream is cut off")


def _slices(source: Source) -> Iterator[bytes]:
    """Small slices: zlib copies what follows a member, which is quadratic for many small members in one large piece."""
    for piece in _pieces(source):
        for offset in range(0, len(piece), SLICE_BYTES):
            yield piece[offset : offset + SLICE_BYTES]


class _Stored(io.RawIOBase):
    """The stored bytes as a file that Arrow's decompressor can pull from."""

    def __init__(self, source: Source) -> None:
        self._pieces = _pieces(source)
        self._piece = memoryview(b"")
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self.read_bytes += count
        return count


def _zstd_blocks(source: Source) -> Iterator[bytes]:
    """Decoded blocks of all frames; Arrow's stream goes on from frame to frame and refuses anything else."""
    stored = _Stored(source)
    stream = pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), "zstd")
    while True:
        try:
            block = stream.read(DECODED_BYTES)
        except OSError as error:
            raise _damaged(source.uri, "zstd", stored.read_bytes, str(error)) from error
        if not block:
            return
        yield block


def _damaged(uri: str, kind: str, offset: int, reason: str) -> InputFormatError:
    return InputFormatError(
        f"{uri} cannot be decompressed: {kind} data is damaged at or after compressed byte {offset} ({reason})",
        hint="upload the whole file again; test it with: " + ("gzip -t" if kind == "gzip" else "zstd -t"),
    )


MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PAR1", "parquet"),
    (b"PARE", "parquet"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def sniff(head: bytes) -> str:
    """What the first bytes say: gzip, zstd, parquet, zip, bzip2, xz, utf-16, utf-32, or "" (plain text, or unknown)."""
    for magic, name in MAGIC:
        if head.startswith(magic):
            return name
    return _sniff_wide(head[:1024])


def _sniff_wide(head: bytes) -> str:
    """UTF-16 or UTF-32 without a byte order mark: ASCII text shows as NULs in every second (three of four) places."""
    zeros = head.count(0)
    if len(head) < 4 or zeros * 3 < len(head):
        return ""
    return "utf-32" if zeros * 3 > len(head) * 2 else "utf-16"


def check_magic(head: bytes, format: str, compression: str, uri: str) -> None:  # noqa: A002 - the field's word
    """Raise `InputFormatError` when the first bytes contradict what the name (or the job) says they are."""
    expected = {"gz": "gzip", "zst": "zstd"}.get(compression, "parquet" if format == "parquet" else "")
    found = sniff(head)
    if found == expected or not head:
        return
    suffix = compression or format
    if found.startswith("utf-"):
        encoding = found.upper()
        raise InputFormatError(
            f"{uri} is {encoding} text, but only UTF-8 can be read", hint=f"convert it: iconv -f {encoding} -t UTF-8"
        )
    if not compression and found in {"gzip", "zstd"} and format_of(uri)[1]:
        raise InputFormatError(f"{uri} is compressed twice: inside there is {found} data", hint="compress it once")
    raise InputFormatError(
        f"{uri} is named .{suffix} but holds {_describe(found, expected)}", hint=_hint(found, format)
    )


def _describe(found: str, expected: str) -> str:
    return f"{found} data" if found else f"something that is not {expected}"


def _hint(found: str, format_name: str) -> str:
    plain = "jsonl" if format_name == "parquet" else format_name
    return {
        "gzip": f"name it ….{plain}.gz",
        "zstd": f"name it ….{plain}.zst",
        "parquet": 'name it ….parquet or set input.format = "parquet"',
        "zip": "unpack the archive and upload the file itself",
    }.get(found, "check what was uploaded, or set input.format")
