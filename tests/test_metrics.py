"""The metrics file: valid, whole, of the last run, and never in the way of one."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batch
from batch.errors import Busy, InputMissing, JobInvalid, RejectBudgetExceeded, StorageUnavailable, Terminated
from batch.execution import ended, metrics, runner
from batch.execution.exposition import Family, read_value, render
from batch.execution.metrics import End, Kept, expected_at, text_of
from batch.execution.receipt import unstarted
from tests.drop_folder import Folder
from tests.exposition import parse, values
from tests.run_cases import Bench, encode, rows

WEEKLY = '[schedule]\ncron = "0 6 * * MON"\ntimezone = "Europe/Berlin"\nperiod = "week"\n'
PROMTOOL = shutil.which("promtool")
ROOT = Path(__file__).parents[1]


def told(bench: Bench, name: str = "metrics/weekly.prom") -> dict[str, float]:
    """What the file says."""
    body = bench.get(name)
    assert body is not None, name
    return values(body, "weekly")


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def failing(bench: Bench, error: type[BaseException] = InputMissing, **settings: Any) -> None:
    """Run the job over an input that is not there."""
    with pytest.raises(error):
        batch.run(bench.job("nowhere.csv", "out/{run_id}.csv", **settings))


def test_a_run_leaves_its_metrics(any_root: str, model: str, tmp_path: Path) -> None:
    """On every back end: one valid file under the root, with the receipt's numbers."""
    bench = Bench(any_root, model, tmp_path)
    bench.put("in.csv", encode(rows(), "csv"))
    receipt = bench.run("in.csv", "out/{period}.csv", WEEKLY).as_dict()
    found, timing = told(bench), receipt["timing"]
    assert (
        found["last_success_timestamp_seconds"] == found["last_run_timestamp_seconds"] == moment(timing["finished_at"])
    )
    assert found["last_run_duration_seconds"] == found["last_success_duration_seconds"] == timing["seconds"]
    assert (found["last_run_exit_code"], found["rows{kind=read}"], found["rows{kind=predicted}"]) == (0, 60, 60)
    assert {key: value for key, value in found.items() if key.startswith("last_run_state")} == {
        "last_run_state{state=completed}": 1,
        "last_run_state{state=completed_with_rejects}": 0,
        "last_run_state{state=failed}": 0,
        "last_run_state{state=interrupted}": 0,
    }
    assert found["period_end_timestamp_seconds"] == moment(receipt["period"]["end"])
    assert found["next_run_timestamp_seconds"] > time.time()
    assert found[f"last_run_info{{period={receipt['period']['name']},trigger=cli}}"] == 1
    assert found["phase_duration_seconds{phase=score}"] == timing["phases"]["score"]
    assert found["model_rows{variant=champion}"] == 60
    (size,) = [one["size_bytes"] for one in receipt["input"]]
    assert (found["input_bytes"], found["chunks{kind=total}"]) == (size, 1)
    assert found["peak_rss_bytes"] == receipt["peak_rss_bytes"] > 0


def test_a_failed_run_keeps_the_last_success(bench: Bench) -> None:
    """Its own state, error and times are there; when the job last succeeded, and what is done, stays."""
    bench.run("in.csv", "out/{period}.csv", WEEKLY)
    before = told(bench)
    with pytest.raises(InputMissing):
        bench.run("nowhere.csv", "out/{period}.csv", WEEKLY)
    after = told(bench)
    assert (after["last_run_state{state=failed}"], after["last_run_state{state=completed}"]) == (1, 0)
    assert (after["last_run_exit_code"], after["rows{kind=read}"]) == (3, 0)
    assert after["last_run_timestamp_seconds"] > before["last_run_timestamp_seconds"]
    for name in ("last_success_timestamp_seconds", "last_success_duration_seconds", "period_end_timestamp_seconds"):
        assert after[name] == before[name]


def test_the_first_failure_has_no_success(bench: Bench) -> None:
    """A job that never succeeded says nothing of a success, and its run is due already."""
    with pytest.raises(InputMissing):
        bench.run("nowhere.csv", "out/{period}.csv", WEEKLY)
    found = told(bench)
    assert not [name for name in found if "success" in name or "period_end" in name]
    assert found["next_run_timestamp_seconds"] < time.time()


def test_a_lost_file_is_made_up_for_by_the_receipts(bench: Bench) -> None:
    """A failure after the file has gone still knows of the success before."""
    receipt = bench.run("in.csv", "out/{period}.csv", WEEKLY).as_dict()
    bench.delete(f"{bench.root}/metrics/weekly.prom")
    with pytest.raises(InputMissing):
        bench.run("nowhere.csv", "out/{period}.csv", WEEKLY)
    found = told(bench)
    assert found["last_success_timestamp_seconds"] == moment(receipt["timing"]["finished_at"])
    assert found["period_end_timestamp_seconds"] == moment(receipt["period"]["end"])


def test_what_is_done_already_leaves_the_file(bench: Bench) -> None:
    """A run that does nothing rewrites nothing, except a file that is gone or does not know of the success."""
    place = f"{bench.root}/metrics/weekly.prom"
    bench.run("in.csv", "out.csv")
    first, names = bench.get("metrics/weekly.prom"), bench.names()
    assert bench.run("in.csv", "out.csv").already_done
    assert bench.names() == names
    bench.delete(place)
    assert bench.run("in.csv", "out.csv").already_done
    assert values(bench.get("metrics/weekly.prom") or b"", "weekly").keys() == values(first or b"", "weekly").keys()


def test_what_is_done_already_ends_a_failure(bench: Bench) -> None:
    """A host whose own run failed hears of the success of another one; so does a later run of ours that has nothing to do."""
    node = {"monitor__metrics": "node/"}
    failing(bench, **node)
    bench.run("in.csv", "out.csv")
    for _ in range(2):
        receipt = bench.run("in.csv", "out.csv", **node)
        found = values((bench.folder / "node/weekly.prom").read_bytes(), "weekly")
        assert (receipt.already_done, found["last_run_state{state=completed}"], found["rows{kind=read}"]) == (
            True,
            1,
            60,
        )
        failing(bench, **node)  # the store was away, say, after it was done


def test_an_older_period_takes_nothing_back(bench: Bench) -> None:
    """A backfill succeeds now, but the newest period that is done stays the newest, and so does what is due."""
    job = bench.job("in.csv", "out/{period}.csv", WEEKLY)
    batch.run(job)
    before = told(bench)
    batch.run(job, period="2026-W01", trigger="backfill")
    after = told(bench)
    assert after["last_run_info{period=2026-W01,trigger=backfill}"] == 1
    assert after["last_success_timestamp_seconds"] > before["last_success_timestamp_seconds"]
    for name in ("period_end_timestamp_seconds", "next_run_timestamp_seconds"):
        assert after[name] == before[name]
    assert after["previous_success_duration_seconds"] == before["last_success_duration_seconds"]


def test_rejects_and_the_retry_that_mends_them(bench: Bench) -> None:
    """Over budget counts as failed, with rows and reasons; the retry ends that."""
    body = encode(rows(), "csv").replace(b"00123,", b"00123,x", 1)
    bench.put("in.csv", body)
    with pytest.raises(RejectBudgetExceeded):
        bench.run("in.csv", "out.csv")
    found = told(bench)
    assert (found["rows{kind=rejected}"], found["rejected_rows{code=type}"], found["last_run_exit_code"]) == (1, 1, 5)
    fixed = bench.put("fixed.csv", (bench.get("out.rejects.csv") or b"").replace(b",x", b","))
    ended.retry(bench.root, _run_of(bench), fixed)
    found = told(bench)
    assert (found["last_run_state{state=completed}"], found["last_run_info{trigger=retry}"]) == (1, 1)


def _run_of(bench: Bench) -> str:
    (run_id,) = {uri.split("/runs/weekly/")[1].split("/")[0] for uri in bench.names() if "/runs/weekly/" in uri}
    return run_id


def test_somebody_else_at_work_writes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 75 is the business of the run that holds the lease."""
    monkeypatch.setattr(runner, "run", _raising(Busy("held")))
    failing(bench, Busy)
    assert bench.get("metrics/weekly.prom") is None


@pytest.mark.parametrize(("signalled", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_an_interrupted_run_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, signalled: BaseException, code: int
) -> None:
    """The signal goes on to whoever handles it, and the state is not 'failed'."""
    monkeypatch.setattr(runner, "run", _raising(signalled))
    failing(bench, type(signalled))
    found = told(bench)
    assert (found["last_run_state{state=interrupted}"], found["last_run_state{state=failed}"]) == (1, 0)
    assert found["last_run_exit_code"] == code


def test_a_bug_is_a_failed_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on as it is, and those who watch hear of it."""
    monkeypatch.setattr(runner, "run", _raising(ZeroDivisionError("of ours")))
    failing(bench, ZeroDivisionError)
    assert (told(bench)["last_run_state{state=failed}"], told(bench)["last_run_exit_code"]) == (1, 1)


def _raising(error: BaseException) -> Any:
    def run(*_: Any, **__: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize("given", ["node/", "node/weekly.prom", "{folder}/node/", "file://{folder}/node/weekly.prom"])
def test_the_place_is_the_jobs_choice(bench: Bench, given: str) -> None:
    """A folder or a file, relative to the job file; and nothing stands under the root then."""
    job = bench.job("in.csv", "out.csv", monitor__metrics=given.format(folder=bench.folder))
    assert metrics.place_of(job) == f"{bench.folder}/node/weekly.prom"
    batch.run(job)
    assert (bench.folder / "node/weekly.prom").stat().st_mode & 0o444 == 0o444  # the collector is another user
    assert bench.get("metrics/weekly.prom") is None


def test_off_means_none(bench: Bench) -> None:
    """No file, and no request for one."""
    job = bench.job("in.csv", "out.csv", monitor__metrics="off")
    batch.run(job)
    assert not [name for name in bench.names() if name.endswith(".prom")]


def test_a_place_in_the_drop_folder_is_refused(tmp_path: Path, model: str) -> None:
    """It would be scored."""
    folder = Folder(str(tmp_path / "root"), model, tmp_path)
    with pytest.raises(JobInvalid, match=r"monitor\.metrics: .* inside the watched prefix"):
        folder.job(monitor__metrics=f"{folder.root}/in/")


def test_the_metrics_are_no_part_of_a_run(bench: Bench) -> None:
    """Where they go, and whom a failure calls, changes no byte: the same run is done already."""
    first = bench.run("in.csv", "out.csv")
    again = bench.run("in.csv", "out.csv", monitor__metrics="off", monitor__on_failure=["page"])
    assert (again.run_id, again.already_done) == (first.run_id, True)


def test_a_place_that_cannot_be_written_is_one_notice(bench: Bench) -> None:
    """The run, or its failure, is what it would have been."""
    notices: list[str] = []
    (bench.folder / "file").write_text("in the way")
    place = f"{bench.folder}/file/weekly.prom"
    receipt = batch.run(bench.job("in.csv", "out.csv", monitor__metrics=place), notice=notices.append)
    assert receipt.state == "completed"
    with pytest.raises(InputMissing):
        batch.run(bench.job("nowhere.csv", "out.csv", monitor__metrics=place), notice=notices.append)
    assert [one.partition(":")[0] for one in notices] == [f"the metrics were not written to {place}"] * 2


def test_a_bug_in_the_metrics_is_one_notice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in here, the run has succeeded."""
    notices: list[str] = []
    monkeypatch.setattr(metrics, "text_of", _raising(KeyError("psi")))
    assert batch.run(bench.job("in.csv", "out.csv"), notice=notices.append).state == "completed"
    (notice,) = notices
    assert "a bug: KeyError: 'psi'" in notice


def test_a_place_that_hangs_holds_nobody_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not answer costs its time and a notice."""
    notices: list[str] = []
    place = bench.folder / "pipe.prom"
    os.mkfifo(place)
    monkeypatch.setattr(ended, "METRICS_SECONDS", 0.2)
    job = bench.job("in.csv", "out.csv", monitor__metrics=str(place))
    assert batch.run(job, notice=notices.append).state == "completed"
    assert notices == [f"the metrics were not written to {place}: no answer within 0.2 s"]
    place.open("wb").close()  # lets the reader go


def test_a_write_that_comes_too_late_is_not_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for any more must not replace the file of a later run."""
    gate, over = threading.Event(), threading.Event()
    real = metrics.store

    def store(place: str, body: bytes, before: Any) -> None:
        gate.wait(20)
        try:
            real(place, body, before)
        finally:
            over.set()

    monkeypatch.setattr(metrics, "store", store)
    monkeypatch.setattr(ended, "METRICS_SECONDS", 0.2)
    batch.run(bench.job("in.csv", "out.csv"))
    gate.set()
    assert over.wait(20)
    assert bench.get("metrics/weekly.prom") is None


def test_a_store_that_is_away_still_leaves_a_local_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most useful failure to hear of: the root does not answer, the node's own folder does."""

    def away(root: str, job: str) -> Kept:
        raise StorageUnavailable("away")

    monkeypatch.setattr(metrics, "kept_by_receipts", away)
    monkeypatch.setattr(runner, "run", _raising(StorageUnavailable("away")))
    failing(bench, StorageUnavailable, monitor__metrics="node/")
    found = values((bench.folder / "node/weekly.prom").read_bytes(), "weekly")
    assert (found["last_run_exit_code"], found["last_run_state{state=failed}"]) == (69, 1)


def test_a_reader_sees_a_whole_file(bench: Bench) -> None:
    """While runs of one job replace it again and again, each look at it is a valid file."""
    job = bench.job("in.csv", "out.csv")
    receipt = batch.run(job).as_dict()
    stop, place = threading.Event(), Path(bench.root, "metrics/weekly.prom")
    writers = [threading.Thread(target=_write_until, args=(job, receipt, stop)) for _ in range(3)]
    for one in writers:
        one.start()
    try:
        seen = {len(parse(place.read_bytes())) for _ in range(200)}
    finally:
        stop.set()
        for one in writers:
            one.join()
    assert len(seen) == 2
    assert [one.name for one in place.parent.iterdir()] == ["weekly.prom"]


def _write_until(job: batch.Job, receipt: dict[str, Any], stop: threading.Event) -> None:
    failed = End(unstarted(job.name, "cli", {"code": "busy", "message": "", "hint": ""}), 3)
    while not stop.is_set():
        for end in (End(receipt), failed):
            ended._tell(job, end, print)


def test_the_signature_is_the_runners() -> None:
    """`batch.run` is a run with what follows it: it takes what `runner.run` takes, with the same defaults."""
    ours, inner = (dict(inspect.signature(one).parameters) for one in (batch.run, runner.run))
    assert ours.pop("weigh").default is ended.weigh
    assert [(name, one.default) for name, one in ours.items() if name not in {"notice", "progress"}] == [
        (name, one.default) for name, one in inner.items() if name not in {"notice", "progress"}
    ]
    assert list(ours) == list(inner)


def job_of(bench: Bench, schedule: str) -> batch.Job:
    name = "out/{period}.csv" if "period" in schedule else "out.csv"
    return bench.job("in.csv", name, f"[schedule]\n{schedule}\n")


@pytest.mark.parametrize(
    ("schedule", "success", "period_end", "expected"),
    [
        # Week 46 ends on Monday the 16th at 0:00; its run is due at 6:00, and that of week 47 a week later.
        ('cron = "0 6 * * MON"\nperiod = "week"', "2026-11-16T06:01", "2026-11-16T00:00", "2026-11-23T06:00"),
        ('cron = "0 6 * * MON"\nperiod = "week"', "2026-11-20T09:00", "2026-11-09T00:00", "2026-11-16T06:00"),
        ('cron = "0 6 * * MON"\nperiod = "week"', None, None, "2026-11-16T06:00"),
        ('period = "week"', "2026-11-16T06:01", "2026-11-16T00:00", "2026-11-23T00:00"),
        # A job that runs weekly over days is not expected in between.
        ('cron = "0 6 * * MON"\nperiod = "day"', "2026-11-16T06:01", "2026-11-16T00:00", "2026-11-23T06:00"),
        ('cron = "0 6 * * MON"', "2026-11-16T06:01", None, "2026-11-23T06:00"),
        ('cron = "0 6 * * MON"', "2026-11-16T05:00", None, "2026-11-16T06:00"),
        ('cron = "0 6 * * MON"', None, None, "2026-11-16T06:00"),
        ('cron = ""', "2026-11-16T06:01", None, None),
    ],
)
def test_when_the_next_run_is_due(
    bench: Bench, schedule: str, success: str | None, period_end: str | None, expected: str | None
) -> None:
    """Seen from Friday, 20 November: for the period after the newest that is done, or else after the last success."""
    kept = Kept(success and moment(success + "Z"), None, None, period_end and moment(period_end + "Z"))
    due = expected_at(job_of(bench, schedule), kept, datetime(2026, 11, 20, 12, tzinfo=UTC))
    assert (due and due.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")) == expected


def column(name: str, psi: float | None, **more: Any) -> dict[str, Any]:
    return {"column": name, "role": "feature", "against": "training", "psi": psi, "state": "ok"} | more


def drifted(bench: Bench, columns: list[dict[str, Any]], state: str = "warn") -> dict[str, float]:
    receipt = bench.run("in.csv", "out.csv").as_dict() | {"drift": {"state": state, "columns": columns}}
    return values(text_of(bench.job("in.csv", "out.csv"), End(receipt), Kept()), "weekly")


def test_drift_has_one_series_per_comparison(bench: Bench) -> None:
    """Column, reference and role; scores of two models also by variant; a column that could not be compared has none."""
    scores = [column("probability", 0.2, role="score", variant=name) for name in ("champion", "challenger")]
    found = drifted(
        bench, [*scores, column("age", 0.125), column("age", 0.1, against="previous period"), column("x", None)]
    )
    assert {key: value for key, value in found.items() if key.startswith("drift")} == {
        "drift_psi{against=training,column=probability,role=score,variant=champion}": 0.2,
        "drift_psi{against=training,column=probability,role=score,variant=challenger}": 0.2,
        "drift_psi{against=training,column=age,role=feature}": 0.125,
        "drift_psi{against=previous period,column=age,role=feature}": 0.1,
        "drift_state{state=ok}": 0,
        "drift_state{state=warn}": 1,
        "drift_state{state=alert}": 0,
        "drift_state{state=unknown}": 0,
    }


def test_drift_has_a_limit(bench: Bench) -> None:
    """A wide file makes no thousand series: the 50 largest are told."""
    found = drifted(bench, [column(f"c{number}", 1 - number / 1000) for number in range(100)])
    assert min(found[name] for name in found if name.startswith("drift_psi")) == 1 - 49 / 1000
    assert len([name for name in found if name.startswith("drift_psi")]) == 50


@given(st.text(), st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_survives_as_a_label(help_text: str, label: str, value: float) -> None:
    """Quotes, backslashes, line ends, lone surrogates: the file stays valid and the value is the same again."""
    body = render([Family("x_y", help_text, (({"a": label}, value), ({"a": label}, 1)))], {"batch_job": "j"})
    ((series, found),) = parse(body).items()
    assert (found, dict(series[1])["a"]) == (value, label.encode("utf-8", "backslashreplace").decode())


def test_a_foreign_file_says_nothing() -> None:
    """What is no number, or has other labels, is not taken for the last success."""
    for body in (b"", b"\xff\xfe", b'a{batch_job="j"} x\n', b'a{batch_job="j",b="c"} 1\n', b"a 1\n"):
        assert read_value(body, "a", {"batch_job": "j"}) is None
    assert read_value(b'# HELP a b\na{batch_job="j"} 12.5\n', "a", {"batch_job": "j"}) == 12.5


def test_a_watcher_has_one_file_per_job(tmp_path: Path, model: str) -> None:
    """Of the last file that was scored, whatever became of those before; the trigger says watch."""
    folder = Folder(str(tmp_path / "root"), model, tmp_path)
    folder.put("in/bad.csv", b"nothing,fits\n1,2\n")
    assert folder.watcher().poll() == 0
    found = values(folder.get("metrics/dropped.prom") or b"", "dropped")
    assert (found["last_run_state{state=failed}"], found["last_run_exit_code"]) == (1, 3)
    folder.put("in/good.csv")
    assert folder.watcher().poll() == 1
    found = values(folder.get("metrics/dropped.prom") or b"", "dropped")
    assert (found["last_run_state{state=completed}"], found["last_run_info{trigger=watch}"]) == (1, 1)
    assert folder.names("metrics") == ["dropped.prom"]


def test_a_watcher_tells_of_a_place_that_cannot_be_written(tmp_path: Path, model: str) -> None:
    """As a notice; the file is scored."""
    folder = Folder(str(tmp_path / "root"), model, tmp_path)
    folder.put("in/a.csv")
    assert folder.watcher(monitor__metrics=f"{folder.path}/x.prom").poll() == 1
    assert [one.event for one in folder.said] == ["notice", "done"]


@pytest.mark.slow
def test_jobs_at_once_have_a_file_each(bench: Bench) -> None:
    """Two processes with their own jobs and one folder for the collector."""
    names = ("one", "two")
    for name in names:
        bench.job("in.csv", f"{name}.csv", '[monitor]\nmetrics = "node/"\n')
        text = (bench.folder / "weekly.toml").read_text().replace('"weekly"', f'"{name}"')
        (bench.folder / f"{name}.toml").write_text(text)
    command = [sys.executable, "-m", "batch", "run"]
    children = [subprocess.Popen([*command, f"{name}.toml"], cwd=bench.folder, env=_environment()) for name in names]
    assert [child.wait(60) for child in children] == [0, 0]
    for name in names:
        assert values((bench.folder / f"node/{name}.prom").read_bytes(), name)["last_run_exit_code"] == 0


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


RULES = (ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8")
PAGE = (ROOT / "docs/alerts.md").read_text("utf-8")


def test_rules_and_page_name_what_there_is(bench: Bench) -> None:
    """Each series of a rule is one that we write; the page has each series, each alert has its line there and a test that it fires."""
    bench.run("in.csv", "out/{period}.csv", WEEKLY)
    bench.run("in.csv", "out/{period}.csv", WEEKLY, run__predict_rows=1)  # another run: there is one before it
    written = {name for name, _ in parse(bench.get("metrics/weekly.prom") or b"")}
    written |= {"batch_predict_rejected_rows", "batch_predict_drift_psi"}  # neither in every run
    used = set(re.findall(r"batch_predict_\w+", RULES))
    assert used
    assert used <= written
    assert {name for name in written if name not in PAGE} == set()
    alerts = re.findall(r"- alert: (\w+)", RULES)
    fired = (ROOT / "deploy/prometheus/alerts.test.yml").read_text("utf-8")
    for name in alerts:
        assert f"| `{name}` |" in PAGE
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n", fired)


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed; `make alerts-test` says how to get it")
def test_promtool_finds_nothing_to_say(bench: Bench) -> None:
    """Prometheus' own linter takes the file of a successful run and that of a failure."""
    drifted_columns = [column('a "quoted" name', 0.3), column("è\\n", 0.2)]
    receipt = bench.run("in.csv", "out.csv", WEEKLY).as_dict()
    failed = unstarted("weekly", "cron", {"code": "input_missing", "message": "there is no x", "hint": ""})
    job = bench.job("in.csv", "out.csv", WEEKLY)
    for end in (End(receipt | {"drift": {"state": "alert", "columns": drifted_columns}}), End(failed, 3)):
        body = text_of(job, end, Kept().after(End(receipt)))
        checked = subprocess.run([str(PROMTOOL), "check", "metrics"], input=body, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b""), checked.stderr.decode()
