"""What checking rows costs: declared ranges and categories, unique ids, and a file with 1 % bad rows, each against the plain run.

    python -m benchmarks.checks                      # 1,000,000 rows, 5 rounds

All variants run in turn, round by round, in processes of their own on local files; a ratio is taken within its round, and the
median of the rounds is printed. The rejects of the file with bad rows are compared with the rows that were made bad.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import DOUBLES, register, timed, write_input

BAD_SHARE = 0.01
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"source": "clean.csv"},
    "declared": {"source": "clean.csv", "version": 2},
    "unique_id": {"source": "clean.csv", "settings": ["input.unique_id=true"]},
    "1 % bad": {"source": "bad.csv", "settings": ["rejects.max_share=1.0"]},
}
"""See `timed`."""


def spoil(source: Path, target: Path, rows: int) -> list[int]:
    """Copy a CSV with every so many-th row made bad, in one of three ways; the numbers of those rows, from 1."""
    rng = np.random.default_rng(11)
    bad = np.sort(rng.choice(rows, int(rows * BAD_SHARE), replace=False))
    ways = {int(row): int(way) for row, way in zip(bad, rng.integers(0, 3, len(bad)), strict=True)}
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        out.write(next(lines))
        for row, line in enumerate(lines):
            out.write(_spoilt(line, ways[row]) if row in ways else line)
    return [int(row) + 1 for row in bad]


def _spoilt(line: str, way: int) -> str:
    fields = line.rstrip("\n").split(",")
    if way == 2:
        return ",".join([*fields, "one too many"]) + "\n"
    fields[3] = "" if way == 0 else "n/a"
    return ",".join(fields) + "\n"


def main() -> None:
    """Print each variant's median seconds and its ratio to the plain run."""
    parser = argparse.ArgumentParser(description="What checking rows costs.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        register(name)
        register(
            name,
            ranges=dict.fromkeys(DOUBLES, (-100.0, 100.0)),
            categories={"plan": ["basic", "plus", "pro"], "region": ["north", "south", "east", "west"]},
        )
        write_input(folder / "clean.csv", options.rows)
        bad = spoil(folder / "clean.csv", folder / "bad.csv", options.rows)
        seconds = [{one: timed(folder, **each) for one, each in VARIANTS.items()} for _ in range(options.rounds)]
        for one in VARIANTS:
            ratio = statistics.median(each[one] / each["plain"] for each in seconds)
            print(f"{one:<10} {statistics.median(each[one] for each in seconds):6.2f} s   {ratio:.2f} x")
        with (folder / "out.rejects.csv").open(encoding="utf-8", newline="") as file:
            found = [int(record["_row"]) for record in csv.DictReader(file)]
        print(f"{len(found):,} rejected rows, {'exactly' if found == bad else 'NOT'} the bad ones")


if __name__ == "__main__":
    main()
