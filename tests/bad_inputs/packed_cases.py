"""Compressed files, and files that are not what their name says."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable

import pyarrow as pa

from tests.bad_inputs import csv_cases, jsonl_cases, parquet_cases
from tests.bad_inputs.case import Case, Reject, accepted, refused, rejected

BOMB_BYTES = 80 << 20
BODY = csv_cases.text(*csv_cases.GOOD)()
LINES = jsonl_cases.lines(*jsonl_cases.GOOD)()


def gz(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def zst(body: bytes) -> bytes:
    return pa.Codec("zstd").compress(body, asbytes=True)


PACK = {"gz": gz, "zst": zst}


def in_parts(pack: Callable[[bytes], bytes]) -> bytes:
    """Three members, of which one ends inside a record and one is empty."""
    return b"".join(pack(part) for part in (BODY[:40], b"", BODY[40:]))


def wrong_checksum() -> bytes:
    body = bytearray(gz(BODY))
    body[-6] ^= 1
    return bytes(body)


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(zipfile.ZipInfo("in.csv"), BODY)
    return sink.getvalue()


def either(suffix: str) -> tuple[Case, ...]:
    """What is the same for both ways to compress."""
    kind, pack, file = {"gz": "gzip", "zst": "zstd"}[suffix], PACK[suffix], f"in.csv.{suffix}"
    damaged = f"cannot be decompressed: {kind} data is damaged at or after compressed byte"
    return (
        refused(1, f"{suffix}-empty", f"{kind}: 0 bytes", lambda: b"", "input_empty", f"{file} is empty (0 bytes)", file=file),
        refused(
            1, f"{suffix}-of-nothing", f"{kind} of 0 bytes", lambda: pack(b""), "input_empty", f"{file} is empty", file=file
        ),
        refused(49, f"{suffix}-cut", f"{kind} that is cut off", lambda: pack(BODY)[:-9], "input_format", damaged, file=file),
        refused(49, f"{suffix}-tail", f"{kind} with garbage behind it", lambda: pack(BODY) + b"garbage", "input_format", damaged, file=file),
        accepted(
            50, f"{suffix}-members", f"{kind} of several members", lambda: in_parts(pack), 3, file=file,
            cells={"customer_id": csv_cases.IDS},
        ),
        refused(
            51, f"{suffix}-bomb", f"{kind} of {BOMB_BYTES >> 20} MiB of zeros", lambda: pack(bytes(BOMB_BYTES)), "input_too_large",
            "decompresses to more than 200 times its size", hint="input.max_ratio", file=file,
        ),
        refused(
            51, f"{suffix}-too-large", f"{kind} over `max_decompressed_bytes`", lambda: pack(BODY * 1000), "input_too_large",
            "decompresses to more than 1000 bytes", hint="input.max_decompressed_bytes", file=file,
            settings={"input__max_decompressed_bytes": 1000},
        ),
        refused(
            52, f"{suffix}-plain", f"CSV that is named .csv.{suffix}", lambda: BODY, "input_format",
            f"is named .{suffix} but holds something that is not {kind}", file=file,
        ),
        refused(
            52, f"csv-is-{suffix}", f"{kind} that is named .csv", lambda: pack(BODY), "input_format",
            f"in.csv is named .csv but holds {kind} data", hint=f"name it ….csv.{suffix}",
        ),
        refused(
            52, f"{suffix}-twice", f"{kind} of {kind}", lambda: pack(pack(BODY)), "input_format",
            f"in.csv.{suffix} is compressed twice: inside there is {kind} data", file=file,
        ),
        refused(
            52, f"parquet-in-{suffix}", f"Parquet that is named .parquet.{suffix}", lambda: pack(parquet_cases.file()()), "input_format",
            "is a compressed Parquet file", file=f"in.parquet.{suffix}",
        ),
        refused(
            7, f"{suffix}-latin-1", f"{kind} of Latin-1", lambda: pack(BODY + b"7,30,0.5,caf\xe9\n"), "input_format",
            f"{file} is not UTF-8: byte 0xe9", file=file,
        ),
        rejected(
            32, f"jsonl-{suffix}-null", f"{kind} of JSONL whose first line is `null`", lambda: pack(b"null\n" + LINES),
            Reject(1, "parse", "", "is null, not an object"), file=f"in.jsonl.{suffix}", predicted=3,
        ),
    )  # fmt: skip


CASES = (
    *either("gz"),
    refused(
        49,
        "gz-checksum",
        "gzip with a wrong checksum",
        wrong_checksum,
        "input_format",
        "incorrect data check",
        file="in.csv.gz",
    ),
    *either("zst"),
    refused(
        52,
        "csv-is-parquet",
        "Parquet that is named .csv",
        parquet_cases.file(),
        "input_format",
        "in.csv is named .csv but holds parquet data",
        hint='set input.format = "parquet"',
    ),
    refused(
        52,
        "jsonl-is-parquet",
        "Parquet that is named .jsonl",
        parquet_cases.file(),
        "input_format",
        "in.jsonl is named .jsonl but holds parquet data",
        file="in.jsonl",
    ),
    refused(
        52,
        "parquet-is-gz",
        "gzip that is named .parquet",
        lambda: gz(BODY),
        "input_format",
        "in.parquet is named .parquet but holds gzip data",
        file="in.parquet",
    ),
    refused(
        53,
        "csv-is-zip",
        "a zip archive that is named .csv",
        zipped,
        "input_format",
        "in.csv is named .csv but holds zip data",
        hint="unpack the archive",
    ),
    refused(53, "zip", "a zip archive", zipped, "input_format", "does not tell its format", file="in.zip"),
    refused(
        53,
        "xlsx",
        "a spreadsheet",
        zipped,
        "input_format",
        "does not tell its format",
        file="in.xlsx",
        hint="set [input] format",
    ),
)
