"""Holds the limits: a hostile or oversized input is refused early, cheaply and with both numbers."""

import gzip
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

import batch
from tests.model_cases import NUMBERS, WORDS, X

CHILD_RSS_MAX = 350 << 20
ROW = b"0,0.0,0.0\n"
HEADER = b"age,spend,visits\n"

# VmHWM and not ru_maxrss: the latter also counts the large test process that this one was started from.
WATCHED = """
import atexit, re, sys
atexit.register(lambda: print(
    "WATCHED", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024, int("sklearn" in sys.modules), file=sys.stderr))
from batch.cli import main
sys.argv[0] = "batch-predict"
main()
"""


@dataclass(frozen=True)
class Ended:
    """How a child process ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def _watched(self) -> list[int]:
        return [int(text) for text in re.search(r"WATCHED (\d+) (\d)", self.stderr).groups()]

    @property
    def peak_bytes(self) -> int:
        return self._watched[0]

    @property
    def loaded_sklearn(self) -> bool:
        return bool(self._watched[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with one registered model of three numbers."""
    folder = str(tmp_path_factory.mktemp("limits"))
    batch.register(LogisticRegression(max_iter=500).fit(X[NUMBERS], WORDS), "m", X=X[NUMBERS], root=folder)
    return folder


@pytest.fixture
def call(root, tmp_path):
    """Run ``batch-predict run`` on an input in a process of its own."""

    def run(source: Path, *settings: str, extra: tuple[str, ...] = ()) -> Ended:
        job = tmp_path / "job.toml"
        job.write_text(
            f'name = "limits"\nroot = "{root}"\nmodel = "models:/m/1"\n[output]\nuri = "{tmp_path}/out{source.suffixes[0]}"\n'
        )
        command = [sys.executable, "-c", WATCHED, "run", str(job), "--input", str(source), *extra]
        command += [part for setting in settings for part in ("--set", setting)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def refused(ended: Ended, *numbers: str) -> None:
    """Exit 3, one sentence with the numbers, a hint, no traceback, no model loaded, little memory."""
    assert ended.exit_code == 3, ended.stderr
    message = next(line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert all(number in message for number in numbers), message
    assert "\nhint: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not ended.loaded_sklearn
    assert ended.peak_bytes < CHILD_RSS_MAX


@pytest.fixture(scope="module")
def gzip_bomb(tmp_path_factory):
    """200 MB of rows in about 200 KB."""
    path = tmp_path_factory.mktemp("bomb") / "in.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(HEADER)
        for _ in range(200):
            file.write(ROW * 100_000)
    assert path.stat().st_size < 1 << 20
    return path


@pytest.fixture(scope="module")
def parquet_bomb(tmp_path_factory):
    """300 MB of constant columns in a few KB: whole columns as one run in one page."""
    path = tmp_path_factory.mktemp("bomb") / "in.parquet"
    rows = 12_500_000
    table = pa.table({"age": np.zeros(rows, "int64"), "spend": np.zeros(rows), "visits": np.zeros(rows)})
    pq.write_table(table, path, compression="zstd", row_group_size=rows, max_rows_per_page=rows)
    assert table.nbytes == 300_000_000
    assert path.stat().st_size < 20_000
    return path


def test_max_bytes(call, tmp_path):
    """A plain file over the limit is refused by its size alone."""
    source = tmp_path / "in.csv"
    source.write_bytes(HEADER + ROW * 100)
    refused(call(source, "input.max_bytes=1000"), "1017 bytes", "max_bytes = 1000")


def test_gzip_bomb_by_ratio(call, gzip_bomb):
    """The default ratio stops a bomb within one block of 200 times its stored size."""
    ended = call(gzip_bomb)
    refused(ended, "200 times its size", f"from {gzip_bomb.stat().st_size} stored")
    decoded = int(re.search(r"\((\d+) bytes so far", ended.stderr)[1])
    limit = max(64 << 20, 200 * gzip_bomb.stat().st_size)
    assert limit < decoded <= limit + (1 << 20)


def test_gzip_bomb_by_decoded_bytes(call, gzip_bomb):
    """The absolute limit counts decoded bytes, and nothing is left in the scratch folder."""
    ended = call(gzip_bomb, "input.max_decompressed_bytes=10000000", "input.max_ratio=1000000")
    refused(ended, "10000000 bytes", f"{gzip_bomb.stat().st_size} are stored")


def test_parquet_bomb_by_ratio(call, parquet_bomb):
    """The footer's counts are enough: no page is decoded."""
    refused(call(parquet_bomb), "max_ratio = 1000", "300000000 bytes", f"{parquet_bomb.stat().st_size}")


def test_parquet_max_rows(call, parquet_bomb):
    """The footer's rows are enough."""
    ended = call(parquet_bomb, "input.max_rows=1000", "input.max_ratio=1000000")
    refused(ended, "12500000 rows", "max_rows = 1000")


@pytest.mark.slow
def test_csv_max_rows(call, tmp_path):
    """Only counting shows the rows of a text file; nothing is published then."""
    source = tmp_path / "in.csv"
    source.write_bytes(HEADER + ROW * 5000)
    ended = call(source, "input.max_rows=1000", "run.chunk_bytes=8000")
    assert ended.exit_code == 3, ended.stderr
    assert re.search(r"error: .* at least \d+ rows, over the limit max_rows = 1000\n", ended.stderr)
    assert not (tmp_path / "out.csv").exists()


def test_memory_too_small(call, tmp_path):
    """Where not one chunk fits, both numbers are named and no model is loaded."""
    source = tmp_path / "in.csv"
    source.write_bytes(HEADER + ROW * 100)
    ended = call(source, 'run.memory="100MiB"')
    refused(ended, "memory = 100 MiB (104857600 bytes)")
    assert int(re.search(r"needs about \S+ \S+ \((\d+) bytes\)", ended.stderr)[1]) > 100 << 20


def test_record_too_long(call, tmp_path):
    """A record over the limit is one rejected row, not a refused file."""
    source = tmp_path / "in.csv"
    source.write_bytes(HEADER + ROW + b"1" * 3000 + b",0.0,0.0\n" + ROW)
    ended = call(source, "input.max_record_bytes=2000", "rejects.max_rows=1", extra=("--json",))
    assert ended.exit_code == 0, ended.stderr
    receipt = json.loads(ended.stdout)
    assert receipt["rows"] == {"read": 3, "predicted": 2, "rejected": 1}
    assert receipt["rejects"][0]["by_code"] == {"too_long": 1}


@pytest.mark.slow
def test_memory_is_kept(tmp_path):
    """300,000 rows stay below the memory that the job allows, as seen from outside."""
    from benchmarks.memory import measure, register, write_input

    register(str(tmp_path))
    source = tmp_path / "in.csv"
    write_input(source, 300_000)
    receipt = measure(tmp_path, str(tmp_path), str(source), memory="600MiB")
    assert receipt["rows"]["predicted"] == 300_000
    assert 0 < receipt["peak_rss_bytes"] < 600 << 20
    assert 0 < receipt["outside_peak_bytes"] < 600 << 20
