"""The rejects file beside an output: every row that was not scored, with its number and the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from batch import placeholders
from batch.errors import OutputRefused
from batch.execution.chunk import ChunkRecord, read_section
from batch.execution.commit import by_output
from batch.execution.inputs import Inputs
from batch.execution.plan import Plan
from batch.formats import FORMATS, SUFFIXES, ReadOptions, Shape, rejects, strip_suffixes
from batch.job import Job
from batch.period import Period
from batch.storage import storage_for


def rejects_uris(job: Job, period: Period | None, inputs: Inputs, plan: Plan) -> list[str]:
    """The rejects file of each output: the job's, else the output's name with ``.rejects`` and the input format's suffix."""
    if not job.rejects.uri:
        return [f"{strip_suffixes(output)}.rejects{SUFFIXES[plan.input_format]}" for output in plan.outputs]
    stems = {planned.output: file.stem for planned, file in zip(plan.files, inputs.files, strict=True)}
    return [
        placeholders.render(job.rejects.uri, period=period, run_id=plan.run_id, stem=stems[number])
        for number in range(len(plan.outputs))
    ]


def check_rejects(job: Job, plan: Plan, uris: list[str]) -> None:
    """Refuse a rejects file that would eat an input, an output or another rejects file. Raises `OutputRefused`."""
    if lacking := _lacking(job, plan):
        raise OutputRefused(
            f"[rejects] uri = {job.rejects.uri} names one file for different outputs: [output] uri = {job.output.uri}",
            hint=f"put {lacking} into [rejects] uri, or leave it out: then each rejects file stands beside its output",
        )
    if "{stem}" in job.rejects.uri and len(plan.files) > len(plan.outputs):
        raise OutputRefused(
            f"[rejects] uri = {job.rejects.uri} holds {{stem}}, but {len(plan.files)} inputs go into {len(plan.outputs)} outputs",
            hint="name it without {stem}, or give each input an output of its own",
        )
    taken = {file.name: "an input" for file in plan.files} | dict.fromkeys(plan.outputs, "the output")
    for uri in uris:
        if uri in taken:
            raise OutputRefused(
                f"the rejects file {uri} is also {taken[uri]}", hint="give [rejects] uri a name of its own"
            )
        taken[uri] = "another rejects file"


def _lacking(job: Job, plan: Plan) -> str:
    """The placeholder that tells outputs of the job apart, but not the rejects file that it names; "" where none is missing."""
    if not job.rejects.uri:
        return ""
    mine, outputs = placeholders.names_in(job.rejects.uri), placeholders.names_in(job.output.uri)
    per_run = "run_id" in mine
    per_input = job.output.uri.endswith("/") or "stem" in outputs
    if per_input and "stem" not in mine and (len(plan.outputs) > 1 or not per_run):
        return "{stem}"
    if placeholders.uses_period(job.output.uri) and not placeholders.uses_period(job.rejects.uri) and not per_run:
        return "{period}"
    return "{run_id}" if "run_id" in outputs and not mine else ""


def specs(uris: list[str], plan: Plan, records: list[ChunkRecord]) -> list[dict[str, Any]]:
    """What the rejects file of each output follows from, besides the staged chunks: JSON-ready, part of the commit."""
    return [_spec(uri, plan, mine) for uri, mine in zip(uris, by_output(plan, records), strict=True)]


def _spec(uri: str, plan: Plan, mine: list[ChunkRecord]) -> dict[str, Any]:
    counts = Counter(plan.tasks[record.index].file for record in mine)  # in the order of the chunks
    shape = plan.files[min(counts, default=0)].shape
    by_code: Counter[str] = Counter()
    for record in mine:
        by_code.update(record.by_code)
    return {
        "uri": uri,
        "rows": sum(record.rows_rejected for record in mine),
        "by_code": dict(by_code),
        "chunks": [record.index for record in mine],
        "inputs": [[plan.files[number].name, count] for number, count in counts.items()],
        "format": plan.input_format,
        "delimiter": plan.read.delimiter,
        "columns": list(shape.columns),
        "arrow_schema": shape.arrow_schema.hex(),
    }


def is_wanted(spec: dict[str, Any]) -> bool:
    """Where nothing was rejected, a file is written only over one that stands there already."""
    return bool(spec["rows"]) or storage_for(spec["uri"]).head(spec["uri"]) is not None


def bytes_of(spec: dict[str, Any], records: dict[int, ChunkRecord]) -> Iterator[bytes]:
    """The rejects file's bytes, from its spec and the staged chunks (by index) alone. Raises `ChunkDamaged`."""
    shape = Shape(tuple(spec["columns"]), 0, arrow_schema=bytes.fromhex(spec["arrow_schema"]))
    options = ReadOptions((), delimiter=spec["delimiter"])
    tables = _tables(spec, records)
    yield from FORMATS[spec["format"]].encode_rejects(options, shape, tables, len(spec["inputs"]) > 1)


def _tables(spec: dict[str, Any], records: dict[int, ChunkRecord]) -> Iterator[Any]:
    """Staged rejects with their final row numbers: 1-based in their file."""
    chunks = iter(spec["chunks"])
    for name, count in spec["inputs"]:
        before = 0
        for index in islice(chunks, count):
            record = records[index]
            table = rejects.from_bytes(read_section(record, "rejects"))
            if table is not None:
                table = rejects.shift(table, before + 1)
                yield _with_file(table, name) if len(spec["inputs"]) > 1 else table
            before += record.rows_read


def _with_file(table: Any, name: str) -> Any:
    import pyarrow as pa

    return table.add_column(0, "_file", pa.array([name] * table.num_rows, pa.string()))
