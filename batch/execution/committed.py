"""What commits say of the files that follow from them, taken apart once for all outputs of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batch.errors import OutputRefused, StorageUnavailable
from batch.execution.chunk import ChunkRecord, read_section, record_from_commit
from batch.execution.commit import load_commit, write_options_from_json
from batch.formats import FORMATS

COMMIT_KEY = "commit"
"""Name of the user metadata that ties a published object to its commit: ``<run_id>:<chunks_sha256>``."""

KEPT = 3
"""Commits that are kept in memory: a run's own, and those of runs that came in between. One may be 10 MB."""


class Commits:
    """Commits by run folder, each read once: they never change, and a run may have a thousand outputs."""

    def __init__(self) -> None:
        self._known: dict[str, Committed] = {}

    def files(self, folder: str, output: str) -> Files:
        """What the run in `folder` stands for under an output key. Raises `StorageUnavailable` where it has no commit."""
        if folder not in self._known:
            found = Committed(folder)
            self._known = dict([*self._known.items()][1 - KEPT :]) | {folder: found}
        return Files(self._known[folder], output)


class Committed:
    """One commit, its chunks by index and its outputs by URI."""

    def __init__(self, folder: str) -> None:
        document = load_commit(folder)
        if document is None or "write" not in document:
            raise StorageUnavailable(f"there is no commit in {folder}", hint="run the job again")
        self.folder = folder
        self.write: dict[str, Any] = document["write"]
        self.records = {one.index: one for one in (record_from_commit(folder, each) for each in document["chunks"])}
        pairs = zip(document["outputs"], document["rejects"], strict=True)
        self.outputs: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
            **{one["uri"]: (one, beside) for one, beside in pairs},
            **{one["uri"]: (one, None) for one in document.get("shadows", ())},
        }
        """Specs of all files with predictions by URI, each with that of its rejects file; a shadow's has none."""


class Files:
    """What one run's commit says of one file with predictions, and of its rejects file where it has one."""

    def __init__(self, commit: Committed, output: str) -> None:
        if output not in commit.outputs:
            raise OutputRefused(f"the run in {commit.folder} does not write {output}")
        spec, self.rejects = commit.outputs[output]
        self.output = output
        self.chunks: list[int] = spec["chunks"]
        self.records: dict[int, ChunkRecord] = commit.records
        self._section: str = spec.get("section", "rows")
        write = spec.get("write", commit.write)
        self._format = FORMATS[write["format"]]
        self._options = write_options_from_json(write)

    def bytes(self) -> Iterator[bytes]:
        """The output file, from the commit and the staged chunks alone. Raises `ChunkDamaged`."""
        sections = (read_section(self.records[index], self._section) for index in self.chunks)
        yield from self._format.assemble(self._options, sections)

    @property
    def size_bytes(self) -> int:
        """The output's size where the commit tells it (the text formats are concatenations), else -1."""
        if self._format.name == "parquet":
            return -1
        lengths = (self.records[index].sections[self._section].length for index in self.chunks)
        return len(self._format.header(self._options)) + sum(lengths)
