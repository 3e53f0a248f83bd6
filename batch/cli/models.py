"""``models``: the registry."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from batch.cli.compare import use_text
from batch.cli.program import json_option, print_json, root_option
from batch.cli.text import model_text, table
from batch.errors import UsageError


@click.group()
def models() -> None:
    """Register models, and say which version an alias means."""


@models.command("list")
@json_option
@root_option
def list_(*, root: str, as_json: bool) -> None:
    """List the models with their newest versions and aliases."""
    from batch.models import registry

    found = registry.list_models(root)
    if as_json:
        print_json([asdict(model) for model in found])
    elif found:
        aliases = [", ".join(f"{alias}={version}" for alias, version in model.aliases.items()) for model in found]
        rows = [(model.name, str(model.latest_version), names) for model, names in zip(found, aliases, strict=True)]
        click.echo(table(("NAME", "LATEST", "ALIASES"), rows, right=(1,)))
    else:
        click.echo("no models")


@models.command()
@click.argument("model", metavar="NAME[/V]")
@json_option
@root_option
def show(*, root: str, model: str, as_json: bool) -> None:
    """Show a version (default: the newest): signature, metrics, histories of its aliases, and which jobs used it last."""
    from batch.models import registry
    from batch.monitor.usage import used_by

    name, slash, version = model.partition("/")
    if slash and not (version.isascii() and version.isdigit() and int(version)):
        raise UsageError(f"'{version}' in {model} is not a version number", hint=f"write {name}/1")
    number = int(version) if slash else None
    card = registry.describe(root, name, number)
    card["used_by"] = used_by(root, name, number)
    if as_json:
        print_json(card)
    else:
        click.echo("\n".join([model_text(card), *map(use_text, card["used_by"])]))


@models.command()
@click.argument("name")
@click.argument("file")
@click.option("--data", required=True, metavar="FILE", help="The training data: .csv or .parquet.")
@click.option("--target", metavar="COLUMN", help="The column of the data that is not a feature.")
@click.option("--alias", metavar="ALIAS", help="Let this alias mean the new version.")
@click.option("--pickle-sha256", multiple=True, metavar="DIGEST", help="Of a .joblib or .pkl file that you trust.")
@json_option
@root_option
def register(
    *,
    root: str,
    as_json: bool,
    name: str,
    file: str,
    data: str,
    target: str | None,
    alias: str | None,
    pickle_sha256: tuple[str, ...],
) -> None:
    """Register the saved model FILE as the next version of NAME."""
    from batch.models import registry

    made = registry.register_file(
        file, name, data, root=root, target=target, alias=alias, pickle_sha256=pickle_sha256, by=user()
    )
    if as_json:
        print_json(asdict(made))
    else:
        click.echo(f"models:/{made.name}/{made.version}{f' is {alias}' if alias else ''}")


@models.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--to", "alias", required=True, metavar="ALIAS", help="For example champion.")
@click.option(
    "--if-better", "metric", default="", metavar="METRIC", help="Only if it beats the version the alias means now."
)
@click.option("--data", default="", metavar="FILE", help="With --if-better: measure it on this .csv or .parquet file.")
@click.option("--target", default="", metavar="COLUMN", help="The labels in the data.")
@click.option("--pickle-sha256", multiple=True, metavar="DIGEST", help="With --data: of a joblib model that you trust.")
@json_option
@root_option
def promote(
    *,
    root: str,
    as_json: bool,
    name: str,
    version: int,
    alias: str,
    metric: str,
    data: str,
    target: str,
    pickle_sha256: tuple[str, ...],
) -> None:
    """Let an alias mean VERSION of NAME from now on.

    With --if-better and a labelled file the difference must be more than chance; without a file the metrics stored at registration are
    compared.
    """
    if metric:
        from batch.monitor.promote import promote_if_better

        entry = promote_if_better(
            root, name, version, alias, metric, data=data, target=target, by=user(), pickle_sha256=pickle_sha256
        )
    elif data or target:
        raise UsageError("--data and --target say how to measure, but not what", hint="add --if-better METRIC")
    else:
        from batch.models import registry

        entry = registry.promote(root, name, version, alias, by=user())
    if as_json:
        print_json({"name": name, "alias": alias, **asdict(entry)})
    else:
        click.echo(f"models:/{name}@{alias} is version {entry.version}")


@models.command()
@click.argument("name")
@click.option("--alias", required=True, metavar="ALIAS", help="For example champion.")
@json_option
@root_option
def rollback(*, root: str, as_json: bool, name: str, alias: str) -> None:
    """Let an alias mean what it meant before; once more goes one further back."""
    from batch.models import registry

    entry = registry.rollback(root, name, alias, by=user())
    if as_json:
        print_json({"name": name, "alias": alias, **asdict(entry)})
    else:
        click.echo(f"models:/{name}@{alias} is version {entry.version} again")


def user() -> str:
    """Who is asking, for the alias history; empty where the environment does not say."""
    return os.environ.get("USER", "")
