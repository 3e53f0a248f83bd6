"""A model that fails on some rows costs those rows: they are rejected with what it says of them, and all others are predicted."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import ModelFailed, RejectBudgetExceeded
from batch.execution import blame
from tests.deadly import POISON_AGE, SILENT_AGE, Picky, Sleeper, deadly_bench
from tests.run_cases import encode, rows


class Fragile:
    """Doubles numbers; fails on the `bad` ones, by raising or with no value, and on the company of `shy` ones."""

    def __init__(self, bad: set[int], silent: set[int] = frozenset(), shy: int = 10**9) -> None:  # type: ignore[assignment]
        self.bad, self.silent, self.shy = bad, silent, shy
        self.calls = 0

    def predict(self, table: pa.Table) -> pa.Table:
        self.calls += 1
        values = table["x"].to_pylist()
        if hit := self.bad & set(values):
            raise ModelFailed.about_rows(f"cannot do {min(hit)}")
        if table.num_rows >= self.shy:
            raise ModelFailed.about_rows("too much company")
        if hit := [row for row, value in enumerate(values) if value in self.silent]:
            raise ModelFailed.about_rows("no value", rows=hit)
        return pa.table({"y": [2 * value for value in values]})


@given(
    count=st.integers(1, 200),
    bad=st.sets(st.integers(0, 199), max_size=12),
    silent=st.sets(st.integers(0, 199), max_size=12),
)
def test_exactly_the_culprits_are_found(count: int, bad: set[int], silent: set[int]) -> None:
    """All others are predicted, in order, with few calls."""
    model, table = Fragile(bad, silent), pa.table({"x": range(count)})
    culprits = (bad | silent) & set(range(count))
    verdict = blame.predict(model, table)
    assert set(verdict.culprits) == culprits
    assert verdict.outputs["y"].to_pylist() == [2 * value for value in range(count) if value not in culprits]
    assert model.calls <= 3 + 2 * (1 + len(culprits)) * (2 + count.bit_length())


def test_a_clean_batch_is_one_call() -> None:
    """Nothing is paid for where nothing fails."""
    model = Fragile(set())
    assert blame.predict(model, pa.table({"x": [1, 2]})).culprits == {}
    assert model.calls == 1


def test_what_is_no_rows_fault_fails_the_run() -> None:
    """Rows that only fail together, and a model that fails on too many of them."""
    with pytest.raises(ModelFailed, match="too much company"):
        blame.predict(Fragile(set(), shy=3), pa.table({"x": range(8)}))
    with pytest.raises(ModelFailed, match="more than 1000 of 4000 rows"):
        blame.predict(Fragile(set(range(0, 4000, 2))), pa.table({"x": range(4000)}))


def table_with_culprits() -> pd.DataFrame:
    """400 customers: rows 150 and 151 make the model raise, 7 and 320 leave it speechless, and row 9 is no number."""
    table = rows(400).astype({"age": object})
    table.loc[[150, 151], "age"] = int(POISON_AGE)
    table.loc[[7, 320], "age"] = int(SILENT_AGE)
    table.loc[9, "age"] = None
    return table


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("engine", ["inline", "threads"])
def test_bad_rows_come_back_as_they_were(tmp_path: Path, suffix: str, engine: str) -> None:
    """Every format: code `model`, the row's number in the file, its own values; all others are predicted, in order."""
    bench, settings = deadly_bench(tmp_path, Picky())
    table = table_with_culprits()
    bench.put(f"in.{suffix}", encode(table, suffix))
    settings |= {"run__engine": engine, "run__predict_rows": 37, "rejects__max_rows": 5}
    receipt = bench.run(f"in.{suffix}", f"out.{suffix}", **settings)
    bad = [7, 9, 150, 151, 320]
    assert receipt.as_dict()["rejects"][0]["by_code"] == {"model": 4, "null": 1}
    found = bench.records(f"out.rejects.{suffix}")
    assert [int(row["_row"]) for row in found] == [row + 1 for row in bad]
    assert [row["customer_id"] for row in found] == table.loc[bad, "customer_id"].tolist()
    assert [row["_code"] for row in found] == ["model", "null", "model", "model", "model"]
    assert found[2]["_message"] == "the model raised ValueError on 1 rows: nobody is 200"
    assert "nan" in found[0]["_message"]
    left = [name for row, name in enumerate(table["customer_id"]) if row not in bad]
    assert [row["customer_id"] for row in bench.records(f"out.{suffix}")] == left


def test_bad_rows_count_against_the_budget(tmp_path: Path) -> None:
    """Exit 5 with all of them in the rejects file; with a larger budget the same chunks are published."""
    bench, settings = deadly_bench(tmp_path, Picky())
    bench.put("in.csv", encode(table_with_culprits(), "csv"))
    settings |= {"run__engine": "inline"}
    with pytest.raises(RejectBudgetExceeded, match="5 of 400 rows"):
        bench.run("in.csv", "out.csv", **settings)
    assert (len(bench.records("out.rejects.csv")), bench.get("out.csv")) == (5, None)
    receipt = bench.run("in.csv", "out.csv", **settings, rejects__max_rows=5).as_dict()
    assert (receipt["chunks"]["scored"], receipt["rows"]["predicted"]) == (0, 395)


def test_the_last_row_of_a_file_may_be_the_only_one_of_its_batch(tmp_path: Path) -> None:
    """A batch of nothing but bad rows is no broken model: it worked on the golden rows."""
    bench, settings = deadly_bench(tmp_path, Picky())
    table = rows(11).astype({"age": object})
    table.loc[10, "age"] = int(POISON_AGE)
    bench.put("in.csv", encode(table, "csv"))
    settings |= {"run__engine": "inline", "run__predict_rows": 10, "run__chunk_bytes": "1MiB", "rejects__max_rows": 1}
    assert bench.run("in.csv", "out.csv", **settings).rows.predicted == 10
    (reject,) = bench.records("out.rejects.csv")
    assert (reject["_row"], reject["_code"]) == ("11", "model")


@pytest.mark.parametrize("engine", ["inline", "threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_model_that_hangs_is_given_up(tmp_path: Path, engine: str) -> None:
    """After chunk_seconds: exit 4 with both numbers, in time; what was scored stays."""
    bench, settings = deadly_bench(tmp_path, Sleeper())
    began = time.monotonic()
    with pytest.raises(ModelFailed, match=r"did not come back within chunk_seconds = 0\.5") as caught:
        bench.run("in.csv", "out.csv", **settings | {"run__engine": engine, "run__chunk_seconds": 0.5})
    assert (caught.value.exit_code, time.monotonic() - began < 15) == (4, True)
    assert (caught.value.receipt or {})["chunks"]["scored"] >= 1
