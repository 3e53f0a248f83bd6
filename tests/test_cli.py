"""Holds what the command line promises: exit codes, two lines for an error, one document for --json."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from batch.cli import program
from batch.cli.pages import help_pages
from batch.cli.program import Program, Terminated, json_option, log_option
from batch.cli.text import runs_table, summary, table
from batch.errors import BatchError, Busy, InputMissing, Interrupted

RECEIPT = {
    "run_id": "0123456789abcdef",
    "state": "completed_with_rejects",
    "rows": {"read": 1000, "predicted": 998, "rejected": 2},
    "models": [{"variant": "champion", "name": "m", "version": 3, "uri_given": "models:/m@champion", "rows": 998}],
    "output": [{"uri": "s3://b/out.csv", "size_bytes": 12345}],
    "rejects": [{"uri": "s3://b/out.rejects.csv", "rows": 2, "by_code": {"type": 2}}],
    "timing": {"seconds": 2.0},
}


@pytest.fixture
def call(monkeypatch):
    monkeypatch.delenv("BATCH_ROOT", raising=False)
    monkeypatch.delenv("BATCH_JOBS", raising=False)
    return lambda *arguments, on=program: CliRunner().invoke(on, list(arguments), prog_name="batch-predict")


def failing(error: BaseException) -> click.Group:
    """A program of ours with one command, which ends with `error`."""
    group = Program("batch-predict")

    @group.command()
    @json_option
    @log_option
    def fail(*, as_json: bool, log_format: str) -> None:
        raise error

    return group


@pytest.mark.parametrize("path", [path for path, _ in help_pages(program, "")], ids=str.strip)
def test_every_command_has_help(call, path):
    """Each command explains itself and exits with 0."""
    shown = call(*path.split(), "--help")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "Usage: batch-predict" in shown.stdout


@pytest.mark.parametrize("arguments", [["run"], ["nope"], ["run", "j", "--workers", "-1"], ["models", "promote", "m"]])
def test_misuse_exits_with_2(call, arguments):
    """What the parser refuses is exit 2, said on stderr only."""
    shown = call(*arguments)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "Error: " in shown.stderr


@pytest.mark.parametrize("arguments", [["runs"], ["show", "x"], ["models", "list"], ["models", "show", "m"]])
def test_without_a_root(call, arguments):
    """Commands without a job file say where a root could come from."""
    shown = call(*arguments)
    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: there is no root: neither --root nor $BATCH_ROOT is set\nhint: ")


def test_root_from_the_environment(call, tmp_path, monkeypatch):
    """$BATCH_ROOT stands in for --root."""
    monkeypatch.setenv("BATCH_ROOT", str(tmp_path))
    assert call("models", "list").stdout == "no models\n"


def test_job_file_problems_are_named_at_once(call, tmp_path):
    """A bad job file is exit 2 and every bad key is in the message."""
    path = tmp_path / "j.toml"
    path.write_text(
        'name = "j"\nroot = "r"\nmodel = "models:/m/1"\ncolour = 1\n[output]\nuri = "o.csv"\n[run]\nworkers = -1\n'
    )
    shown = call("run", str(path))
    assert shown.exit_code == 2
    assert "colour" in shown.stderr
    assert "run.workers" in shown.stderr


@pytest.mark.parametrize(
    ("option", "value"), [("--set", "run.workers"), ("--now", "yesterday"), ("--set", "run.nope=1")]
)
def test_bad_values_exit_with_2(call, option, value):
    """Values that only our own code can judge end like the parser's."""
    job = Path(__file__).parents[1] / "jobs" / "weekly_satisfaction.toml"
    shown = call("run", str(job), option, value)
    assert shown.exit_code == 2, shown.output
    assert shown.stderr.startswith("error: ")


def test_version_must_be_a_number(call, tmp_path):
    """NAME/V with something else behind the slash is named."""
    shown = call("models", "show", "m/new", "--root", str(tmp_path))
    assert (shown.exit_code, shown.stderr) == (2, "error: 'new' in m/new is not a version number\nhint: write m/1\n")


def test_missing_model_exits_with_4(call, tmp_path):
    """An error of the library keeps its exit code."""
    assert call("models", "promote", "m", "1", "--to", "champion", "--root", str(tmp_path)).exit_code == 4


def test_json_of_an_error(call):
    """With --json stdout is one document, also of a failure; the two lines stay on stderr."""
    shown = call("fail", "--json", on=failing(InputMissing("there is no x", hint="look")))
    assert json.loads(shown.stdout) == {"error": {"code": "input_missing", "message": "there is no x", "hint": "look"}}
    assert (shown.exit_code, shown.stderr) == (3, "error: there is no x\nhint: look\n")


def test_json_of_a_failed_run(call):
    """A failed run's receipt takes the place of the bare error."""
    error = Busy("held")
    error.receipt = {"state": "failed", "error": error.as_dict()}
    shown = call("fail", "--json", on=failing(error))
    assert (json.loads(shown.stdout)["state"], shown.exit_code) == ("failed", 75)


def test_json_log_of_an_error(call):
    """With --log-format json stderr holds nothing but JSON lines."""
    shown = call("fail", "--log-format", "json", on=failing(InputMissing("there is no x")))
    assert [json.loads(line)["event"] for line in shown.stderr.splitlines()] == ["failed"]
    assert (shown.stdout, shown.exit_code) == ("", 3)


@pytest.mark.parametrize(("signalled", "exit_code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_signals_have_exit_codes(call, signalled, exit_code):
    """An interrupted command says so in a sentence."""
    shown = call("fail", on=failing(signalled))
    assert shown.exit_code == exit_code
    assert shown.stderr.startswith("error: ")
    assert "Traceback" not in shown.stderr


def test_a_translated_sigterm_is_still_143(call):
    """The runner may turn the signal into its own error; the exit code stays the signal's."""
    error = Interrupted("stopped")
    error.__cause__ = Terminated()
    assert call("fail", on=failing(error)).exit_code == 143


def test_a_bug_is_not_dressed_up(call):
    """What is not a BatchError goes on as it is: traceback, exit 1."""
    shown = call("fail", on=failing(ZeroDivisionError()))
    assert (shown.exit_code, type(shown.exception)) == (1, ZeroDivisionError)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_real_sigterm():
    """The handler that main() sets ends the process with 143 and one sentence."""
    code = (
        "import os, signal, sys, batch.cli as c\n"
        "c.program.commands['runs'].callback = lambda **_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.argv = ['batch-predict', 'runs', '--root', '.']\nc.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (128 + signal.SIGTERM, 2)
    assert done.stderr.startswith("error: stopped by SIGTERM\n")


def test_summary_accounts_for_every_row():
    """A person sees state, counts, model version, place and speed."""
    text = summary(RECEIPT)
    for fact in (
        "completed_with_rejects",
        "1,000 read = 998 predicted + 2 rejected",
        "m/3",
        "12,345 bytes",
        "500 rows/s",
        "2 type",
    ):
        assert fact in text
    assert "already done" in summary(RECEIPT, already_done=True)


def test_tables_are_aligned():
    """Columns start below each other, numbers end below each other."""
    assert table(("A", "N"), [("long", "7"), ("x", "10")], right=(1,)) == "A      N\nlong   7\nx     10"


def test_a_run_without_an_end_has_dashes():
    """A run that is still going has no counts yet."""
    line = runs_table([{"run_id": "r", "job": "j", "state": "running", "seconds": None, "rows": None, "model": ""}])
    assert line.splitlines()[1].split() == ["r", "j", "running", *"--------"]


def test_hint_is_optional(call):
    """An error without a hint is one line."""
    assert call("fail", on=failing(BatchError("so"))).stderr == "error: so\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs", "--root", "gs://bucket/x"], "neither an s3:// URI nor a path"),
        (["runs", "--root", "s3:///x"], "names no bucket"),
        (["clean", "--root", "r", "--older-than", "7"], "has no unit"),
        (["clean", "--root", "r", "--older-than", "99999999999d"], "--older-than"),
        (["run", "j.toml", "--period", ""], "the name of the period is empty"),
        (["run", "j.toml", "--once", "--force"], "--once does nothing for what is done"),
        (["run", "j.toml", "--now", "9999-12-31T23:59+00:00"], "check the year"),
        (["check", "j.toml", "--now", "0001-01-01"], "check the year"),
        (["run", "zone.toml"], "unknown time zone 'Europe/Berln'"),
        (["backfill", "j.toml", "--from", "9999-W51", "--to", "9999-W53"], "9999-W53"),
        (["runs", "--root", "r", "--state", "bogus"], "bogus"),
        (["watch", "j.toml", "--once", "--listen", "0"], "--listen waits for events"),
    ],
)
def test_odd_arguments_are_sentences(call, tmp_path, monkeypatch, arguments, said):
    """Exit 2 with what is wrong, and never a traceback."""
    monkeypatch.chdir(tmp_path)
    text = 'name = "j"\nroot = "r"\nmodel = "models:/m/1"\n[input]\nuri = "i.csv"\n[output]\nuri = "{period}.csv"\n'
    (tmp_path / "j.toml").write_text(text + '[schedule]\nperiod = "week"\n')
    (tmp_path / "zone.toml").write_text(text + '[schedule]\nperiod = "week"\ntimezone = "Europe/Berln"\n')
    shown = call(*arguments)
    assert (shown.exit_code, said in shown.stderr) == (2, True), shown.stderr
