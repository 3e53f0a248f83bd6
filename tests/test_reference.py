"""Holds the generated pages to the code they are generated from."""

from pathlib import Path

import pytest

from batch.cli import program
from batch.reference import pages, size_text
from batch.units import parse_bytes

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["job-file.md", "job.schema.json", "commands.md"])
def test_page_is_current(name):
    """What `make docs` would write is what is there."""
    assert (DOCS / name).read_text("utf-8") == pages()[name], "run `make docs`"


def test_every_command_has_a_page():
    """No command is missing from docs/commands.md."""
    page = pages()["commands.md"]
    assert [name for name in program.commands if f"## batch-predict {name}\n" not in page] == []


@pytest.mark.parametrize("size_bytes", [0, 1, 1023, 1024, 2**20, 5 * 2**30, 2**20 + 1])
def test_sizes_read_back(size_bytes):
    """A default is shown in a spelling that a job file may use, and means the same."""
    assert parse_bytes(size_text(size_bytes)) == size_bytes
