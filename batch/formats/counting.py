"""How many rows a written file holds, counted from its bytes and from nothing else."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from typing import Any

from batch.formats import FORMATS, ReadOptions
from batch.formats.compression import decoded_blocks
from batch.storage import Source


def count_rows(source: Source, format_name: str, compression: str, delimiter: str = ",") -> int:
    """Rows of a predictions or rejects file; the header line of a CSV is not one. Raises `InputRefused` for a broken file."""
    if not source.size_bytes:
        return 0
    if format_name == "parquet":
        return int(FORMATS["parquet"].inspect(source, ReadOptions(columns=())).rows or 0)
    blocks = decoded_blocks(source, compression)
    if format_name == "jsonl":
        return sum(block.count(b"\n") for block in blocks)
    text = io.TextIOWrapper(io.BufferedReader(_Blocks(blocks), 1 << 20), encoding="utf-8", errors="replace", newline="")
    csv.field_size_limit(sys.maxsize)  # a kept column may hold what the job allows as a record
    return max(0, sum(1 for _ in csv.reader(text, delimiter=delimiter)) - 1)


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._block = memoryview(block)
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count
