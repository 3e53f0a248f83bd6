"""``verify``, ``clean`` and ``doctor``: whether all is well, and putting it in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batch.cli.program import json_option, print_json, root_option
from batch.cli.text import table
from batch.errors import UsageError, VerificationFailed
from batch.units import format_bytes, parse_seconds

if TYPE_CHECKING:
    from datetime import timedelta


@click.command()
@click.argument("run")
@json_option
@root_option
@click.pass_context
def verify(ctx: click.Context, /, *, root: str, run: str, as_json: bool) -> None:
    """Read again everything the receipt of RUN names, and compare. Exits 7 on a difference.

    RUN is a run id, the beginning of one, or JOB@latest.
    """
    from batch.execution.verify import verify as verified

    found = verified(root, run)
    if as_json:
        print_json(found.as_dict())
        ctx.exit(VerificationFailed.exit_code if found.differences else 0)
    told = [one for one in found.findings if one.what != "chunk" or one.state != "ok"]
    click.echo(table(("WHAT", "STATE", "WHERE"), [(one.what, one.state, _where(one.uri, one.detail)) for one in told]))
    if found.differences:
        raise VerificationFailed(
            f"{len(found.differences)} of {len(found.findings)} things that run {found.run_id} names are not what its receipt says",
            hint="a deleted output or chunk comes back when the job is run again; a changed one must be deleted first, which is yours to decide",
        )
    click.echo(f"run {found.run_id}: {len(found.findings)} things compared, no difference")


def _where(uri: str, detail: str) -> str:
    return f"{uri} {detail}".strip() if detail else uri


@click.command()
@click.option("--older-than", default="7d", show_default=True, metavar="DURATION", help="Only what has rested so long.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
@root_option
def clean(*, root: str, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Give back the staged chunks of finished and dead runs, and uploads that were never finished.

    Outputs, receipts and models are not touched.
    """
    from batch.execution import clean as cleaning

    found = cleaning.clean(root, older_than=_age(older_than), dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "cleaned": [one.as_dict() for one in found]})
        return
    rows = [
        (one.action, one.job or "-", one.run_id or "-", str(one.objects), format_bytes(one.size_bytes), one.uri)
        for one in found
    ]
    click.echo(
        table(("ACTION", "JOB", "RUN", "OBJECTS", "SIZE", "WHERE"), rows, right=(3, 4)) if rows else "nothing to clean"
    )
    if dry_run and rows:
        click.echo("nothing was done (--dry-run)")


def _age(text: str) -> timedelta:
    from datetime import timedelta

    try:
        if text.strip().replace(".", "", 1).isdecimal() and float(text):
            raise ValueError(f"{text} has no unit")
        return timedelta(seconds=parse_seconds(text))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--older-than {text}: {error}", hint="write --older-than 7d") from None


@click.command()
@click.argument("uri", required=False)
@json_option
@click.pass_context
def doctor(ctx: click.Context, /, *, uri: str | None, as_json: bool) -> None:
    """Look for what stands in the way of a run: versions, credentials, clock, and what the store at URI really keeps.

    URI is a root such as s3://bucket/prefix; default: $BATCH_ROOT. The store is tried with a few small objects under it.
    """
    import os

    from batch.doctor import examine
    from batch.uri import normalise

    place = uri or os.environ.get("BATCH_ROOT")
    found = examine(normalise(place) if place else None)
    if as_json:
        print_json([one.as_dict() for one in found])
    else:
        for one in found:
            click.echo(f"{one.state:<8} {one.name}: {one.message}")
            if one.hint:
                click.echo(f"         hint: {one.hint}")
    ctx.exit(next((one.exit_code for one in found if one.exit_code), 0))
