"""The commit: one create-once record that fixes what the output is. From then on a run can only roll forward."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any

from batch.errors import InputChanged
from batch.execution.chunk import ChunkRecord
from batch.execution.identity import FORMAT, canonical
from batch.execution.plan import Plan
from batch.storage import join, storage_for


def make_commit(plan: Plan, records: list[ChunkRecord]) -> dict[str, Any]:
    """The commit document of a fully scored plan; every chunk ends where the next one starts."""
    check_chain(plan, records)
    outputs = []
    for number, uri in enumerate(plan.outputs):
        mine = [record for record in records if plan.files[plan.tasks[record.index].file].output == number]
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
        "chunks": [record.as_dict() for record in records],
        "outputs": outputs,
        "rows": {
            "read": sum(record.rows_read for record in records),
            "predicted": sum(record.rows_predicted for record in records),
            "rejected": sum(record.rows_rejected for record in records),
        },
    }


def check_chain(plan: Plan, records: list[ChunkRecord]) -> None:
    """I9 and the proof of the cuts: all chunks are there and tile every file without a gap."""
    assert [record.index for record in records] == [task.index for task in plan.tasks], "a chunk is missing"
    for number, file in enumerate(plan.files):
        mine = [record for record in records if plan.tasks[record.index].file == number]
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


def chunks_sha256(records: list[ChunkRecord]) -> str:
    """One digest of an output's content: over the ordered digests of its ``rows`` sections."""
    return hashlib.sha256("\n".join(record.sections["rows"].sha256 for record in records).encode()).hexdigest()


def store_commit(folder: str, document: dict[str, Any]) -> dict[str, Any]:
    """Decide. Gives the commit that rules: ours, or the one that another worker stored first."""
    uri = join(folder, "commit.json")
    if storage_for(uri).create(uri, canonical(document)):
        return document
    return load_commit(folder) or document


def load_commit(folder: str) -> dict[str, Any] | None:
    """The commit of a run, or None before it."""
    uri = join(folder, "commit.json")
    body = storage_for(uri).get(uri)
    document: dict[str, Any] | None = json.loads(body) if body is not None else None
    return document
