"""Whose file stands under a key: ours may be replaced, also after a kill; a stranger's, or a newer run's, is left alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import batch
from batch.errors import BatchError, OutputRefused, RejectBudgetExceeded
from batch.execution import attempts, records, register
from batch.execution.check import check
from batch.execution.clean import clean
from batch.execution.committed import Committed
from batch.execution.publish import publish as really_publish
from batch.execution.verify import verify
from batch.job import Job
from tests.run_cases import Bench, encode, rows
from tests.test_resume import before_done, chunks_of
from tests.test_upkeep import NOW, TINY


def spoilt(*bad: int, count: int = 60) -> bytes:
    """The customers with text for an age in these rows (0-based)."""
    table = rows(count).astype({"age": object})
    table.loc[list(bad), "age"] = "old"
    return encode(table, "csv")


def over_budget(bench: Bench, **settings: Any) -> str:
    """A run that only wrote its rejects file; gives its id."""
    with pytest.raises(RejectBudgetExceeded) as caught:
        bench.run("in.csv", "out.csv", **settings)
    return str((caught.value.receipt or {})["run_id"])


@pytest.mark.parametrize(
    ("output", "rejects", "lacking"),
    [
        ("out/", "bad.csv", "{stem}"),
        ("out/", "bad-{run_id}.csv", "{stem}"),
        ("out/{stem}.csv", "bad-{period}.csv", "{stem}"),
        ("out-{period}.csv", "bad.csv", "{period}"),
        ("out-{period_start:%Y%m%d}.csv", "bad.csv", "{period}"),
        ("out-{run_id}.csv", "bad.csv", "{run_id}"),
    ],
)
def test_a_rejects_file_of_several_outputs_is_refused(bench: Bench, output: str, rejects: str, lacking: str) -> None:
    """[rejects] uri must tell apart what [output] uri tells apart: exit 6 from `check` and `run`, with what is missing."""
    for name in ("a", "b"):
        bench.put(f"in/{name}.csv", encode(rows(20), "csv"))
    job = bench.job("in/", output, rejects__uri=f"{bench.root}/{rejects}", schedule__period="week")
    (refusal,) = check(job, period="2026-W46")["refusals"]
    assert (refusal["code"], f"put {lacking} into [rejects] uri" in refusal["hint"]) == ("output_refused", True)
    with pytest.raises(OutputRefused, match="names one file for different outputs"):
        batch.run(job, period="2026-W46")


@pytest.mark.parametrize(
    ("output", "rejects"),
    [
        ("out-{period}.csv", "bad-{period_start:%Y%m%d}.csv"),
        ("out-{period}.csv", "bad-{run_id}.csv"),
        ("out.csv", "bad.csv"),
    ],
)
def test_a_rejects_file_that_is_told_apart_is_fine(bench: Bench, output: str, rejects: str) -> None:
    """Any placeholder that differs where the output's differs will do."""
    job = bench.job("in.csv", output, rejects__uri=f"{bench.root}/{rejects}", schedule__period="week")
    assert check(job, period="2026-W46")["ok"]


def test_the_stem_of_a_rejects_file_is_the_inputs(bench: Bench) -> None:
    """``in/x/t.csv`` and ``in/y/t.csv`` do not share one."""
    for name in ("x", "y"):
        bench.put(f"in/{name}/t.csv", spoilt(3, count=20))
    bench.run("in/", "out/{stem}.csv", rejects__uri=f"{bench.root}/bad/{{stem}}.csv", rejects__max_rows=2)
    assert [len(bench.records(f"bad/{name}/t.csv")) for name in ("x", "y")] == [1, 1]


def test_one_stem_for_many_inputs_is_refused(bench: Bench) -> None:
    """Several inputs go into one output: nobody could say whose stem it is."""
    for name in ("a", "b"):
        bench.put(f"in/{name}.csv", encode(rows(20), "csv"))
    with pytest.raises(OutputRefused, match="2 inputs go into 1 output"):
        bench.run("in/", "out.csv", rejects__uri=f"{bench.root}/bad-{{stem}}.csv")


@pytest.mark.slow
@pytest.mark.parametrize("bad", [(), (3,)], ids=["no rejects", "a reject"])
def test_a_strangers_file_in_place_of_the_rejects_is_left_alone(
    any_root: str, model: str, tmp_path: Path, bad: tuple[int, ...]
) -> None:
    """Exit 6 before anything is scored, also where nothing would be rejected; `check` says so; "any" replaces it."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", spoilt(*bad))
    bench.put("out.rejects.csv", b"precious\n")
    job = bench.job("in.csv", "out.csv", rejects__max_rows=1)
    with pytest.raises(OutputRefused, match=r"out\.rejects\.csv exists and was not written by job 'weekly'") as caught:
        batch.run(job)
    assert (caught.value.exit_code, (caught.value.receipt or {})["chunks"]["scored"]) == (6, 0)
    assert (bench.get("out.rejects.csv"), bench.get("out.csv")) == (b"precious\n", None)
    assert check(job)["exit_code"] == 6
    bench.run("in.csv", "out.csv", rejects__max_rows=1, output__replace="any")
    assert len(bench.records("out.rejects.csv")) == len(bad)


@pytest.mark.slow
@pytest.mark.parametrize("replace", ["own", "never"])
def test_our_own_rejects_file_is_replaced(any_root: str, model: str, tmp_path: Path, replace: str) -> None:
    """That of a run over budget, by the same run with a larger budget and by the run over the mended input."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", spoilt(3, 5))
    over_budget(bench)
    bench.put("in.csv", spoilt(3))
    over_budget(bench)
    bench.run("in.csv", "out.csv", rejects__max_rows=1, output__replace=replace)
    assert [one["_row"] for one in bench.records("out.rejects.csv")] == ["4"]
    if replace == "own":
        bench.put("in.csv", encode(rows(), "csv"))
        bench.run("in.csv", "out.csv")
        assert bench.records("out.rejects.csv") == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["over budget", "committed"])
def test_a_rejects_file_of_a_killed_run_is_ours(any_root: str, model: str, tmp_path: Path, moment: str) -> None:
    """Killed right after its rejects file was there: no receipt names it, and the next run may replace it."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", spoilt(3))
    if moment == "over budget":
        over_budget(bench)
    else:
        bench.run("in.csv", "out.csv", rejects__max_rows=1)
    names = [name for name in bench.names() if "/done/" in name or name.endswith((".end.json", "/out.csv"))]
    for name in names:
        batch.storage.storage_for(name).delete(name)
    bench.put("in.csv", encode(rows(), "csv"))
    bench.run("in.csv", "out.csv")
    assert bench.records("out.rejects.csv") == []


def test_an_edited_rejects_file_is_somebody_elses(bench: Bench) -> None:
    """Our own file changed by hand is not ours any more, as an output is not."""
    bench.put("in.csv", spoilt(3))
    over_budget(bench)
    edited = bench.put("out.rejects.csv", b"edited\n")
    with pytest.raises(OutputRefused, match=r"rejects.csv exists"):
        bench.run("in.csv", "out.csv", rejects__max_rows=1)
    assert Path(edited).read_bytes() == b"edited\n"


def test_a_rejects_file_over_budget_is_no_difference(any_root: str, model: str, tmp_path: Path) -> None:
    """A later run, over budget, replaces the rejects file of a run whose output stands: `verify` says superseded, not differs."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", spoilt(3))
    done = bench.run("in.csv", "out.csv", rejects__max_rows=1)
    bench.put("in.csv", spoilt(3, 5))
    later = over_budget(bench, rejects__max_rows=1)
    found = {one.what: one for one in verify(any_root, done.run_id).findings}
    assert (found["rejects"].state, found["rejects"].detail) == ("superseded", f"by run {later}")
    assert found["output"].state == "ok"
    bench.put("out.rejects.csv", b"a stranger's\n")
    assert {one.what: one.state for one in verify(any_root, done.run_id).findings}["rejects"] == "differs"


def test_never_replaced_is_published_once(any_root: str, model: str, tmp_path: Path) -> None:
    """Where nothing may be replaced, a run killed between its output and its receipt finishes; done and asked again it ends with 0."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", spoilt(3))
    settings: dict[str, Any] = {"output__replace": "never", "rejects__max_rows": 1}
    first = bench.run("in.csv", "out.csv", **settings)
    for name in [name for name in bench.names() if "/done/" in name or name.endswith(".end.json")]:
        batch.storage.storage_for(name).delete(name)
    assert check(bench.job("in.csv", "out.csv", **settings))["exit_code"] == 0
    second = bench.run("in.csv", "out.csv", **settings)
    assert (second.run_id, second.already_done, second.as_dict()["chunks"]["scored"]) == (first.run_id, False, 0)
    assert bench.run("in.csv", "out.csv", **settings).already_done
    bench.put("in.csv", encode(rows(), "csv"))
    with pytest.raises(OutputRefused, match='replace is "never"'):
        bench.run("in.csv", "out.csv", **settings)


def outrun(bench: Bench, monkeypatch: pytest.MonkeyPatch, newer: Job, then: Any = lambda: None) -> list[Any]:
    """The next run is outrun, right before it publishes, by one of `newer`; gives a list that its receipt goes into."""
    found: list[Any] = []

    def publish(root: str, output: str, *rest: Any) -> Any:
        monkeypatch.setattr("batch.execution.finish.publish", really_publish)
        monkeypatch.setattr("batch.execution.lease.acquire", Unheld)
        found.append(batch.run(newer))
        then()
        return really_publish(root, output, *rest)

    monkeypatch.setattr("batch.execution.finish.publish", publish)
    return found


class Unheld:
    """A lease that was taken over, and does not notice: as of a process that slept."""

    epoch, uri, before = 77, "", None

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def check(self) -> None: ...

    def release(self) -> None: ...


def test_another_runs_cleaned_chunks_are_no_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outrun by a run that is done and cleaned: its file stands, and the committed run ends well with a receipt of its own."""
    newer = bench.job("in.csv", "out.csv", **TINY, output__keep=["customer_id"])
    found = outrun(bench, monkeypatch, newer, lambda: bench.delete(*chunks_of(bench, found[0].run_id)))
    receipt = bench.run("in.csv", "out.csv", **TINY)
    entry = register.newest(bench.root, f"{bench.root}/out.csv")
    assert entry is not None
    assert (receipt.state, receipt.output[0]["etag"], entry.run_id) == ("completed", None, found[0].run_id)
    assert "product" not in bench.records("out.csv")[0]
    assert verify(bench.root, receipt.run_id).differences == []
    assert bench.run("in.csv", "out.csv", **TINY).already_done  # and, asked for again, it is put in its place
    assert "product" in bench.records("out.csv")[0]


def test_a_run_that_was_outrun_tells_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written beside an output is about the file that stands there."""
    told: list[dict[str, Any]] = []
    batch.run(bench.job("in.csv", "out.csv", **TINY), told=told.append)
    assert len(told) == 1
    outrun(bench, monkeypatch, bench.job("in.csv", "out.csv", **TINY, output__keep=["customer_id"]))
    batch.run(bench.job("in.csv", "out.csv", **TINY), force=True, told=told.append)
    assert len(told) == 1


def test_an_entry_after_the_last_look_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer run enters itself between the publishing and the receipt: nothing is told either."""
    told: list[dict[str, Any]] = []
    facts = {"job": "weekly", "run_id": "newer", "subject": "-", "commit": "newer:0", "at": ""}

    def publish(root: str, output: str, *rest: Any) -> Any:
        done = really_publish(root, output, *rest)
        register.append(root, output, facts)
        return done

    monkeypatch.setattr("batch.execution.finish.publish", publish)
    receipt = batch.run(bench.job("in.csv", "out.csv", **TINY), told=told.append)
    assert (receipt.state, told) == ("completed", [])


def test_a_restore_leaves_a_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted output that is put back, or cannot be, is an attempt with an end; a run with nothing to do writes nothing."""
    done = bench.run("in.csv", "out.csv", **TINY)
    names = bench.names()
    assert bench.run("in.csv", "out.csv", **TINY).already_done
    assert bench.names() == names
    monkeypatch.setattr("batch.execution.finish.publish", lambda *_: (_ for _ in ()).throw(BatchError("no space")))
    os.remove(f"{bench.root}/out.csv")
    with pytest.raises(BatchError, match="no space"):
        bench.run("in.csv", "out.csv", **TINY)
    monkeypatch.setattr("batch.execution.finish.publish", really_publish)
    bench.run("in.csv", "out.csv", **TINY)
    tries = attempts.of_job(bench.root, "weekly")[done.run_id]
    ends = [(records.load(uri) or {})["state"] for _, uri in sorted(tries.ends.items())]
    assert (ends, tries.open) == (["completed", "failed", "completed"], [])


def test_a_commit_is_read_once_for_all_outputs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing a hundred files does not read a hundred times what all of them follow from."""
    for number in range(30):
        bench.put(f"in/{number:03d}.csv", encode(rows(5), "csv"))
    count = 0

    class Counted(Committed):
        def __init__(self, folder: str) -> None:
            nonlocal count
            count += 1
            super().__init__(folder)

    monkeypatch.setattr("batch.execution.committed.Committed", Counted)
    receipt = bench.run("in/", "out/")
    assert (count, len(receipt.output)) == (1, 30)
    before_done(bench)
    bench.run("in/", "out/")
    assert count <= 3  # and once more for looking whose the files are


def test_clean_and_never_replaced_files_go_together(bench: Bench) -> None:
    """Once the chunks are gone, a done run is still done."""
    bench.run("in.csv", "out.csv", **TINY, output__replace="never")
    clean(bench.root, older_than=NOW)
    assert bench.run("in.csv", "out.csv", **TINY, output__replace="never").already_done
