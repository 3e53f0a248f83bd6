"""``monitor check``: for the scheduler that asks, after a run, whether somebody should look."""

from __future__ import annotations

from typing import Any

import click

from batch.cli.program import json_option, print_json
from batch.cli.score import read_time


@click.group()
def monitor() -> None:
    """Whether the rows and the predictions of a run are what they used to be."""


@monitor.command()
@click.argument("job")
@click.option("--period", metavar="PERIOD", help="For example 2026-W46; default: the one that ended last.")
@click.option("--now", metavar="TIME", help="ISO 8601, UTC unless it says otherwise: act as if it were then.")
@json_option
@click.pass_context
def check(ctx: click.Context, /, *, job: str, period: str | None, now: str | None, as_json: bool) -> None:
    """Exit 0, 10 (warning) or 20 (alert) by the drift of the completed run of a period, and by its late labels."""
    import batch
    from batch.monitor.check import EXIT_CODES
    from batch.monitor.check import check as checked

    found: dict[str, Any] = checked(batch.load_job(job), period=period, now=read_time(now))
    if as_json:
        print_json(found)
    else:
        from batch.cli.text import monitor_text

        click.echo(monitor_text(found))
    ctx.exit(EXIT_CODES[found["state"]])
