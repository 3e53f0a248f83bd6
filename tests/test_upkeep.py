"""`verify` finds what is not what the receipt says, and `clean` takes what nobody needs, and nothing else."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import batch
from batch.cli import program
from batch.errors import BatchError
from batch.execution import commit, history, lease, register
from batch.execution.clean import clean
from batch.execution.history import list_runs
from batch.execution.verify import verify
from batch.storage import storage_for
from batch.storage.local import LocalStorage
from tests.clocks import FakeClock
from tests.run_cases import Bench, compress, encode, rows
from tests.run_cases import register as register_model
from tests.test_resume import before_commit, before_done, chunks_of, flip_bit

TINY = {"run__chunk_bytes": 512, "run__predict_rows": 7}
NOW = timedelta(seconds=-1)


def call(bench: Bench, *arguments: str) -> Any:
    return CliRunner().invoke(program, [*arguments, "--root", bench.root], prog_name="batch-predict")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "packed"),
    [("parquet", ""), *((text, packed) for text in ("csv", "jsonl") for packed in ("", ".gz", ".zst"))],
)
def test_a_sound_run_verifies(bench: Bench, suffix: str, packed: str) -> None:
    """Every format: input, model, chunks, output, rejects and counts all fit the receipt."""
    table = rows().astype({"age": object})
    table.loc[[3, 9], "age"] = None
    bench.put(f"in.{suffix}{packed}", compress(encode(table, suffix), packed))
    bench.run(f"in.{suffix}{packed}", f"out.{suffix}{packed}", **TINY, rejects__max_rows=2)
    found = verify(bench.root, "weekly@latest")
    assert not found.differences
    assert {one.what for one in found.findings} == {"input", "model", "commit", "chunk", "output", "rejects", "rows"}


@pytest.mark.parametrize(
    ("what", "name"),
    [("output", "out.csv"), ("input", "in.csv"), ("rejects", "out.rejects.csv"), ("chunk", "/chunks/00000002")],
)
@pytest.mark.parametrize("damage", ["change", "delete"])
def test_a_difference_is_found(bench: Bench, what: str, name: str, damage: str) -> None:
    """One changed or missing object is named, and the program ends with 7."""
    table = rows().astype({"age": object})
    table.loc[3, "age"] = "old"
    bench.put("in.csv", encode(table, "csv"))
    bench.run("in.csv", "out.csv", **TINY, rejects__max_rows=1)
    (victim,) = [uri for uri in bench.names() if name in uri and not uri.endswith(".json")]
    if damage == "delete":
        os.remove(victim)
    elif what == "rejects":
        Path(victim).write_bytes(Path(victim).read_bytes() * 2)
    else:
        flip_bit(victim, -2)
    ended = call(bench, "verify", "weekly@latest", "--json")
    document = json.loads(ended.stdout)
    wrong = [one["what"] for one in document["findings"] if one["state"] in ("differs", "gone")]
    assert (ended.exit_code, document["ok"], wrong) == (7, False, [what])
    assert call(bench, "verify", "weekly@latest").exit_code == 7


def test_a_changed_model_is_found(tmp_path: Path) -> None:
    """The bundle is read again with all its digests."""
    uri = register_model(str(tmp_path))
    bench = Bench(str(tmp_path), uri, tmp_path)
    bench.put("in.csv", encode(rows(), "csv"))
    bench.run("in.csv", "out.csv")
    flip_bit(f"{uri}golden.parquet", -1)
    assert [one.what for one in verify(bench.root, "weekly@latest").differences] == ["model"]


def test_a_superseded_output_is_no_difference(bench: Bench) -> None:
    """A later run wrote the same key: the earlier run's verification says so and ends well."""
    first = bench.run("in.csv", "out.csv", **TINY)
    bench.run("in.csv", "out.csv", **TINY, output__keep=["customer_id"])
    found = verify(bench.root, first.run_id)
    assert (found.differences, [one.state for one in found.findings if one.what == "output"]) == ([], ["superseded"])


@pytest.mark.parametrize("damage", ["a digest", "an order", "gone", "not ours"])
def test_a_commit_that_is_not_the_receipts_is_found(bench: Bench, damage: str) -> None:
    """The receipt's chunks_sha256 is computed anew from the commit's digests, which are those of the bytes."""
    done = bench.run("in.csv", "out.csv", **TINY)
    path = Path(commit.commit_uri(f"{bench.root}/runs/weekly/{done.run_id}"))
    document = json.loads(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "not ours":
        path.write_bytes(b"[]")
    elif damage == "an order":
        document["outputs"][0]["chunks"].reverse()
        path.write_text(json.dumps(document))
    else:  # consistently: also the digest that nobody computes
        document["chunks"][0]["sections"]["rows"][2] = "0" * 64
        document["outputs"][0]["chunks_sha256"] = done.output[0]["chunks_sha256"]
        path.write_text(json.dumps(document))
    found = {(one.what, one.state) for one in verify(bench.root, done.run_id).differences}
    expected = {("commit", "gone" if damage in {"gone", "not ours"} else "differs")}
    assert found == expected | ({("chunk", "differs")} if damage == "a digest" else set())


def test_a_run_that_failed_has_nothing_to_verify(bench: Bench) -> None:
    """Exit 2, not 7: there is no receipt of a completed run."""
    bench.put("in.csv", encode(rows().assign(age="old"), "csv"))
    with pytest.raises(BatchError) as caught:
        bench.run("in.csv", "out.csv")
    assert call(bench, "verify", (caught.value.receipt or {})["run_id"]).exit_code == 2


def test_clean_takes_the_chunks_of_finished_runs(bench: Bench) -> None:
    """The output, the receipt and the decision stay; verification says that the chunks were cleaned."""
    receipt = bench.run("in.csv", "out.csv", **TINY)
    before, staged = set(bench.names()), chunks_of(bench, receipt.run_id)
    (told,) = clean(bench.root, older_than=NOW)
    assert (told.action, told.run_id, told.objects) == ("cleaned", receipt.run_id, len(staged))
    assert {uri.split("/")[-2] for uri in before - set(bench.names())} == {"chunks"}
    assert verify(bench.root, receipt.run_id).differences == []
    assert clean(bench.root, older_than=NOW) == []


def test_a_clean_that_was_interrupted_is_no_difference(bench: Bench) -> None:
    """Half of the chunks are gone: `verify` says that they were cleaned, and the next `clean` takes the rest."""
    done = bench.run("in.csv", "out.csv", **TINY)
    folder = f"{bench.root}/runs/weekly/{done.run_id}"
    staged = chunks_of(bench, done.run_id)
    committed = (commit.load_commit(folder) or {})["chunks"]
    commit.mark_cleaned(folder, "2026-01-05T06:00:00Z")
    for entry in committed[:2]:
        os.remove(f"{folder}/chunks/{entry['key']}")
    found = verify(bench.root, done.run_id)
    told = [one.detail for one in found.findings if one.state == "cleaned"]
    assert (found.differences, told) == ([], [f"2 of {len(committed)} staged chunks"])
    assert [one.objects for one in clean(bench.root, older_than=NOW)] == [len(staged) - 2]


def test_clean_leaves_the_young_alone_and_can_be_tried(bench: Bench) -> None:
    """The default age is a week, and --dry-run does nothing."""
    bench.run("in.csv", "out.csv", **TINY)
    names = bench.names()
    assert clean(bench.root) == []
    assert len(clean(bench.root, older_than=NOW, dry_run=True)) == 1
    assert json.loads(call(bench, "clean", "--json").stdout) == {"dry_run": False, "cleaned": []}
    assert bench.names() == names


def test_clean_closes_a_dead_run_first(bench: Bench) -> None:
    """A run that never committed is abandoned before its chunks go, and is listed so; running it again starts anew."""
    first = bench.run("in.csv", "out.csv", **TINY)
    before_commit(bench, first.run_id)
    assert [one.action for one in clean(bench.root, older_than=NOW)] == ["closed"]
    assert chunks_of(bench, first.run_id) == []
    assert commit.is_abandoned(commit.load_commit(f"{bench.root}/runs/weekly/{first.run_id}"))
    assert [one["state"] for one in list_runs(bench.root)] == ["abandoned"]
    assert bench.run("in.csv", "out.csv", **TINY).run_id == f"{first.run_id}-2"


def test_clean_keeps_a_committed_run_that_is_not_published(bench: Bench) -> None:
    """What is decided is not given up: its chunks stay until it has been run again."""
    first = bench.run("in.csv", "out.csv", **TINY)
    before_done(bench)
    staged = chunks_of(bench, first.run_id)
    assert [one.action for one in clean(bench.root, older_than=NOW)] == ["kept"]
    assert bench.run("in.csv", "out.csv", **TINY).as_dict()["chunks"]["scored"] == 0
    assert chunks_of(bench, first.run_id) == staged


def test_clean_does_not_touch_a_run_at_work(bench: Bench) -> None:
    """An open attempt whose lease is alive is neither closed nor cleaned, however old we say it is."""
    first = bench.run("in.csv", "out.csv", **TINY)
    before_commit(bench, first.run_id)
    held = lease.acquire(
        register.register_folder(bench.root, f"{bench.root}/out.csv"),
        output=f"{bench.root}/out.csv", job="weekly", run_id=first.run_id, clock=FakeClock(),
    )  # fmt: skip
    (start,) = [name for name in bench.names() if name.endswith(".start.json")]
    document = json.loads(Path(start).read_bytes()) | {"lease": held.uri}
    Path(start).write_text(json.dumps(document))
    assert [one["state"] for one in list_runs(bench.root)] == ["running"]
    assert clean(bench.root, older_than=NOW) == []
    held.release()


def opened_elsewhere(bench: Bench, silent_seconds: float) -> Any:
    """An attempt that has begun and not ended; its holder, on another host, was last heard of so long ago. Gives the lease file."""
    first = bench.run("in.csv", "out.csv", **TINY)
    before_commit(bench, first.run_id)
    held = lease.acquire(
        register.register_folder(bench.root, f"{bench.root}/out.csv"),
        output=f"{bench.root}/out.csv", job="weekly", run_id=first.run_id, clock=FakeClock(),
    )  # fmt: skip
    document = json.loads(Path(held.uri).read_bytes())
    document["holder"] |= {"boot_id": "another", "host": "elsewhere"}
    Path(held.uri).write_text(json.dumps(document))
    at = datetime.now(UTC).timestamp() - silent_seconds
    os.utime(held.uri, (at, at))
    (start,) = [name for name in bench.names() if name.endswith(".start.json")]
    Path(start).write_text(json.dumps(json.loads(Path(start).read_bytes()) | {"lease": held.uri}))
    lease._held.clear()
    return Path(held.uri)


@pytest.mark.parametrize(("silent_seconds", "is_closed"), [(40, False), (290, False), (310, True)])
def test_a_silent_holder_elsewhere_is_not_taken_for_dead(bench: Bench, silent_seconds: float, is_closed: bool) -> None:
    """`runs` says silent after 30 s; `clean` closes its run only when that is longer than any outage that it waits for."""
    opened_elsewhere(bench, silent_seconds)
    assert [one["state"] for one in list_runs(bench.root)] == ["silent"]
    assert [one.action for one in clean(bench.root, older_than=NOW)] == (["closed"] if is_closed else [])


def test_the_state_is_looked_at_right_before_a_run_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody goes on with the run after the listing of all runs: it is at work again."""
    heartbeat = opened_elsewhere(bench, 1000)
    real = history.traces

    def traces(root: str) -> Any:
        found = real(root)
        (start,) = [Path(name) for name in bench.names() if name.endswith(".start.json")]
        number = int(heartbeat.name) + 1
        newer = heartbeat.with_name(f"{number:08d}")
        newer.write_bytes(heartbeat.read_bytes())
        stem = start.name.split(".")[0]
        later = start.with_name(f"{stem}.{number:08d}.start.json")
        later.write_text(json.dumps(json.loads(start.read_bytes()) | {"lease": str(newer)}))
        return found

    monkeypatch.setattr("batch.execution.history.traces", traces)
    assert clean(bench.root, older_than=NOW) == []


def test_clean_reads_nothing_of_what_it_has_cleaned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of years cost a line in the listing each; only the newest plan of a job is read for where it writes."""
    for count in range(40, 46):
        bench.put("in.csv", encode(rows(count), "csv"))
        bench.run("in.csv", "out.csv", **TINY)
    clean(bench.root, older_than=NOW)
    read: list[str] = []
    real = LocalStorage.get
    monkeypatch.setattr(LocalStorage, "get", lambda self, uri: (read.append(uri), real(self, uri))[1])
    assert clean(bench.root, older_than=NOW) == []
    assert [uri.rsplit("/", 1)[-1] for uri in read] == ["plan.json"]


def test_what_the_keys_tell_is_not_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs` reads the records of those alone that may be what was asked for."""
    bench.put("in.csv", encode(rows(), "csv"))
    job = bench.job("in.csv", "out.csv", **TINY, schedule__period="week")
    for week in ("2026-W44", "2026-W45", "2026-W46"):
        batch.run(job, period=week)
    with pytest.raises(BatchError):
        batch.run(bench.job("gone.csv", "out.csv", schedule__period="week"), period="2026-W47")
    read: set[str] = set()
    real = LocalStorage.get
    monkeypatch.setattr(LocalStorage, "get", lambda self, uri: (read.add(uri.split("/")[-1]), real(self, uri))[1])
    assert [one["subject"] for one in list_runs(bench.root, period="2026-W45")] == ["2026-W45"]
    assert len([name for name in read if name.endswith(".start.json")]) == 1
    read.clear()
    assert [one["subject"] for one in list_runs(bench.root, state="failed")] == ["2026-W47"]
    assert all(name.startswith("refused-") for name in read if name.endswith((".start.json", ".end.json")))
    assert len(list_runs(bench.root, state="completed", period="2026-W46")) == 1
    assert list_runs(bench.root, state="completed", period="2026-W45") == []  # superseded
    assert len(list_runs(bench.root)) == 4


def test_clean_takes_partial_files_of_killed_writers(bench: Bench) -> None:
    """Beside our outputs and under the root, but not in folders where nobody of us writes."""
    bench.run("in.csv", "results/out.csv")
    ours, theirs = f"{bench.root}/results/.partial-0123", f"{bench.root}/../elsewhere-{os.getpid()}/.partial-0123"
    for path in (ours, theirs):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(b"half")
    assert "aborted" in {one.action for one in clean(bench.root, older_than=NOW)}
    assert (Path(ours).exists(), Path(theirs).exists()) == (False, True)


@pytest.mark.s3
def test_clean_and_verify_on_a_real_server(any_root: str, model: str, tmp_path: Path) -> None:
    """The whole round on S3: verify, an upload left open, clean, verify again."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", encode(rows(), "csv"))
    bench.run("in.csv", "out.csv", **TINY)
    storage: Any = storage_for(any_root)
    if any_root.startswith("s3://"):
        bucket = any_root.removeprefix("s3://")
        storage.connection.client().create_multipart_upload(Bucket=bucket, Key="out.csv")
        storage.connection.client().create_multipart_upload(Bucket=bucket, Key="other.csv")
    assert verify(any_root, "weekly@latest").differences == []
    actions = [one.action for one in clean(any_root, older_than=NOW)]
    assert actions == ["cleaned", *(["aborted"] * 2 if any_root.startswith("s3://") else [])]
    assert verify(any_root, "weekly@latest").differences == []


def test_an_unreadable_age_is_a_sentence(bench: Bench) -> None:
    """Exit 2 with what to write instead."""
    ended = call(bench, "clean", "--older-than", "a week")
    assert (ended.exit_code, "--older-than 7d" in ended.stderr) == (2, True)


def test_scratch_of_dead_runs_is_swept(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run's decompressed copy goes with the next run on this host; a living run's and a stranger's stay."""
    from batch.execution.holder import Holder
    from batch.execution.scratch import scratch_folder

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    me = Holder.myself().as_dict()
    for name, owner in (("dead", me | {"started": "1"}), ("living", me), ("strange", {})):
        folder = tmp_path / "scratch" / f"batch-predict-{name}"
        folder.mkdir(parents=True)
        (folder / "owner.json").write_text(json.dumps(owner))
    with scratch_folder():
        pass
    assert sorted(os.listdir(tmp_path / "scratch")) == ["batch-predict-living", "batch-predict-strange"]


def test_clean_steps_over_strange_objects(bench: Bench) -> None:
    """What somebody else put below runs/ is not a run; and no output may lie there."""
    bench.put("runs/stray.csv", b"x")
    bench.put("runs/weekly/stray.csv", b"x")
    assert clean(bench.root, older_than=NOW) == []
    with pytest.raises(BatchError, match="the program's own"):
        bench.run("in.csv", "runs/out.csv")
