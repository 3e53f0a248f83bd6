"""The on-failure hook: it is told what failed, and nothing it does changes how the run ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import batch
from batch.cli import program
from batch.cron import parse_cron
from batch.errors import BatchError, Busy, InputMissing, Interrupted, ModelRefused, StorageUnavailable
from batch.execution import ended, hook, runner
from batch.execution.ended import Weight
from batch.triggers import drop, watch
from batch.triggers.calls import Calls
from batch.triggers.schedule import ScheduledJob
from tests.drop_folder import Folder
from tests.run_cases import Bench

WEEKLY = '[schedule]\nperiod = "week"\n'
ROOT = Path(__file__).parents[1]


def script(folder: Path, text: str) -> list[str]:
    """A hook that runs these lines of shell in the folder."""
    path = folder / "hook.sh"
    path.write_text(f"cd '{folder}'\n{text}\n")
    return ["/bin/sh", str(path)]


def fail(bench: Bench, text: str, more: str = "", match: str = r"nowhere\.csv") -> list[str]:
    """A run that misses its input, with these lines as its hook; the notices."""
    notices: list[str] = []
    command = script(bench.folder, text)
    job = bench.job("nowhere.csv", "out/{run_id}.csv", more, monitor__on_failure=command)
    with pytest.raises(InputMissing, match=match):
        batch.run(job, notice=notices.append)
    return notices


def test_the_hook_is_told_what_failed(bench: Bench) -> None:
    """Names and the error in its environment, the receipt on its standard input; a hook that works says nothing."""
    assert fail(bench, "env > told; cat > receipt; echo hello", WEEKLY) == []
    lines = (bench.folder / "told").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if line.startswith("BATCH_"))
    receipt = json.loads((bench.folder / "receipt").read_text())
    assert (receipt["state"], receipt["job"], receipt["error"]["code"]) == ("failed", "weekly", "input_missing")
    assert told == {
        "BATCH_JOB": "weekly",
        "BATCH_RUN_ID": "",
        "BATCH_PERIOD": receipt["subject"],
        "BATCH_EXIT_CODE": "3",
        "BATCH_ERROR_CODE": "input_missing",
        "BATCH_ERROR": receipt["error"]["message"],
        "BATCH_HINT": receipt["error"]["hint"],
        "BATCH_ROOT": bench.root,
    }


def test_a_run_with_an_id_is_named(bench: Bench) -> None:
    """What began can be looked up: `batch-predict show "$BATCH_RUN_ID"` with the root that the hook is given."""
    bench.put("in.csv", (bench.get("in.csv") or b"").replace(b"00123,", b"00123,x", 1))
    command = script(bench.folder, "echo $BATCH_RUN_ID $BATCH_EXIT_CODE $BATCH_ERROR_CODE > told")
    with pytest.raises(BatchError) as raised:
        bench.run("in.csv", "out.csv", monitor__on_failure=command)
    assert (bench.folder / "told").read_text() == f"{(raised.value.receipt or {})['run_id']} 5 reject_budget\n"


@pytest.mark.parametrize("end", [None, Busy("held"), Interrupted("stopped"), KeyboardInterrupt()])
def test_no_failure_no_call(bench: Bench, monkeypatch: pytest.MonkeyPatch, end: BaseException | None) -> None:
    """A success, somebody else at work, and a signal are nothing to call anybody for."""
    job = bench.job("in.csv", "out.csv", monitor__on_failure=script(bench.folder, "touch called"))
    if end is None:
        batch.run(job)
    else:
        monkeypatch.setattr(runner, "run", _raising(end))
        with pytest.raises(type(end)):
            batch.run(job)
    assert not (bench.folder / "called").exists()


def _raising(error: BaseException) -> Any:
    def run(*_: Any, **__: Any) -> Any:
        raise error

    return run


def test_a_bug_calls_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a code of its own; the bug goes on as it is."""
    monkeypatch.setattr(runner, "run", _raising(ZeroDivisionError("of ours")))
    command = script(bench.folder, 'echo "$BATCH_EXIT_CODE $BATCH_ERROR_CODE $BATCH_ERROR" > told')
    with pytest.raises(ZeroDivisionError):
        bench.run("in.csv", "out.csv", monitor__on_failure=command)
    assert (bench.folder / "told").read_text() == "1 bug a bug: ZeroDivisionError: of ours\n"


def test_a_bug_in_the_hook_is_one_notice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in here, the run fails for what it failed for."""
    monkeypatch.setattr(hook, "_environment", _raising(ZeroDivisionError("of ours")))
    (notice,) = fail(bench, "touch called")
    assert notice == "nobody was told how the run ended: a bug: ZeroDivisionError: of ours"


def test_a_failing_hook_is_one_notice(bench: Bench) -> None:
    """With its exit code and the end of what it said, in one line."""
    (notice,) = fail(bench, "echo dialling; echo no line >&2; exit 7")
    assert notice == "the on_failure hook /bin/sh ended with exit code 7: dialling no line"


@pytest.mark.parametrize("command", [["/nowhere/page"], ["no-such-program"], [""], ["{folder}"], ["a\0b"]])
def test_a_hook_that_cannot_run_is_one_notice(bench: Bench, command: list[str]) -> None:
    """Not there, a folder, not even a name."""
    notices: list[str] = []
    given = [one.format(folder=bench.folder) for one in command]
    with pytest.raises(InputMissing, match=r"nowhere\.csv"):
        batch.run(bench.job("nowhere.csv", "out.csv", monitor__on_failure=given), notice=notices.append)
    (notice,) = notices
    assert f"the on_failure hook {given[0]} cannot be run: " in notice


def test_a_hook_that_hangs_is_stopped_with_all_it_started(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time nothing of it is left, and the run ends as it would have."""
    monkeypatch.setattr(hook, "SECONDS", 0.5)
    begun = time.monotonic()
    (notice,) = fail(bench, "(sleep 50; touch late) & echo $! > child; echo waiting; sleep 60")
    assert notice == "the on_failure hook /bin/sh was stopped after 0.5 s: waiting"
    assert time.monotonic() - begun < 30
    _is_gone(int((bench.folder / "child").read_text()))


def test_what_a_hook_leaves_behind_is_killed(bench: Bench) -> None:
    """One that has done its work may not leave a process that keeps its output open, nor wait for it."""
    assert fail(bench, "sleep 50 & echo $! > child") == []
    _is_gone(int((bench.folder / "child").read_text()))


def _is_gone(pid: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if status.rsplit(")", 1)[1].split()[0] == "Z":  # dead; only its parent has not looked
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")


def test_a_process_in_a_session_of_its_own_holds_nobody_up(bench: Bench) -> None:
    """It escapes the kill and keeps the pipe open: the end of the hook counts, not that of its output."""
    begun = time.monotonic()
    assert fail(bench, "setsid sleep 30 & echo $! > child; sleep 0.2") == []
    assert time.monotonic() - begun < 20
    os.kill(int((bench.folder / "child").read_text()), signal.SIGKILL)


def test_a_hook_that_floods_its_output_takes_no_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of it is kept, and its time is limited as well."""
    monkeypatch.setattr(hook, "SECONDS", 1.0)
    (notice,) = fail(bench, "yes noise")
    assert notice.startswith("the on_failure hook /bin/sh was stopped after 1 s: ")
    assert len(notice) < 400
    assert notice.endswith("noise noise")


def test_secrets_that_a_hook_prints_are_not_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of variables that are named like one, tokens in headers, and all of a webhook's address but its host."""
    monkeypatch.setenv("PAGER_TOKEN", "tok-12345678")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    said = (
        "curl: (22) 404 for https://me:pw@hooks.example.com/services/T000/B000/XXXX?sig=abc\n"
        "> Authorization: Bearer eyJhbGciOi.xyz\\npassword=hunter22 $PAGER_TOKEN/$AWS_SECRET_ACCESS_KEY"
    )
    (notice,) = fail(bench, f'printf "{said}" >&2; exit 22')
    assert "exit code 22: curl: (22) 404 for https://hooks.example.com/***" in notice
    for secret in ("me:pw", "T000", "XXXX", "abc", "eyJ", "xyz", "hunter22", "tok-1", "wJal"):
        assert secret not in notice


def test_anything_can_be_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless message, a name that is no text: the hook gets what an environment can hold."""
    error = InputMissing("there is no \ud800x" + "y" * 300_000, hint="a\0b")
    monkeypatch.setattr(runner, "run", _raising(error))
    notices: list[str] = []
    job = bench.job("in.csv", "out.csv", monitor__on_failure=script(bench.folder, "env > told"))
    with pytest.raises(InputMissing):
        batch.run(job, notice=notices.append)
    assert notices == []
    assert r"there is no \ud800xyyy" in (bench.folder / "told").read_text()


def test_a_hook_beside_the_job_file(bench: Bench) -> None:
    """A path counts from the job file's folder, wherever the program is started; a bare name is looked up."""
    assert bench.job("in.csv", "out.csv", monitor__on_failure=["./page.sh", "./x"]).monitor.on_failure == (
        f"{bench.folder}/page.sh",
        "./x",
    )
    assert bench.job("in.csv", "out.csv", monitor__on_failure=["page", "-v"]).monitor.on_failure == ("page", "-v")


def test_a_signal_ends_the_hook(bench: Bench) -> None:
    """Whoever stops the program does not wait a minute for it, and the hook is not left running."""
    child = bench.folder / "child"

    def stop_when_it_runs() -> None:
        while not child.exists() or not child.read_text().strip():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop_when_it_runs, daemon=True).start()
    job = bench.job("nowhere.csv", "out.csv", monitor__on_failure=script(bench.folder, "echo $$ > child; sleep 50"))
    # A shell that started us in the background has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            batch.run(job)
    finally:
        signal.signal(signal.SIGINT, before)
    _is_gone(int(child.read_text()))


@pytest.mark.slow
def test_the_command_ends_as_it_would_have(bench: Bench) -> None:
    """Exit code, receipt on stdout and the error on stderr are the run's; the hook's own output stands in no document."""
    bench.job("nowhere.csv", "out.csv")
    command = [sys.executable, "-m", "batch", "run", str(bench.folder / "weekly.toml"), "--json"]
    hooked = json.dumps(script(bench.folder, "echo shout; exit 9"))
    done = subprocess.run(
        [*command, "--set", f"monitor.on_failure={hooked}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (3, "input_missing")
    assert "weekly: the on_failure hook /bin/sh ended with exit code 9: shout" in done.stderr
    assert "error: " in done.stderr


DUE = datetime(2026, 11, 16, 6, tzinfo=UTC)
HOURLY = ScheduledJob("hourly", "hourly.toml", parse_cron("0 * * * *", "UTC"), has_period=True, wait_seconds=1800)


def test_the_loop_calls_once_per_fire_and_error() -> None:
    """It tries every few minutes while the store is away: that is one call. Another error, and the next fire, are new."""
    calls = Calls(lambda: DUE)
    away, refused = StorageUnavailable("away"), ModelRefused("changed")
    weights = [calls.weigh(error, HOURLY, DUE) for error in (away, away, refused, refused, away)]
    assert weights == [Weight.HOOK, Weight.METRICS, Weight.HOOK, Weight.METRICS, Weight.HOOK]
    assert calls.weigh(away, HOURLY, DUE + timedelta(hours=1)) is Weight.HOOK
    assert [calls.weigh(one, HOURLY, DUE) for one in (Busy("held"), Interrupted("stopped"))] == [
        Weight.NOTHING,
        Weight.METRICS,
    ]


def test_a_late_input_calls_when_its_time_is_over() -> None:
    """Within `[input] wait` of the fire it is no failure, not even in the metrics."""
    at = [DUE + timedelta(minutes=29)]
    calls = Calls(lambda: at[0])
    assert calls.weigh(InputMissing("not there"), HOURLY, DUE) is Weight.NOTHING
    at[0] = DUE + timedelta(minutes=30)
    assert calls.weigh(InputMissing("not there"), HOURLY, DUE) is Weight.HOOK


def test_the_loop_tells_and_calls(bench: Bench) -> None:
    """`schedule --run` goes the same way: metrics of each job, and its hook for a fire that failed."""
    from batch.cli.schedule import _runner
    from batch.triggers.schedule import Heartbeat

    command = script(bench.folder, "echo $BATCH_ERROR_CODE >> calls")
    bench.job("nowhere.csv", "out.csv")
    path = bench.folder / "weekly.toml"
    path.write_text(path.read_text() + f"[monitor]\non_failure = {json.dumps(command)}\n")
    run = _runner(Heartbeat(""), "text")
    scheduled = ScheduledJob("weekly", str(path), parse_cron("0 6 * * *", "UTC"), has_period=False)
    for due in (DUE, DUE, DUE + timedelta(days=1)):
        with pytest.raises(InputMissing):
            run(scheduled, due)
    assert (bench.folder / "calls").read_text() == "input_missing\n" * 2
    assert b'last_run_info{batch_job="weekly",trigger="schedule"} 1' in (bench.get("metrics/weekly.prom") or b"")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_documented_hook_sends_a_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/alerts.md: what a chat is sent is valid JSON, whatever stands in the error."""
    posted: list[Any] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    monkeypatch.setattr(runner, "run", _raising(InputMissing('no "x"\nhere', hint="look")))
    text = next(block for block in _shell_blocks("alerts.md") if "$CHAT_WEBHOOK" in block)
    with HTTPServer(("127.0.0.1", 0), Chat) as server:
        monkeypatch.setenv("CHAT_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert fail(bench, text, match="no ") == []
        thread.join(20)
    assert posted == [{"text": 'weekly () failed with exit 3: no "x"\\nhere look'}]


def _shell_blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)


def test_the_page_names_every_variable(bench: Bench) -> None:
    """docs/alerts.md has each variable that a hook is given, and no other."""
    fail(bench, "env > told")
    given = set(re.findall(r"^(BATCH_\w+)=", (bench.folder / "told").read_text(), re.MULTILINE))
    assert set(re.findall(r"BATCH_[A-Z_]+", (ROOT / "docs/alerts.md").read_text("utf-8"))) == given


@pytest.fixture
def folder(tmp_path: Path, model: str) -> Folder:
    return Folder(str(tmp_path / "root"), model, tmp_path)


def hooked(folder: Folder, tmp_path: Path, **settings: Any) -> watch.Watcher:
    command = script(tmp_path, 'echo "$BATCH_ERROR_CODE $BATCH_EXIT_CODE" >> calls; cat > receipt')
    return folder.watcher(monitor__on_failure=command, **settings)


def calls_of(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_a_watcher_calls_when_a_file_is_parked(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each try: it makes the next one itself, and nobody has to do anything before it gives up."""
    folder.put("in/bad.csv", b"nothing,fits\n1,2\n")
    hooked(folder, tmp_path, watch__attempts=2).poll()
    assert calls_of(tmp_path) == []
    real = drop.failures
    monkeypatch.setattr(
        watch.drop,
        "failures",
        lambda job: {key: drop.Failure(one.count, one.last_at - timedelta(hours=1)) for key, one in real(job).items()},
    )
    watcher = hooked(folder, tmp_path, watch__attempts=2)
    for _ in range(2):
        watcher.poll()
    assert [event for event, _ in folder.events()] == ["failed", "parked"]
    assert calls_of(tmp_path) == ["schema_mismatch 3"]
    receipt = json.loads((tmp_path / "receipt").read_text())
    assert receipt["input"][0]["uri"] == f"{folder.root}/in/bad.csv"


def test_a_watcher_calls_once_per_outage(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks every few seconds while no file can be scored; once it can again, the next outage is a new one."""
    folder.put("in/a.csv")
    watcher, real = hooked(folder, tmp_path), runner.run
    away = _raising(StorageUnavailable("away"))
    monkeypatch.setattr(runner, "run", away)
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            watcher.poll()
    assert calls_of(tmp_path) == ["storage_unavailable 69"]
    monkeypatch.setattr(runner, "run", real)
    assert watcher.poll() == 1
    folder.put("in/b.csv")
    monkeypatch.setattr(runner, "run", away)
    with pytest.raises(StorageUnavailable):
        watcher.poll()
    assert calls_of(tmp_path) == ["storage_unavailable 69"] * 2


def test_watch_once_calls_for_a_folder_that_is_gone(folder: Folder, tmp_path: Path) -> None:
    """The command's exit code is the failure's."""
    command = json.dumps(script(tmp_path, "echo $BATCH_ERROR_CODE >> calls"))
    asked = ["watch", str(folder.path), "--once", "--set", f"monitor.on_failure={command}"]
    assert CliRunner().invoke(program, asked).exit_code == 3
    assert calls_of(tmp_path) == ["input_missing"]


def test_never_call_still_counts() -> None:
    """Who calls the hook himself has the metrics written as for everybody."""
    errors = (Busy("held"), Interrupted("stopped"), InputMissing("not there"))
    assert [ended.never_call(one) for one in errors] == [Weight.NOTHING, Weight.METRICS, Weight.METRICS]
