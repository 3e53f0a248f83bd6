"""``watch`` and ``backfill``: what starts runs without being asked for each of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import click

from batch.cli.program import json_option, log_json, log_option, print_json
from batch.cli.text import table
from batch.errors import BatchError, UsageError
from batch.execution.process import prepare_process

if TYPE_CHECKING:
    from batch.job import Job
    from batch.triggers.backfill import Outcome
    from batch.triggers.events import Wake
    from batch.triggers.watch import Told

_SET = click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any key of the job file.")


@click.command()
@click.argument("job")
@_SET
@click.option("--once", is_flag=True, help="Look once, score what waits, and end.")
@click.option("--interval", metavar="TIME", default="30s", show_default=True, help="Between two looks into the folder.")
@click.option("--listen", "address", metavar="[HOST:]PORT", help="Take events over HTTP; they wake the watcher early.")
@click.option(
    "--heartbeat",
    metavar="PATH",
    envvar="BATCH_HEARTBEAT",
    default="",
    help="Touch this file at least once a minute; default: $BATCH_HEARTBEAT.",
)
@log_option
@click.pass_context
def watch(
    ctx: click.Context, /, *, job: str, settings: tuple[str, ...], once: bool, interval: str, address: str | None,
    heartbeat: str, log_format: str,
) -> None:  # fmt: skip
    """Score every file that is dropped into the [watch] prefix of JOB, each version once.

    Any number of watchers may look at one folder. With --once the exit code is that of the first file that failed.
    """
    if once and address is not None:
        raise UsageError("--once looks once and --listen waits for events", hint="leave one of them out")
    prepare_process()
    seconds = _seconds(interval)
    loaded = _load(job, settings)
    from batch.cli.progress import Progress
    from batch.triggers.events import Wake
    from batch.triggers.schedule import Heartbeat
    from batch.triggers.watch import Watcher
    from batch.triggers.watch import watch as look_again_and_again

    alive = Heartbeat(heartbeat)
    progress = Progress(loaded.name, log_format)
    watcher = Watcher(loaded, lambda told: _tell(told, log_format), progress.update, alive.going_on)
    if once:
        watcher.poll()
        ctx.exit(watcher.exit_code)
    alive.begin()
    wake = Wake(loaded.watch.prefix)
    with _events(loaded, wake, address, lambda text: _note(text, log_format)):
        look_again_and_again(watcher, interval=seconds, wake=wake, stop=threading.Event(), beat=alive.beat)


@contextmanager
def _events(job: Job, wake: Wake, address: str | None, note: Callable[[str], None]) -> Iterator[None]:
    """Whatever may wake the watcher early."""
    from batch.triggers.listen import TOKEN_VARIABLE, address_of, listen
    from batch.triggers.queue import polling

    with ExitStack() as stack:
        if address is not None:
            token = os.environ.get(TOKEN_VARIABLE, "")
            listener = stack.enter_context(listen(*address_of(address), wake, token=token, note=note))
            note(f"listening at {listener.url}")
        if job.watch.queue:
            stack.enter_context(polling(job.watch.queue, wake, note=note))
        yield


def _tell(told: Told, log_format: str) -> None:
    if log_format == "json":
        facts = {"exit_code": told.exit_code, "message": told.message} | told.facts
        log_json(told.event, uri=told.uri, **facts)
        return
    where = told.facts.get("traceback", "")
    words = {
        "done": f"-> {told.message}",
        "moved": f"-> {told.message}",
        "failed": f"(attempt {told.facts.get('attempt')}, exit {told.exit_code}): {told.message}",
        "parked": f"after {told.facts.get('attempt')} attempts (exit {told.exit_code}): {told.message}",
        "stays": f"(exit {told.exit_code}): {told.message}",
        "away": f"(exit {told.exit_code}): {told.message}",
    }
    click.echo(f"{told.event} {told.uri} {words.get(told.event, told.message)}", err=True)
    if hint := told.facts.get("hint"):
        click.echo(f"hint: {hint}", err=True)
    if where:
        click.echo(where, err=True, nl=False)


def _note(text: str, log_format: str) -> None:
    if log_format == "json":
        log_json("note", message=text)
    else:
        click.echo(text, err=True)


@click.command()
@click.argument("job")
@_SET
@click.option("--from", "first", metavar="PERIOD", required=True, help="The oldest one, for example 2026-W01.")
@click.option("--to", "last", metavar="PERIOD", required=True, help="The newest one.")
@click.option("--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Periods at a time.")
@click.option("--keep-going", is_flag=True, help="Go on after a period that failed.")
@json_option
@log_option
@click.pass_context
def backfill(
    ctx: click.Context, /, *, job: str, settings: tuple[str, ...], first: str, last: str, parallel: int,
    keep_going: bool, as_json: bool, log_format: str,
) -> None:  # fmt: skip
    """Run JOB for each period from --from to --to that is not done yet, oldest first.

    Stops at the first failure unless told otherwise; the same command goes on from there. The exit code is the first failure's.
    """
    prepare_process()
    settings = (*settings, "input.wait=0s")  # a past period's file will not come any more
    loaded = _load(job, settings)
    from batch.triggers import backfill as filling

    periods = filling.periods_between(loaded, first, last)
    with _Children(job, settings, loaded, parallel) as children:
        run = _in_process(loaded, log_format) if parallel == 1 else children.run
        found = filling.backfill(
            loaded, periods, run, parallel=parallel, keep_going=keep_going, stop=children.stop,
            tell=lambda outcome: _tell_outcome(outcome, log_format),
        )  # fmt: skip
    if as_json:
        print_json({"runs": [one.as_dict() for one in found]})
    else:
        click.echo(_outcomes(found))
    ctx.exit(next((one.exit_code for one in found if one.exit_code), 0))


def _in_process(job: Job, log_format: str) -> Callable[[str], dict[str, Any]]:
    from batch.cli.progress import Progress
    from batch.cli.reporting import report_on
    from batch.execution import ended

    def run(period: str) -> dict[str, Any]:
        progress = Progress(f"{job.name} {period}", log_format)
        receipt = ended.run(
            job, period=period, once=True, trigger="backfill", progress=progress.update, notice=progress.notice
        )
        report_on(job, receipt.as_dict(), progress.notice)
        return receipt.as_dict()

    return run


class _Children:
    """Runs that go on at once are processes of their own: each has its own memory, and a crash is its own."""

    def __init__(self, job: str, settings: tuple[str, ...], loaded: Job, parallel: int) -> None:
        cores = max(1, len(os.sched_getaffinity(0)) // parallel)
        self._command = [sys.executable, "-m", "batch", "run", job, "--once", "--trigger", "backfill", "--json"]
        self._command += [part for setting in settings for part in ("--set", setting)]
        self._command += [] if loaded.run.workers else ["--workers", str(cores)]
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_over = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, period: str) -> dict[str, Any]:
        """Score one period in a child. Raises `BatchError` with the child's error and exit code."""
        child = self._start(period)
        try:
            said, complained = child.communicate()
        finally:
            self._running.discard(child)
        if child.returncode == 1:  # a bug, with its traceback
            click.echo(complained.decode(errors="replace"), err=True, nl=False)
        return _receipt_of(said, child.returncode, period)

    def _start(self, period: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_over:
                raise BatchError("not started: the backfill was interrupted")
            # A session of its own: Ctrl-C is for us, and `stop` passes it on, once.
            child = subprocess.Popen(
                [*self._command, "--period", period],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            self._running.add(child)
        return child

    def stop(self) -> None:
        """Have what is under way release its lease and end."""
        with self._lock:
            self._is_over = True
            running = list(self._running)
        for child in running:
            child.send_signal(signal.SIGTERM)


def _receipt_of(said: bytes, exit_code: int, period: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(said)
    except ValueError:
        document = {"error": {"message": f"the run of {period} ended with {exit_code} and without a word", "hint": ""}}
    if exit_code == 0:
        return document
    told = document.get("error") or {"message": f"ended with {exit_code}", "hint": ""}
    raise _ChildFailed(
        told, exit_code if exit_code > 0 else 128 - exit_code, document if "run_id" in document else None
    )


class _ChildFailed(BatchError):
    """What a child said of its failure."""

    def __init__(self, told: dict[str, str], exit_code: int, receipt: dict[str, Any] | None) -> None:
        super().__init__(told["message"], hint=told.get("hint", ""))
        self.exit_code, self.receipt, self._told = exit_code, receipt, told

    def as_dict(self) -> dict[str, str]:
        return super().as_dict() | self._told


def _tell_outcome(outcome: Outcome, log_format: str) -> None:
    if log_format == "json":
        log_json("period", **outcome.as_dict())
        return
    why = f": {outcome.error['message']}" if outcome.error else ""
    click.echo(f"{outcome.period}: {outcome.state}{why}", err=True)
    if outcome.error and outcome.error["hint"]:
        click.echo(f"hint: {outcome.error['hint']}", err=True)


def _outcomes(found: list[Outcome]) -> str:
    head = ("PERIOD", "STATE", "EXIT", "RUN", "READ", "PREDICTED", "REJECTED", "SECONDS")
    lines = []
    for one in found:
        rows = one.rows or {}
        counts = ["-" if rows.get(key) is None else f"{rows[key]:,}" for key in ("read", "predicted", "rejected")]
        seconds = "-" if one.seconds is None else f"{one.seconds:.1f}"
        lines.append([one.period, one.state, str(one.exit_code), one.run_id or "-", *counts, seconds])
    return table(head, lines, right=(2, 4, 5, 6, 7))


def _load(job: str, settings: tuple[str, ...]) -> Job:
    import batch
    from batch.job_file import parse_setting

    return batch.load_job(job, set=dict(map(parse_setting, settings)))


def _seconds(text: str) -> float:
    from batch.units import parse_seconds

    try:
        return max(0.1, parse_seconds(text))
    except ValueError as error:
        raise UsageError(f"--interval {error}", hint="write --interval 30s") from None
