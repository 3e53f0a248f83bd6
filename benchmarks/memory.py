"""Peak memory and time of a run over 500,000 and 2,000,000 rows: the peak must not grow with the input.

    python -m benchmarks.memory            # local files
    python -m benchmarks.memory --s3       # SeaweedFS on this machine

The input is the same in every run (seeded) and goes with the temporary folder. The peak is sampled from outside, as the
resident bytes of the process tree, and stands beside what the receipt says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

import batch
from batch.execution.memory import tree_rss_bytes
from batch.storage import storage_for
from batch.storage.embedded import EmbeddedS3

SIZES = (500_000, 2_000_000)
PIECE_ROWS = 100_000
DOUBLES = [f"x{number}" for number in range(12)]
SAMPLING_SECONDS = 0.02
JOB = """
name = "memory"
root = "{root}"
model = "models:/memory/1"
[input]
id = "id"
[output]
uri = "{root}/out.csv"
[run]
memory = "{memory}"
engine = "{engine}"
"""


def frame(first: int, rows: int) -> pd.DataFrame:
    """Rows `first` and on: an id, 12 doubles, 2 longs, 2 short categories; about 130 bytes of CSV each."""
    rng = np.random.default_rng([7, first])
    values = {name: rng.normal(size=rows).round(5) for name in DOUBLES}
    return pd.DataFrame(
        {
            "id": np.arange(first, first + rows),
            **values,
            "visits": rng.integers(0, 1000, rows),
            "cents": rng.integers(0, 10_000_000, rows),
            "plan": rng.choice(["basic", "plus", "pro"], rows),
            "region": rng.choice(["north", "south", "east", "west"], rows),
        }
    )


def write_input(path: Path, rows: int) -> None:
    """Write the CSV of so many rows, piece by piece."""
    schema = pa.Table.from_pandas(frame(0, 1), preserve_index=False).schema
    with pa.csv.CSVWriter(path, schema, write_options=pa.csv.WriteOptions(quoting_style="none")) as writer:
        for first in range(0, rows, PIECE_ROWS):
            piece = frame(first, min(PIECE_ROWS, rows - first))
            writer.write_table(pa.Table.from_pandas(piece, preserve_index=False))


def register(root: str, **declared: Any) -> None:
    """Fit and register the model that scores the input: a logistic regression behind scaling and one-hot encoding.

    `declared`: ``ranges`` and ``categories`` for the signature. Each call makes the next version.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    sample = frame(0, 5_000).drop(columns="id")
    target = np.where(sample["x0"] + sample["x1"] + (sample["plan"] == "pro") > 0, "yes", "no")
    encode = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore"), ["plan", "region"]),
            ("numbers", StandardScaler(), [*DOUBLES, "visits", "cents"]),
        ]
    )
    pipeline = make_pipeline(encode, LogisticRegression()).fit(sample, target)
    batch.register(pipeline, "memory", X=sample, root=root, **declared)


def timed(folder: Path, source: str, *, version: int = 1, more: str = "", settings: Sequence[str] = ()) -> float:
    """Wall seconds of one run over a file of the folder, start of the process included; `more`: further lines of the job file."""
    job = folder / "job.toml"
    text = JOB.format(root=folder, memory="1GiB", engine="auto").replace("memory/1", f"memory/{version}")
    job.write_text(text + more)
    command = [str(Path(sys.executable).with_name("batch-predict")), "run", str(job), "--force"]
    options = ["--input", str(folder / source), *(part for setting in settings for part in ("--set", setting))]
    began = time.monotonic()
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def measure(folder: Path, root: str, source: str, *, memory: str, engine: str = "auto") -> dict[str, Any]:
    """Score `source` in a process of its own; its receipt, with ``outside_peak_bytes`` and ``outside_seconds`` added."""
    job = folder / "job.toml"
    job.write_text(JOB.format(root=root, memory=memory, engine=engine))
    command = [str(Path(sys.executable).with_name("batch-predict")), "run", str(job), "--input", source, "--json"]
    started = time.monotonic()
    with subprocess.Popen([*command, "--force"], stdout=subprocess.PIPE, text=True) as process:
        peaks = [0]
        sampler = threading.Thread(target=_sample, args=(process, peaks), daemon=True)
        sampler.start()
        document, _ = process.communicate()
        sampler.join()
    if process.returncode:
        raise SystemExit(process.returncode)
    receipt: dict[str, Any] = json.loads(document)
    return receipt | {"outside_peak_bytes": peaks[0], "outside_seconds": time.monotonic() - started}


def _sample(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.returncode is None:
        peaks[0] = max(peaks[0], tree_rss_bytes(process.pid))
        time.sleep(SAMPLING_SECONDS)


def main() -> None:
    """Measure both sizes and print a line for each."""
    parser = argparse.ArgumentParser(description="Peak memory and time for two sizes of input.")
    parser.add_argument("--s3", action="store_true", help="on SeaweedFS instead of local files")
    parser.add_argument("--memory", default="600MiB")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        root = _root(stack, folder) if options.s3 else str(folder)
        register(root)
        for rows in options.rows:
            source = _upload(root, folder, rows) if options.s3 else str(_written(folder, rows))
            _say(rows, measure(folder, root, source, memory=options.memory, engine=options.engine))


def _root(stack: ExitStack, folder: Path) -> str:
    server = stack.enter_context(EmbeddedS3(memory="4GiB"))
    os.environ.update(server.environment())
    server.create_bucket("benchmark")
    return "s3://benchmark"


def _written(folder: Path, rows: int) -> Path:
    path = folder / f"{rows}.csv"
    write_input(path, rows)
    return path


def _upload(root: str, folder: Path, rows: int) -> str:
    path, uri = _written(folder, rows), f"{root}/{rows}.csv"
    with path.open("rb") as file:
        storage_for(uri).replace(uri, iter(lambda: file.read(8 << 20), b""), path.stat().st_size)
    path.unlink()
    return uri


def _say(rows: int, receipt: dict[str, Any]) -> None:
    print(
        f"{rows:>9,} rows  {receipt['input'][0]['size_bytes'] / 1e6:6.1f} MB  engine {receipt['engine']} "
        f"x{receipt['workers']}  peak {receipt['peak_rss_bytes'] / 2**20:.0f} MiB (receipt) "
        f"{receipt['outside_peak_bytes'] / 2**20:.0f} MiB (outside)  {receipt['timing']['seconds']:.1f} s (receipt) "
        f"{receipt['outside_seconds']:.1f} s (outside)\n           phases {receipt['timing']['phases']}"
    )


if __name__ == "__main__":
    main()
