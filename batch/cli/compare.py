"""``diff`` and ``models compare``: what two runs, or two models, say differently."""

from __future__ import annotations

from typing import Any

import click

from batch.cli.program import json_option, print_json, root_option
from batch.errors import UsageError


@click.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option("--group-by", default="", metavar="COLUMN", help="Of both outputs. Default: the job's [report] group_by.")
@json_option
@root_option
def diff(*, root: str, run_a: str, run_b: str, group_by: str, as_json: bool) -> None:
    """Say what changed from RUN_A to RUN_B: rows, scores and decisions of the same ids, also per group.

    Each is a run id, the beginning of one, or JOB@latest, completed.
    """
    from batch.monitor import text
    from batch.monitor.diff import diff as compared

    found = compared(root, run_a, run_b, group_by=group_by)
    if as_json:
        print_json(found)
    else:
        click.echo(text.diff_text(found))


@click.command()
@click.argument("name", required=False, default="")
@click.argument("first", required=False, default="")
@click.argument("second", required=False, default="")
@click.option("--run", "run_id", default="", metavar="RUN", help="Compare the variants of this run instead.")
@click.option("--data", default="", metavar="FILE", help="What both versions score: .csv or .parquet.")
@click.option("--target", default="", metavar="COLUMN", help="The labels in the data.")
@click.option("--labels", default="", metavar="URI", help="With --run: a file with the job's id column and the labels.")
@click.option("--label-column", default="label", show_default=True, metavar="COLUMN", help="The labels in that file.")
@click.option("--group-by", default="", metavar="COLUMN", help="Also compare group by group.")
@click.option("--pickle-sha256", multiple=True, metavar="DIGEST", help="Of a joblib model that you trust.")
@json_option
@root_option
def compare(
    *,
    root: str,
    name: str,
    first: str,
    second: str,
    run_id: str,
    data: str,
    target: str,
    labels: str,
    label_column: str,
    group_by: str,
    pickle_sha256: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare two versions (numbers or aliases) of NAME on a file, or the variants of a run.

    Agreement, score shift and decision flips; with labels, the metrics of both with the interval of their difference.
    """
    from batch.monitor import text

    if run_id and (name or data or target or pickle_sha256):
        raise UsageError("--run compares the variants of a run: it takes no model and no --data", hint="use --labels")
    if not run_id and labels:
        raise UsageError("--labels belongs to --run", hint="labels that stand in the data are named by --target COLUMN")
    if run_id:
        from batch.monitor.variants import compare_run

        found = compare_run(root, run_id, labels=labels, label_column=label_column, group_by=group_by)
    else:
        if not (name and first and second and data):
            raise UsageError(
                "name a model, two of its versions and a file", hint="models compare NAME 1 champion --data FILE"
            )
        from batch.monitor.compare import compare_models

        found = [
            compare_models(
                root,
                name,
                first,
                second,
                data=data,
                target=target,
                group_by=group_by,
                pickle_sha256=pickle_sha256,
            )
        ]
    if as_json:
        print_json(found if run_id else found[0])
    else:
        click.echo("\n\n".join(text.comparison_text(one) for one in found))


def use_text(one: dict[str, Any]) -> str:
    """Which job used a model, as a line of ``models show``."""
    role = f"{one['variant']}, shadow" if one["mode"] == "shadow" else one["variant"]
    return f"used by  {one['job']}: version {one['version']} ({role}), run {one['run_id']} of {one['finished_at']}"
