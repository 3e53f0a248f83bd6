"""Publishing: a repeatable, byte-identical act that follows from the commit.

Which run's commit an output key holds is written in its register first (create-once, the highest number is the truth); whoever
publishes looks again afterwards and, if outrun, publishes the newest entry instead. So old and new never flip back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from batch import placeholders
from batch.errors import OutputRefused, StorageUnavailable
from batch.execution.chunk import ChunkRecord, read_section, record_from_commit
from batch.execution.commit import load_commit
from batch.execution.identity import canonical
from batch.execution.plan import Plan
from batch.formats import FORMATS, SUFFIXES, WriteOptions, rejects, strip_suffixes
from batch.job import Job
from batch.period import Period
from batch.storage import ObjectInfo, join, storage_for

COMMIT_KEY = "commit"
"""Name of the user metadata that ties a published object to its commit."""


@dataclass(frozen=True, slots=True)
class Published:
    """One output file as it stands."""

    uri: str
    size_bytes: int
    sha256: str
    etag: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an output's register."""

    n: int
    document: dict[str, Any]


def register_folder(root: str, output: str) -> str:
    """Where the register of an output lives."""
    return join(root, "outputs", hashlib.sha256(output.encode()).hexdigest()[:16])


def entries(root: str, output: str) -> list[Entry]:
    """The register of an output, oldest first."""
    folder = join(register_folder(root, output), "")
    storage = storage_for(folder)
    found = []
    for info in storage.list(folder):
        name = info.uri[len(folder) :]
        if "/" in name or not name.endswith(".json"):
            continue
        body = storage.get(info.uri)
        if body is not None:
            found.append(Entry(int(name[:-5]), json.loads(body)))
    return found


def check_ownership(job: Job, output: str) -> None:
    """Refuse to replace a file that this job did not write. Raises `OutputRefused`."""
    if job.output.replace == "any":
        return
    standing = storage_for(output).head(output)
    if standing is None:
        return
    if job.output.replace == "never":
        raise OutputRefused(
            f'{output} exists and [output] replace is "never"', hint="delete it or write somewhere else"
        )
    mine = [entry for entry in entries(job.root, output) if entry.document["job"] == job.name]
    if not any(holds(job.root, standing, entry) for entry in reversed(mine)):
        raise OutputRefused(
            f"{output} exists and was not written by job '{job.name}'",
            hint='write somewhere else, or set [output] replace = "any" to replace it',
        )


def holds(root: str, standing: ObjectInfo, entry: Entry) -> bool:
    """Whether the object under the output key is the one that a register entry stands for."""
    if COMMIT_KEY in standing.metadata:
        return standing.metadata[COMMIT_KEY] == str(entry.document["commit"])
    if _in_receipt(root, standing, entry.document):
        return True
    # A plain folder keeps no metadata, and the run died before its receipt: publish the same bytes again, into a hash.
    folder = join(root, "runs", entry.document["job"], entry.document["run_id"])
    try:
        expected = hashlib.sha256()
        for piece in _bytes_of(folder, standing.uri):
            expected.update(piece)
    except (StorageUnavailable, OutputRefused):
        return False
    return expected.hexdigest() == _sha256_of(standing)


def _in_receipt(root: str, standing: ObjectInfo, entry: dict[str, Any]) -> bool:
    """Whether the receipt of the entered run names exactly this object; it outlives the staged chunks."""
    uri = join(root, "done", entry["job"], entry["subject"], f"{entry['run_id']}.json")
    body = storage_for(uri).get(uri)
    outputs = json.loads(body)["output"] if body is not None else []
    return any(one["uri"] == standing.uri and one["etag"] == standing.etag for one in outputs)


def _sha256_of(info: ObjectInfo) -> str:
    digest = hashlib.sha256()
    for start in range(0, info.size_bytes, 8 << 20):
        digest.update(storage_for(info.uri).read(info, start, min(start + (8 << 20), info.size_bytes)))
    return digest.hexdigest()


def append(root: str, output: str, facts: dict[str, str]) -> int:
    """Enter a run as the output's newest, unless it is already; gives its number.

    `facts`: ``job``, ``run_id``, ``subject``, ``commit`` (what the published object is marked with) and ``at``.
    """
    while True:
        known = entries(root, output)
        if known and known[-1].document["run_id"] == facts["run_id"]:
            return known[-1].n
        n = known[-1].n + 1 if known else 1
        uri = join(register_folder(root, output), f"{n:08d}.json")
        document = {"format": 1, "output": output, **facts}
        if storage_for(uri).create(uri, canonical(document)):
            return n


def publish(root: str, output: str) -> Published:
    """Store what the newest register entry stands for under the output key, until it is the newest."""
    while True:
        newest = entries(root, output)[-1]
        folder = join(root, "runs", newest.document["job"], newest.document["run_id"])
        digest = hashlib.sha256()
        info = storage_for(output).replace(
            output,
            _hashed(_bytes_of(folder, output), digest),
            _size_of(folder, output),
            metadata={COMMIT_KEY: newest.document["commit"]},
        )
        if entries(root, output)[-1].n == newest.n:
            return Published(output, info.size_bytes, digest.hexdigest(), info.etag)


def _hashed(pieces: Iterable[bytes], digest: Any) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _size_of(folder: str, output: str) -> int:
    """The output's size where the commit tells it (the text formats are concatenations), else -1."""
    commit = load_commit(folder)
    if commit is None or commit["write"]["format"] == "parquet":
        return -1
    chunks: list[int] = next((one["chunks"] for one in commit["outputs"] if one["uri"] == output), [])
    lengths = {record.index: record.sections["rows"].length for record in _records(folder, commit)}
    header = FORMATS[commit["write"]["format"]].header(write_options_from_json(commit["write"]))
    return len(header) + sum(lengths[index] for index in chunks)


def _records(folder: str, commit: dict[str, Any]) -> list[ChunkRecord]:
    return [record_from_commit(folder, entry) for entry in commit["chunks"]]


def _bytes_of(folder: str, output: str) -> Iterator[bytes]:
    """The output file's bytes, from the commit and the staged chunks alone."""
    commit = load_commit(folder)
    if commit is None or "write" not in commit:
        raise StorageUnavailable(f"there is no commit in {folder}", hint="run the job again")
    spec = next((one for one in commit["outputs"] if one["uri"] == output), None)
    if spec is None:
        raise OutputRefused(f"the run in {folder} does not write {output}")
    records = {one.index: one for one in _records(folder, commit)}
    options = write_options_from_json(commit["write"])
    sections = (read_section(records[index], "rows") for index in spec["chunks"])
    yield from FORMATS[commit["write"]["format"]].assemble(options, sections)


def write_options_to_json(plan: Plan) -> dict[str, Any]:
    """What publishing needs to know of the output's format; part of the commit."""
    write = plan.write
    return {
        "format": plan.output_format,
        "columns": list(write.columns),
        "delimiter": write.delimiter,
        "compression": write.compression,
        "excel_safe": write.excel_safe,
        "arrow_schema": write.arrow_schema.hex(),
        "splice": write.splice,
    }


def write_options_from_json(document: dict[str, Any]) -> WriteOptions:
    """The inverse of `write_options_to_json`."""
    return WriteOptions(
        columns=tuple(document["columns"]),
        delimiter=document["delimiter"],
        compression=document["compression"],
        excel_safe=document["excel_safe"],
        arrow_schema=bytes.fromhex(document["arrow_schema"]),
        splice=document["splice"],
    )


def rejects_uris(job: Job, period: Period | None, plan: Plan) -> list[str]:
    """The rejects file of each output: the job's, else the output's name with ``.rejects`` and the input format's suffix."""
    own = job.rejects.uri if len(plan.outputs) == 1 or "{stem}" in job.rejects.uri else ""
    return [
        placeholders.render(own, period=period, run_id=plan.run_id, stem=strip_suffixes(output.rsplit("/", 1)[-1]))
        or f"{strip_suffixes(output)}.rejects{SUFFIXES[plan.input_format]}"
        for output in plan.outputs
    ]


def check_rejects(job: Job, period: Period | None, plan: Plan) -> None:
    """Refuse a rejects file that would eat an input, an output or another rejects file. Raises `OutputRefused`."""
    taken = {file.name: "an input" for file in plan.files} | dict.fromkeys(plan.outputs, "the output")
    for uri in rejects_uris(job, period, plan):
        if uri in taken:
            raise OutputRefused(
                f"the rejects file {uri} is also {taken[uri]}", hint="give [rejects] uri a name of its own"
            )
        taken[uri] = "another rejects file"


def publish_rejects(job: Job, period: Period | None, plan: Plan, records: list[ChunkRecord]) -> list[dict[str, Any]]:
    """Write the rejects files: one per output; where nothing was rejected only over one that stands there already."""
    published = []
    for number, uri in enumerate(rejects_uris(job, period, plan)):
        mine = [record for record in records if plan.files[plan.tasks[record.index].file].output == number]
        rows = sum(record.rows_rejected for record in mine)
        if not rows and storage_for(uri).head(uri) is None:
            continue
        files = {plan.tasks[record.index].file for record in mine}
        shape = plan.files[min(files, default=0)].shape
        with_file = len(files) > 1
        body = FORMATS[plan.input_format].encode_rejects(
            plan.read, shape, _reject_tables(plan, mine, with_file), with_file
        )
        storage_for(uri).replace(uri, body, -1)
        by_code: dict[str, int] = {}
        for record in mine:
            for code, count in record.by_code.items():
                by_code[code] = by_code.get(code, 0) + count
        published.append({"uri": uri, "rows": rows, "complete": True, "by_code": by_code})
    return published


def _reject_tables(plan: Plan, records: list[ChunkRecord], with_file: bool) -> Iterator[Any]:
    """Staged rejects with their final row numbers: 1-based in their file."""
    before: dict[int, int] = {}
    for record in records:
        number = plan.tasks[record.index].file
        table = rejects.from_bytes(read_section(record, "rejects"))
        if table is not None:
            table = rejects.shift(table, before.get(number, 0) + 1)
            if with_file:
                import pyarrow as pa

                names = pa.array([plan.files[number].name] * table.num_rows, pa.string())
                table = table.add_column(0, "_file", names)
            yield table
        before[number] = before.get(number, 0) + record.rows_read
