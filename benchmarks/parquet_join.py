"""What it costs to make one Parquet file of the chunks' sections: row groups copied, against decoded and written anew.

    OMP_NUM_THREADS=1 python -m benchmarks.parquet_join [--sections 40] [--rows 250000] [--rounds 5]

Each section has an id, a probability and a label, encoded as a run does it. Both ways get the same sections from files, one after the other, and
what they give is only counted and hashed, as publishing does; the ways take turns, each round in a process of its own. Medians are
printed, the least and the most beside them: wall and CPU seconds, MB of the file, MB of the peak over what the process had before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from batch.formats import FORMATS, WriteOptions

PARQUET = FORMATS["parquet"]
SCHEMA = pa.schema([("id", pa.string()), ("probability", pa.float64()), ("prediction", pa.string())])
OPTIONS = WriteOptions(tuple(SCHEMA.names), arrow_schema=SCHEMA.serialize().to_pybytes())
WAYS = {"copied": True, "encoded": False}
FIGURES = ("wall", "cpu", "file_mb", "peak_mb")


def write_sections(folder: Path, sections: int, rows: int) -> None:
    """The chunks' sections as files, from one seed."""
    rng = np.random.default_rng(20)
    for number in range(sections):
        first, probability = number * rows, rng.beta(2, 5, rows)
        ids = pa.array([f"C{one:010d}" for one in range(first, first + rows)])
        labels = pa.array(np.where(probability > 0.5, "yes", "no"))
        encoder = PARQUET.encoder(OPTIONS)
        encoder.add(pa.table([ids, pa.array(probability), labels], schema=SCHEMA))
        (folder / f"{number:05d}").write_bytes(encoder.finish())


def resident_mb() -> float:
    """Of this process, now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def measure(folder: Path, way: str) -> dict[str, Any]:
    """One way, once; a thread looks at the memory every 5 ms."""
    options = replace(OPTIONS, joined=WAYS[way])
    # What is loaded on first use is not the way's own.
    for _ in PARQUET.assemble(options, [(folder / "00000").read_bytes()]):
        pass
    before = peak = resident_mb()
    over = threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, resident_mb())

    watcher = threading.Thread(target=look)
    watcher.start()
    digest, size = hashlib.sha256(), 0
    wall, cpu = time.perf_counter(), time.process_time()
    for piece in PARQUET.assemble(options, sections_of(folder)):
        digest.update(piece)
        size += len(piece)
    figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "file_mb": size / 1e6}
    over.set()
    watcher.join()
    return figures | {"peak_mb": peak - before, "sha256": digest.hexdigest()}


def sections_of(folder: Path) -> Iterator[bytes]:
    """The staged sections in order, each read when it is wanted."""
    return (path.read_bytes() for path in sorted(folder.iterdir()))


def main() -> None:
    """Print one line per way and the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sections", type=int, default=40)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "WAY"), help="one way in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(Path(options.one[0]), options.one[1])))
        return
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write_sections(Path(folder), options.sections, options.rows)
        for _ in range(options.rounds):
            for way, figures in found.items():
                command = [sys.executable, "-m", "benchmarks.parquet_join", "--one", folder, way]
                figures.append(json.loads(subprocess.check_output(command)))
    for way, figures in found.items():
        assert len({one["sha256"] for one in figures}) == 1, "the same sections must give the same bytes"
        values = {name: [one[name] for one in figures] for name in FIGURES}
        told = (f"{name} {median(all_)} ({min(all_)} to {max(all_)})" for name, all_ in _rounded(values).items())
        print(f"{way:<8} {'  '.join(told)}")
    for name in ("wall", "cpu"):
        one, other = (median(figure[name] for figure in found[way]) for way in ("encoded", "copied"))
        print(f"{name}: {one / other:.1f} x")


def _rounded(values: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [round(one, 3) for one in all_] for name, all_ in values.items()}


if __name__ == "__main__":
    main()
