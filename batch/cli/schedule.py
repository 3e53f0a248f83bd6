"""``schedule``: prints the job's times for other schedulers, or keeps them itself."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import click

from batch.cli.program import log_json, log_option
from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from batch.triggers.print_entries import Entry, Surroundings
    from batch.triggers.schedule import Fired, Heartbeat, ScheduledJob

KINDS = ("crontab", "systemd", "kubernetes", "airflow")


@click.command()
@click.argument("jobs", metavar="[JOB]...", nargs=-1)
@click.option("--as", "kind", type=click.Choice(KINDS), help="Print files for this scheduler.")
@click.option("--output", "folder", metavar="DIR", help="Write the files there instead of printing them.")
@click.option("--image", metavar="IMAGE", help="Of the container, for kubernetes.")
@click.option("--run", "is_loop", is_flag=True, help="Stay here and run the jobs when they are due.")
@click.option(
    "--heartbeat",
    metavar="PATH",
    envvar="BATCH_HEARTBEAT",
    default="",
    help="With --run: touch this file at least once a minute; default: $BATCH_HEARTBEAT.",
)
@log_option
def schedule(
    *, jobs: tuple[str, ...], kind: str | None, folder: str | None, image: str | None, is_loop: bool,
    heartbeat: str, log_format: str,
) -> None:  # fmt: skip
    """Put the [schedule] of each JOB into the files of a scheduler, or be the scheduler.

    Without JOB: all jobs in jobs/ (or $BATCH_JOBS) that have a [schedule] cron. Times are those of crontab(5) in [schedule] timezone.
    """
    if (kind is None) == (not is_loop):
        raise UsageError("schedule needs one of --as and --run", hint=f"write --as {' or --as '.join(KINDS)}, or --run")
    if image and kind != "kubernetes":
        raise UsageError("--image is only for --as kubernetes", hint="leave it out")
    if folder and is_loop:
        raise UsageError("--output is only for --as", hint="leave it out")
    from batch.triggers.print_entries import find_entries

    entries, idle = find_entries(jobs)
    for path in idle:
        click.echo(f"note: {path} has no [schedule] cron and is left out", err=True)
    if kind is None:
        _loop(entries, heartbeat, log_format)
    else:
        files = _printers()[kind](entries, _surroundings(image))
        _write(files, folder) if folder else click.echo(_together(files), nl=False)


def _printers() -> dict[str, Callable[[Sequence[Entry], Surroundings], dict[str, str]]]:
    from batch.triggers.print_airflow import print_airflow
    from batch.triggers.print_crontab import print_crontab
    from batch.triggers.print_kubernetes import print_kubernetes
    from batch.triggers.print_systemd import print_systemd

    return dict(zip(KINDS, (print_crontab, print_systemd, print_kubernetes, print_airflow), strict=True))


def _surroundings(image: str | None) -> Surroundings:
    from datetime import UTC, datetime

    import batch
    from batch.triggers.print_entries import Surroundings, environment_of

    return Surroundings(
        program=_program(),
        now=datetime.now(UTC),
        environment=environment_of(dict(os.environ)),
        image=image or f"batch-predict:{batch.__version__}",
    )


def _program() -> str:
    """The absolute path of this very program: a scheduler has another PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "batch-predict")
    return beside if os.path.isfile(beside) else os.path.abspath(shutil.which("batch-predict") or beside)


def _together(files: dict[str, str]) -> str:
    """Several files in one text, each behind a line with its name."""
    if len(files) == 1:
        return next(iter(files.values()))
    return "\n".join(f"# ---- {name} ----\n{text}" for name, text in files.items())


def _write(files: dict[str, str], folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        for name, text in files.items():
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            click.echo(path)
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be written: {error.strerror}") from None


def _loop(entries: Sequence[Entry], heartbeat_path: str, log_format: str) -> None:
    from batch.execution.process import prepare_process
    from batch.triggers.schedule import Heartbeat, ScheduledJob, SystemWallClock, loop

    prepare_process()
    heartbeat = Heartbeat(heartbeat_path)
    heartbeat.begin()
    jobs = [
        ScheduledJob(one.name, one.path, one.cron, bool(one.job.schedule.period), one.job.input.wait) for one in entries
    ]
    clock = SystemWallClock()
    _tell_plan(jobs, clock.now(), log_format)
    loop(
        jobs,
        clock=clock,
        run=_runner(heartbeat, log_format),
        stop=threading.Event(),  # never set: a signal ends the loop the way it ends a run
        tell=lambda fired: _tell(fired, log_format),
        beat=heartbeat.beat,
    )


def _runner(heartbeat: Heartbeat, log_format: str) -> Callable[[ScheduledJob, datetime], dict[str, Any]]:
    from batch.triggers.calls import Calls

    calls = Calls()

    def run(scheduled: ScheduledJob, due: datetime) -> dict[str, Any]:
        import batch
        from batch.cli.progress import Progress
        from batch.cli.reporting import report_on
        from batch.execution import ended

        with heartbeat.going_on():
            job = batch.load_job(scheduled.path, set={"input.wait": "0s"})  # the loop looks again
            progress = Progress(job.name, log_format)
            once = bool(job.schedule.period)  # without one, all runs have the same subject: see print_entries
            receipt = ended.run(
                job, now=due, trigger="schedule", once=once, progress=progress.update, notice=progress.notice,
                weigh=lambda error: calls.weigh(error, scheduled, due),
            )  # fmt: skip
            report_on(job, receipt.as_dict(), progress.notice)
        document = receipt.as_dict()
        return {
            **{key: document[key] for key in ("run_id", "state", "rows")},
            "already_done": receipt.already_done,
        }

    return run


def _tell_plan(jobs: Sequence[ScheduledJob], now: datetime, log_format: str) -> None:
    for job in jobs:
        following = job.cron.next(now)
        if log_format == "json":
            log_json("scheduled", job=job.name, cron=job.cron.expression, timezone=job.cron.timezone, next=following)
        else:
            click.echo(f"{job.name}: next at {following.isoformat(timespec='minutes')}", err=True)


def _tell(fired: Fired, log_format: str) -> None:
    """One line per run on stderr; a bug also shows where it is."""
    due, following = (moment.isoformat(timespec="seconds") for moment in (fired.due, fired.next))
    where = "".join(traceback.format_exception(fired.error)) if fired.error and fired.exit_code == 1 else ""
    if log_format == "json":
        problem = {"error": fired.problem} if fired.error else {}
        bug = {"traceback": where} if where else {}
        when = {"retry_at" if fired.is_retry else "next": following}
        facts = {
            "exit_code": fired.exit_code,
            "seconds": round(fired.seconds, 3),
            **fired.result,
            **problem,
            **bug,
            **when,
        }
        log_json("fired", job=fired.job, due=due, **facts)
        return
    outcome = f"exit {fired.exit_code}: {fired.message}" if fired.error else _success(fired.result)
    when_text = f"tried again at {following}" if fired.is_retry else f"next at {following}"
    click.echo(f"{fired.job}: due {due}: {outcome}; {when_text}", err=True)
    if where:
        click.echo(where, err=True, nl=False)


def _success(result: dict[str, Any]) -> str:
    done = " (already done)" if result["already_done"] else ""
    return f"{result['state']}{done}, run {result['run_id']}"
