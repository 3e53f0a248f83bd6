"""Retry: mended rejects are put in their places, and everything else keeps its bytes."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batch.cli import program
from batch.errors import BatchError, InputRefused, OutputRefused, RejectBudgetExceeded, SchemaMismatch
from batch.execution.clean import clean
from batch.execution.history import list_runs
from batch.execution.retry import retry
from batch.execution.verify import verify
from batch.storage import storage_for
from tests.clocks import FakeClock
from tests.deadly import POISON_AGE, Picky, deadly_bench
from tests.run_cases import Bench, encode, rows

TINY = {"run__chunk_bytes": 700, "run__predict_rows": 7}
BAD = [0, 7, 8, 30, 31, 59]


def with_holes() -> pd.DataFrame:
    """60 customers of whom six have no age."""
    table = rows().astype({"age": object})
    table.loc[BAD, "age"] = None
    return table


def mended(bench: Bench, name: str, ages: dict[int, Any], suffix: str) -> str:
    """The rejects file with some ages filled in by row number (from 0); rows without one are left out."""
    body = bench.get(name)
    assert body is not None
    if suffix == "csv":
        table = pd.read_csv(io.BytesIO(body), dtype=str, keep_default_na=False)
    elif suffix == "jsonl":
        table = pd.DataFrame([json.loads(line) for line in body.decode().splitlines()])
    else:
        table = pq.read_table(io.BytesIO(body)).to_pandas()
    table = table[table["_row"].astype(int).sub(1).isin(list(ages))].copy()
    table["age"] = [ages[int(row) - 1] for row in table["_row"]]
    return bench.put(
        f"fixed.{suffix}", encode(table.astype({"age": "Int64"}) if suffix == "parquet" else table, suffix)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "packed"),
    [("parquet", ""), *((text, packed) for text in ("csv", "jsonl") for packed in ("", ".gz", ".zst"))],
)
@pytest.mark.parametrize("keep", [["customer_id", "product"], ["*"]])
def test_mended_rows_are_put_in_their_places(bench: Bench, suffix: str, packed: str, keep: list[str]) -> None:
    """Every format: the output is what a run over the corrected input gives, in order; a second retry does nothing."""
    bench.put(f"whole.{suffix}", encode(rows(), suffix))
    settings = TINY | {"output__keep": keep, "run__predict_rows": 1}
    bench.run(f"whole.{suffix}", f"whole-out.{suffix}{packed}", **settings)
    bench.put(f"in.{suffix}", encode(with_holes(), suffix))
    first = bench.run(f"in.{suffix}", f"out.{suffix}{packed}", **settings, rejects__max_rows=6)
    fixed = mended(bench, f"out.rejects.{suffix}", {row: int(rows()["age"][row]) for row in BAD}, suffix)
    receipt = retry(bench.root, first.run_id, fixed)
    assert (receipt.state, receipt.rows.predicted, receipt.rows.rejected) == ("completed", 60, 0)
    found, expected = bench.records(f"out.{suffix}{packed}"), bench.records(f"whole-out.{suffix}{packed}")
    scores = [[float(row.pop("probability")) for row in table] for table in (found, expected)]
    assert found == expected
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)  # the mended rows of a chunk are a batch of their own
    document = receipt.as_dict()
    assert (document["retry_of"], document["trigger"], document["subject"]) == (first.run_id, "retry", "-")
    assert 0 < document["chunks"]["scored"] <= document["chunks"]["total"]
    assert not verify(bench.root, receipt.run_id).differences
    assert retry(bench.root, first.run_id, fixed).already_done
    assert [one["run_id"] for one in list_runs(bench.root, trigger="retry")] == [receipt.run_id]


def test_untouched_rows_keep_their_bytes(bench: Bench) -> None:
    """Rows that are absent stay rejected; a row that is still wrong stays with its new values; the rest is as it was."""
    bench.put("in.csv", encode(with_holes(), "csv"))
    first = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=6)
    before = (bench.get("out.csv") or b"").splitlines()
    fixed = mended(bench, "out.rejects.csv", {7: 40, 30: "old", 59: 41}, "csv")
    receipt = retry(bench.root, "weekly@latest", fixed)
    assert (receipt.state, receipt.rows.predicted, receipt.rows.rejected) == ("completed_with_rejects", 56, 4)
    after = (bench.get("out.csv") or b"").splitlines()
    assert [line for line in after if line in before] == before
    ids = [row["customer_id"] for row in bench.records("out.csv")]
    assert ids == [name for row, name in enumerate(rows()["customer_id"]) if row not in {0, 8, 30, 31}]
    left = bench.records("out.rejects.csv")
    assert [(row["_row"], row["_code"], row["age"]) for row in left] == [
        ("1", "null", ""), ("9", "null", ""), ("31", "type", "old"), ("32", "null", "")
    ]  # fmt: skip
    assert left[2]["note"] == rows()["note"][30]
    # A retry can be retried.
    again = retry(
        bench.root, receipt.run_id, mended(bench, "out.rejects.csv", dict.fromkeys([0, 8, 30, 31], 50), "csv")
    )
    assert (again.rows.predicted, again.as_dict()["retry_of"]) == (60, receipt.run_id)
    assert first.run_id != receipt.run_id != again.run_id


def test_an_over_budget_run_is_completed(bench: Bench) -> None:
    """Nothing was published; once enough is mended it is. Until then exit 5, with what is left in the rejects file."""
    bench.put("in.csv", encode(with_holes(), "csv"))
    with pytest.raises(RejectBudgetExceeded) as caught:
        bench.run("in.csv", "out.csv", **TINY)
    run = (caught.value.receipt or {})["run_id"]
    assert run in caught.value.hint
    with pytest.raises(RejectBudgetExceeded, match="5 of 60 rows") as caught:
        retry(bench.root, run, mended(bench, "out.rejects.csv", {0: 40}, "csv"))
    assert (bench.get("out.csv"), len(bench.records("out.rejects.csv"))) == (None, 5)
    # What was mended stays mended: the next retry goes on from this one, and the hint names it.
    run = (caught.value.receipt or {})["run_id"]
    assert run in caught.value.hint
    receipt = retry(bench.root, run, mended(bench, "out.rejects.csv", dict.fromkeys(BAD[1:], 40), "csv"))
    assert (receipt.rows.predicted, len(bench.records("out.csv"))) == (60, 60)
    assert not verify(bench.root, receipt.run_id).differences


def test_somebody_elses_file_is_not_replaced(bench: Bench) -> None:
    """Exit 6 for an output or a rejects file that is not the job's; the rejects file itself may be mended in its place."""
    bench.put("in.csv", encode(with_holes(), "csv"))
    run = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=6).run_id
    rejects, output = bench.get("out.rejects.csv") or b"", bench.get("out.csv") or b""
    fixed = mended(bench, "out.rejects.csv", {7: 40}, "csv")
    for name, own in (("out.csv", output), ("out.rejects.csv", rejects)):
        bench.put(name, b"mine\n")
        with pytest.raises(OutputRefused, match="was not written by job"):
            retry(bench.root, run, fixed)
        assert bench.get(name) == b"mine\n"
        bench.put(name, own)
    in_place = bench.put("out.rejects.csv", bench.get("fixed.csv") or b"")
    assert retry(bench.root, run, in_place).rows.rejected == 5


def test_killed_at_every_write(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And asked again: the same file as undisturbed, and no more than one attempt's work is done anew."""
    bench.put("in.csv", encode(with_holes(), "csv"))
    run = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=6).run_id
    before = {uri: storage_for(uri).get(uri) or b"" for uri in bench.names()}
    fixed = mended(bench, "out.rejects.csv", {7: 40, 30: 41}, "csv")
    retry(bench.root, run, fixed)
    whole = bench.get("out.csv")
    storage, writes = storage_for(bench.root), 0
    create, replace = storage.create, storage.replace

    def counted(real: Any) -> Any:
        def write(*arguments: Any, **options: Any) -> Any:
            nonlocal writes
            writes -= 1
            if writes < 0:
                raise SystemExit  # nothing of ours takes this for a failure that can be told
            return real(*arguments, **options)

        return write

    for number in range(100):
        bench.delete(*(set(bench.names()) - {*before, fixed}))
        for uri, body in before.items():
            replace(uri, [body], len(body))
        monkeypatch.setattr(storage, "create", counted(create))
        monkeypatch.setattr(storage, "replace", counted(replace))
        writes = number
        with suppress(SystemExit):
            retry(bench.root, run, fixed, clock=FakeClock())
        is_over = writes >= 0
        monkeypatch.setattr(storage, "create", create)
        monkeypatch.setattr(storage, "replace", replace)
        receipt = retry(bench.root, run, fixed, clock=FakeClock())
        assert (bench.get("out.csv"), receipt.rows.predicted) == (whole, 56), f"killed at write {number + 1}"
        if is_over:
            break
    assert 10 < number < 99


def test_rows_of_several_inputs(bench: Bench) -> None:
    """`_file` and `_row` together name a row."""
    bench.put("in/a.csv", encode(with_holes(), "csv"))
    bench.put("in/b.csv", encode(with_holes(), "csv"))
    first = bench.run("in/", "out.csv", **TINY, rejects__max_rows=12)
    body = (bench.get("out.rejects.csv") or b"").decode()
    table = pd.read_csv(io.StringIO(body), dtype=str, keep_default_na=False)
    chosen = table[(table["_file"] == f"{bench.root}/in/b.csv") & (table["_row"] == "8")].assign(age="33")
    receipt = retry(bench.root, first.run_id, bench.put("fixed.csv", encode(chosen, "csv")))
    ids = [row["customer_id"] for row in bench.records("out.csv")]
    assert (receipt.rows.predicted, receipt.rows.rejected, len(ids)) == (109, 11, 109)
    assert ids[54:].index(rows()["customer_id"][7]) == 6
    with pytest.raises(SchemaMismatch, match="_file"):
        retry(bench.root, first.run_id, bench.put("f2.csv", encode(chosen.drop(columns="_file"), "csv")))


def test_what_was_not_rejected_cannot_be_mended(bench: Bench) -> None:
    """A row that was predicted, one that is there twice, no number, no such run, no rejects: exit 3 or 2, nothing is changed."""
    bench.put("in.csv", encode(with_holes(), "csv"))
    run = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=6).run_id
    good = mended(bench, "out.rejects.csv", {7: 40}, "csv")
    body = bench.get("fixed.csv") or b""
    head, line = body.splitlines(keepends=True)[0], b"".join(body.splitlines(keepends=True)[1:])
    before = bench.get("out.csv")
    for wrong, said in (
        (head + line.replace(b"8,", b"2,", 1), "was not rejected"),
        (head + line + line, "is there twice"),
        (head + line.replace(b"8,", b"x,", 1), "'x' in its column"),
    ):
        with pytest.raises(InputRefused, match=said):
            retry(bench.root, run, bench.put("fixed.csv", wrong))
    with pytest.raises(BatchError, match="there is no file"):
        retry(bench.root, run, f"{bench.root}/nothing.csv")
    with pytest.raises(BatchError, match="is jsonl, but the rejects are csv"):
        retry(bench.root, run, bench.put("fixed.jsonl", b"{}\n"))
    assert bench.get("out.csv") == before
    bench.put("whole.csv", encode(rows(), "csv"))
    clean_run = bench.run("whole.csv", "other.csv").run_id
    with pytest.raises(InputRefused, match="no rejected rows"):
        retry(bench.root, clean_run, good)


def test_cleaned_chunks_cannot_be_mended(bench: Bench) -> None:
    """Exit 3, and what to do instead."""
    from datetime import timedelta

    bench.put("in.csv", encode(with_holes(), "csv"))
    run = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=6).run_id
    clean(bench.root, older_than=timedelta(seconds=-1))
    with pytest.raises(InputRefused, match="gone or damaged") as caught:
        retry(bench.root, run, mended(bench, "out.rejects.csv", {7: 40}, "csv"))
    assert "run the corrected input" in caught.value.hint


def test_rows_that_the_model_fails_on(tmp_path: Path) -> None:
    """They come back with code `model`; mended they are scored, and one that still fails stays."""
    bench, settings = deadly_bench(tmp_path, Picky())
    table = rows(400).astype({"age": object})
    table.loc[[150, 151], "age"] = int(POISON_AGE)
    bench.put("in.csv", encode(table, "csv"))
    run = bench.run("in.csv", "out.csv", **settings | {"run__engine": "inline"}, rejects__max_rows=2).run_id
    receipt = retry(bench.root, run, mended(bench, "out.rejects.csv", {150: 40, 151: int(POISON_AGE)}, "csv"))
    assert (receipt.rows.predicted, receipt.as_dict()["rejects"][0]["by_code"]) == (399, {"model": 1})
    (left,) = bench.records("out.rejects.csv")
    assert (left["_row"], left["customer_id"]) == ("152", table["customer_id"][151])


def test_the_command(bench: Bench) -> None:
    """`retry RUN --input FIXED` prints a receipt, and errors as sentences with their exit codes."""
    bench.put("in.csv", encode(with_holes(), "csv"))
    run = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=6).run_id
    fixed = mended(bench, "out.rejects.csv", {7: 40}, "csv")
    ended = CliRunner().invoke(program, ["retry", run[:8], "--input", fixed, "--root", bench.root, "--json"])
    assert (ended.exit_code, json.loads(ended.stdout)["retry_of"]) == (0, run)
    missing = CliRunner().invoke(program, ["retry", run[:8], "--input", fixed + "x", "--root", bench.root])
    assert (missing.exit_code, "Traceback" in missing.stderr) == (3, False)
