"""Valid files, damaged byte by byte, and what the real program makes of them: ``python -m tests.fuzz FOLDER FIRST STOP``.

A seed says everything: which file, what damage, which settings. The program runs them one after the other and tells of each on stdout
when it begins and when it has ended, so that whoever reads that knows which one took the process with it.
"""

from __future__ import annotations

import faulthandler
import gzip
import json
import random
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import batch
from batch.errors import BatchError
from tests.bad_inputs.case import records_of
from tests.bad_inputs.parquet_cases import stored
from tests.csv_grammar import records_of as records_of_csv
from tests.run_cases import Bench, compress, encode, register, rows

SECONDS_MAX = 30
MEMORY_BYTES_MAX = 4 << 30
"""Of address space: a file that asks for more is found out by a MemoryError, and not by the machine."""
FORMATS = ("csv", "csv", "jsonl", "parquet", "parquet", "csv.gz", "jsonl.zst", "csv.zst", "jsonl.gz")
EXIT_CODES = {0, 3, 4}
"""Done, the input is refused, or the model fails on every row. With a budget for all rejects there is no other end."""
TOKENS = (
    b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", "\u2028".encode(), b"null", b"NaN", b"1e999", b"-0",
    b"9" * 30, b"0x1F", b"{", b"}", b"[" * 300, b"]", b":", b"\\", b"\\ud800", b"\\u0000", b"true", b"1e308", b" ", b"\t", b"''", b"PAR1",
    b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xff\xff\xff\x0f", b"\x80", b"\x7f", b'"age"', b"prediction", b"\x00" * 8,
)  # fmt: skip


# --- damage


def flip(dice: random.Random, body: bytearray) -> None:
    if body:
        body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)


def overwrite(dice: random.Random, body: bytearray) -> None:
    if body:
        body[dice.randrange(len(body))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))


def cut_out(dice: random.Random, body: bytearray) -> None:
    start, stop = _range(dice, body)
    del body[start:stop]


def insert(dice: random.Random, body: bytearray) -> None:
    at = dice.randint(0, len(body))
    body[at:at] = dice.choice(TOKENS) if dice.random() < 0.8 else dice.randbytes(dice.randint(1, 20))


def duplicate(dice: random.Random, body: bytearray) -> None:
    start, stop = _range(dice, body)
    body[stop:stop] = body[start:stop] * dice.choice((1, 1, 2, 20))


def splice(dice: random.Random, body: bytearray) -> None:
    """A piece of another file in the place of one of this."""
    other = valid(dice.choice(FORMATS), dice.randrange(VARIANTS))
    start, stop = _range(dice, body)
    first, last = _range(dice, other)
    body[start:stop] = other[first:last]


def swap(dice: random.Random, body: bytearray) -> None:
    start, stop = _range(dice, body)
    piece = body[start:stop]
    del body[start:stop]
    at = dice.randint(0, len(body))
    body[at:at] = piece


def truncate(dice: random.Random, body: bytearray) -> None:
    del body[dice.randint(0, len(body)) :]


def _range(dice: random.Random, body: bytes | bytearray) -> tuple[int, int]:
    start = dice.randint(0, len(body))
    return start, min(len(body), start + int(2 ** dice.uniform(0, 10)))


DAMAGE: tuple[Callable[[random.Random, bytearray], None], ...] = (
    flip, flip, overwrite, overwrite, cut_out, insert, insert, duplicate, splice, swap, truncate,
)  # fmt: skip
VARIANTS = 4


@cache
def valid(kind: str, variant: int) -> bytes:
    """A whole file of 40 rows or so."""
    format_name, _, suffix = kind.partition(".")
    frame = rows(40) if variant % 2 else rows(40).drop(columns="note")
    if format_name == "parquet":
        ways: tuple[dict[str, Any], ...] = (
            {}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 7, "data_page_version": "2.0"},
            {"compression": "zstd", "write_page_checksum": False, "data_page_size": 64},
        )  # fmt: skip
        return stored(pa.Table.from_pandas(frame, preserve_index=False), **ways[variant])
    body = encode(frame, format_name)
    if variant >= 2 and not suffix:
        body = body.replace(b"\n", b"\r\n")
    return compress(body, suffix and f".{suffix}")


@dataclass(frozen=True)
class Mutant:
    """A damaged file and the settings of its run."""

    kind: str
    body: bytes
    settings: dict[str, Any] = field(default_factory=dict)
    output: str = "csv"


def mutant(seed: int) -> Mutant:
    """The file of a seed. Of a compressed file either the text or the stored bytes are damaged."""
    dice = random.Random(seed)
    kind = dice.choice(FORMATS)
    format_name, _, suffix = kind.partition(".")
    inside = bool(suffix) and dice.random() < 0.5
    body = bytearray(valid(format_name if inside else kind, dice.randrange(VARIANTS)))
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        dice.choice(DAMAGE)(dice, body)
    whole = compress(bytes(body), f".{suffix}") if inside else bytes(body)
    settings: dict[str, Any] = {"run__chunk_bytes": dice.choice((64, 500, 4000, 32 << 20))}
    settings["run__engine"] = "threads" if dice.random() < 0.2 else "inline"
    if dice.random() < 0.3:
        settings["output__keep"] = ["*"]
    if dice.random() < 0.2:
        settings |= {"checks__on_null": dice.choice(("null", "allow")), "checks__on_range": "null"}
    output = format_name if dice.random() < 0.6 else dice.choice(("csv", "jsonl", "parquet"))
    return Mutant(kind, whole, settings, output)


# --- the run


def complaint(bench: Bench, seed: int) -> tuple[int, str]:
    """The exit code of a seed's run and what is wrong with its end, "" for nothing."""
    file = mutant(seed)
    source, stem = f"{seed}.{file.kind}", f"out-{seed}"
    bench.put(source, file.body)
    try:
        job = bench.job(source, f"{stem}.{file.output}", **{"rejects__max_rows": 10**9, **file.settings})
        receipt = batch.run(job)
    except BatchError as error:
        wrong = "" if error.exit_code in EXIT_CODES else f"{error.code}: {error.message}"
        return error.exit_code, wrong or ("a message of two lines: " + error.message if "\n" in error.message else "")
    except Exception:
        return 1, traceback.format_exc()
    counts = receipt.rows
    rejects = bench.get(f"{stem}.rejects.{file.kind.split('.')[0]}")
    refused = records_of(rejects, file.kind.split(".")[0]) if rejects is not None else []
    output = records_of(bench.get(f"{stem}.{file.output}") or b"", file.output)
    told = (counts.read, counts.predicted, counts.rejected)
    found = (counted(file), len(output), len(refused))
    if told != found or counts.read != counts.predicted + counts.rejected:
        return 0, f"the receipt says {told} (read, predicted, rejected), the files {found}"
    numbers = [int(record["_row"]) for record in refused]
    if any(one >= other for one, other in pairwise(numbers)) or not set(numbers) <= set(range(1, counts.read + 1)):
        return 0, f"rejected rows {numbers}"
    if file.output == file.kind.split(".")[0] != "parquet" and "output__keep" not in file.settings:
        expected = [each for row, each in enumerate(ids(file), 1) if row not in set(numbers)]
        if expected != [record["customer_id"] for record in output]:
            return 0, f"ids {[record['customer_id'] for record in output]}, not {expected}"
    return 0, ""


def text_of(file: Mutant) -> bytes:
    """The decompressed text, by other programs than ours, without a byte order mark."""
    body = file.body
    if file.kind.endswith(".gz"):
        body = gzip.decompress(body)
    if file.kind.endswith(".zst"):
        body = pa.CompressedInputStream(pa.BufferReader(body), "zstd").read()
    return body.removeprefix(b"\xef\xbb\xbf")


def lines_of(file: Mutant) -> list[bytes]:
    """The records of a JSONL file."""
    return [line for line in text_of(file).split(b"\n") if line.strip(b" \t\r")]


def counted(file: Mutant) -> int:
    """The records of a file that was read."""
    if file.kind == "parquet":
        return int(pq.read_metadata(pa.BufferReader(file.body)).num_rows)
    if file.kind.startswith("jsonl"):
        return len(lines_of(file))
    return len(records_of_csv(text_of(file).decode())) - 1


def ids(file: Mutant) -> list[Any]:
    """The value of ``customer_id`` of each record; of one that is none it is not looked at."""
    if file.kind.startswith("csv"):
        head, *records = records_of_csv(text_of(file).decode())
        place = head.fields.index("customer_id")
        return [(record.fields[place] or "") if place < len(record.fields) else None for record in records]
    return [_id(line) for line in lines_of(file)]


def _id(line: bytes) -> Any:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record.get("customer_id") if isinstance(record, dict) else None


def main(folder: str, first: int, stop: int) -> None:
    """Run the seeds in ``[first, stop)``; a line ``> SEED`` before each, ``< SEED EXIT`` and JSON of the complaint behind it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    root = Path(folder)
    model = next((str(each) + "/" for each in root.glob("models/tiny/1")), None) or register(folder)
    place = root / f"{first}-{stop}"
    place.mkdir()
    bench = Bench(str(place), model, place)
    for seed in range(first, stop):
        print(">", seed, flush=True)
        faulthandler.dump_traceback_later(SECONDS_MAX, exit=True)
        exit_code, wrong = complaint(bench, seed)
        faulthandler.cancel_dump_traceback_later()
        print("<", seed, exit_code, json.dumps(wrong), flush=True)


if __name__ == "__main__":
    faulthandler.enable()
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
