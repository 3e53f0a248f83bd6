"""``evaluate``: how good delivered predictions were, by labels that arrive late."""

from __future__ import annotations

import click

from batch.cli.program import json_option, print_json
from batch.cli.score import read_time


@click.command()
@click.argument("job")
@click.option("--labels", required=True, metavar="URI", help="A file with the job's id column and the labels.")
@click.option("--label-column", default="label", show_default=True, metavar="COLUMN", help="The labels in that file.")
@click.option("--period", metavar="PERIOD", help="For example 2026-W46; default: the newest that was run.")
@click.option("--now", metavar="TIME", help="ISO 8601: act as if it were then, and judge the last complete period.")
@click.option("--run", "run_id", default="", metavar="RUN", help="This run of the job instead.")
@click.option("--group-by", default="", metavar="COLUMN", help="Of the output. Default: the job's [report] group_by.")
@click.option(
    "--minimum",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    help="Labelled rows, of a model or a group, below which nothing is judged.",
)
@json_option
def evaluate(
    *,
    job: str,
    labels: str,
    label_column: str,
    period: str | None,
    now: str | None,
    run_id: str,
    group_by: str,
    minimum: int,
    as_json: bool,
) -> None:
    """Say how good the predictions of JOB were, by labels that became known later.

    How many rows have a label; then, per model and per group, the metrics with 95 % intervals beside the values that the model was
    registered with, and whether it predicts too much or too little. Recorded beside the run; exits 0 also when the model is degraded.
    """
    import batch
    from batch.monitor.evaluate import evaluate as evaluated
    from batch.monitor.evaluate_text import evaluation_text

    found = evaluated(
        batch.load_job(job),
        labels=labels,
        label_column=label_column,
        period=period,
        now=read_time(now),
        run=run_id,
        group_by=group_by,
        minimum=minimum,
    )
    if as_json:
        print_json({"uri": found.uri, "already_evaluated": not found.is_new, **found.document})
        return
    click.echo(evaluation_text(found.document))
    when = f"this was evaluated before, at {found.document['evaluated_at']}, and is read back"
    click.echo(f"\n{'recorded' if found.is_new else when}: {found.uri}")
