"""``run``, ``check`` and ``demo``: the commands that score, or say whether scoring would be refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from batch.cli.program import Command, json_option, log_option, print_json, root_option
from batch.cli.progress import Progress
from batch.cli.reporting import report_on
from batch.cli.text import readiness, summary
from batch.errors import BatchError, JobInvalid, UsageError
from batch.execution.process import prepare_process

if TYPE_CHECKING:
    from batch.job import Job

DRIFT_EXIT = {"warn": 10, "alert": 20}
TRIGGERS = ("cli", "cron", "schedule", "watch", "backfill", "retry", "api")


def job_options(command: Command) -> Command:
    """What `run` and `check` have in common: the job, what overrides it, and the moment it is about."""
    decorators: list[Callable[[Any], Any]] = [
        click.argument("job"),
        click.option("--input", "input_uri", metavar="URI", help="Instead of the job's [input] uri."),
        click.option("--output", "output_uri", metavar="URI", help="Instead of the job's [output] uri."),
        click.option(
            "--model", metavar="REF", help="Instead of the job's model: models:/name@alias or models:/name/3."
        ),
        click.option("--period", metavar="PERIOD", help="For example 2026-W46; default: the one that ended last."),
        click.option("--now", metavar="TIME", help="ISO 8601, UTC unless it says otherwise: act as if it were then."),
        click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any key of the job file."),
        click.option("--engine", metavar="NAME", help="Instead of the job's [run] engine."),
        click.option("--workers", type=click.IntRange(min=0), help="Instead of the job's [run] workers."),
        click.option("--once", is_flag=True, help="Do nothing when this period is done, whatever changed since."),
        click.option("--force", is_flag=True, help="Score again what is done already."),
        click.option(
            "--trigger",
            type=click.Choice(TRIGGERS),
            default="cli",
            show_default=True,
            help="Who asked, for the receipt.",
        ),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


@click.command()
@job_options
@click.option("--shard", metavar="I/N", help="Score one of N parts and publish nothing; I from 0 or from 1.")
@click.option("--finalize", is_flag=True, help="End the run whose shards are scored; scores what is missing.")
@click.option("--fail-on-drift", is_flag=True, help="Exit 10 or 20 after a run whose rows or scores have drifted.")
@json_option
@log_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    shard: str | None,
    finalize: bool,
    fail_on_drift: bool,
    period: str | None,
    now: str | None,
    once: bool,
    force: bool,
    trigger: str,
    as_json: bool,
    log_format: str,
    **about: Any,
) -> None:
    """Score the input of JOB and publish the predictions.

    JOB is a TOML file, or the name of one in jobs/ (or $BATCH_JOBS). Run the same command again to resume.
    """
    prepare_process()
    name: str | None = None
    try:
        if once and force:
            raise UsageError(
                "--once does nothing for what is done, and --force does it again", hint="leave one of them out"
            )
        if shard is not None and (finalize or fail_on_drift):
            raise UsageError(
                "--shard scores a part and ends nothing",
                hint="leave out --finalize and --fail-on-drift: they come after all shards",
            )
        job, moment = load(**about), read_time(now)
        name = job.name
        if shard is not None:
            _shard(job, shard, period, moment, log_format, once=once, force=force, as_json=as_json)
            return
        document, already_done = _run(job, period, moment, trigger, log_format, once=once, force=force)
    except BatchError as error:
        if error.receipt is None and as_json:
            from batch.execution.receipt import unstarted

            error.receipt = unstarted(name, trigger, error.as_dict())
        raise
    if as_json:
        print_json(document)
    else:
        click.echo(summary(document, already_done=already_done))
    if fail_on_drift:
        ctx.exit(DRIFT_EXIT.get(document["drift"]["state"], 0))


def _run(
    job: Job, period: str | None, moment: datetime | None, trigger: str, log_format: str, *, once: bool, force: bool
) -> tuple[dict[str, Any], bool]:
    """The receipt, and whether the run was done before."""
    from batch.execution import ended

    with Progress(job.name, log_format) as progress:
        receipt = ended.run(
            job, period=period, now=moment, trigger=trigger, once=once, force=force,
            progress=progress.update, notice=progress.notice,
        )  # fmt: skip
        progress.completed(receipt.as_dict(), already_done=receipt.already_done)
        report_on(job, receipt.as_dict(), progress.notice)
    return receipt.as_dict(), receipt.already_done


def _shard(
    job: Job,
    text: str,
    period: str | None,
    moment: datetime | None,
    log_format: str,
    *,
    once: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Score a part, and say what was done."""
    from batch.execution.shards import Shard, run_shard

    shard = Shard.parse(text)
    with Progress(f"{job.name} {shard}", log_format) as progress:
        done = run_shard(
            job,
            shard,
            period=period,
            now=moment,
            once=once,
            force=force,
            progress=progress.update,
            notice=progress.notice,
        )
    if as_json:
        print_json(done)
    elif done["state"] == "done":
        click.echo(f"{job.name}: run {done['run_id']} is committed or done already; shard {shard} has nothing to do")
    else:
        rows, chunks = done["rows"], done["chunks"]
        click.echo(
            f"{job.name}: run {done['run_id']}, shard {shard}: {rows['predicted']} rows predicted, {rows['rejected']} rejected, "
            f"{chunks['scored']} of {chunks['total']} chunks scored, the others were there"
        )


@click.command()
@job_options
@json_option
@log_option
@click.pass_context
def check(
    ctx: click.Context,
    /,
    *,
    period: str | None,
    now: str | None,
    once: bool,
    force: bool,
    trigger: str,
    as_json: bool,
    log_format: str,
    **about: Any,
) -> None:
    """Say whether JOB would be refused, and what it would cost. Scores nothing; exits as run would."""
    prepare_process()
    try:
        job, moment = load(**about), read_time(now)
        from batch.execution.check import check as checked

        found = checked(job, period=period, now=moment, force=force, once=once)
    except UsageError as error:
        found = _refused(error)
    exit_code = found.pop("exit_code")
    if as_json:
        print_json(found)
    elif found["ok"]:
        click.echo(f"{job.name}: {readiness(found)}")
    else:
        for refusal in found["refusals"]:
            click.echo(f"error: {refusal['message']}", err=True)
            if refusal["hint"]:
                click.echo(f"hint: {refusal['hint']}", err=True)
    ctx.exit(exit_code)


def _refused(error: UsageError) -> dict[str, Any]:
    """An unusable command or job file in the shape of `check`: one refusal per problem."""
    refusals = [error.as_dict()]
    if isinstance(error, JobInvalid) and error.problems:
        refusals = [{**error.as_dict(), "message": problem} for problem in error.problems]
    return {
        "ok": False,
        "refusals": refusals,
        "estimate": None,
        "sample": None,
        "shadows": {},
        "exit_code": error.exit_code,
    }


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--input", "fixed", metavar="URI", required=True, help="The rejects file of RUN, mended.")
@json_option
@log_option
@root_option
def retry(*, root: str, run_id: str, fixed: str, as_json: bool, log_format: str) -> None:
    """Score the mended rejects of RUN with its own models, and put them in their places in its output.

    RUN is a run id, the beginning of one, or JOB@latest: completed, or over its budget. Rows that are not in the file stay rejected.
    """
    prepare_process()
    from batch.execution.ended import retry as mend
    from batch.uri import normalise

    receipt = mend(root, run_id, normalise(fixed))
    with Progress(str(receipt.as_dict()["job"]), log_format) as progress:
        progress.completed(receipt.as_dict(), already_done=receipt.already_done)
    if as_json:
        print_json(receipt.as_dict())
    else:
        click.echo(summary(receipt.as_dict(), already_done=receipt.already_done))


@click.command()
@click.option("--keep", is_flag=True, help="Leave the server up until Ctrl-C.")
def demo(*, keep: bool) -> None:
    """The main job from end to end on an S3 server of its own. Needs a checkout and the extra 'demo'."""
    prepare_process()
    from batch import demo as demonstration

    progress = Progress("weekly-satisfaction", "text")  # only its bar: the demo tells start and end itself
    demonstration.demonstrate(keep=keep, say=click.echo, summary=summary, progress=progress.update)


def load(
    *,
    job: str,
    input_uri: str | None,
    output_uri: str | None,
    model: str | None,
    settings: tuple[str, ...],
    engine: str | None,
    workers: int | None,
) -> Job:
    """The job file with the command line's overrides."""
    import batch
    from batch.job_file import parse_setting

    overrides = {"input": input_uri, "output": output_uri, "model": model, "engine": engine, "workers": workers}
    return batch.load_job(job, set=dict(map(parse_setting, settings)), **overrides)


def read_time(text: str | None) -> datetime | None:
    """An aware time. Raises `UsageError` for what is not ISO 8601."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--now {text} is not an ISO 8601 time", hint="write --now 2026-11-16T06:00+01:00") from None
    if not 1900 < moment.year < 9000:
        raise UsageError(f"--now {text} is not a time that any period here lies near", hint="check the year")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
