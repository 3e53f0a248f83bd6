"""What all commands share: how errors and signals become messages and exit codes, and how documents are printed."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from batch.errors import BatchError, Interrupted, Terminated, UsageError

_JSON = "batch.json"
_LOG = "batch.log_format"
Command = TypeVar("Command", bound=Callable[..., Any])


class Program(click.Group):
    """A group whose commands may raise `BatchError`: it becomes two lines on stderr and the exit code of its class."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BatchError as error:
            _end(ctx, error, _exit_code(error))
        except KeyboardInterrupt as signalled:
            stopped = Interrupted.by(signalled)
            stopped.receipt = getattr(signalled, "receipt", None)
            _end(ctx, stopped, stopped.exit_code)


def _exit_code(error: BatchError) -> int:
    """Of the error's class; 143 where a SIGTERM lies behind an interruption, also one that the library translated."""
    if isinstance(error, Interrupted):
        behind: BaseException | None = error
        while behind is not None:
            if isinstance(behind, Terminated):
                return 143
            behind = behind.__cause__ or behind.__context__
    return error.exit_code


def _end(ctx: click.Context, error: BatchError, exit_code: int) -> NoReturn:
    if ctx.meta.get(_JSON):
        print_json(error.receipt or {"error": error.as_dict()})
    if ctx.meta.get(_LOG) == "json":
        log_json("failed", error=error.as_dict(), exit_code=exit_code)
    else:
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
    ctx.exit(exit_code)


def json_option(command: Command) -> Command:
    """``--json``; also makes an error of the command a document on stdout."""
    return click.option(
        "--json", "as_json", is_flag=True, callback=_remember(_JSON), help="One JSON document on stdout, nothing else."
    )(command)


def log_option(command: Command) -> Command:
    """``--log-format``; also decides how an error stands on stderr."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        callback=_remember(_LOG),
        help="Of progress and messages on stderr.",
    )(command)


def _remember(key: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        ctx.meta[key] = value
        return value

    return callback


def root_option(command: Command) -> Command:
    """``--root`` or ``$BATCH_ROOT``, passed to the command as an absolute `root`. Raises `UsageError` without either."""

    @functools.wraps(command)
    def with_root(*, root: str | None, **arguments: Any) -> Any:
        from batch.uri import normalise

        place = root or os.environ.get("BATCH_ROOT")
        if not place:
            raise UsageError("there is no root: neither --root nor $BATCH_ROOT is set", hint="add --root s3://bucket")
        return command(root=normalise(place), **arguments)

    return click.option("--root", metavar="URI", help="Where models and runs live; default: $BATCH_ROOT.")(with_root)  # type: ignore[return-value]


def print_json(document: Any) -> None:
    """One document on stdout. Times become ISO 8601."""
    click.echo(json.dumps(document, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def log_json(event: str, **facts: Any) -> None:
    """One event as one line on stderr."""
    click.echo(json.dumps({"event": event, **facts}, default=_plain, ensure_ascii=False), err=True)
