"""The commit: one create-once record that fixes what the output is. From then on a run can only roll forward."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from batch.errors import InputChanged
from batch.execution import records
from batch.execution.chunk import ChunkRecord
from batch.execution.identity import FORMAT
from batch.execution.plan import Plan
from batch.formats import WriteOptions
from batch.storage import join, storage_for

CLEANED = "cleaned.json"
UNPUBLISHED = "unpublished.json"
"""What a run over its reject budget would have committed: `retry` puts mended rows into it."""


def make_commit(plan: Plan, chunks: list[ChunkRecord]) -> dict[str, Any]:
    """The commit document of a fully scored plan; every chunk ends where the next one starts."""
    check_chain(plan, chunks)
    outputs = []
    for uri, mine in zip(plan.outputs, by_output(plan, chunks), strict=True):
        outputs.append(
            {
                "uri": uri,
                "chunks": [record.index for record in mine],
                "chunks_sha256": chunks_sha256(mine),
                "rows": sum(record.rows_predicted for record in mine),
                "columns": list(plan.write.columns),
            }
        )
    return {
        "format": FORMAT,
        "run_id": plan.run_id,
        "chunks": [record.as_dict() for record in chunks],
        "outputs": outputs,
        **({"shadows": [*_shadows(plan, chunks)]} if plan.shadows else {}),
        "rows": {
            "read": sum(record.rows_read for record in chunks),
            "predicted": sum(record.rows_predicted for record in chunks),
            "rejected": sum(record.rows_rejected for record in chunks),
        },
    }


def _shadows(plan: Plan, chunks: list[ChunkRecord]) -> Iterator[dict[str, Any]]:
    """What the files of the shadows follow from; each stands beside an output and has its rows."""
    for shadow in plan.shadows:
        for uri, mine in zip(shadow.outputs, by_output(plan, chunks), strict=True):
            yield {
                "uri": uri,
                "variant": shadow.name,
                "section": shadow.section,
                "chunks": [record.index for record in mine],
                "chunks_sha256": chunks_sha256(mine, shadow.section),
                "rows": sum(record.rows_predicted for record in mine),
                "columns": list(shadow.write.columns),
                "write": write_options_to_json(shadow.write, plan.output_format),
            }


def variants_of(chunks: Iterable[ChunkRecord]) -> dict[str, tuple[int, str]]:
    """Per variant: rows that it scored in all chunks, and what a shadow said first of those that it could not."""
    found: dict[str, tuple[int, str]] = {}
    for record in chunks:
        for name, (rows, said) in record.variants.items():
            before = found.get(name, (0, ""))
            found[name] = before[0] + rows, before[1] or said
    return found


def by_output(plan: Plan, chunks: list[ChunkRecord]) -> list[list[ChunkRecord]]:
    """The chunks of each output, in order."""
    found: list[list[ChunkRecord]] = [[] for _ in plan.outputs]
    for record in chunks:
        found[plan.files[plan.tasks[record.index].file].output].append(record)
    return found


def check_chain(plan: Plan, chunks: list[ChunkRecord]) -> None:
    """I9 and the proof of the cuts: all chunks are there and tile every file without a gap."""
    assert [record.index for record in chunks] == [task.index for task in plan.tasks], "a chunk is missing"
    of_file: list[list[ChunkRecord]] = [[] for _ in plan.files]
    for record in chunks:
        of_file[plan.tasks[record.index].file].append(record)
    for file, mine in zip(plan.files, of_file, strict=True):
        whole = file.shape.size_bytes if plan.input_format != "parquet" else file.shape.rows
        if mine and (mine[0].start != file.shape.data_start or mine[-1].end != whole):
            raise InputChanged(
                f"the chunks of {file.name} cover {mine[0].start} to {mine[-1].end} of {file.shape.data_start} to {whole}",
                hint="run again; if it repeats, the store returns different bytes for one version",
            )
        for one, following in pairwise(mine):
            if one.end != following.start:
                raise InputChanged(
                    f"chunk {one.index} of {file.name} ends at {one.end} but the next one starts at {following.start}",
                    hint="run again; if it repeats, the store returns different bytes for one version",
                )


def chunks_sha256(chunks: list[ChunkRecord], section: str = "rows") -> str:
    """One digest of a file's content: over the ordered digests of its sections."""
    return hashlib.sha256("\n".join(record.sections[section].sha256 for record in chunks).encode()).hexdigest()


def write_options_to_json(write: WriteOptions, output_format: str) -> dict[str, Any]:
    """What publishing needs to know of a file's format; part of the commit."""
    return {
        "format": output_format,
        "columns": list(write.columns),
        "delimiter": write.delimiter,
        "compression": write.compression,
        "excel_safe": write.excel_safe,
        "arrow_schema": write.arrow_schema.hex(),
        "splice": write.splice,
        "joined": write.joined,
    }


def write_options_from_json(document: Mapping[str, Any]) -> WriteOptions:
    """The inverse of `write_options_to_json`."""
    return WriteOptions(
        columns=tuple(document["columns"]),
        delimiter=document["delimiter"],
        compression=document["compression"],
        excel_safe=document["excel_safe"],
        arrow_schema=bytes.fromhex(document["arrow_schema"]),
        splice=document["splice"],
        joined=document.get("joined", False),
    )


def store_commit(folder: str, document: dict[str, Any]) -> dict[str, Any]:
    """Decide. Gives the commit that rules: ours, or the one that another worker (or `clean`) stored first."""
    if records.create(commit_uri(folder), document):
        return document
    return load_commit(folder) or document


def load_commit(folder: str) -> dict[str, Any] | None:
    """The commit of a run, or None before it."""
    return records.load(commit_uri(folder))


def commit_uri(folder: str) -> str:
    """Where the decision of a run stands."""
    return join(folder, "commit.json")


def is_abandoned(document: dict[str, Any] | None) -> bool:
    """Whether the decision was that this run will never publish."""
    return document is not None and bool(document.get("abandoned"))


def abandon(folder: str, at: str) -> bool:
    """Close a run that is dead: win its commit, so that nobody who wakes up later can. False where it has one already."""
    return records.create(commit_uri(folder), {"format": FORMAT, "abandoned": True, "at": at})


def mark_cleaned(folder: str, at: str) -> None:
    """Tell that staged chunks may be missing from now on because somebody deletes them on purpose."""
    records.create(join(folder, CLEANED), {"format": FORMAT, "at": at})


def is_cleaned(folder: str) -> bool:
    """Whether `clean` has begun to delete the run's staged chunks."""
    return storage_for(folder).head(join(folder, CLEANED)) is not None
