"""The reference pages, made from the code: ``python -m batch.reference`` writes them into ``docs/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from batch.cli import program
from batch.cli.pages import help_pages
from batch.job import Job
from batch.units import parse_bytes, parse_seconds

_GENERATED = "<!-- Written by `make docs` from the code; changes here are lost. -->\n"
_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
_UNITS = {parse_bytes: 'size, such as `"32MiB"`', parse_seconds: 'duration, such as `"90s"` or `"1h"`'}


def pages() -> dict[str, str]:
    """File name in ``docs/`` -> its text."""
    return {
        "job-file.md": job_file_page(),
        "job.schema.json": json.dumps(Job.model_json_schema(), indent=2) + "\n",
        "commands.md": commands_page(),
    }


def commands_page() -> str:
    """Every help page under the name of its command."""
    parts = [f"## {name}\n\n```text\n{page}\n```\n" for name, page in help_pages(program, "batch-predict")]
    return f"# Commands\n\n{_GENERATED}\n" + "\n".join(parts)


def job_file_page() -> str:
    """Every section and key of a job file."""
    intro = (
        "A job file is TOML. Relative paths in it count from its own folder; unknown keys are errors.\n"
        "`job.schema.json` beside this page lets an editor complete and check it.\n"
    )
    return f"# Job file\n\n{_GENERATED}\n{intro}\n" + "\n".join(_tables(Job, ""))


def _tables(model: type[BaseModel], heading: str) -> Iterator[str]:
    """The table of one section, then those of the sections in it."""
    sections = {name: found for name, field in model.model_fields.items() if (found := _section(field)) is not None}
    title = f"## `{heading}`\n\n{model.__doc__}\n\n" if heading else "## At the top\n\n"
    rows = [_row(name, field) for name, field in model.model_fields.items() if name not in sections]
    yield title + "| key | type | default | |\n|---|---|---|---|\n" + "".join(rows)
    for name, (section, repeated) in sections.items():
        yield from _tables(section, f"[[{name}]]" if repeated else f"[{name}]")


def _section(field: FieldInfo) -> tuple[type[BaseModel], bool] | None:
    """The model of a table, and whether it is a list of tables."""
    kinds = (field.annotation, *get_args(field.annotation))
    found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return (found[0], get_origin(field.annotation) is tuple) if found else None


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", _type(field.annotation, field.metadata), _default(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _type(annotation: Any, metadata: list[Any] | tuple[Any, ...]) -> str:
    for mark in metadata:
        if isinstance(mark, BeforeValidator) and mark.func in _UNITS:
            return _UNITS[mark.func]
    origin, inner = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__, annotation.__metadata__)
    if origin is Literal:
        return ", ".join(f'`"{value}"`' for value in inner)
    if origin is tuple:
        return f"list of {_type(inner[0], ())}"
    if origin in (UnionType, Union):
        return " or ".join(_type(kind, ()) for kind in inner if kind is not type(None))
    return _NAMES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "none"
    marks = [mark.func for mark in field.metadata if isinstance(mark, BeforeValidator)]
    if parse_bytes in marks:
        return f'`"{size_text(value)}"`'
    if parse_seconds in marks:
        return f'`"{value:g}s"`'
    return f"`{json.dumps(value)}`"


def size_text(size_bytes: int) -> str:
    """The largest binary unit that divides the size: 33554432 is ``32MiB``."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes and size_bytes % 2**power == 0:
            return f"{size_bytes >> power}{unit}"
    return f"{size_bytes}B"


def main() -> None:
    """Write the pages into ``docs/`` of the working directory."""
    Path("docs").mkdir(exist_ok=True)
    for name, text in pages().items():
        (Path("docs") / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
