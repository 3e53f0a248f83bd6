"""``report``: what people read about a period."""

from __future__ import annotations

import click

from batch.cli.program import json_option, print_json
from batch.cli.score import read_time


@click.command()
@click.argument("job")
@click.option("--period", metavar="PERIOD", help="For example 2026-W46; default: the one that ended last.")
@click.option("--now", metavar="TIME", help="ISO 8601, UTC unless it says otherwise: act as if it were then.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any key of the job file.")
@click.option("--no-deliver", is_flag=True, help="Print only: store no file and send no message.")
@json_option
def report(
    *, job: str, period: str | None, now: str | None, settings: tuple[str, ...], no_deliver: bool, as_json: bool
) -> None:
    """Report on the newest run of a period: a page, a workbook, JSON and a summary beside the predictions.

    Prints the summary. The message to [report] webhook is sent once per run.
    """
    import batch
    from batch.job_file import parse_setting
    from batch.report import deliver, numbers, words

    loaded = batch.load_job(job, set=dict(map(parse_setting, settings)))
    found = numbers.collect(loaded, period=period, now=read_time(now))
    delivered = None
    if not no_deliver:
        delivered = deliver.deliver_numbers(loaded, found, notice=lambda text: click.echo(f"notice: {text}", err=True))
    if as_json:
        print_json(found)
        return
    click.echo(words.summary(found), nl=False)
    if delivered and delivered.uris:
        click.echo()
        for kind, uri in delivered.uris.items():
            click.echo(f"{kind:<5} {uri}")
