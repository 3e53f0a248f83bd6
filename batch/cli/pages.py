"""The help pages as text, for the documentation."""

from __future__ import annotations

from collections.abc import Iterator

import click

WIDTH = 100


def help_pages(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """(full command, its ``--help`` page), groups before their commands."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, **command.context_settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from help_pages(found, child, context)
