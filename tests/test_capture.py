"""Data capture: the same sample of rows on every rerun, without the denied columns, for the next training."""

from __future__ import annotations

import csv
import io
import runpy
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import batch
from batch.errors import InputMissing, JobInvalid
from batch.execution.retry import retry
from batch.models import bundle
from tests.run_cases import FEATURES, Bench, encode, rows

JOBS = Path(__file__).parents[1] / "jobs"


def sample(bench: Bench, receipt: dict) -> pd.DataFrame:
    uri = receipt["capture"]["uri"]
    assert uri == f"{bench.root}/runs/weekly/{receipt['run_id']}/capture.parquet"
    return pq.read_table(uri).to_pandas()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [["customer_id"], ["product"]], ids=["id", "without"])
def test_the_sample_depends_on_the_ids_alone(bench: Bench, keep: list[str]) -> None:
    """Any chunks, engine, order and format give the same rows, with their values as the model was given them."""
    table = rows(500)
    shuffled = table.sample(frac=1, random_state=2)
    files = {
        "a.csv": (table, 2_000, "threads"),
        "b.jsonl": (shuffled, 9_000, "inline"),
        "c.parquet": (shuffled, 10**6, "inline"),
    }
    found = []
    for name, (frame, chunk_bytes, engine) in files.items():
        bench.put(name, encode(frame, name.rsplit(".", 1)[-1]))
        settings = {"run__chunk_bytes": chunk_bytes, "run__engine": engine, "output__keep": keep}
        receipt = bench.run(name, f"out-{name}", monitor__capture_rows=40, **settings).as_dict()
        assert receipt["capture"]["rows"] == 40
        found.append(sample(bench, receipt))
    assert [*found[0].columns] == ["customer_id", *FEATURES]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)
    own = table.set_index("customer_id").loc[found[0]["customer_id"], FEATURES].reset_index()
    pd.testing.assert_frame_equal(found[0], own, check_dtype=False)


def test_most_customers_are_kept_again(bench: Bench) -> None:
    """Next week's file with new customers in it: who has one of the smallest hashes of both is in both samples."""
    bench.put("one.csv", encode(rows(400), "csv"))
    bench.put("two.csv", encode(rows(440), "csv"))
    ids = [
        set(sample(bench, bench.run(name, f"o-{name}", monitor__capture_rows=50).as_dict())["customer_id"])
        for name in ("one.csv", "two.csv")
    ]
    assert len(ids[0] & ids[1]) >= 40


def test_denied_columns_are_not_kept(bench: Bench) -> None:
    """Also the id; and rows that were rejected are not captured."""
    table = rows(60).astype({"age": object})
    table.loc[5, "age"] = None
    bench.put("in.csv", encode(table, "csv"))
    more = '[monitor]\ncapture_rows = 1000\ncapture_deny = ["customer_id", "spend"]\n'
    receipt = bench.run("in.csv", "out.csv", more, rejects__max_rows=1).as_dict()
    found = sample(bench, receipt)
    assert ([*found.columns], len(found)) == (["age", "product"], 59)


def test_a_retry_keeps_the_sample(bench: Bench) -> None:
    """It is of the rows of the run that it mends."""
    table = rows(60).astype({"age": object})
    table.loc[5, "age"] = "old"
    bench.put("in.csv", encode(table, "csv"))
    base = bench.run("in.csv", "out.csv", monitor__capture_rows=20, rejects__max_rows=1).as_dict()
    fixed = (bench.get("out.rejects.csv") or b"").replace(b",old,", b",40,")
    again = retry(bench.root, base["run_id"], bench.put("fixed.csv", fixed)).as_dict()
    pd.testing.assert_frame_equal(sample(bench, base), sample(bench, again))


def test_an_id_is_needed(bench: Bench) -> None:
    with pytest.raises(JobInvalid, match=r"input\.id: required, because \[monitor\] capture_rows keeps rows by it"):
        bench.job("in.csv", "out.csv", monitor__capture_rows=5, input__id="")


def test_captures_are_read_back(bench: Bench) -> None:
    """Those of the newest run of each subject."""
    bench.put("in.csv", encode(rows(60), "csv"))
    with pytest.raises(InputMissing, match=r"no run of job 'weekly' under .* has captured rows"):
        batch.captures("weekly", root=bench.root)
    bench.run("in.csv", "out.csv", monitor__capture_rows=7)
    last = batch.run(bench.job("in.csv", "out.csv", monitor__capture_rows=9), force=True)
    frame = batch.captures("weekly", root=bench.root)
    assert ([*frame.columns], len(frame)) == (["run_id", "period", "customer_id", *FEATURES], 9)
    assert set(frame["run_id"]) == {last.run_id}


@pytest.mark.slow
def test_training_again_makes_a_challenger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From captured rows and labels that came late, tuned, and registered beside the champion, which stays what it is."""
    root = str(tmp_path / "root")
    train = runpy.run_path(str(JOBS / "train_satisfaction.py"))["main"]
    train(["--root", root])
    more = {"monitor.capture_rows": 1000, "schedule.period": ""}
    job = batch.load_job("weekly_satisfaction", root=root, output=str(tmp_path / "out.csv"), set=more)
    batch.run(job)
    with open(job.input.uri, encoding="utf-8", newline="") as file:
        ids = [record["customer_id"] for record in csv.DictReader(file)]
    labels = io.StringIO()
    labels.write("customer_id,satisfied\n")
    labels.writelines(f"{name},{number % 2}\n" for number, name in enumerate(ids[:2000]))
    (tmp_path / "labels.csv").write_text(labels.getvalue())
    train(["--root", root, "--labels", str(tmp_path / "labels.csv")])
    said = capsys.readouterr().out
    assert "captured customers have a label by now" in said
    assert "models:/satisfaction/2 is the challenger" in said
    versions = [bundle.resolve(f"models:/satisfaction@{alias}", root).version for alias in ("champion", "challenger")]
    assert versions == [1, 2]
