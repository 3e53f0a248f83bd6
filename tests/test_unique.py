"""`[input] unique_id`: a row whose id an earlier one has is rejected, wherever in the input the two stand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batch
from batch.errors import JobInvalid, RejectBudgetExceeded, SchemaMismatch
from batch.execution import unique
from batch.execution.chunk import UNIQUE
from batch.execution.retry import retry
from batch.storage import storage_for
from tests.deadly import POISON_AGE, Picky, deadly_bench
from tests.run_cases import Bench, encode, predicted, rows

UNIQUE_ID = {"input__unique_id": True, "rejects__max_share": 1.0}
ENGINES = ["inline", "threads", pytest.param("processes", marks=pytest.mark.slow)]


def with_twins(count: int = 400) -> tuple[pd.DataFrame, list[int]]:
    """Customers of whom some stand there again, near and far, one three times; and the rows that are too many."""
    table = rows(count)
    for row, first in {7: 6, 250: 3, 251: 3, 399: 0}.items():
        table.loc[row, "customer_id"] = table.loc[first, "customer_id"]
    return table, [7, 250, 251, 399]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("keep", [["customer_id"], ["product"], ["*"]], ids=["id", "without", "all"])
def test_repeated_ids_are_rejected(bench: Bench, suffix: str, engine: str, keep: list[str]) -> None:
    """With the number of the first row; all others are predicted as if the repeated ones had never been there."""
    table, again = with_twins()
    bench.put(f"in.{suffix}", encode(table, suffix))
    settings = UNIQUE_ID | {
        "run__engine": engine,
        "run__chunk_bytes": 3000,
        "run__predict_rows": 7,
        "output__keep": keep,
    }
    receipt = bench.run(f"in.{suffix}", f"out.{suffix}", **settings).as_dict()
    assert receipt["rejects"][0]["by_code"] == {"duplicate_id": 4}
    assert receipt["rows"] == {"read": 400, "predicted": 396, "rejected": 4}
    found = bench.records(f"out.rejects.{suffix}")
    assert [int(row["_row"]) for row in found] == [row + 1 for row in again]
    assert [row["_message"] for row in found] == [f"the same customer_id is in row {first}" for first in (7, 4, 4, 1)]
    assert [row["customer_id"] for row in found] == table.loc[again, "customer_id"].tolist()
    left = table.drop(again)
    out = pd.DataFrame(bench.records(f"out.{suffix}"))
    names = {"*": [*table.columns]}.get(keep[0], keep)
    assert [*out.columns] == [*names, "prediction", "probability"]
    if "customer_id" in out:
        assert out["customer_id"].tolist() == left["customer_id"].tolist()
    # The model is called with other rows than without the check, so the last bits may differ.
    assert out["probability"].astype(float).tolist() == pytest.approx(
        [score for _, score in predicted(left)], rel=1e-12
    )


def test_ids_are_unique_over_all_inputs(bench: Bench) -> None:
    """The message names the other file."""
    table, _ = with_twins()
    bench.put("in/a.csv", encode(table[100:200], "csv"))
    bench.put("in/b.csv", encode(table[150:160], "csv"))
    receipt = bench.run("in/", "out.csv", **UNIQUE_ID).as_dict()
    assert receipt["rows"] == {"read": 110, "predicted": 100, "rejected": 10}
    (first, *_) = bench.records("out.rejects.csv")
    assert first["_file"] == f"{bench.root}/in/b.csv"
    assert first["_message"] == f"the same customer_id is in row 51 of {bench.root}/in/a.csv"


def test_a_file_without_repetitions_is_scored_once(bench: Bench) -> None:
    """The same bytes as without the check, and no chunk a second time."""
    bench.put("in.csv", encode(rows(400), "csv"))
    settings = {"run__chunk_bytes": 3000}
    bench.run("in.csv", "plain.csv", **settings)
    receipt = bench.run("in.csv", "out.csv", **settings, **UNIQUE_ID).as_dict()
    assert bench.get("out.csv") == bench.get("plain.csv")
    assert receipt["chunks"]["scored"] == receipt["chunks"]["total"] > 3
    assert not [name for name in bench.names() if name.endswith(UNIQUE)]


def test_only_predicted_rows_count(tmp_path: Path) -> None:
    """The first of two is of no use, by its values or by the model's word: then the second one is predicted."""
    table = rows(50).astype({"age": object})
    table.loc[3, "age"], table.loc[4, "age"] = None, int(POISON_AGE)
    table.loc[30, "customer_id"], table.loc[31, "customer_id"] = (
        table.loc[3, "customer_id"],
        table.loc[4, "customer_id"],
    )
    picky, settings = deadly_bench(tmp_path, Picky())
    picky.put("in.csv", encode(table, "csv"))
    receipt = picky.run("in.csv", "out.csv", **settings | UNIQUE_ID | {"run__engine": "inline"}).as_dict()
    assert receipt["rejects"][0]["by_code"] == {"null": 1, "model": 1}
    assert [row["customer_id"] for row in picky.records("out.csv")][-20:-18] == ["00126", "00127"]


def test_rows_without_an_id_are_like_no_other(bench: Bench) -> None:
    """As in a database: null equals nothing."""
    table = rows(40).astype({"customer_id": object})
    table.loc[[1, 2, 3], "customer_id"] = None
    for suffix in ("jsonl", "parquet"):
        bench.put(f"in.{suffix}", encode(table, suffix))
        assert bench.run(f"in.{suffix}", f"out.{suffix}", **UNIQUE_ID).rows.rejected == 0


def test_a_number_and_its_text_are_one_id(bench: Bench) -> None:
    """A customer is the same one whether JSON spells its id with quotes or without."""
    records = [json.loads(line) for line in encode(rows(3), "jsonl").splitlines()]
    for record, name in zip(records, [7, "7", 'a"b'], strict=True):
        record["customer_id"] = name
    records.append(records[2])
    body = "".join(json.dumps(record) + "\n" for record in records).encode()
    bench.put("in.jsonl", body)
    for output in ("out.jsonl", "out.csv"):
        assert bench.run("in.jsonl", output, **UNIQUE_ID).rows.rejected == 2
        assert [int(row["_row"]) for row in bench.records("out.rejects.jsonl")] == [2, 4]


def test_over_budget_and_then_allowed(bench: Bench) -> None:
    """Exit 5 with all of them in the rejects file; a larger budget costs nothing."""
    table, _ = with_twins()
    bench.put("in.csv", encode(table, "csv"))
    settings: dict[str, Any] = {"input__unique_id": True, "run__chunk_bytes": 3000}
    with pytest.raises(RejectBudgetExceeded, match=r"4 of 400 rows were rejected \(duplicate_id: 4\)"):
        bench.run("in.csv", "out.csv", **settings)
    assert (len(bench.records("out.rejects.csv")), bench.get("out.csv")) == (4, None)
    receipt = bench.run("in.csv", "out.csv", **settings, rejects__max_rows=4).as_dict()
    assert (receipt["chunks"]["scored"], receipt["rows"]["predicted"]) == (0, 396)


def test_hopelessly_many_stop_the_run(bench: Bench) -> None:
    """`stop_rows` counts them too; what was not looked at is not called complete."""
    table = rows(400)
    table["customer_id"] = "me"
    bench.put("in.csv", encode(table, "csv"))
    settings = {"input__unique_id": True, "run__chunk_bytes": 3000, "rejects__stop_rows": 10, "run__engine": "inline"}
    with pytest.raises(RejectBudgetExceeded) as caught:
        bench.run("in.csv", "out.csv", **settings)
    (told,) = caught.value.receipt["rejects"]
    assert (told["complete"], 10 < told["rows"] < 399) == (False, True)


@pytest.mark.parametrize("gone", ["", UNIQUE])
def test_a_damaged_chunk_is_put_back(bench: Bench, gone: str) -> None:
    """Of either pass: the output is published again without it, and comes out the same."""
    table, _ = with_twins()
    bench.put("in.csv", encode(table, "csv"))
    settings = UNIQUE_ID | {"run__chunk_bytes": 3000}
    bench.run("in.csv", "out.csv", **settings)
    before, output = bench.get("out.csv"), f"{bench.root}/out.csv"
    chunks = [name for name in bench.names() if "/chunks/" in name]
    for name in chunks:
        if name.endswith(UNIQUE) or not gone:
            storage_for(name).replace(name, [b"rubbish"], 7)
    storage_for(output).delete(output)
    assert bench.run("in.csv", "out.csv", **settings).already_done
    assert bench.get("out.csv") == before


def test_a_mended_id_is_looked_at_again(bench: Bench) -> None:
    """A retry takes the rows that have an id of their own now, and no others, also against each other."""
    table, again = with_twins()
    bench.put("in.csv", encode(table, "csv"))
    base = bench.run("in.csv", "out.csv", **UNIQUE_ID, run__chunk_bytes=3000).as_dict()
    records = bench.records("out.rejects.csv")
    for record, name in zip(records, ["new", "00124", "other", "new"], strict=True):
        record["customer_id"] = name
    receipt = retry(bench.root, base["run_id"], bench.put("fixed.csv", written(records))).as_dict()
    assert receipt["rows"] == {"read": 400, "predicted": 398, "rejected": 2}
    left = bench.records("out.rejects.csv")
    assert [int(row["_row"]) for row in left] == [again[1] + 1, again[3] + 1]
    assert [row["_message"] for row in left] == [f"the same customer_id is in row {row}" for row in (2, 8)]
    names = [row["customer_id"] for row in bench.records("out.csv")]
    assert (names[7], names[250]) == ("new", "other")
    left[0]["customer_id"] = left[1]["customer_id"] = "other"
    assert retry(bench.root, receipt["run_id"], bench.put("again.csv", written(left))).rows.rejected == 2


def written(records: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def test_the_id_must_be_there(bench: Bench) -> None:
    """In the job, and in the file, even if every column is kept."""
    with pytest.raises(JobInvalid, match=r"input\.id: required, because \[input\] unique_id is about it"):
        batch.load_job(job_without_id(bench))
    bench.put("in.csv", encode(rows(9).rename(columns={"customer_id": "Customer_Id"}), "csv"))
    with pytest.raises(SchemaMismatch, match="has no column 'customer_id'") as caught:
        bench.run("in.csv", "out.csv", output__keep=["*"])
    assert caught.value.hint == "'Customer_Id' looks like 'customer_id'"


def job_without_id(bench: Bench) -> str:
    path = bench.folder / "without.toml"
    path.write_text(
        f'name = "weekly"\nroot = "{bench.root}"\nmodel = "{bench.model}"\n'
        '[input]\nuri = "in.csv"\nunique_id = true\n[output]\nuri = "out.csv"\n'
    )
    return str(path)


@given(
    ids=st.lists(st.lists(st.integers(1, 30) | st.none(), max_size=40), min_size=1, max_size=5),
    part=st.integers(1, 60),
)
def test_parts_make_no_difference(ids: list[list[int | None]], part: int) -> None:
    """However many rows are compared at a time, exactly those are found that a dictionary finds, with the first of each."""
    chunks = [np.array([(one or 0, (one or 0) % 3) for one in each], unique._DIGEST) for each in ids]
    expected, seen = {}, {}
    for index, each in enumerate(ids):
        before = sum(map(len, ids[:index]))
        for row, one in enumerate(each):
            if one is not None and one in seen:
                expected.setdefault(index, []).append((row, seen[one]))
            seen.setdefault(one, before + row + 1)
    plan = SimpleNamespace(tasks=[SimpleNamespace(file=0)] * len(ids))
    records = [SimpleNamespace(index=index, rows_read=len(each)) for index, each in enumerate(ids)]
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as scratch:
        patch.setattr(unique, "PART_ROWS", part)
        patch.setattr(unique, "load_ids", lambda record: chunks[record.index])
        found = unique.find_repeated(plan, records, scratch)  # type: ignore[arg-type]
    pairs = {index: list(zip(one.rows.tolist(), one.first_rows.tolist(), strict=True)) for index, one in found.items()}
    assert pairs == expected
