"""Compressed text: every member is read, damage and bombs are refused early, output members are reproducible."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import InputEmpty, InputFormatError, InputTooLarge, StorageUnavailable
from batch.formats import compression as module
from batch.formats.compression import check_magic, compress_member, sniff, spool
from batch.storage import Source
from tests.sources import reads_of, source_of

BODY = b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * 7919) for i in range(5_000))
KINDS = pytest.mark.parametrize("kind", ["gz", "zst"])
LIMITS: dict[str, Any] = {"max_decompressed_bytes": 1 << 30, "max_ratio": 200}


def spooled(stored: bytes, kind: str, folder: Path, **limits: Any) -> bytes:
    path = folder / "spool"
    size = spool(source_of(stored, f"s3://b/in.csv.{kind}"), kind, str(path), **{**LIMITS, **limits})
    assert size == path.stat().st_size
    return path.read_bytes()


@KINDS
def test_all_members_are_read(kind: str, tmp_path: Path) -> None:
    """A file of several members is their texts one behind the other."""
    parts = [BODY[:1000], BODY[1000:1001], BODY[1001:]]
    stored = b"".join(compress_member(part, kind) for part in parts)
    assert spooled(stored, kind, tmp_path) == BODY


@KINDS
def test_pieces_and_slices_may_end_anywhere(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranged reads of a few bytes give what one large read gives, each byte read once."""
    stored = compress_member(BODY[:2000], kind) + compress_member(BODY[2000:4000], kind)
    monkeypatch.setattr(module, "PIECE_BYTES", 700)
    monkeypatch.setattr(module, "SLICE_BYTES", 3)
    monkeypatch.setattr(module, "DECODED_BYTES", 11)
    source = source_of(stored)
    path = tmp_path / "spool"
    spool(source, kind, str(path), **LIMITS)
    assert path.read_bytes() == BODY[:4000]
    assert reads_of(source) == [(at, min(at + 700, len(stored))) for at in range(0, len(stored), 700)]


def test_a_block_that_fills_up_with_the_last_byte_is_no_damage(tmp_path: Path) -> None:
    """The decoder may hold more text although all its input is consumed."""
    zeros = gzip.compress(b"\0" * (5 << 20) + b"end", 9)
    assert spooled(zeros, "gz", tmp_path, max_ratio=10_000) == b"\0" * (5 << 20) + b"end"


def test_many_small_members_take_no_quadratic_time(tmp_path: Path) -> None:
    """A hundred thousand members in one piece are a second's work, not a day's."""
    started = time.monotonic()
    assert spooled(compress_member(b"1\n", "gz") * 100_000, "gz", tmp_path) == b"1\n" * 100_000
    assert time.monotonic() - started < 20


def test_zeros_behind_a_member_are_padding(tmp_path: Path) -> None:
    """Tapes and block devices leave them; gzip ignores them, too."""
    assert spooled(compress_member(BODY, "gz") + b"\0" * 1000, "gz", tmp_path) == BODY


@KINDS
@pytest.mark.parametrize("cut", [1, 4, 9, 200])
def test_a_truncated_file_is_refused(kind: str, cut: int, tmp_path: Path) -> None:
    """Wherever it ends, also inside the second member's trailer; no spooled file is left."""
    stored = (compress_member(BODY, kind) * 2)[:-cut]
    with pytest.raises(InputFormatError, match=rf"s3://b/in.csv.{kind} .* compressed byte \d+"):
        spooled(stored, kind, tmp_path)
    assert os.listdir(tmp_path) == []


@KINDS
@pytest.mark.parametrize("tail", [b"x", b"garbage behind the end", b"\x1f\x8b"])
def test_anything_behind_the_last_member_is_refused(kind: str, tail: bytes, tmp_path: Path) -> None:
    """What is no member is damage, not decoration."""
    stored = compress_member(BODY, kind)
    with pytest.raises(InputFormatError, match=r"compressed byte \d+"):
        spooled(stored + tail, kind, tmp_path)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    """The text decodes, but is not what was compressed."""
    stored = bytearray(compress_member(BODY, "gz"))
    stored[-6] ^= 1
    with pytest.raises(InputFormatError, match="incorrect data check"):
        spooled(bytes(stored), "gz", tmp_path)


@KINDS
def test_the_absolute_limit_holds_from_the_first_byte(kind: str, tmp_path: Path) -> None:
    """The message has both numbers."""
    stored = compress_member(BODY, kind)
    with pytest.raises(InputTooLarge, match=rf"more than 1000 bytes .*; {len(stored)} are stored"):
        spooled(stored, kind, tmp_path, max_decompressed_bytes=1000)
    assert spooled(stored, kind, tmp_path, max_decompressed_bytes=len(BODY)) == BODY


@KINDS
def test_a_bomb_is_refused_within_the_block_that_crosses_the_limit(kind: str, tmp_path: Path) -> None:
    """300 MB of zeros cost 64 MiB of decoding, a fraction of a second, and no disk."""
    stored = compress_member(b"\0" * (300 << 20), kind)
    started = time.monotonic()
    with pytest.raises(InputTooLarge, match=rf"more than 200 times its size .*from {len(stored)} stored"):
        spooled(stored, kind, tmp_path)
    assert time.monotonic() - started < 5
    assert os.listdir(tmp_path) == []


def test_a_high_ratio_is_fine_in_a_small_file(tmp_path: Path) -> None:
    """Below 64 MiB the ratio says nothing."""
    body = b"0,0\n" * 100_000
    stored = compress_member(body, "gz")
    assert len(body) > 200 * len(stored)
    assert spooled(stored, "gz", tmp_path) == body


def test_no_bytes_are_no_file(tmp_path: Path) -> None:
    """Not even an empty text compresses to nothing."""
    with pytest.raises(InputEmpty, match="0 bytes"):
        spooled(b"", "gz", tmp_path)


def test_a_disk_that_does_not_take_it_is_named(tmp_path: Path) -> None:
    """Where the file cannot be written the message says which."""
    with pytest.raises(StorageUnavailable, match="nowhere/spool after 0 bytes"):
        spool(source_of(compress_member(BODY, "gz")), "gz", str(tmp_path / "nowhere" / "spool"), **LIMITS)


@KINDS
def test_an_error_of_the_store_comes_through(kind: str, tmp_path: Path) -> None:
    """It is not mistaken for damaged data."""

    class Unplugged:
        def read(self, *_: Any) -> bytes:
            raise StorageUnavailable("the store does not answer")

    source = source_of(compress_member(BODY, kind))
    with pytest.raises(StorageUnavailable, match="does not answer"):
        spool(Source(Unplugged(), source.pin), kind, str(tmp_path / "spool"), **LIMITS)  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=50), max_size=5), st.sampled_from(["gz", "zst"]))
def test_members_stand_behind_each_other(parts: list[bytes], kind: str) -> None:
    """Compressing parts and joining them is compressing their join, for any reader; nothing stays nothing."""
    stored = b"".join(compress_member(part, kind) for part in parts)
    codec = {"gz": "gzip", "zst": "zstd"}[kind]
    text = pa.CompressedInputStream(pa.BufferReader(stored), codec).read() if stored else b""
    assert text == b"".join(parts)


@KINDS
def test_a_member_is_the_same_every_time(kind: str) -> None:
    """No time stamp: equal rows give equal bytes on every run."""
    first = compress_member(BODY, kind)
    assert compress_member(BODY, kind) == first
    assert kind == "zst" or first[4:8] == b"\0\0\0\0"
    assert compress_member(BODY, "") == BODY


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"a,b\n", ""),
        ("ä,ö\n".encode(), ""),
        (b"\xef\xbb\xbfa,b\n", ""),
        (b"", ""),
        (compress_member(b"x", "gz"), "gzip"),
        (compress_member(b"x", "zst"), "zstd"),
        (b"PAR1", "parquet"),
        (b"PK\x03\x04", "zip"),
        (b"BZh9", "bzip2"),
        (b"\xfd7zXZ\x00", "xz"),
        ("a,b\n".encode("utf-16"), "utf-16"),
        ("a,b\n".encode("utf-16-be"), "utf-16"),
        ("a,b\n".encode("utf-32"), "utf-32"),
        ("a,b\n".encode("utf-32-le"), "utf-32"),
    ],
)
def test_magic_bytes_are_known(head: bytes, kind: str) -> None:
    """Kinds that are uploaded under a wrong name, or in a wrong encoding."""
    assert sniff(head) == kind


@pytest.mark.parametrize(
    ("head", "form", "kind", "message", "hint"),
    [
        (compress_member(b"x", "gz"), "csv", "", "x is named .csv but holds gzip data", "name it ….csv.gz"),
        (b"a,b\n", "csv", "gz", "x is named .gz but holds something that is not gzip", ""),
        (compress_member(b"x", "zst"), "jsonl", "gz", "x is named .gz but holds zstd data", "name it ….jsonl.zst"),
        (b"a,b\n", "parquet", "", "x is named .parquet but holds something that is not parquet", ""),
        (b"PAR1", "jsonl", "", "x is named .jsonl but holds parquet data", "input.format"),
        (b"PK\x03\x04", "csv", "", "x is named .csv but holds zip data", "unpack"),
        (b"\xff\xfea\0", "csv", "", "x is UTF-16 text, but only UTF-8 can be read", "iconv -f UTF-16"),
    ],
)
def test_a_name_that_does_not_fit_is_told(head: bytes, form: str, kind: str, message: str, hint: str) -> None:
    """What it is named, what it holds, and what to do."""
    with pytest.raises(InputFormatError) as caught:
        check_magic(head, form, kind, "x")
    assert caught.value.message == message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("head", "form", "kind"), [(b"a,b\n", "csv", ""), (b"\x1f\x8b", "csv", "gz"), (b"PAR1", "parquet", "")]
)
def test_a_name_that_fits_passes(head: bytes, form: str, kind: str) -> None:
    """Nothing is raised."""
    check_magic(head, form, kind, "x")
