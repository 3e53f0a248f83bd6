"""Whatever ended a run, the next one goes on from its chunks, believes none of them unseen, and ends with the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import batch
from batch.errors import BatchError, Busy, ModelFailed
from batch.execution import attempts, commit, lease, register
from batch.execution.history import find_run, list_runs
from batch.storage import storage_for
from tests.clocks import FakeClock
from tests.deadly import Deadly, deadly_bench
from tests.run_cases import Bench, encode, rows

TINY = {"run__chunk_bytes": 512, "run__predict_rows": 7}


def folder_of(bench: Bench, run_id: str) -> str:
    return f"{bench.root}/runs/weekly/{run_id}"


def chunks_of(bench: Bench, run_id: str) -> list[str]:
    return [info.uri for info in storage_for(bench.root).list(f"{folder_of(bench, run_id)}/chunks/")]


def before_commit(bench: Bench, run_id: str) -> None:
    """Undo everything from the commit on, as if the run had been killed just before it."""
    gone = [
        name for name in bench.names() if "/done/" in name or name.endswith(("/commit.json", ".end.json", "/out.csv"))
    ]
    bench.delete(*gone, *[name for name in bench.names() if "/outputs/" in name and name.endswith(".json")])


def before_done(bench: Bench) -> None:
    """As if the run had been killed between its commit and its receipt."""
    bench.delete(*[name for name in bench.names() if "/done/" in name or name.endswith((".end.json", "/out.csv"))])


def flip_bit(uri: str, at: int) -> None:
    body = bytearray(Path(uri).read_bytes())
    body[at] ^= 1
    Path(uri).write_bytes(body)


@pytest.mark.parametrize("at", [0, 60, -1], ids=["first byte", "counts", "last byte"])
def test_a_flipped_bit_costs_its_chunk(bench: Bench, at: int) -> None:
    """A staged chunk that is not what was stored is scored again before anything is published; the others are reused."""
    first = bench.run("in.csv", "out.csv", **TINY)
    body, total = bench.get("out.csv"), first.as_dict()["chunks"]["total"]
    before_commit(bench, first.run_id)
    flip_bit(chunks_of(bench, first.run_id)[2], at)
    second = bench.run("in.csv", "out.csv", **TINY)
    assert second.as_dict()["chunks"] == {"total": total, "scored": 1, "reused": total - 1}
    assert bench.get("out.csv") == body


@pytest.mark.parametrize("damage", ["flip", "delete", "truncate"])
def test_a_committed_chunk_is_put_back_as_it_was(bench: Bench, damage: str) -> None:
    """After the commit a damaged or missing chunk is scored again and must give the committed bytes."""
    first = bench.run("in.csv", "out.csv", **TINY)
    body, total = bench.get("out.csv"), first.as_dict()["chunks"]["total"]
    before_done(bench)
    victim = chunks_of(bench, first.run_id)[1]
    if damage == "flip":
        flip_bit(victim, Path(victim).read_bytes().index(b"\n") + 1)  # the first byte of its rows
    else:
        os.truncate(victim, 99) if damage == "truncate" else os.remove(victim)
    second = bench.run("in.csv", "out.csv", **TINY)
    assert second.as_dict()["chunks"] == {"total": total, "scored": 1, "reused": total - 1}
    assert bench.get("out.csv") == body


def test_a_committed_chunk_that_comes_out_differently_is_refused(bench: Bench) -> None:
    """Where scoring again does not give what was committed nothing is published: exit 69 and --force."""
    first = bench.run("in.csv", "out.csv", **TINY)
    before_done(bench)
    path = Path(commit.commit_uri(folder_of(bench, first.run_id)))
    document = json.loads(path.read_bytes())
    document["chunks"][1]["sections"]["rows"][2] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(BatchError, match="gives other bytes") as caught:
        bench.run("in.csv", "out.csv", **TINY)
    assert (caught.value.exit_code, "--force" in caught.value.hint) == (69, True)
    assert bench.get("out.csv") is None


def test_a_deleted_output_comes_back_without_its_chunks(bench: Bench) -> None:
    """Even after `clean` has taken the staged chunks: they are scored again, byte for byte."""
    first = bench.run("in.csv", "out.csv", **TINY)
    body = bench.get("out.csv")
    bench.delete(*chunks_of(bench, first.run_id), f"{bench.root}/out.csv")
    assert bench.run("in.csv", "out.csv", **TINY).already_done
    assert bench.get("out.csv") == body
    names = bench.names()
    assert bench.run("in.csv", "out.csv", **TINY).already_done
    assert bench.names() == names


def test_a_deleted_rejects_file_comes_back(bench: Bench) -> None:
    """It belongs to the output: asked for again, a done run puts it back without scoring, and reports the first receipt."""
    table = rows().astype({"age": object})
    table.loc[3, "age"] = "old"
    bench.put("in.csv", encode(table, "csv"))
    first = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=1)
    body = bench.get("out.rejects.csv")
    assert body is not None
    os.remove(f"{bench.root}/out.rejects.csv")
    again = bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=1)
    assert (again.already_done, again.run_id, bench.get("out.rejects.csv")) == (True, first.run_id, body)


def test_strange_objects_among_the_chunks_are_ignored(bench: Bench) -> None:
    """Somebody's notes in the run folder neither stop a run nor get into its output."""
    first = bench.run("in.csv", "out.csv", **TINY)
    body = bench.get("out.csv")
    before_commit(bench, first.run_id)
    for name in ("notes.txt", "00000001.x-y", "99999999.0-5"):
        bench.put(f"runs/weekly/{first.run_id}/chunks/{name}", b"hello")
    assert bench.run("in.csv", "out.csv", **TINY).as_dict()["chunks"]["scored"] == 0
    assert bench.get("out.csv") == body


def test_other_libraries_open_a_new_generation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished run that was planned with another numpy is not gone on with; a finished one stays done."""
    first = bench.run("in.csv", "out.csv", **TINY)
    versions = {"numpy": "1.0", "pandas": "1.0", "pyarrow": "1.0", "scikit-learn": "1.0"}
    monkeypatch.setattr("batch.execution.preflight.library_versions", lambda: versions)
    assert bench.run("in.csv", "out.csv", **TINY).already_done
    before_commit(bench, first.run_id)
    second = bench.run("in.csv", "out.csv", **TINY)
    assert second.run_id == f"{first.run_id}-2"
    assert second.as_dict()["chunks"]["reused"] == 0


def test_force_opens_the_next_generation_and_resumes_it(bench: Bench) -> None:
    """--force scores a finished run again under a name of its own; interrupted, it goes on under that name."""
    job = bench.job("in.csv", "out.csv", **TINY)
    first, second = batch.run(job), batch.run(job, force=True)
    assert second.run_id == f"{first.run_id}-2"
    before_done(bench)
    bench.delete(*[name for name in bench.names() if name.endswith(f"{second.run_id}/commit.json")])
    third = batch.run(job, force=True)
    assert (third.run_id, third.as_dict()["chunks"]["scored"]) == (second.run_id, 0)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["planned", "closed", "other libraries"])
def test_a_done_run_is_not_scored_again_unless_it_is_forced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Whatever becomes of the second generation, the first is done: a plain run goes back to it, --force goes on."""
    job = bench.job("in.csv", "out.csv", **TINY)
    first, second = batch.run(job), batch.run(job, force=True)
    gone = [name for name in bench.names() if f"/{second.run_id}" in name and not name.endswith("/plan.json")]
    bench.delete(*gone)
    if end == "closed":
        assert commit.abandon(folder_of(bench, second.run_id), "now")
    if end == "other libraries":
        versions = {"numpy": "1.0", "pandas": "1.0", "pyarrow": "1.0", "scikit-learn": "1.0"}
        monkeypatch.setattr("batch.execution.preflight.library_versions", lambda: versions)
    plain = batch.run(job)
    assert (plain.run_id, plain.already_done) == (first.run_id, True)
    again = batch.run(job, force=True)
    assert again.run_id == (second.run_id if end == "planned" else f"{first.run_id}-3")
    assert batch.run(job).run_id == again.run_id  # the newest one that is done


def test_a_closed_run_is_never_published(bench: Bench) -> None:
    """A run whose commit says abandoned is over: whoever resumes it stops, and the next run is a new generation."""
    first = bench.run("in.csv", "out.csv", **TINY)
    before_commit(bench, first.run_id)
    assert commit.abandon(folder_of(bench, first.run_id), "now")
    assert bench.run("in.csv", "out.csv", **TINY).run_id == f"{first.run_id}-2"
    assert "abandoned" in {one["state"] for one in list_runs(bench.root)}


def test_a_busy_output_is_left_alone(bench: Bench) -> None:
    """Exit 75 with a receipt, no attempt recorded, nothing scored."""
    held = lease.acquire(
        register.register_folder(bench.root, f"{bench.root}/out.csv"),
        output=f"{bench.root}/out.csv", job="other", run_id="x", clock=FakeClock(),
    )  # fmt: skip
    with pytest.raises(Busy, match="job 'other'") as caught:
        batch.run(bench.job("in.csv", "out.csv"), clock=FakeClock(meanwhile=held.renew))
    held.release()
    assert (caught.value.receipt or {})["error"]["code"] == "busy"
    assert attempts.of_job(bench.root, "weekly") == {}


def test_the_next_holder_tells_the_end_of_a_lost_attempt(bench: Bench) -> None:
    """An attempt that was killed is "lost" once somebody else holds its lease, also when that is another run."""
    bench.run("in.csv", "out.csv")
    (end,) = [name for name in bench.names() if name.endswith(".end.json")]
    (lease_file,) = [name for name in bench.names() if "/lease/" in name]
    text = Path(lease_file).read_text().replace('"released"', '"held"').replace(f'"pid":{os.getpid()}', '"pid":4194303')
    Path(lease_file).write_text(text)
    bench.delete(end, *[name for name in bench.names() if "/done/" in name])
    assert list_runs(bench.root)[0]["state"] == "lost"  # its process is known to be gone
    bench.put("in.csv", encode(rows(10), "csv"))
    bench.run("in.csv", "out.csv")
    assert json.loads(Path(end).read_bytes())["state"] == "lost"


def test_runs_tells_of_a_run_that_never_had_an_id(bench: Bench) -> None:
    """A missing input is listed as a failure with its error and exit code."""
    with pytest.raises(BatchError):
        bench.run("nothing.csv", "out.csv")
    (line,) = list_runs(bench.root)
    assert (line["run_id"], line["state"], line["exit_code"], line["error"]["code"]) == (
        None,
        "failed",
        3,
        "input_missing",
    )


def test_an_older_run_that_is_asked_for_again_becomes_the_newest(bench: Bench) -> None:
    """The register decides: the old run is published again without scoring, and the other one is superseded."""
    first = bench.run("in.csv", "out.csv", **TINY)
    old = bench.get("out.csv")
    second = bench.run("in.csv", "out.csv", **TINY, output__keep=["customer_id"])
    assert bench.run("in.csv", "out.csv", **TINY).already_done
    assert bench.get("out.csv") == old
    states = {one["run_id"]: one["state"] for one in list_runs(bench.root)}
    assert states == {first.run_id: "completed", second.run_id: "superseded"}
    assert find_run(bench.root, "weekly@latest")["run_id"] == first.run_id


@pytest.mark.slow
def test_a_dead_worker_costs_its_chunk(tmp_path: Path) -> None:
    """One out-of-memory kill, and the run completes: chunks in flight are scored again, every row is there once."""
    bench, settings = deadly_bench(tmp_path, Deadly(str(tmp_path / "flag")))
    receipt = bench.run("in.csv", "out.csv", **settings)
    assert (tmp_path / "flag").exists()
    assert [row["customer_id"] for row in bench.records("out.csv")] == list(rows(400)["customer_id"])
    assert receipt.as_dict()["chunks"]["total"] > 5


@pytest.mark.slow
def test_a_chunk_that_kills_twice_is_named(tmp_path: Path) -> None:
    """Exit 4 with the rows' numbers, no endless loop; the chunks that could be scored stay scored."""
    bench, settings = deadly_bench(tmp_path, Deadly())
    with pytest.raises(ModelFailed, match="killed its worker process 2 times") as caught:
        bench.run("in.csv", "out.csv", **settings)
    first = int(caught.value.message.split("the rows from ")[1].split(" ")[0])
    assert (caught.value.exit_code, 100 < first <= 151) == (4, True)
    receipt = caught.value.receipt or {}
    stored = {uri.rsplit("/", 1)[-1][:8] for uri in chunks_of(bench, receipt["run_id"])}
    assert receipt["chunks"]["scored"] == len(stored) > 1
    assert bench.get("out.csv") is None
