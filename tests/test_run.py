"""A whole run keeps its promises: once, in order, every row accounted for, nothing replaced that is not ours."""

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import batch
from batch.errors import (
    BatchError,
    ExtraMissing,
    InputEmpty,
    InputMissing,
    OutputRefused,
    RejectBudgetExceeded,
    SchemaMismatch,
    UsageError,
)
from batch.execution import commit
from batch.execution.chunk import record_from_commit
from batch.execution.history import find_run, list_runs
from tests.run_cases import Bench, compress, encode, predicted, register, rows

TINY = {"run__chunk_bytes": 512, "run__predict_rows": 7}


def pairs(found: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(one["prediction"], float(one["probability"])) for one in found]


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [one["customer_id"] for one in found]


def broken(*numbers: int) -> bytes:
    """The customers with text for an age in these rows (0-based)."""
    frame = rows().astype({"age": object})
    frame.loc[list(numbers), "age"] = "old"
    return encode(frame, "csv")


def test_a_run_on_every_store(any_root: str, model: str, tmp_path: Path) -> None:
    """On each back end a run publishes all rows in order, and the second one finds it done and writes nothing."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", encode(rows(), "csv"))
    receipt = bench.run("in.csv", "out.csv", **TINY)
    assert (receipt.state, receipt.rows.predicted) == ("completed", 60)
    assert ids(bench.records("out.csv")) == list(rows()["customer_id"])
    before = bench.names()
    assert bench.run("in.csv", "out.csv", **TINY).already_done
    assert bench.names() == before


def test_a_second_run_touches_nothing(bench: Bench) -> None:
    """The same job again is `already_done`: the output keeps inode and time, and no object is added or changed."""
    first = bench.run("in.csv", "out.csv")
    output = f"{bench.root}/out.csv"
    before, names = os.stat(output), bench.names()
    second = bench.run("in.csv", "out.csv")
    after = os.stat(output)
    assert (first.already_done, second.already_done) == (False, True)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert (second.as_dict(), bench.names()) == (first.as_dict(), names)


def test_other_input_bytes_are_another_run(bench: Bench) -> None:
    """A changed input under the same key is scored anew and replaces the output."""
    first = bench.run("in.csv", "out.csv")
    bench.put("in.csv", encode(rows(10), "csv"))
    second = bench.run("in.csv", "out.csv")
    assert second.run_id != first.run_id
    assert len(bench.records("out.csv")) == 10


def test_another_version_behind_the_alias_is_another_run(bench: Bench) -> None:
    """The run id follows the model's content, not its alias."""
    register(bench.root)
    bench.model = "models:/tiny@champion"
    first = bench.run("in.csv", "out.csv")
    assert bench.run("in.csv", "out.csv").already_done
    register(bench.root, 0.01)
    second = bench.run("in.csv", "out.csv")
    assert second.run_id != first.run_id
    assert second.as_dict()["models"][0]["version"] == 2


@pytest.mark.parametrize("setting", [{"output__keep": ["customer_id"]}, {"run__predict_rows": 9}, {"input__id": ""}])
def test_what_can_change_a_byte_changes_the_run_id(bench: Bench, setting: dict[str, Any]) -> None:
    """Settings of the computation are part of its id."""
    assert bench.run("in.csv", "out.csv").run_id != bench.run("in.csv", "out.csv", **setting).run_id


@pytest.mark.parametrize(
    "setting",
    [
        {"run__engine": "inline"},
        {"run__workers": 1},
        {"run__memory": "700 MiB"},
        {"input__max_bytes": "1 GiB"},
        {"input__max_rows": 1000},
        {"rejects__max_rows": 3},
        {"rejects__max_share": 0.5},
    ],
)
def test_what_cannot_change_a_byte_leaves_the_run_done(bench: Bench, setting: dict[str, Any]) -> None:
    """Engine, workers, memory, limits and the reject budget are not part of the run id."""
    first = bench.run("in.csv", "out.csv")
    second = bench.run("in.csv", "out.csv", **setting)
    assert (second.run_id, second.already_done) == (first.run_id, True)


@pytest.mark.slow
def test_engines_write_the_same_bytes(bench: Bench) -> None:
    """Inline, threads and processes give one file for tiny chunks cut through quoted line breaks."""
    bodies = []
    for engine in ("inline", "threads", "processes"):
        other = Bench(f"{bench.root}/{engine}", bench.model, bench.folder)
        other.put("in.csv", encode(rows(400), "csv"))
        receipt = other.run("in.csv", "out.csv", run__engine=engine, run__workers=2, run__chunk_bytes=2048)
        facts = receipt.as_dict()
        assert (facts["engine"], receipt.rows.read) == (engine, receipt.rows.predicted + receipt.rows.rejected)
        assert facts["chunks"]["total"] > 5
        bodies.append(other.get("out.csv"))
    assert bodies[0] == bodies[1] == bodies[2]
    assert ids(other.records("out.csv")) == list(rows(400)["customer_id"])


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_engine_that_is_not_installed(bench: Bench, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 with the line to type; nothing is published."""
    monkeypatch.delitem(sys.modules, f"batch.execution.on_{engine}", raising=False)
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(ExtraMissing, match=f"engine '{engine}' needs {engine}, which is not installed") as caught:
        bench.run("in.csv", "out.csv", run__engine=engine)
    assert (caught.value.exit_code, caught.value.hint) == (2, f"pip install 'batch-predict[{engine}]'")
    assert bench.get("out.csv") is None


def test_a_run_resumes_from_its_chunks(bench: Bench) -> None:
    """Without commit, receipt and output only the missing chunks are scored again, and the file is the same."""
    first = bench.run("in.csv", "out.csv", **TINY)
    total, body = first.as_dict()["chunks"]["total"], bench.get("out.csv")
    assert first.as_dict()["chunks"] == {"total": total, "scored": total, "reused": 0}
    folder = f"{bench.root}/runs/weekly/{first.run_id}"
    committed = commit.load_commit(folder)
    assert committed is not None
    chunks = [record_from_commit(folder, entry).uri for entry in committed["chunks"]]
    gone = [name for name in bench.names() if "/done/" in name or name.endswith("/commit.json")]
    bench.delete(*gone, chunks[1], chunks[3], f"{bench.root}/out.csv")
    second = bench.run("in.csv", "out.csv", **TINY)
    assert second.as_dict()["chunks"] == {"total": total, "scored": 2, "reused": total - 2}
    assert (second.run_id, bench.get("out.csv")) == (first.run_id, body)


def test_over_budget_publishes_the_rejects_alone(bench: Bench) -> None:
    """One bad row is too many by default: exit 5, no output, and a rejects file that says where and why."""
    bench.put("in.csv", broken(30))
    with pytest.raises(RejectBudgetExceeded, match="1 of 60 rows") as caught:
        bench.run("in.csv", "out.csv", **TINY)
    assert caught.value.exit_code == 5
    assert caught.value.receipt is not None
    assert bench.get("out.csv") is None
    (reject,) = bench.records("out.rejects.csv")
    assert (reject["_row"], reject["_column"], reject["_code"]) == ("31", "age", "type")
    assert (reject["customer_id"], reject["age"], reject["note"]) == ("00153", "old", rows()["note"][30])


def test_a_raised_budget_resumes_the_run(bench: Bench) -> None:
    """With the budget raised the same run completes from its staged chunks; the other rows stand in order."""
    bench.put("in.csv", broken(30))
    with pytest.raises(RejectBudgetExceeded) as caught:
        bench.run("in.csv", "out.csv", run__chunk_bytes=512)
    receipt = bench.run("in.csv", "out.csv", "[rejects]\nmax_rows = 1\n", run__chunk_bytes=512)
    facts = receipt.as_dict()
    assert receipt.run_id == (caught.value.receipt or {})["run_id"]
    assert (receipt.state, facts["chunks"]["scored"]) == ("completed_with_rejects", 0)
    assert facts["chunks"]["reused"] == facts["chunks"]["total"] > 5
    assert (receipt.rows.read, receipt.rows.predicted, receipt.rows.rejected) == (60, 59, 1)
    assert ids(bench.records("out.csv")) == list(rows()["customer_id"].drop(30))


def test_rejected_rows_do_not_move_the_others(bench: Bench) -> None:
    """Predictions beside rejects are those of the valid rows by themselves."""
    bench.put("in.csv", broken(0, 31, 59))
    bench.run("in.csv", "out.csv", rejects__max_share=0.05)
    assert pairs(bench.records("out.csv")) == predicted(rows().drop([0, 31, 59]))
    assert [row["_row"] for row in bench.records("out.rejects.csv")] == ["1", "32", "60"]


def test_the_rejects_file_is_named_for_its_period(bench: Bench) -> None:
    """Placeholders in [rejects] uri are filled in, as in the other URIs."""
    bench.put("in.csv", broken(4))
    uri = f"{bench.root}/bad-{{period}}.csv"
    job = bench.job("in.csv", "out.csv", rejects__uri=uri, rejects__max_rows=1, schedule__period="week")
    batch.run(job, period="2026-W10")
    assert [row["_row"] for row in bench.records("bad-2026-W10.csv")] == ["5"]


@pytest.mark.parametrize("name", ["in.csv", "out.csv"])
def test_a_rejects_file_never_eats_an_input_or_the_output(bench: Bench, name: str) -> None:
    """[rejects] uri equal to the input or the output: exit 6, nothing is written."""
    before = bench.names()
    with pytest.raises(OutputRefused, match="rejects file"):
        bench.run("in.csv", "out.csv", rejects__uri=f"{bench.root}/{name}")
    assert bench.get("in.csv") == encode(rows(), "csv")
    kept = {uri for uri in bench.names() if not {"attempts", "metrics", "outputs", "probe"} & set(uri.split("/"))}
    assert kept == set(before)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_bytes", [64, 100, 333, 1000])
def test_cuts_inside_quoted_text_change_nothing(bench: Bench, chunk_bytes: int) -> None:
    """Notes that look like records, cut anywhere: every row is there once, in order, with the same predictions."""
    table = rows().assign(note='x\n00001,5,1.0,"plus",y\n"",\n')
    bench.put("in.csv", encode(table, "csv"))
    bench.run("in.csv", "out.csv", output__keep=["*"], run__chunk_bytes=chunk_bytes)
    found = bench.records("out.csv")
    assert ids(found) == list(table["customer_id"])
    assert {one["note"] for one in found} == {table["note"][0]}
    assert [one["prediction"] for one in found] == [label for label, _ in predicted(table)]


def test_somebody_elses_output_is_left_alone(bench: Bench) -> None:
    """A file that the job did not write is not replaced, except with replace = "any"."""
    bench.put("out.csv", b"precious\n")
    with pytest.raises(OutputRefused) as caught:
        bench.run("in.csv", "out.csv")
    assert (caught.value.exit_code, bench.get("out.csv")) == (6, b"precious\n")
    bench.run("in.csv", "out.csv", output__replace="any")
    assert len(bench.records("out.csv")) == 60


def test_an_edited_output_is_somebody_elses(bench: Bench) -> None:
    """Our own file changed by hand is not ours any more."""
    bench.run("in.csv", "out.csv")
    edited = bench.put("out.csv", b"edited\n")
    with pytest.raises(OutputRefused, match="was not written by"):
        bench.run("in.csv", "out.csv")
    assert Path(edited).read_bytes() == b"edited\n"


def test_a_deleted_output_comes_back_without_scoring(bench: Bench) -> None:
    """A done run whose file is gone is published again from its chunks."""
    bench.run("in.csv", "out.csv", **TINY)
    body = bench.get("out.csv")
    chunks = {name: etag for name, etag in bench.names().items() if "/runs/" in name}
    bench.delete(f"{bench.root}/out.csv")
    assert bench.run("in.csv", "out.csv", **TINY).already_done
    assert bench.get("out.csv") == body
    assert {name: etag for name, etag in bench.names().items() if "/runs/" in name} == chunks


def parts(bench: Bench) -> pd.DataFrame:
    """Three inputs under ``in/`` whose key order is the order of the customers."""
    table = rows()
    for number, name in enumerate(("a", "b", "c")):
        bench.put(f"in/{name}.csv", encode(table[number * 20 : number * 20 + 20], "csv"))
    return table


@pytest.mark.parametrize("source", ["in/", "in/*.csv", "list.json"])
def test_several_inputs_make_one_output_in_key_order(bench: Bench, source: str) -> None:
    """A prefix, a glob and a manifest each give one file with the rows of all inputs in order."""
    table = parts(bench)
    bench.put("list.json", b'{"files": [{"uri": "in/a.csv"}, {"uri": "in/b.csv"}, {"uri": "in/c.csv"}]}')
    receipt = bench.run(source, "out.csv", run__chunk_bytes=512)
    assert ids(bench.records("out.csv")) == list(table["customer_id"])
    assert [one["rows"] for one in receipt.as_dict()["input"]] == [20, 20, 20]


def test_a_folder_as_output_gets_a_file_per_input(bench: Bench) -> None:
    """An output that ends in "/" holds one file per input, named after it."""
    table = parts(bench)
    receipt = bench.run("in/", "out/", run__chunk_bytes=512)
    assert [one["uri"].rsplit("/", 1)[1] for one in receipt.output] == ["a.csv", "b.csv", "c.csv"]
    assert ids(bench.records("out/b.csv")) == list(table["customer_id"][20:40])


def test_two_inputs_for_one_output_are_refused(bench: Bench) -> None:
    """Inputs that differ in their compression alone map to one output name: exit 6, nothing is written."""
    bench.put("in/a.csv", encode(rows(5), "csv"))
    bench.put("in/a.csv.gz", compress(encode(rows(5), "csv"), ".gz"))
    with pytest.raises(OutputRefused, match="two inputs"):
        bench.run("in/", "out/")
    assert not any("/out/" in name for name in bench.names())


def test_a_missing_input_names_its_neighbour(bench: Bench) -> None:
    """No such input: exit 3, and the hint has the key that looks most like it."""
    bench.put("customers.csv", encode(rows(), "csv"))
    with pytest.raises(InputMissing) as caught:
        bench.run("custmers.csv", "out.csv")
    assert (caught.value.exit_code, "customers.csv" in caught.value.hint) == (3, True)


@pytest.mark.parametrize("source", ["empty.csv", "empty.jsonl"])
def test_an_empty_input_is_refused_unless_allowed(bench: Bench, source: str) -> None:
    """0 bytes: exit 3; with allow_empty a valid output without rows."""
    bench.put(source, b"")
    with pytest.raises(InputEmpty) as caught:
        bench.run(source, "out.csv")
    assert caught.value.exit_code == 3
    assert bench.run(source, "out.csv", input__allow_empty=True).rows.read == 0
    assert bench.get("out.csv") == b"customer_id,product,prediction,probability\n"


@pytest.mark.parametrize("target", ["csv", "jsonl", "parquet"])
def test_a_header_without_rows_gives_an_output_without_rows(bench: Bench, target: str) -> None:
    """A CSV of a header alone is scored: 0 rows and, in CSV, the header."""
    bench.put("in.csv", encode(rows(0), "csv"))
    assert bench.run("in.csv", f"out.{target}").rows.read == 0
    assert bench.records(f"out.{target}") == []
    if target == "csv":
        assert bench.get("out.csv") == b"customer_id,product,prediction,probability\n"


@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_a_missing_column_names_its_neighbour(bench: Bench, source: str) -> None:
    """A column spelt wrongly is exit 3 before anything is scored, with the name that looks like it."""
    bench.put(f"in.{source}", encode(rows().rename(columns={"spend": "spent"}), source))
    with pytest.raises(SchemaMismatch, match="'spend'") as caught:
        bench.run(f"in.{source}", "out.csv")
    assert (caught.value.exit_code, "'spent' looks like 'spend'" in caught.value.hint) == (3, True)


@pytest.mark.parametrize("source", ["csv", "jsonl", "parquet"])
def test_a_kept_column_named_like_an_output_is_refused(bench: Bench, source: str) -> None:
    """The input's own `prediction` cannot stand beside the model's: exit 3."""
    bench.put(f"in.{source}", encode(rows().assign(prediction="no"), source))
    with pytest.raises(SchemaMismatch, match="prediction") as caught:
        bench.run(f"in.{source}", "out.csv", output__keep=["customer_id", "prediction"])
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("source", "output"), [("in.csv", "in.csv"), ("in/", "in/out.csv"), ("in/", "in/")])
def test_an_output_never_eats_an_input(bench: Bench, source: str, output: str) -> None:
    """Output equal to an input, or inside the input prefix: exit 6, and the input is untouched."""
    parts(bench)
    before = bench.names()
    with pytest.raises(OutputRefused) as caught:
        bench.run(source, output, output__replace="any")
    assert caught.value.exit_code == 6
    assert before.items() <= bench.names().items()


def test_history_shows_what_went_wrong(bench: Bench) -> None:
    """Completed and failed runs are listed, newest first, the failed one with its error and the rows it read."""
    good = bench.run("in.csv", "out.csv")
    bench.put("in.csv", broken(1))
    with pytest.raises(BatchError):
        bench.run("in.csv", "out.csv")
    newest, oldest = list_runs(bench.root)
    assert (newest["state"], newest["error"]["code"], newest["rows"]["rejected"]) == ("failed", "reject_budget", 1)
    assert (oldest["state"], oldest["error"], oldest["run_id"]) == ("completed", None, good.run_id)
    assert list_runs(bench.root, state="failed") == [newest]
    assert list_runs(bench.root, job="weekly", state="completed") == [oldest]


def test_runs_are_found_by_prefix_and_as_latest(bench: Bench) -> None:
    """A unique prefix and JOB@latest give the receipt; anything else says that there is no such run."""
    first = bench.run("in.csv", "out.csv")
    second = bench.run("in.csv", "out.csv", output__keep=["customer_id"])
    assert find_run(bench.root, first.run_id[:12]) == first.as_dict()
    assert find_run(bench.root, "weekly@latest") == second.as_dict()
    bench.run("in.csv", "out.csv")
    assert find_run(bench.root, "weekly@latest")["run_id"] == first.run_id
    for name in ("zzz", "other@latest"):
        with pytest.raises(UsageError):
            find_run(bench.root, name)


def test_a_check_stores_nothing(bench: Bench) -> None:
    """`check` tells the refusals of a run and leaves no object behind."""
    from batch.execution.check import check

    bench.put("out.csv", b"precious\n")
    before = bench.names()
    found = check(bench.job("in.csv", "out.csv"))
    assert (found["ok"], found["exit_code"], found["refusals"][0]["code"]) == (False, 6, "output_refused")
    assert bench.names() == before


def test_a_check_of_what_is_done_is_content(bench: Bench) -> None:
    """As `run` would: exit 0 for a done run that stands, and with `once` for a done subject, even if its input is gone."""
    from batch.execution.check import check

    job = bench.job("in.csv", "out.csv", output__replace="never")
    batch.run(job)
    found = check(job)
    assert (found["ok"], found["exit_code"], found["estimate"]) == (True, 0, None)
    os.remove(f"{bench.root}/in.csv")
    assert check(job)["exit_code"] == 3
    assert check(job, once=True) == found
    bench.put("in.csv", encode(rows(20), "csv"))
    assert check(job)["exit_code"] == 6  # another run, and its output may not be replaced
    assert check(job, once=True) == found


def test_a_check_remembers_that_the_store_was_refused(bench: Bench) -> None:
    """It tries nothing itself: a store that was found broken is refused, one that is not known or sound is fine."""
    from batch.execution.check import check
    from batch.storage import probe

    alone, job = bench.job("in.csv", "out.csv", run__single_writer=True), bench.job("in.csv", "out.csv")
    assert check(job)["ok"]
    broken = probe.Promise(probe.CREATE_ONCE, False, "overwrites", "use another one")
    probe._store(probe.Verdict(bench.root, "this machine's files", 0.0, (broken,)))
    found = check(job)
    assert (found["exit_code"], found["refusals"][0]["hint"]) == (69, "use another one")
    assert check(alone)["ok"]
    probe._store(probe.Verdict(bench.root, "this machine's files", 0.0, ()))
    assert check(job)["ok"]


def test_bad_rows_at_the_head_do_not_stop_a_run_within_its_share(bench: Bench) -> None:
    """60 of the first 60 of 2,000 rows are bad, 3 % of the whole: with max_share = 0.1 the run completes."""
    table = rows(2000).astype({"age": object})
    table.loc[:59, "age"] = "old"
    small = {"rejects__stop_rows": 10, "run__chunk_bytes": 2000, "run__engine": "inline"}
    bench.put("in.csv", encode(table, "csv"))
    receipt = bench.run("in.csv", "out.csv", rejects__max_share=0.1, **small)
    assert (receipt.rows.read, receipt.rows.rejected) == (2000, 60)


def test_a_hopeless_share_still_stops_early(bench: Bench) -> None:
    """Every row is bad: long before the end no row that may come can bring the share down."""
    bench.put("in.csv", encode(rows(2000).assign(age="old"), "csv"))
    small = {"rejects__stop_rows": 10, "run__chunk_bytes": 2000, "run__engine": "inline"}
    with pytest.raises(RejectBudgetExceeded) as caught:
        bench.run("in.csv", "out.csv", rejects__max_share=0.1, **small)
    facts = caught.value.receipt or {}
    assert facts["rows"]["read"] < 600
    assert not facts["rejects"][0]["complete"]


def test_latest_is_the_period_that_ended_last(bench: Bench) -> None:
    """Not the greatest name: in autumn 02+0100 follows 02+0200; and only the record that is asked for is read."""
    hours = {"schedule__period": "hour", "schedule__timezone": "Europe/Berlin"}
    for name in ("2026-10-25T02+0100", "2026-10-25T02+0200", "2026-10-25T01+0200"):
        batch.run(bench.job("in.csv", f"out-{name}.csv", **hours), period=name)
    assert find_run(bench.root, "weekly@latest")["subject"] == "2026-10-25T02+0100"


def test_latest_is_the_drop_that_was_done_last(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is about no period counts by when the store got its receipt; of all the receipts that one is read."""
    from batch.storage.local import LocalStorage

    for number in range(4):
        uri = bench.put(f"in/{number}.csv", encode(rows(10 + number), "csv"))
        info = batch.storage.storage_for(uri).head(uri)
        batch.run(bench.job(f"in/{number}.csv", f"out/{number}.csv"), dropped=info)
    read: set[str] = set()
    real = LocalStorage.get
    monkeypatch.setattr(LocalStorage, "get", lambda self, uri: (read.add(uri), real(self, uri))[1])
    assert find_run(bench.root, "weekly@latest")["input"][0]["uri"] == f"{bench.root}/in/3.csv"
    assert len([uri for uri in read if "/done/" in uri]) == 1


def test_scoring_a_frame_is_the_model_itself(bench: Bench) -> None:
    """`batch.score` gives the estimator's numbers under the frame's own index."""
    table = rows().set_index("customer_id")
    found = batch.score(bench.model, table, root=bench.root)
    assert list(found.index) == list(table.index)
    assert pairs(found.to_dict("records")) == predicted(rows())
