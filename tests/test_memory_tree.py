"""``[run] memory`` is kept by the whole process tree, as seen from outside: every format, one huge row group, thousands of columns."""

from __future__ import annotations

import gc
import gzip
import os
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
from batch.execution.about import About
from batch.execution.preflight import prepare
from batch.execution.sizing import size
from batch.formats import parquet_read
from batch.storage.embedded import EmbeddedS3
from benchmarks import memory
from tests import memory_cases
from tests.run_cases import Bench, encode, rows
from tests.streamed_s3 import Generated, features, streaming_s3

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output", "ceiling"),
    [("in.csv", "grown.jsonl", 560), ("in.parquet", "grown.jsonl", 600), ("in.parquet", "grown.csv", 512)],
)
def test_an_output_that_is_larger_than_its_input_is_planned_for(
    place: Path, name: str, output: str, ceiling: int
) -> None:
    """Names in each record, and numbers as text: twice and three times the bytes that were read."""
    seen = memory_cases.run(place, place / name, output, ceiling=ceiling, keep='keep = ["*"]')
    seen.check_kept(ROWS)


@pytest.mark.slow
def test_zstandard_keeps_the_ceiling(place: Path) -> None:
    """Read as CSV, written as Parquet."""
    with (place / "in.csv").open("rb") as plain, pa.CompressedOutputStream(str(place / "in.csv.zst"), "zstd") as packed:
        shutil.copyfileobj(plain, packed)
    memory_cases.run(place, place / "in.csv.zst", "out.parquet", ceiling=512).check_kept(ROWS)


@pytest.mark.slow
def test_odd_lines_keep_the_ceiling(place: Path) -> None:
    """Python's own parser needs thirty times the bytes of a line: it is given few of them at once."""
    lines = (place / "in.jsonl").read_text().splitlines(keepends=True)
    lines[::1000] = ["{}}\n"] * len(lines[::1000])
    (place / "odd.jsonl").write_text("".join(lines))
    seen = memory_cases.run(
        place, place / "odd.jsonl", "odd-out.jsonl", ceiling=512, settings=("rejects.max_share=0.1",)
    )
    seen.check_kept(ROWS // 3, ROWS // 3 // 1000)


_HEAPS = """
import resource
import numpy as np
from batch.execution.memory import freed_memory_kept, give_back_freed_memory, tree_rss_bytes

def pages(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        np.ones(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

give_back_freed_memory()
print(pages(50))
with freed_memory_kept():
    pages(1)
    print(pages(50))
    several = [np.ones(1 << 20) for _ in range(10)]
    del several
    kept = tree_rss_bytes(os.getpid())
print(pages(50), (kept - tree_rss_bytes(os.getpid())) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is that of glibc")
def test_freed_memory_is_kept_for_a_while_and_then_given_back() -> None:
    """50 arrays of 8 MiB: they are new pages each time, then the same ones, then new ones again; what was kept goes."""
    done = subprocess.run([sys.executable, "-c", "import os\n" + _HEAPS], capture_output=True, text=True, check=True)
    before, meanwhile, after, given_back = map(int, done.stdout.split())
    assert min(before, after) > 10 * max(meanwhile, 1)
    assert given_back > 50


def test_freed_memory_is_kept_only_where_there_is_room(bench: Bench) -> None:
    """The default ceiling has room; one that is just enough for the chunks has none."""
    bench.put("in.csv", encode(rows(), "csv"))
    prepared = prepare(bench.job("in.csv", "out.csv"), About(None, None), force=True)
    plan = prepared.plan(str(bench.root))
    roomy = size(prepared.job, plan, "threads", 0)
    tight = size(bench.job("in.csv", "out.csv", run__memory=f"{roomy.memory_bytes}"), plan, "threads", 0)
    assert (roomy.keeps_freed, tight.keeps_freed) == (True, False)
    assert tight.memory_bytes == roomy.memory_bytes


def test_a_refusal_stores_no_rows(bench: Bench) -> None:
    """One number is the need and one the limit; there is neither a chunk nor an output, and the failure is on record."""
    with pytest.raises(MemoryExceeded) as refused:
        bench.run("in.csv", "out.csv", run__memory="100MiB")
    need, allowed = map(int, re.findall(r"\((\d+) bytes\)", refused.value.message))
    assert allowed == 100 * MIB < need
    assert refused.value.exit_code == 3
    assert refused.value.receipt["error"]["code"] == "memory"
    names = [uri.removeprefix(f"{bench.root}/") for uri in bench.names()]
    stored = re.compile(
        r"runs/.*/chunks/|runs/.*/commit|out\.|outputs/[^/]*/[0-9]+\.json|done/"
    )  # the lease is none of these
    assert not [name for name in names if stored.match(name)], names
    assert [name for name in names if name.startswith("attempts/") and name.endswith(".end.json")]


IS_NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
STREAMED_ROWS = 20_000_000 if IS_NIGHTLY else 3_000_000
"""10 GB, or 1.5 GB."""


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(1800 if IS_NIGHTLY else 300)
def test_the_peak_does_not_grow_with_the_input(
    s3_server: EmbeddedS3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input that nobody stores, read from S3 and published there: several gigabytes need what 300 MB do."""
    from sklearn.linear_model import LogisticRegression

    sample = features()
    with streaming_s3(s3_server.endpoint_url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        batch.register(LogisticRegression().fit(sample, sample["x0"] > 0), "memory", X=sample, root=bucket)
        peaks = []
        # At 600 MiB nothing is kept that is free, so the peak is that of the chunks; at the default it may be.
        for count, ceiling in ((600_000, 600), (STREAMED_ROWS, 600), (STREAMED_ROWS, 1024)):
            name = f"in-{count}.csv"
            server.generated[f"{bucket.removeprefix('s3://')}/{name}"] = Generated(count)
            seen = memory_cases.run(
                tmp_path, f"{bucket}/{name}", f"out-{count}-{ceiling}.csv", root=bucket, ceiling=ceiling
            )
            seen.check_kept(count)
            peaks.append(seen.peak_bytes)
    assert peaks[1] < 1.1 * peaks[0], peaks
