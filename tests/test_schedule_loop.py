"""``schedule --run``: every fire once, missed ones made up for once, no failure ends the loop, a signal does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from batch.cli.schedule import _tell
from batch.cron import parse_cron
from batch.errors import BatchError, Busy, InputMissing, Interrupted, StorageUnavailable, Terminated
from batch.period import last_complete
from batch.triggers.schedule import BEAT_SECONDS, Fired, Heartbeat, ScheduledJob, loop
from tests.run_cases import encode, register, rows

START = datetime(2026, 11, 16, 5, 30, tzinfo=UTC)  # a Monday
HOUR = timedelta(hours=1)
ROOT = Path(__file__).parents[1]


class FakeWallClock:
    """A day passes in no time; `jumps` are (when, by how much) the clock is set or the machine sleeps."""

    def __init__(
        self, stop: threading.Event, ends: datetime, jumps: tuple[tuple[datetime, timedelta], ...] = ()
    ) -> None:
        self.time = START
        self.stop = stop
        self.ends = ends
        self.jumps = list(jumps)
        self.waits: list[float] = []

    def now(self) -> datetime:
        return self.time

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.pass_time(timedelta(seconds=seconds))
        return event.is_set()

    def pass_time(self, span: timedelta) -> None:
        self.time += span
        if self.jumps and self.time >= self.jumps[0][0]:
            self.time += self.jumps.pop(0)[1]
        if self.time >= self.ends:
            self.stop.set()


class Bench:
    """A loop over jobs whose runs take `takes` and do what `does` says."""

    def __init__(
        self,
        *jobs: ScheduledJob,
        hours: float,
        takes: timedelta = timedelta(minutes=1),
        does: Callable[[str, int], None] = lambda *_: None,
        jumps: tuple[tuple[datetime, timedelta], ...] = (),
    ) -> None:
        self.told: list[Fired] = []
        self.started: list[tuple[str, datetime]] = []
        self.beats = 0
        stop = threading.Event()
        self.clock = FakeWallClock(stop, START + timedelta(hours=hours), jumps)

        def run(scheduled: ScheduledJob, due: datetime) -> dict[str, Any]:
            self.started.append((scheduled.name, self.clock.now()))
            self.clock.pass_time(takes)
            does(scheduled.name, len(self.started))
            return {"run_id": "0" * 16, "state": "completed", "already_done": False}

        def beat() -> None:
            self.beats += 1

        loop(jobs, clock=self.clock, run=run, stop=stop, tell=self.told.append, beat=beat)

    @property
    def due(self) -> list[str]:
        """Which fires were run, in order."""
        return [f"{one.job} {one.due.astimezone(UTC):%d %H:%M}" for one in self.told]


def job(name: str, cron: str, *, has_period: bool = False, zone: str = "UTC") -> ScheduledJob:
    return ScheduledJob(name, f"{name}.toml", parse_cron(cron, zone), has_period)


def test_each_fire_once_in_due_order() -> None:
    """Several jobs run when they are due, one after another; of two that are due at once both run."""
    bench = Bench(job("hourly", "0 * * * *"), job("daily", "0 6 * * *"), job("half", "30 7 * * *"), hours=3)
    assert sorted(bench.due[:2]) == ["daily 16 06:00", "hourly 16 06:00"]
    assert bench.due[2:] == ["hourly 16 07:00", "half 16 07:30", "hourly 16 08:00"]
    assert [when - START for _, when in bench.started] == [
        HOUR / 2, HOUR / 2 + timedelta(minutes=1), HOUR * 3 / 2, HOUR * 2, HOUR * 5 / 2,
    ]  # fmt: skip


def test_a_missed_period_is_made_up_for_at_start() -> None:
    """A job with a period first runs its last fire, once; one without waits for its next, because nobody knows what it did."""
    bench = Bench(job("weekly", "0 6 * * MON", has_period=True), job("plain", "0 5 * * *"), hours=2)
    assert bench.due == ["weekly 09 06:00", "weekly 16 06:00"]


def test_a_fire_at_the_very_start_is_not_doubled() -> None:
    """A loop that starts at the minute of a fire runs it once."""
    assert Bench(job("now", "30 5 * * *", has_period=True), hours=20).due == ["now 16 05:30"]


def test_fires_missed_in_sleep_run_once() -> None:
    """After a machine slept through several fire times the last of them is run, and once."""
    bench = Bench(job("hourly", "0 * * * *"), hours=10, jumps=((START + HOUR, timedelta(hours=5)),))
    assert bench.due == [
        "hourly 16 06:00",
        "hourly 16 11:00",
        "hourly 16 12:00",
        "hourly 16 13:00",
        "hourly 16 14:00",
        "hourly 16 15:00",
    ]


def test_fires_missed_in_a_long_run_run_once() -> None:
    """A run that takes longer than the time between fires is followed by one for the last of them."""
    bench = Bench(job("hourly", "0 * * * *"), hours=8, takes=timedelta(hours=2.25))
    assert bench.due == ["hourly 16 06:00", "hourly 16 08:00", "hourly 16 10:00", "hourly 16 12:00"]


@pytest.mark.parametrize("minutes", [5, 90])
def test_a_clock_set_back_doubles_nothing(minutes: int) -> None:
    """A fire that was run is not run again when the clock passes it a second time."""
    back = (START + HOUR * 0.7, timedelta(minutes=-minutes))
    assert Bench(job("hourly", "0 * * * *"), hours=2, jumps=(back,)).due == ["hourly 16 06:00", "hourly 16 07:00"]


def test_a_wrong_clock_is_forgotten() -> None:
    """After a clock that was years ahead is put right, the job runs at its times again."""
    ahead, right = timedelta(days=2000), -timedelta(days=2000)
    bench = Bench(job("hourly", "0 * * * *"), hours=10_000 * 24, jumps=((START + HOUR * 0.6, ahead), (START + ahead + HOUR * 0.7, right), (START + 3 * HOUR, HOUR * 24 * 9_999)))  # fmt: skip
    assert [one[-8:] for one in bench.due[2:4]] == ["16 07:00", "16 08:00"]


def test_the_spring_gap_and_the_autumn_fold() -> None:
    """In real time from one to the next: a daily job once on both days, an hourly one every hour."""
    berlin = job("night", "30 2 * * *", zone="Europe/Berlin")
    to_march = datetime(2026, 3, 28, 12, tzinfo=UTC) - START
    to_october = datetime(2026, 10, 24, 12, tzinfo=UTC) - START
    for jump, expected in (
        (to_march, ["night 29 01:00", "night 30 00:30"]),
        (to_october, ["night 25 00:30", "night 26 01:30"]),
    ):
        bench = Bench(berlin, hours=(jump + timedelta(hours=40)) / HOUR, jumps=((START - HOUR, jump),))
        assert bench.due[-2:] == expected


def test_a_failing_job_does_not_stop_the_others() -> None:
    """A failure, a bug included, is told with its exit code and message; all jobs go on."""

    def fail(name: str, number: int) -> None:
        if name == "bad":
            raise InputMissing("there is no s3://b/x.csv", hint="look")
        if name == "buggy":
            raise ZeroDivisionError("division by zero")

    bench = Bench(job("bad", "0 * * * *"), job("buggy", "10 * * * *"), job("good", "20 * * * *"), hours=2, does=fail)
    assert [(one.job, one.exit_code, one.message if one.error else "", one.is_retry) for one in bench.told[:3]] == [
        ("bad", 3, "there is no s3://b/x.csv (hint: look)", False),
        ("buggy", 1, "a bug: ZeroDivisionError: division by zero", False),
        ("good", 0, "", False),
    ]
    assert len(bench.told) == 6


@pytest.mark.parametrize("error", [Busy("held"), StorageUnavailable("gone")])
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    """Exit 69 and 75 are tried again after 1, 2, 4 … minutes, for the same fire, until it works."""

    def fail(name: str, number: int) -> None:
        if number < 4:
            raise error

    bench = Bench(job("weekly", "0 6 * * MON"), hours=30, does=fail, takes=timedelta(0))
    assert bench.due == ["weekly 16 06:00"] * 4
    assert [(when - START - HOUR / 2) / timedelta(minutes=1) for _, when in bench.started] == [0, 1, 3, 7]
    assert [one.is_retry for one in bench.told] == [True, True, True, False]
    assert bench.told[-1].next == datetime(2026, 11, 23, 6, tzinfo=UTC)


def test_the_next_fire_ends_the_tries() -> None:
    """The back-off starts anew with each fire and never reaches past it."""

    def fail(name: str, number: int) -> None:
        raise Busy("held")

    bench = Bench(job("often", "*/10 * * * *"), hours=0.49, does=fail, takes=timedelta(0))
    minutes = [(when - START) / timedelta(minutes=1) for _, when in bench.started]
    assert minutes == [10, 11, 13, 17, 20, 21, 23, 27]


@pytest.mark.parametrize("signalled", [Terminated(), KeyboardInterrupt(), Interrupted("stopped")])
def test_a_signal_in_a_run_ends_the_loop(signalled: BaseException) -> None:
    """Whatever form a signal has, it is not taken for the failure of one job."""

    def fail(name: str, number: int) -> None:
        raise signalled

    with pytest.raises(type(signalled)):
        Bench(job("hourly", "0 * * * *"), hours=5, does=fail)


def test_the_heart_beats_while_waiting() -> None:
    """No wait is longer than the beat, so that a health check a minute apart sees a new file."""
    bench = Bench(job("hourly", "0 * * * *"), hours=1, takes=timedelta(0))
    assert max(bench.clock.waits) <= BEAT_SECONDS <= 30
    assert bench.beats >= 3600 / BEAT_SECONDS


def test_the_heart_beats_during_a_run(tmp_path: Path) -> None:
    """The file gets newer while a run goes on, and rests when it is over."""
    path = tmp_path / "alive"
    heart = Heartbeat(str(path), seconds=0.01)
    with heart.going_on():
        until = time.monotonic() + 20
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
    os.utime(path, (0, 0))
    time.sleep(0.05)
    assert path.stat().st_mtime == 0


def test_a_heart_without_a_file() -> None:
    """Without a path nothing is written; a path that cannot be written ends no loop."""
    Heartbeat("").touch()
    Heartbeat("/nowhere/at/all").beat()
    with pytest.raises(OSError, match="nowhere"):
        Heartbeat("/nowhere/at/all").touch()


PROGRAM = """
from batch.cli import main, program
from batch.cli.schedule import schedule
program.add_command(schedule)
main()
"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (None, "weekly: due 2026-11-16T06:00:00+01:00: completed (already done), run 0f; next at 2026-11-23T06:00:00+01:00"),
        (InputMissing("there is\nno x", hint="look"), "weekly: due 2026-11-16T06:00:00+01:00: exit 3: there is\\nno x (hint: look); next at 2026-11-23T06:00:00+01:00"),
        (Busy("held"), "weekly: due 2026-11-16T06:00:00+01:00: exit 75: held; tried again at 2026-11-23T06:00:00+01:00"),
    ],
)  # fmt: skip
def test_one_line_per_fire(error: BatchError | None, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line has the job, the fire, how it ended and what comes next; the JSON line has the same facts."""
    due, following = (datetime(2026, 11, day, 6, tzinfo=ZoneInfo("Europe/Berlin")) for day in (16, 23))
    result = {} if error else {"state": "completed", "already_done": True, "run_id": "0f"}
    code = error.exit_code if error else 0
    fired = Fired("weekly", due, 1.5, code, result, error, following, is_retry=code == 75)
    _tell(fired, "text")
    assert capsys.readouterr().err == line + "\n"
    _tell(fired, "json")
    told = json.loads(capsys.readouterr().err)
    assert (told["event"], told["job"], told["exit_code"], told["seconds"]) == ("fired", "weekly", code, 1.5)
    assert told["retry_at" if code == 75 else "next"] == following.isoformat()


def test_a_bug_shows_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """As text the traceback follows the line; in a JSON log it is part of the one line."""
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        fired = Fired("weekly", START, 0.0, 1, {}, error, START, is_retry=False)
    _tell(fired, "text")
    assert "Traceback" in capsys.readouterr().err
    _tell(fired, "json")
    told = json.loads(capsys.readouterr().err)
    assert told["error"]["code"] == "bug"
    assert "1 / 0" in told["traceback"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command(number: signal.Signals, exit_code: int, tmp_path: Path) -> None:
    """The real command makes up for the last period of each job, tells each in one line, waits, and a signal ends it at once."""
    model = register(str(tmp_path / "root"))
    (tmp_path / "in.csv").write_bytes(encode(rows(), "csv"))
    (tmp_path / "jobs").mkdir()
    for name, source in (("bad", "missing.csv"), ("good", "in.csv")):
        (tmp_path / "jobs" / f"{name}.toml").write_text(f"""
            name = "{name}"
            root = "../root"
            model = "{model}"
            input.uri = "../{source}"
            output.uri = "../{name}.out.csv"
            schedule = {{cron = "0 6 * * MON", timezone = "Europe/Berlin", period = "week"}}
        """)
    told, last = _run_until(number, exit_code, 4, tmp_path)
    assert [one["event"] for one in told] == ["scheduled", "scheduled", "fired", "fired"]
    fired = {one["job"]: one for one in told[2:]}
    assert (fired["bad"]["exit_code"], fired["bad"]["error"]["code"]) == (3, "input_missing")
    assert (fired["good"]["exit_code"], fired["good"]["state"], fired["good"]["already_done"]) == (
        0,
        "completed",
        False,
    )
    assert fired["good"]["next"] == told[0]["next"]
    assert last["exit_code"] == exit_code
    (receipt,) = (tmp_path / "root/done/good").glob("*/*.json")
    assert json.loads(receipt.read_text("utf-8"))["trigger"] == "schedule"
    assert (
        receipt.parent.name == last_complete(datetime.fromisoformat(fired["good"]["due"]), "week", "Europe/Berlin").name
    )
    assert (tmp_path / "alive").exists()
    again, _ = _run_until(number, exit_code, 4, tmp_path)
    assert [one["already_done"] for one in again[2:] if one["job"] == "good"] == [True]


def _run_until(
    number: signal.Signals, exit_code: int, lines: int, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The first lines that the command tells, and the one it ends with after the signal."""
    arguments = ["schedule", "--run", "--log-format", "json", "--heartbeat", "alive"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        told: list[dict[str, Any]] = []
        while len(told) < lines:
            line = json.loads(process.stderr.readline())
            told += [line] if line["event"] != "progress" else []
        process.send_signal(number)
        (last,) = process.stderr.read().splitlines()
        assert process.wait(20) == exit_code
    return told, json.loads(last)
