"""``[run] memory`` is kept by the whole process tree, as seen from outside: every format, one huge row group, thousands of columns."""

from __future__ import annotations

import gc
import gzip
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import batch
from batch.errors import MemoryExceeded
from batch.formats import parquet_read
from benchmarks import memory
from tests.run_cases import Bench, encode, rows

MIB = 1 << 20
ROWS = 600_000
"""About 80 MB of CSV: several times what one chunk holds."""
CEILING = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the model and the rows in every format; it goes afterwards, for it holds a gigabyte."""
    folder = tmp_path_factory.mktemp("memory")
    memory.register(str(folder))
    memory.write_input(folder / "in.csv", ROWS)
    table = pa.concat_tables(
        pa.Table.from_pandas(memory.frame(first, 100_000), preserve_index=False) for first in range(0, ROWS, 100_000)
    )
    pq.write_table(table, folder / "in.parquet", row_group_size=50_000)
    note = pa.array([f"{number:09d}" * 40 for number in range(ROWS)])
    pq.write_table(table.append_column("note", note), folder / "group.parquet", row_group_size=ROWS)
    with (folder / "in.csv").open("rb") as plain, gzip.open(folder / "in.csv.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed)
    with (folder / "in.jsonl").open("w") as file:
        for first in range(0, ROWS // 3, 100_000):
            file.write(memory.frame(first, 100_000).to_json(orient="records", lines=True))
    yield folder
    shutil.rmtree(folder)


def kept(folder: Path, source: Path, ceiling: int = CEILING, engine: str = "auto") -> dict[str, object]:
    """Run over `source` and compare both peaks, the receipt's and that seen from outside, with the ceiling in MiB."""
    receipt = memory.measure(folder, str(folder), str(source), memory=f"{ceiling}MiB", engine=engine)
    assert receipt["rows"]["rejected"] == 0
    assert receipt["chunks"]["total"] > 1
    assert 100 * MIB < receipt["outside_peak_bytes"] < ceiling * MIB, receipt["outside_peak_bytes"] / MIB
    assert receipt["peak_rss_bytes"] < ceiling * MIB
    return receipt


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.jsonl", "in.parquet"])
def test_every_format_keeps_the_ceiling(place: Path, name: str) -> None:
    """With as many threads as the machine has cores."""
    assert kept(place, place / name)["engine"] == "threads"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
def test_worker_processes_count_too(place: Path, name: str) -> None:
    """The ceiling is the tree's: a worker process has libraries and a model of its own."""
    assert kept(place, place / name, 1200, "processes")["workers"] >= 1


@pytest.mark.slow
def test_one_huge_row_group_keeps_the_ceiling(place: Path) -> None:
    """Its chunks share one group of 300 MB: they stream it, and what they have read is free when they are done."""
    found = pq.ParquetFile(place / "group.parquet").metadata
    assert found.num_row_groups == 1
    assert found.row_group(0).total_byte_size > 250 * MIB
    kept(place, place / "group.parquet")


def test_what_a_chunk_has_read_of_parquet_is_freed_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a collection of garbage, which may not come for many chunks."""
    alive: list[weakref.ref[parquet_read.RangeFile]] = []
    usual = parquet_read.RangeFile.__init__

    def remembered(self: parquet_read.RangeFile, source: object) -> None:
        usual(self, source)  # type: ignore[arg-type]
        alive.append(weakref.ref(self))

    monkeypatch.setattr(parquet_read.RangeFile, "__init__", remembered)
    bench.put("in.parquet", encode(rows(), "parquet"))
    gc.disable()
    try:
        batch.run(bench.job("in.parquet", "out.csv"))
        left = [one for one in alive if one() is not None]
    finally:
        gc.enable()
    assert alive
    assert not left


WIDE = 5_000
WIDE_ROWS = 2_500


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with rows of 5,000 numbers, and a model that takes all of them."""
    from sklearn.linear_model import SGDClassifier

    folder = tmp_path_factory.mktemp("wide")
    names = [f"c{number}" for number in range(WIDE)]
    frame = pd.DataFrame(np.random.default_rng(1).normal(size=(WIDE_ROWS, WIDE)).round(4), columns=names)
    sample = frame.head(200)
    model = SGDClassifier(loss="log_loss", max_iter=5, tol=None).fit(sample, sample["c0"] > 0)
    batch.register(model, "memory", X=sample, root=str(folder))
    table = pa.Table.from_pandas(frame, preserve_index=False).add_column(0, "id", pa.array(range(WIDE_ROWS)))
    pa.csv.write_csv(table, folder / "in.csv")
    pq.write_table(table, folder / "in.parquet")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
def test_five_thousand_columns_keep_the_ceiling(wide: Path, name: str) -> None:
    """The default of a job."""
    kept(wide, wide / name, 1024)


@pytest.mark.slow
def test_a_plan_that_cannot_keep_the_ceiling_is_refused_with_both_numbers(wide: Path) -> None:
    """Parquet holds buffers for each column: not one chunk of so many fits, and no model is loaded to learn that."""
    job = wide / "refused.toml"
    job.write_text(memory.JOB.format(root=wide, memory="600MiB", engine="auto"))
    command = [
        str(Path(sys.executable).with_name("batch-predict")),
        "run",
        str(job),
        "--input",
        str(wide / "in.parquet"),
    ]
    done = subprocess.run([*command, "--force"], capture_output=True, text=True, check=False)
    assert done.returncode == MemoryExceeded.exit_code, done.stderr
    need, allowed = map(int, re.findall(r"\((\d+) bytes\)", done.stderr))
    assert allowed == 600 * MIB < need
    assert "Traceback" not in done.stderr
