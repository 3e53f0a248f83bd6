"""The drop folder: every version once, whatever happens to files and watchers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import batch
from batch.cli import program
from batch.errors import BatchError, Busy, ModelRefused, OutputRefused, PermissionDenied, StorageUnavailable, UsageError
from batch.execution import history, runner, scoring
from batch.execution.verify import verify
from batch.models import bundle
from batch.storage import storage_for
from batch.triggers import drop, watch
from batch.triggers.watch import Watcher
from tests.drop_folder import Folder
from tests.run_cases import encode, predicted, rows
from tests.run_cases import register as register_model


@pytest.fixture
def folder(tmp_path: Path, model: str) -> Folder:
    return Folder(str(tmp_path / "root"), model, tmp_path)


def test_a_dropped_file_is_scored_once(any_root: str, model: str, tmp_path: Path) -> None:
    """Predictions and receipt go to the output prefix, the input stays, and nothing is done a second time."""
    folder = Folder(any_root, model, tmp_path)
    folder.put("in/a.csv")
    folder.put("in/deep/b.csv")
    folder.put("in/_SUCCESS", b"")
    watcher = folder.watcher(watch__pattern="**.csv")
    assert (watcher.poll(), watcher.poll(), folder.watcher(watch__pattern="**.csv").poll()) == (2, 0, 0)
    assert folder.names("out") == ["a.csv", "a.receipt.json", "deep/b.csv", "deep/b.receipt.json"]
    assert folder.names("in") == ["_SUCCESS", "a.csv", "deep/b.csv"]
    receipt = json.loads(folder.get("out/a.receipt.json") or b"")
    assert (receipt["trigger"], receipt["input"][0]["uri"], receipt["rows"]["predicted"]) == (
        "watch",
        f"{any_root}/in/a.csv",
        20,
    )
    body = (folder.get("out/a.csv") or b"").decode().splitlines()
    assert [line.split(",")[1] for line in body[1:]] == [name for name, _ in predicted(rows(20))]
    found = history.list_runs(any_root, trigger="watch", input_part="in/a.csv")
    assert [(one["state"], one["subject"]) for one in found] == [("completed", receipt["subject"])]


def test_a_watcher_loads_a_model_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files it scores; it is kept by its digest."""
    loads: list[Any] = []
    real = bundle.load
    monkeypatch.setattr(bundle, "load", lambda *a, **o: (loads.append(a), real(*a, **o))[1])
    monkeypatch.setattr(scoring, "_kept", {})
    for name in "abc":
        folder.put(f"in/{name}.csv")
    assert (folder.watcher().poll(), len(loads)) == (3, 1)


def test_a_new_version_is_a_new_job(folder: Folder) -> None:
    """Uploading again scores again, also the very same bytes; deleting is harmless."""
    uri = folder.put("in/a.csv")
    watcher = folder.watcher()
    assert watcher.poll() == 1
    folder.put("in/a.csv", encode(rows(30), "csv"))
    assert (watcher.poll(), watcher.poll()) == (1, 0)
    os.utime(uri, (1, 1))
    assert watcher.poll() == 1  # the same content, put there at another time
    os.remove(uri)
    assert (watcher.poll(), len(folder.names("out"))) == (0, 2)


def test_a_file_that_goes_while_it_waits_is_nobodys(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted or replaced after the listing: told, not counted, and the new version is scored."""
    for name in ("a", "b"):
        folder.put(f"in/{name}.csv")
    real = drop.listing

    def listed(job: batch.Job) -> Any:
        found = real(job)
        os.remove(f"{folder.root}/in/a.csv")
        folder.put("in/b.csv", encode(rows(5), "csv"))
        monkeypatch.setattr(drop, "listing", real)
        return found

    monkeypatch.setattr(drop, "listing", listed)
    watcher = folder.watcher()
    assert watcher.poll() == 0
    assert sorted(folder.events()) == [("gone", "a.csv"), ("gone", "b.csv")]
    assert (watcher.poll(), drop.failures(watcher.job)) == (1, {})


def test_a_failing_file_is_tried_again_and_parked(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tries with growing pauses, then it is left, with its error beside the others' outputs; the others go on."""
    folder.put("in/bad.csv", b"nothing,fits\n1,2\n")
    folder.put("in/good.csv")
    first = folder.watcher()
    assert (first.poll(), first.exit_code, first.soon) == (1, 3, pytest.approx(60, abs=2))
    assert (first.poll(), first.exit_code) == (0, 0)  # not its turn yet
    pauses = []
    for seconds in (61, 121):
        other = folder.watcher(watch__attempts=3)  # another watcher knows how often it failed
        _forward(monkeypatch, seconds)
        assert other.poll() == 0
        pauses.append(other.soon)
    assert [event for event, name in folder.events() if name == "bad.csv"] == ["failed", "failed", "parked"]
    _forward(monkeypatch, 10_000)
    assert (folder.watcher().poll(), len(folder.said)) == (0, 4)
    parked = json.loads(folder.get("out/bad.receipt.json") or b"")
    assert (parked["state"], parked["exit_code"], parked["attempts"]) == ("parked", 3, 3)
    assert parked["error"]["code"] == "schema_mismatch"
    (line,) = history.list_runs(folder.root, state="parked")
    assert line["input"] == [f"{folder.root}/in/bad.csv"]
    assert folder.get("in/bad.csv") is not None
    folder.put("in/bad.csv")
    assert folder.watcher().poll() == 1  # mended and uploaded again


def _forward(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so much time pass for the store since its records were made."""
    real = drop.failures

    def older(job: batch.Job) -> dict[str, drop.Failure]:
        from datetime import timedelta

        return {
            key: drop.Failure(one.count, one.last_at - timedelta(seconds=seconds)) for key, one in real(job).items()
        }

    monkeypatch.setattr(watch.drop, "failures", older)


def test_a_bug_over_one_file_stops_no_other(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with its traceback, and counts as a failure of the file."""
    folder.put("in/a.csv")
    folder.put("in/b.csv")
    real = runner.run

    def run(job: batch.Job, **options: Any) -> Any:
        if job.input.uri.endswith("a.csv"):
            raise ZeroDivisionError("of ours")
        return real(job, **options)

    monkeypatch.setattr(runner, "run", run)
    watcher = folder.watcher()
    assert (watcher.poll(), watcher.exit_code) == (1, 1)
    (told,) = [one for one in folder.said if one.event == "failed"]
    assert "ZeroDivisionError" in told.facts["traceback"]


@pytest.mark.parametrize("error", [StorageUnavailable("away"), Busy("somebody is at it")])
def test_what_is_no_files_fault_costs_no_try(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: BatchError
) -> None:
    """A store that is away ends the look; a busy output is left to who works on it."""
    folder.put("in/a.csv")

    def run(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(runner, "run", run)
    watcher = folder.watcher()
    if isinstance(error, Busy):
        assert watcher.poll() == 0
    else:
        with pytest.raises(StorageUnavailable):
            watcher.poll()
    assert (drop.failures(watcher.job), watcher.exit_code) == ({}, 0)


def test_a_missing_model_parks_nothing(tmp_path: Path) -> None:
    """It is told as the job's problem; when the model is there, the files are scored."""
    folder = Folder(str(tmp_path / "root"), "models:/tiny@champion", tmp_path)
    folder.put("in/a.csv")
    watcher = folder.watcher()
    with pytest.raises(ModelRefused, match="tiny"):
        watcher.poll()
    assert [info.uri for info in storage_for(folder.root).list(f"{folder.root}/attempts/")] == []
    register_model(folder.root)
    assert watcher.poll() == 1


def test_a_local_file_settles_first(folder: Folder) -> None:
    """It may still be being written: five seconds without a change, by default."""
    uri = folder.put("in/a.csv")
    watcher = Watcher(folder.job(watch__settle="5s"), folder.said.append)
    assert watcher.poll() == 0
    assert watcher.soon == pytest.approx(5, abs=1)
    os.utime(uri, (time.time() - 6,) * 2)
    assert watcher.poll() == 1
    assert drop.settle_seconds(folder.job(watch__settle="0s")) == 0
    unset = folder.job().model_copy(update={"watch": folder.job().watch.model_copy(update={"settle": None})})
    assert drop.settle_seconds(unset) == 5


@pytest.mark.parametrize(
    ("sentinel", "marker", "body"),
    [
        ("_SUCCESS", "in/_SUCCESS", b""),
        ("{name}.ok", "in/a.csv.ok", b""),
        ("files.json", "in/files.json", b'{"files": [{"uri": "a.csv"}]}'),
        ("files.json", "in/files.json", b'{"files": [{"uri": "ROOT/in/a.csv"}]}'),
    ],
)
def test_a_sentinel_releases_files(folder: Folder, sentinel: str, marker: str, body: bytes) -> None:
    """Nothing is taken before its marker is there, and the marker itself never is."""
    folder.put("in/a.csv")
    watcher = folder.watcher(watch__sentinel=sentinel, watch__pattern="*")
    assert watcher.poll() == 0
    folder.put(marker, b'{"files": [')  # not whole yet: no manifest
    if sentinel.endswith(".json"):
        assert watcher.poll() == 0
    folder.put(marker, body.replace(b"ROOT", folder.root.encode()))
    assert (watcher.poll(), [event for event, _ in folder.events() if event != "left"]) == (1, ["done"])


def test_a_manifest_releases_only_what_it_names(folder: Folder) -> None:
    """The rest of its folder waits."""
    folder.put("in/a.csv")
    folder.put("in/b.csv")
    folder.put("in/files.json", b'{"files": [{"uri": "b.csv"}]}')
    folder.watcher(watch__sentinel="files.json").poll()
    assert folder.events() == [("done", "b.csv")]


def test_done_files_move_where_the_job_says_so(any_root: str, model: str, tmp_path: Path) -> None:
    """Out of the prefix, beside it; also those of a watcher that was killed before it could. A failed one stays."""
    folder = Folder(any_root, model, tmp_path, after='"move"', attempts="1")
    body = encode(rows(20), "csv")
    folder.put("in/a.csv", body)
    folder.put("in/bad.csv", b"nothing,fits\n1,2\n")
    folder.watcher(watch__after="leave").poll()
    assert folder.names("in") == ["a.csv", "bad.csv"]
    folder.watcher().poll()
    assert (folder.names("in"), folder.names("in-done")) == (["bad.csv"], ["a.csv"])
    (done,) = history.list_runs(any_root, state="completed")
    assert "gone" not in {one.state for one in verify(any_root, done["run_id"]).findings}
    assert folder.get("in-done/a.csv") == body
    folder.put("in/c.csv")
    folder.watcher().poll()
    assert folder.names("in-done") == ["a.csv", "c.csv"]


def test_a_file_that_was_replaced_is_not_moved(folder: Folder) -> None:
    """The new version has not been scored."""
    folder.put("in/a.csv")
    (old,) = drop.listing(folder.job())
    folder.put("in/a.csv", encode(rows(5), "csv"))
    assert (drop.move_away(folder.job(), old), folder.names("in")) == ("", ["a.csv"])


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"output__uri": "{root}/in/out/"}, OutputRefused, "inside the watched prefix"),
        ({"rejects__uri": "{root}/bad.csv"}, UsageError, "rejects of every dropped file"),
        ({"rejects__uri": "{root}/in/{{stem}}.bad"}, OutputRefused, "inside the watched prefix"),
        ({"root": "{root}/in/sub"}, OutputRefused, "inside the watched prefix"),
        ({"output__uri": "{root}/one.csv", "input__uri": "{root}/x.csv"}, UsageError, "every dropped file"),
        ({"watch__prefix": "{root}/in"}, UsageError, "does not end in"),
        ({"watch__prefix": ""}, UsageError, "input.uri: missing"),
        ({"watch__prefix": "", "input__uri": "{root}/x.csv"}, UsageError, "watches nothing"),
    ],
)
def test_a_job_that_cannot_be_watched(folder: Folder, settings: dict[str, str], error: type, said: str) -> None:
    """Loops and collisions are refused before anything is scored."""
    with pytest.raises(error, match=said):
        folder.watcher(**{key: value.format(root=folder.root) for key, value in settings.items()})


def test_two_files_with_one_output(folder: Folder) -> None:
    """The first by name is scored; the other one is refused and parked, and never replaces it."""
    folder.put("in/a.csv")
    folder.put("in/a.jsonl", encode(rows(5), "jsonl"))
    watcher = folder.watcher(watch__attempts=1, output__uri=f"{folder.root}/out/{{stem}}.csv")
    assert (watcher.poll(), watcher.exit_code) == (1, 6)
    assert sorted(folder.events()) == [("done", "a.csv"), ("parked", "a.jsonl")]
    assert len((folder.get("out/a.csv") or b"").splitlines()) == 21


def test_the_file_that_is_done_keeps_its_output(folder: Folder) -> None:
    """Also against one that sorts before it: the later one is parked, and the receipt beside the output stays."""
    import gzip

    folder.put("in/a.csv.gz", gzip.compress(encode(rows(20), "csv")))
    watcher = folder.watcher(watch__attempts=1, output__uri=f"{folder.root}/out/{{stem}}.csv")
    assert watcher.poll() == 1
    body, receipt = folder.get("out/a.csv"), folder.get("out/a.receipt.json")
    folder.put("in/a.csv", encode(rows(5), "csv"))
    assert (watcher.poll(), watcher.exit_code) == (0, 6)
    assert (folder.get("out/a.csv"), folder.get("out/a.receipt.json")) == (body, receipt)
    (line,) = history.list_runs(folder.root, state="parked")
    assert (line["input"], line["exit_code"]) == ([f"{folder.root}/in/a.csv"], 6)


@pytest.mark.parametrize(
    "name",
    [
        "report[1].csv",
        "a?.csv",
        "a*.csv",
        "a{1}.csv",
        "{period}.csv",
        "{stem}{run_id}.csv",
        "a b+c%20.csv",
        "ü 日本.csv",
    ],
)
def test_names_are_only_names(folder: Folder, name: str) -> None:
    """A dropped object is not looked up by its name as a glob, a manifest or a template."""
    folder.put("in/a1.csv")
    folder.put(f"in/{name}", encode(rows(7), "csv"))
    watcher = folder.watcher()
    assert (watcher.poll(), watcher.exit_code) == (2, 0)
    assert len((folder.get(f"out/{name}") or b"").splitlines()) == 8
    receipt = json.loads(folder.get(f"out/{name.removesuffix('.csv')}.receipt.json") or b"")
    assert receipt["input"][0]["uri"] == f"{folder.root}/in/{name}"


def test_rejects_of_one_file_are_no_output_of_another(folder: Folder) -> None:
    """``y.rejects.csv`` would give predictions where the rejects of ``y.csv`` go: it is refused."""
    folder.put("in/y.csv")
    folder.put("in/y.rejects.csv")
    watcher = folder.watcher(watch__attempts=1)
    assert (watcher.poll(), watcher.exit_code) == (1, 6)
    assert sorted(folder.events()) == [("done", "y.csv"), ("parked", "y.rejects.csv")]


def test_what_cannot_be_taken_is_told_once(folder: Folder) -> None:
    """A name that is not UTF-8, and a manifest that is none; the others go on."""
    folder.put("in/a.csv")
    folder.put("in/deep/b.csv")
    folder.put("in/deep/files.json", b"not json")
    with open(os.fsencode(f"{folder.root}/in/bad") + b"\xff.csv", "wb") as file:
        file.write(b"x")
    watcher = folder.watcher(watch__sentinel="files.json", watch__pattern="**.csv")
    assert [watcher.poll(), watcher.poll()] == [0, 0]
    assert sorted(event for event, _ in folder.events()) == ["left", "left"]
    assert folder.watcher().poll() == 1


def test_a_folder_that_is_not_there(folder: Folder) -> None:
    """A typo in a local prefix is exit 3."""
    ended = CliRunner().invoke(program, ["watch", str(folder.path), "--once"])
    assert (ended.exit_code, "there is no folder" in ended.stderr) == (3, True)


def test_a_dropped_json_file_is_no_manifest(folder: Folder, tmp_path: Path) -> None:
    """Whoever may drop a file must not have others read: it is a file without a format."""
    folder.put("secret.csv")
    folder.put("in/x.json", json.dumps({"files": [{"uri": f"{folder.root}/secret.csv"}]}).encode())
    watcher = folder.watcher(watch__attempts=1)
    assert (watcher.poll(), watcher.exit_code, folder.events()) == (0, 3, [("parked", "x.json")])


def test_one_file_that_the_store_fails_over_stops_no_other(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreadable, or with a name too long for its rejects file: the others are scored, and it is parked in the end."""
    for number in range(30):
        folder.put(f"in/{number}.csv")
    bad = folder.put("in/bad.csv")
    real = runner.run

    def run(job: batch.Job, **options: Any) -> Any:
        if job.input.uri == bad:
            raise PermissionDenied("not yours")
        return real(job, **options)

    monkeypatch.setattr(runner, "run", run)
    watcher = folder.watcher(watch__attempts=1)
    assert (watcher.poll(), watcher.exit_code) == (30, 77)
    assert ("parked", "bad.csv") in folder.events()


def test_a_store_that_is_away_is_asked_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage ends the look at the first file: each of them would wait for the store as long as that one did."""
    for number in range(5):
        folder.put(f"in/{number}.csv")
    tried = []

    def away(*arguments: Any, **options: Any) -> Any:
        tried.append(arguments)
        monkeypatch.setattr(storage_for(folder.root), "now", away)
        raise StorageUnavailable("nobody answers")

    monkeypatch.setattr(runner, "run", away)
    watcher = folder.watcher()
    with pytest.raises(StorageUnavailable, match="nobody answers"):
        watcher.poll()
    assert (len(tried), drop.failures(watcher.job)) == (2, {})  # the file, and whether the store is there


def test_an_earlier_version_that_was_moved_stays(folder: Folder) -> None:
    """The later one gets another name."""
    watcher = folder.watcher(watch__after="move")
    for count in (5, 7):
        folder.put("in/a.csv", encode(rows(count), "csv"))
        assert watcher.poll() == 1
    first, second = folder.names("in-done")
    assert (first, second.startswith("a.csv.drop-")) == ("a.csv", True)
    assert [folder.get(f"in-done/{name}") for name in (first, second)] == [
        encode(rows(count), "csv") for count in (5, 7)
    ]


def test_many_old_files_cost_a_listing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 files that are done: one LIST of the folder and a look at the store's clock per poll, no request for any of them."""
    os.makedirs(f"{folder.root}/in")
    for number in range(10_000):
        Path(f"{folder.root}/in/{number:05d}.csv").write_bytes(b"")
    watcher = folder.watcher()
    watcher.done.update({drop.subject_of(info): False for info in drop.listing(watcher.job)})
    watcher.poll()  # the first one also lists what is done
    asked: list[str] = []
    storage = storage_for(folder.root)
    for name in ("head", "list", "get", "create", "replace", "read", "now"):
        real = getattr(storage, name)
        monkeypatch.setattr(storage, name, lambda *a, real=real, name=name, **o: (asked.append(name), real(*a, **o))[1])
    began = time.monotonic()
    assert watcher.poll() == 0
    assert asked == ["list", "now"]
    assert time.monotonic() - began < 10


def test_a_killed_watcher_blocks_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its receipt: the next one finishes the run from its commit, and writes the receipt beside the output."""
    folder.put("in/a.csv")
    from batch.execution import records

    real = records.create

    def killed(uri: str, document: dict[str, Any]) -> bool:
        if "/done/" in uri:
            raise SystemExit
        return real(uri, document)

    monkeypatch.setattr(records, "create", killed)
    with pytest.raises(SystemExit):
        folder.watcher().poll()
    monkeypatch.setattr(records, "create", real)
    assert folder.watcher().poll() == 1
    receipt = json.loads(folder.get("out/a.receipt.json") or b"")
    assert (receipt["chunks"]["scored"], receipt["chunks"]["reused"]) == (0, 1)


def test_once_tells_the_first_failure(folder: Folder) -> None:
    """`watch --once` ends with the code of the first file that failed, and 0 where none did."""
    folder.put("in/good.csv")
    calm = CliRunner().invoke(program, ["watch", str(folder.path), "--once"])
    assert (calm.exit_code, calm.stdout) == (0, "")
    assert "done" in calm.stderr
    folder.put("in/bad.csv", b"nothing,fits\n1,2\n")
    ended = CliRunner().invoke(program, ["watch", str(folder.path), "--once", "--log-format", "json"])
    assert ended.exit_code == 3
    (line,) = [json.loads(line) for line in ended.stderr.splitlines() if '"failed"' in line]
    assert (line["uri"], line["attempt"]) == (f"{folder.root}/in/bad.csv", "1 of 3")


@pytest.fixture
def process(folder: Folder) -> Iterator[Any]:
    """Starts the real program; ended with the test."""
    started = []

    def start(*arguments: str, **environment: str) -> Any:
        command = [sys.executable, "-m", "batch", "watch", str(folder.path), *arguments]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.slow
def test_a_watcher_ends_by_signal(folder: Folder, process: Any, tmp_path: Path) -> None:
    """It takes what is dropped while it runs, keeps its heartbeat young, and SIGTERM ends it with 143."""
    beat = tmp_path / "alive"
    child = process("--interval", "1s", "--listen", "0", BATCH_HEARTBEAT=str(beat))
    assert child.stderr.readline().startswith("listening at http://127.0.0.1:")
    _await(beat.exists)
    folder.put("in/a.csv")
    _await(lambda: folder.get("out/a.receipt.json") is not None)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 143


@pytest.mark.s3
def test_an_event_of_the_store_wakes_the_watcher(bucket: str, model: str, tmp_path: Path) -> None:
    """On S3: the notification's key lies below the prefix, and the file is scored at once."""
    folder = Folder(bucket, model, tmp_path)
    command = [sys.executable, "-m", "batch", "watch", str(folder.path), "--interval", "1h", "--listen", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        url = child.stderr.readline().split()[-1]
        time.sleep(2.0)
        folder.put("in/a b.csv")
        key = f"{bucket.removeprefix('s3://')}/in/a+b.csv"
        record = {
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": key.split("/", maxsplit=1)[0]}, "object": {"key": "in/a+b.csv"}},
        }
        body = json.dumps({"Records": [{"eventSource": "aws:s3", **record}]}).encode()
        urllib.request.urlopen(url, data=body, timeout=10).close()
        _await(lambda: folder.get("out/a b.receipt.json") is not None)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 143


def _await(holds: Any, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
