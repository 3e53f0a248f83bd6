"""``runs`` and ``show``: what happened."""

from __future__ import annotations

import click

from batch.cli.program import json_option, print_json, root_option
from batch.cli.score import TRIGGERS
from batch.cli.text import runs_table, summary

STATES = (
    "running", "silent", "lost", "interrupted", "failed", "parked", "completed", "completed_with_rejects", "superseded",
    "abandoned",
)  # fmt: skip


@click.command()
@click.option("--job", metavar="NAME", help="Only of this job.")
@click.option("--state", type=click.Choice(STATES), help="Only in this state.")
@click.option("--period", help="Only about this period.")
@click.option("--trigger", type=click.Choice(TRIGGERS), help="Only asked for by this trigger.")
@click.option("--input", "input_part", metavar="TEXT", help="Only with this text in the URI of an input.")
@json_option
@root_option
def runs(
    *,
    root: str,
    job: str | None,
    state: str | None,
    period: str | None,
    trigger: str | None,
    input_part: str | None,
    as_json: bool,
) -> None:
    """List runs."""
    from batch.execution import history

    found = history.list_runs(root, job=job, state=state, period=period, trigger=trigger, input_part=input_part)
    if as_json:
        print_json(found)
    else:
        click.echo(runs_table(found))


@click.command()
@click.argument("run")
@json_option
@root_option
def show(*, root: str, run: str, as_json: bool) -> None:
    """The receipt of RUN: a run id, the beginning of one, or JOB@latest."""
    from batch.execution import history

    receipt = history.find_run(root, run)
    if as_json:
        print_json(receipt)
    else:
        click.echo(summary(receipt))
