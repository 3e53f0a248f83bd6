"""``schedule --as …``: each printed file is due exactly when the cron is, and calls a command that exists.

Every format is read back by Python code here. The API's own schema reads the Kubernetes objects, and where the real readers
are installed (systemd-analyze, Debian's crontab: no Python packages) they read the files as well; skipped with a word where they are not.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, StrictUndefined

from batch.cli.program import Program
from batch.cli.schedule import schedule
from batch.cli.score import run
from batch.cron import Cron, parse_cron
from batch.errors import UsageError
from batch.job_file import check
from batch.triggers.print_airflow import print_airflow
from batch.triggers.print_crontab import print_crontab
from batch.triggers.print_entries import Entry, Surroundings, skipped_in_spring
from batch.triggers.print_kubernetes import print_kubernetes
from batch.triggers.print_systemd import around_clock_changes, on_calendar, print_systemd
from tests.test_schedule import EXPRESSIONS, ZONES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
AROUND = Surroundings("/opt/with space/100%/batch-predict", NOW, {"BATCH_ROOT": "s3://b/100%$x"}, "img:1", BERLIN)
SAMPLES = [
    "0 6 * * MON", "30 2 * * *", "*/15 * * * *", "0 * * * *", "5 9-17 * * mon-fri", "0 6 1,15 * FRI", "10 0 */2 * *", "0 4 31 1,3 *",
    "20 1-3 * 3,10 SUN", "0 0 29 2 *", "7/13 2/5 * * 0-6/2", "0 12 * * 5-7", "* * * * *", "0 0-23 * * *", "0 2 1-31 * MON",
]  # fmt: skip


def entry(expression: str = "0 6 * * MON", zone: str = "Europe/Berlin", *, period: str = "week", name: str = "weekly", path: str = "/jobs/a b%.toml", **more: Any) -> Entry:  # fmt: skip
    document = {
        "name": name,
        "root": "s3://b/root",
        "model": "models:/m@champion",
        "input": {"uri": "s3://b/in.csv"},
        "output": {"uri": "s3://b/out.csv"},
        "schedule": {"cron": expression, "timezone": zone, "period": period},
        **more,
    }
    return Entry(check(document, path), path, parse_cron(expression, zone))


def assert_calls_run(words: list[str], job: str = "/jobs/a b%.toml") -> click.Context:
    """The words are a command line that `run` accepts, and it is the one that a schedule must use."""
    assert words[0] == "run"
    context = run.make_context("run", words[1:])
    assert (context.params["job"], context.params["once"], context.params["trigger"]) == (job, True, "cron")
    return context


# --- crontab


def crontab_line(text: str) -> tuple[list[str], str]:
    """The five fields of the only schedule line, and its command as cron gives it to the shell."""
    (line,) = [one for one in text.splitlines() if one and one[0] != "#" and not re.match(r"[A-Z_]+=", one)]
    *fields, command = line.split(None, 5)
    assert not re.search(r"(?<!\\)%", command), "cron makes a line end of it"
    return fields, command.replace(r"\%", "%")


def test_a_crontab_on_the_jobs_own_clock() -> None:
    """On a machine in the job's zone the line has the job's cron, and CRON_TZ for the crons that know it."""
    text = print_crontab([entry("0 6 * jan-mar FRI-7")], AROUND)["crontab"]
    fields, command = crontab_line(text)
    assert fields == ["0", "6", "*", "1-3", "5,6,0"]
    words = shlex.split(command)
    assert words[0] == AROUND.program
    assert_calls_run(words[1:])
    assert "\nCRON_TZ=Europe/Berlin\n" in text
    assert "\nBATCH_ROOT=s3://b/100%$x\n" in text
    for word in ("MAILTO", "flock", "lease", "75 ", "deadline"):
        assert word in text


def guarded(expression: str, zone: str, machine: str = "America/New_York") -> tuple[list[str], str]:
    around = Surroundings("/bin/batch-predict", NOW, {}, machine=ZoneInfo(machine))
    return crontab_line(print_crontab([entry(expression, zone)], around)["crontab"])


@given(EXPRESSIONS, ZONES, st.sampled_from(["Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham"]))
def test_a_crontab_on_another_clock(expression: str, zone: str, machine: str) -> None:
    """Elsewhere the line comes by at each fire of the job, whatever the machine's clock shows, and its guard knows which these are."""
    fields, command = guarded(expression, zone, machine)
    cron = parse_cron(expression, zone)
    pattern = re.search(r"grep -Eq '(.*?)' && ", command)[1]
    assert fields[1:] == ["*"] * 4
    found = cron.fires(datetime(2026, 5, 1, tzinfo=UTC))
    for fire in (next(found) for _ in range(20)):
        if not cron.matches(fire):  # made up for after a gap: a guard cannot, and the file says so
            continue
        moment = fire.astimezone(UTC)
        minutes = parse_cron(" ".join(fields), "UTC").fields[0].values
        assert moment.astimezone(ZoneInfo(machine)).minute in minutes
        for minute in range(-120, 120, 15):
            wall = (moment + timedelta(minutes=minute)).astimezone(ZoneInfo(zone))
            assert bool(re.search(pattern, wall.strftime("%M %H %d %m %w"))) == cron.matches(wall)


@pytest.mark.parametrize(
    ("moment", "runs"),
    [
        ("2026-07-06T04:00", True),
        ("2026-07-06T05:00", False),
        ("2026-12-07T05:00", True),
        ("2026-12-07T04:00", False),
        ("2026-12-08T05:00", False),
    ],
)
def test_the_guard_in_a_real_shell(moment: str, runs: bool, tmp_path: Path) -> None:
    """Under the real shell, date and grep: Monday six o'clock in Berlin on a machine elsewhere, summer and winter."""
    _, command = guarded("0 6 * * MON", "Europe/Berlin")
    seconds = int(datetime.fromisoformat(moment + "+00:00").timestamp())
    (tmp_path / "date").write_text(f'#!/bin/sh\nexec {shutil.which("date")} -d @{seconds} "$@"\n')
    (tmp_path / "date").chmod(0o755)
    guard = command[: command.index(" && ")]
    done = subprocess.run(["sh", "-c", guard], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
    assert (done.returncode == 0) is runs


def test_crontab_reads_the_crontab(tmp_path: Path) -> None:
    """Debian's own parser finds nothing wrong; without it at least no line is longer than what it takes."""
    texts = [
        print_crontab([entry(one)], around)["crontab"]
        for one in SAMPLES
        for around in (AROUND, Surroundings("/b", NOW, {}))
    ]
    assert max(len(line) for text in texts for line in text.splitlines()) < 990
    program = shutil.which("crontab")
    if (
        program is None
        or "dry run" not in subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stderr
    ):
        return
    for number, text in enumerate(texts):
        file = tmp_path / str(number)
        file.write_text(text)
        done = subprocess.run([program, "-n", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + text


# --- systemd


class Calendar:
    """What systemd.time(7) makes of one value of ``OnCalendar=``, as far as we print it."""

    def __init__(self, text: str) -> None:
        *weekdays, day, time, self.zone = text.split()
        _, months, days = day.rsplit("-", 2) if day.startswith("*") else ("", *day.split("-")[1:])
        self.year = None if day.startswith("*") else int(day[:4])
        hours, minutes, seconds = time.split(":")
        assert seconds == "00"
        self.months, self.days = self.read(months, 1, 12), self.read(days, 1, 31)
        self.hours, self.minutes = self.read(hours, 0, 23), self.read(minutes, 0, 59)
        names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
        numbers = re.sub("[A-Z][a-z]{2}", lambda name: str(names.index(name[0])), weekdays[0] if weekdays else "*")
        self.weekdays = self.read(numbers, 0, 6)

    @staticmethod
    def read(text: str, low: int, high: int) -> set[int]:
        found: set[int] = set()
        for term in text.split(","):
            span, _, step = term.partition("/")
            first, dots, last = span.partition("..")
            if span == "*":
                found |= set(range(low, high + 1))
            else:
                end = int(last) if dots else high if step else int(first)
                assert low <= int(first) <= end <= high
                found |= set(range(int(first), end + 1, int(step or 1)))
        return found

    def has_day(self, day: date) -> bool:
        this_year = self.year in (None, day.year)
        return this_year and day.month in self.months and day.day in self.days and day.weekday() in self.weekdays

    def elapses(self, moment: datetime) -> bool:
        """Measured with systemd 252: not in the spring gap, and the first time only in the autumn fold."""
        wall = moment.astimezone(ZoneInfo(self.zone))
        return not wall.fold and self.has_day(wall.date()) and wall.hour in self.hours and wall.minute in self.minutes


def assert_same_times(cron: Cron) -> None:
    """On every day of two years the events take the days, hours and minutes of the cron, no more and no less."""
    events = [Calendar(text) for text in on_calendar(cron, NOW)]
    minute, hour = cron.fields[0].values, cron.fields[1].values
    assert all((one.hours, one.minutes) == (hour, minute) for one in events)
    time = datetime(2027, 1, 1, min(hour), min(minute), tzinfo=UTC)
    for number in range(2 * 365 + 1):  # 2028 is a leap year
        wall = time + timedelta(days=number)
        assert any(one.has_day(wall.date()) for one in events) == cron.matches(wall), wall


@given(EXPRESSIONS)
def test_on_calendar_is_the_cron(expression: str) -> None:
    """All of crontab(5)'s syntax becomes calendar events that are due at the same times."""
    assert_same_times(parse_cron(expression, "UTC"))


@pytest.mark.parametrize(
    ("expression", "events"),
    [
        ("0 6 * * MON", ["Mon *-*-* 06:00:00 Europe/Berlin"]),
        ("*/15 * * * *", ["*-*-* *:00/15:00 UTC"]),
        ("*/15 0-23 * * *", ["*-*-* *:00/15:00 UTC"]),
        ("0 0-23 * * *", ["*-*-* *:00:00 Europe/Berlin"]),
        ("0 2/5 * * *", ["*-*-* 02,07,12,17,22:00:00 Europe/Berlin"]),
        ("5 9-17 * * 1-5", ["Mon..Fri *-*-* 09..17:05:00 Europe/Berlin"]),
        ("0 6 1,15 * FRI", ["*-*-01,15 06:00:00 Europe/Berlin", "Fri *-*-* 06:00:00 Europe/Berlin"]),
        ("0 0 */2 2 SUN", ["Sun *-02-01/2 00:00:00 Europe/Berlin"]),
        ("0 2 1-31 * MON", ["*-*-* 02:00:00 Europe/Berlin"]),
        ("0 12 * * 5-7", ["Fri..Sun *-*-* 12:00:00 Europe/Berlin"]),
    ],
)
def test_on_calendar_is_readable(expression: str, events: list[str]) -> None:
    """Two events where day of month and day of week are both given: cron takes a day that matches either."""
    cron = parse_cron(expression, "Europe/Berlin")
    assert on_calendar(cron, NOW) == events
    assert_same_times(cron)


def windows() -> Iterator[tuple[str, datetime, datetime]]:
    """Two days around each clock change of the year 2026."""
    for zone, *days in (
        ("Europe/Berlin", "2026-03-28", "2026-10-24"),
        ("America/New_York", "2026-03-07", "2026-10-31"),
        ("Australia/Lord_Howe", "2026-04-04", "2026-10-03"),
    ):
        for day in days:
            start = datetime.fromisoformat(day + "T06:00+00:00")
            yield zone, start, start + timedelta(days=2)


def all_events(cron: Cron) -> list[str]:
    return [*on_calendar(cron, NOW), *around_clock_changes(cron, NOW)]


@pytest.mark.parametrize("expression", SAMPLES)
def test_a_timer_keeps_the_fires_around_clock_changes(expression: str) -> None:
    """What systemd leaves out in the gap and in the fold is listed, so that in real time the timer elapses exactly when cron fires."""
    for zone, start, end in windows():
        cron = parse_cron(expression, zone)
        events = [Calendar(text) for text in all_events(cron)]
        minutes = (start + timedelta(minutes=number) for number in range(int((end - start) / timedelta(minutes=1))))
        assert [one for one in minutes if any(event.elapses(one) for event in events)] == fires(cron, start, end)


def fires(cron: Cron, start: datetime, end: datetime) -> list[datetime]:
    """Of the cron from `start` on and before `end`, in UTC."""
    found = []
    for fire in cron.fires(start - timedelta(minutes=1)):
        if fire.astimezone(UTC) >= end:
            break
        found.append(fire.astimezone(UTC))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("expression", [one for one in SAMPLES if one != "* * * * *"])
def test_systemd_elapses_when_cron_fires(expression: str) -> None:
    """The real systemd, asked for the times of the events around the clock changes; without it the test above stands alone."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; our own reading of the events was tested")
    for zone, start, end in windows():
        cron = parse_cron(expression, zone)
        events = [
            text for text in all_events(cron) if Calendar(text).year is None or text.startswith(str(start.date())[:8])
        ]
        expected = fires(cron, start, end)
        times = {one for one in systemd_times(events, start, len(expected) + 1) if one < end}
        assert sorted(times) == expected


def systemd_times(events: list[str], start: datetime, count: int) -> list[datetime]:
    """The next `count` times of each event from `start` on."""
    base = (start - timedelta(minutes=1)).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = ["systemd-analyze", "calendar", f"--base-time={base}", f"--iterations={count}", *events]
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(?:elapse|Iter(?:ation|\.) #\d+): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", text)
    return [datetime.fromisoformat(one).replace(tzinfo=UTC) for one in found]


def test_units() -> None:
    """A oneshot service with the exit codes, deadlines and folders of the job, and a timer that makes up for a missed fire."""
    files = print_systemd([entry(root="/data/root", input={"uri": "s3://b/in.csv", "wait": "2h"})], AROUND)
    service, timer = files["batch-predict-weekly.service"], files["batch-predict-weekly.timer"]
    settings = dict(line.split("=", 1) for line in service.splitlines() if "=" in line and line[0] != "#")
    assert settings["Type"] == "oneshot"
    assert settings["SuccessExitStatus"] == "75"
    assert settings["RestartPreventExitStatus"] == "1 2 3 4 5 6 77"
    assert settings["TimeoutStartSec"] == f"{86_400 + 2 * 3600}s"
    assert settings["TimeoutStopSec"] == "30s"
    assert settings["ReadWritePaths"] == "/data/root"
    assert settings["Environment"] == '"BATCH_ROOT=s3://b/100%%$x"'
    words = shlex.split(settings["ExecStart"].replace("%%", "%").replace("$$", "$"))
    assert words[0] == AROUND.program
    assert_calls_run(words[1:])
    assert timer.count("OnCalendar=") == 1
    assert "Persistent=true" in timer
    assert "RandomizedDelaySec" not in timer


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    """systemd-analyze verify says nothing about the units, and it would; without it the parsers above stand alone."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; our own reading of the events was tested")
    program = tmp_path / "with space 100%"
    shutil.copy("/bin/true", program)
    around = Surroundings(str(program), NOW, {"BATCH_ROOT": "s3://b/100%$x"})
    entries = [entry(one, name=f"job{number}", root=str(tmp_path)) for number, one in enumerate(SAMPLES)]
    files = print_systemd(entries, around)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in files]
    assert verify(paths) == (0, "")
    (tmp_path / "batch-predict-job0.timer").write_text(files["batch-predict-job0.timer"].replace("Mon *", "Mond *"))
    code, told = verify(paths)
    assert code or "Mond" in told


def verify(paths: list[str]) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


# --- Kubernetes


JOB_TEXT = """\
  # weekly — "quoted" 'so' {{not}} a template: #1
name = "weekly"

\tindented = '''
---
'''
"""


def objects(*entries: Entry, text: str = JOB_TEXT) -> Iterator[dict[str, Any]]:
    """The documents of the stream, for jobs with this file."""
    for one in entries:
        Path(one.path).write_text(text, "utf-8")
    yield from yaml.safe_load_all(print_kubernetes(entries, AROUND)["cronjobs.yaml"])


def test_a_cron_job(tmp_path: Path) -> None:
    """The schedule, its zone and deadlines, what is tried again and what is not, and a pod that may do nothing else."""
    path = str(tmp_path / "a b%.toml")
    config, cron_job = objects(entry("0 6 * * FRI-7", path=path, run={"memory": "2GiB"}))
    assert config["data"] == {"job.toml": JOB_TEXT}
    spec = cron_job["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 6 * * 5,6,0", "Europe/Berlin")
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] == 86_400 - 3600  # the shortest time between two fires: a day of 23 hours
    job = spec["jobTemplate"]["spec"]
    assert (job["activeDeadlineSeconds"], job["backoffLimit"]) == (86_400 - 3600, 6)
    rules = job["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "FailJob"]
    assert rules[1]["onExitCodes"]["values"] == [2, 3, 4, 5, 6, 77]
    pod = job["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 30)
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["image"] == "img:1"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["requests"]["memory"] == str(2 * 2**30)
    assert {one["name"]: one["value"] for one in container["env"]} == {"BATCH_ROOT": "s3://b/100%$x"}
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/jobs", "/tmp"]
    assert pod["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    assert rules[1]["onExitCodes"]["containerName"] == container["name"]
    assert_calls_run(container["args"], "/jobs/job.toml")


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1) | st.text("a \n\t#:-'\"", min_size=1))
def test_any_job_file_survives_yaml(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """The ConfigMap has the job file to the byte, line ends apart."""
    path = str(tmp_path_factory.getbasetemp() / "any.toml")
    assert next(objects(entry(path=path), text=text))["data"]["job.toml"] == text


@pytest.mark.parametrize(
    ("name", "expected"), [("2026", "2026"), ("on", "on"), ("a_b.c-", "a-b-c"), ("x" * 80, "x" * 52)]
)
def test_names_that_a_cluster_allows(name: str, expected: str, tmp_path: Path) -> None:
    """Job names become object names, also those that YAML would take for a number or a truth value."""
    config, cron_job = objects(entry(name=name, path=str(tmp_path / "x")))
    assert config["metadata"]["name"] == cron_job["metadata"]["name"] == expected


def test_two_names_that_become_one(tmp_path: Path) -> None:
    """Two jobs that a cluster cannot tell apart are refused."""
    with pytest.raises(UsageError, match=r"'a_b' and 'a\.b' would both be the CronJob 'a-b'"):
        next(objects(entry(name="a_b", path=str(tmp_path / "x")), entry(name="a.b", path=str(tmp_path / "y"))))


def test_what_a_pod_would_lose_is_said(tmp_path: Path) -> None:
    """Local folders, and a time that spring skips, get a warning in the file."""
    one = entry("30 2 * * *", path=str(tmp_path / "x"), root="/data/root")
    Path(one.path).write_text("x\n")
    text = print_kubernetes([one], AROUND)["cronjobs.yaml"]
    assert "WARNING: /data/root would lie in the pod" in text
    assert "WARNING: the job's time does not exist on 2026-03-29" in text


@pytest.mark.parametrize("printer", [print_kubernetes, print_airflow])
@pytest.mark.parametrize("expression", ["0 6 */2 * MON", "0 6 1-31 * MON", "0 6 1 * *,1"])
def test_days_that_others_read_differently(printer: Any, expression: str) -> None:
    """Where crontab(5) says "and" and Kubernetes and Airflow say "or", nothing is printed."""
    with pytest.raises(UsageError, match="reads the days of"):
        printer([entry(expression)], AROUND)


def test_kubernetes_reads_the_objects(tmp_path: Path) -> None:
    """The API's own schema, strictly, in its oldest and newest version that has all we use."""
    import kubernetes_validate

    for document in objects(*(entry(name=f"job{number}", path=str(tmp_path / str(number))) for number in range(3))):
        for version in ("1.31", kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)


# --- Airflow


class FakeAirflow:
    """Just enough of Airflow to run a DAG file: it remembers what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, major: int) -> None:
        self.dags: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        names = {
            2: ("airflow", "airflow.operators.bash"),
            3: ("airflow.sdk", "airflow.providers.standard.operators.bash"),
        }
        for prefix in (name for pair in names.values() for name in pair):
            for depth in range(1, prefix.count(".") + 2):
                name = ".".join(prefix.split(".")[:depth])
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        home, operators = names[major]
        sys.modules[home].DAG = self.dag  # type: ignore[attr-defined]
        sys.modules[operators].BashOperator = lambda **facts: self.tasks.append(facts)  # type: ignore[attr-defined]
        pendulum = types.ModuleType("pendulum")
        pendulum.datetime = lambda *day, tz: datetime(*day, tzinfo=ZoneInfo(tz))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pendulum", pendulum)

    def dag(self, **facts: Any) -> Any:
        self.dags.append(facts)
        return __import__("contextlib").nullcontext()


@pytest.mark.parametrize("major", [2, 3])
def test_dags(major: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One DAG per job in its zone, without catch-up or overlap, whose task runs the job as of the fire it is for."""
    fake = FakeAirflow(monkeypatch, major)
    text = print_airflow([entry(), entry("0 5 * * *", "UTC", name="daily", path="/jobs/{{x}}.toml")], AROUND)[
        "batch_predict_dags.py"
    ]
    exec(compile(text, "dags.py", "exec"), {})
    assert [one["dag_id"] for one in fake.dags] == ["batch-predict-weekly", "batch-predict-daily"]
    dag, task = fake.dags[0], fake.tasks[0]
    assert (dag["schedule"], dag["catchup"], dag["max_active_runs"]) == ("0 6 * * 1", False, 1)
    assert dag["start_date"].tzinfo.key == "Europe/Berlin"
    assert (task["skip_on_exit_code"], task["retries"]) == (75, 3)
    assert task["execution_timeout"] == timedelta(days=1)
    assert (task["env"], task["append_env"]) == ({"BATCH_ROOT": "s3://b/100%$x"}, True)
    for facts, job in zip(fake.tasks, ("/jobs/a b%.toml", "/jobs/{{x}}.toml"), strict=True):
        for known in ({"data_interval_end": NOW}, {"data_interval_end": None}, {}):
            context = {"dag_run": types.SimpleNamespace(run_after=NOW), **known}
            command = Environment(undefined=StrictUndefined).from_string(facts["bash_command"]).render(context)
            replaced, program, *words = shlex.split(command)
            assert (replaced, program) == ("exec", AROUND.program)
            assert datetime.fromisoformat(assert_calls_run(words, job).params["now"]) == NOW


# --- what they share


def test_jobs_without_a_period_are_not_run_once_for_ever() -> None:
    """All runs of such a job have one subject: `--once` would end the schedule with its first run. Their input tells them apart."""
    for printer in (print_crontab, print_systemd, print_airflow):
        text = "".join(printer([entry(period="")], AROUND).values())
        assert "--trigger cron" in text
        assert "--once" not in text


@pytest.mark.parametrize(
    ("expression", "zone", "first"),
    [("30 2 * * *", "Europe/Berlin", "2026-03-29"), ("30 2 * * *", "UTC", None), ("0 * * * *", "Europe/Berlin", None),
     ("0 6 * * *", "Europe/Berlin", None), ("15 2 * * SUN", "America/New_York", "2026-03-08")],
)  # fmt: skip
def test_days_without_the_jobs_time(expression: str, zone: str, first: str | None) -> None:
    """Only a fixed time inside the gap is named, five years ahead."""
    days = skipped_in_spring(parse_cron(expression, zone), NOW)
    assert (days[0] if days else None) == first
    assert len(days) in (0, 5)


# --- the command


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`schedule` in a folder with two jobs in jobs/, one of which has no cron."""
    (tmp_path / "jobs").mkdir()
    for name, section in (("weekly", '[schedule]\ncron = "0 6 * * MON"\nperiod = "week"\n'), ("idle", "")):
        (tmp_path / "jobs" / f"{name}.toml").write_text(job_text(name) + section)
    monkeypatch.chdir(tmp_path)
    group = Program("batch-predict")
    group.add_command(schedule)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(group, ["schedule", *arguments])

    return invoke


def job_text(name: str) -> str:
    return textwrap.dedent(f"""\
        name = "{name}"
        root = "s3://b/root"
        model = "models:/m@champion"
        input.uri = "s3://b/in.csv"
        output.uri = "s3://b/{name}.csv"
        """)


def test_all_jobs_that_have_a_cron(call: Any) -> None:
    """Without names: every job with a cron, and a note about the others. A file on stdout holds nothing else."""
    done = call("--as", "crontab")
    assert done.exit_code == 0
    assert "/jobs/weekly.toml --once --trigger cron" in done.stdout
    assert "idle" not in done.stdout
    assert done.stderr == f"note: {os.getcwd()}/jobs/idle.toml has no [schedule] cron and is left out\n"


def test_files_in_a_folder(call: Any) -> None:
    """--output writes the files and prints their names; without it several files stand behind each other, each behind its name."""
    done = call("--as", "systemd", "weekly", "--output", "units/new")
    assert done.stdout.split() == ["units/new/batch-predict-weekly.service", "units/new/batch-predict-weekly.timer"]
    printed = call("--as", "systemd", "weekly").stdout
    for name in os.listdir("units/new"):
        assert f"# ---- {name} ----\n{Path('units/new', name).read_text()}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "schedule needs one of --as and --run"),
        (("--as", "crontab", "--run"), "schedule needs one of --as and --run"),
        (("--as", "crontab", "idle"), "jobs/idle.toml has no [schedule] cron"),
        (("--run", "idle"), "jobs/idle.toml has no [schedule] cron"),
        (("--as", "crontab", "nosuch"), "there is no job file 'nosuch'"),
        (("--as", "crontab", "--image", "x"), "--image is only for --as kubernetes"),
        (("--run", "--output", "x"), "--output is only for --as"),
        (("--as", "systemd", "--output", "jobs/weekly.toml"), "--output jobs/weekly.toml cannot be written"),
        (("--run", "--heartbeat", "no/such/file"), "--heartbeat no/such/file cannot be written"),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str, call: Any) -> None:
    """What cannot be meant ends with 2 and a sentence."""
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_bad_cron_names_its_file(call: Any) -> None:
    """The message has the file, the key, the value and the field."""
    Path("jobs/broken.toml").write_text(job_text("broken") + '[schedule]\ncron = "0 25 * * *"\n')
    done = call("--as", "crontab")
    assert done.exit_code == 2
    assert "jobs/broken.toml has 1 problem" in done.stderr
    assert "schedule.cron: '0 25 * * *': the hour '25' is not within 0 to 23" in done.stderr


def test_a_job_named_twice_is_one(call: Any) -> None:
    """By name and by path it is the same file."""
    assert call("--as", "crontab", "weekly", "jobs/weekly.toml").stdout.count("batch-predict run") == 1


def test_what_no_schedule_can_hold(call: Any) -> None:
    """A line end in the path of a job file would end the line of the schedule; one in the cron is only a space."""
    text = job_text("odd") + '[schedule]\ncron = """0 6\n* * MON"""\n'
    Path("odd.toml").write_text(text)
    assert "# odd: 0 6 * * MON UTC\n" in call("--as", "crontab", "odd.toml").stdout
    Path("odd\n.toml").write_text(text)
    done = call("--as", "crontab", "odd\n.toml")
    assert (done.exit_code, done.stdout) == (2, "")


def test_two_jobs_of_one_name(call: Any) -> None:
    """Two files with one job name would write over each other's units and records."""
    Path("jobs/copy.toml").write_text(Path("jobs/weekly.toml").read_text())
    assert "both have the name 'weekly'" in call("--as", "systemd").stderr


def test_no_job_has_a_cron(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty schedule is not printed as if it were one."""
    os.remove("jobs/weekly.toml")
    assert "no job in jobs/ has a [schedule] cron" in call("--as", "crontab").stderr
    monkeypatch.setenv("BATCH_JOBS", "elsewhere")
    assert "there is no folder 'elsewhere'" in call("--as", "crontab").stderr


def test_the_environment_goes_along(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the storage is, is printed; who may use it, is not."""
    monkeypatch.setenv("BATCH_ROOT", "s3://other/root")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for kind in ("crontab", "systemd", "kubernetes", "airflow"):
        text = call("--as", kind).stdout
        assert "s3://other/root" in text
        assert "secret" not in text.replace("secretRef", "")
