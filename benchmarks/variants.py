"""What variants cost: a split and a shadow against the plain run, in the same number of model calls' worth of work.

    python -m benchmarks.variants                    # 1,000,000 rows, 5 rounds

The variants are further versions of the same model, so that a shadow should cost one more model call per row and a split none. All runs are
processes of their own on local files, in turn; a ratio is taken within its round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.memory import register, timed, write_input

SPLIT = '[[variants]]\nname = "challenger"\nmodel = "models:/memory/2"\nweight = 0.1\n'
SHADOW = '[[variants]]\nname = "challenger"\nmodel = "models:/memory/2"\nmode = "shadow"\n'
CASES = {"plain": "", "split 0.1": SPLIT, "shadow": SHADOW, "capture": "[monitor]\ncapture_rows = 5000\n"}


def main() -> None:
    """Print each case's median seconds and its ratio to the plain run."""
    parser = argparse.ArgumentParser(description="What variants cost.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        register(name)
        register(name)
        write_input(folder / "in.csv", options.rows)
        seconds = [
            {one: timed(folder, "in.csv", more=more) for one, more in CASES.items()} for _ in range(options.rounds)
        ]
    for one in CASES:
        ratio = statistics.median(each[one] / each["plain"] for each in seconds)
        print(f"{one:<10} {statistics.median(each[one] for each in seconds):6.2f} s   {ratio:.2f} x")


if __name__ == "__main__":
    main()
