"""The plan: what is read, what is written, and where the input is cut. A pure function of inputs, models and job."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch.errors import InputTooLarge
from batch.execution.columns import check_columns, check_types, read_options, unique_id, unused, with_id, with_kept
from batch.execution.identity import FORMAT, library_versions
from batch.execution.inputs import InputFile, Inputs
from batch.execution.outputs import checked_outputs, names_of, output_format_of
from batch.formats import FORMATS, Cut, ReadOptions, Shape, WriteOptions
from batch.formats.compression import check_magic, spool
from batch.job import Job
from batch.models.bundle import ResolvedModel
from batch.period import Period
from batch.storage import ObjectInfo, Source, storage_for
from batch.units import format_bytes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

CHUNKS_MAX = 10_000
_RATIO_DEFAULT = {"csv": 200.0, "jsonl": 200.0, "parquet": 1000.0}
_RATIO_FROM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One input file as the workers read it."""

    pin: ObjectInfo
    """Of the bytes that are cut: the input itself, or its decompressed copy."""
    name: str
    """The input's own URI."""
    shape: Shape
    output: int
    """Index into `Plan.outputs`."""

    @property
    def source(self) -> Source:
        return Source(storage_for(self.pin.uri), self.pin, self.name)


@dataclass(frozen=True, slots=True)
class Task:
    """One chunk to be scored. Picklable; the same value gives the same bytes on every engine."""

    index: int
    file: int
    cut: Cut
    start: int | None
    """The proven start, or None to guess it."""
    stored: ObjectInfo | None = None
    """The chunk's object where an earlier attempt left one: used if all of its bytes prove right."""
    repeated: Repeated | None = None
    """Rows to reject because their id was seen before; such a task scores its chunk a second time, without them."""


@dataclass(frozen=True, slots=True, eq=False)
class Repeated:
    """Rows of one chunk, ascending, whose id an earlier row of the run has. The arrays are of one length."""

    rows: np.ndarray
    """int64: numbers in the chunk, from 0."""
    first_rows: np.ndarray
    """int64: of the first row with that id, in its file, from 1."""
    first_files: np.ndarray
    """int64: index of that file in `Plan.files`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a worker needs besides the model and a storage client; small and picklable."""

    run_id: str
    folder: str
    """URI of ``runs/<job>/<run_id>``."""
    input_format: str
    output_format: str
    read: ReadOptions
    write: WriteOptions
    files: tuple[PlannedFile, ...]
    outputs: tuple[str, ...]
    tasks: tuple[Task, ...]
    predict_rows: int
    chunk_seconds: float
    """How long one model call may take."""
    extra_columns: tuple[str, ...]
    """Columns of the input that nobody uses."""
    unique_id: str = ""
    """The id column, where no two rows may have the same."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Input columns in front of the predictions. `ReadOptions.kept` holds the id besides, where the run needs it."""
        return tuple(name for name in self.write.columns if name not in self.read.output_columns)

    def document(self, job: Job, inputs: Inputs, models: dict[str, ResolvedModel]) -> dict[str, Any]:
        """``plan.json``."""
        return {
            "format": FORMAT,
            "run_id": self.run_id,
            "job": job.name,
            "inputs": [
                {
                    "uri": file.pin.uri,
                    "etag": file.pin.etag,
                    "version_id": file.pin.version_id,
                    "size_bytes": file.pin.size_bytes,
                }
                for file in inputs.files
            ],
            "models": {name: {"uri": model.uri, "sha256": model.sha256} for name, model in models.items()},
            "columns": list(self.write.columns),
            "outputs": list(self.outputs),
            "cuts": [[task.file, task.cut.start, task.cut.end] for task in self.tasks],
            "config": job.model_dump(mode="json"),
            "libraries": library_versions(),
        }


def make_plan(
    job: Job, period: Period | None, inputs: Inputs, model: ResolvedModel, run: str, folder: str, scratch: str
) -> Plan:
    """Look at every input's head, match the columns with the model's signature, and cut. Scores nothing.

    `scratch`: a folder for decompressed copies. Raises `InputRefused` or `OutputRefused` for what can be known by now.
    """
    read = read_options(job, model)
    looked = [look(file, job, read, scratch, number) for number, file in enumerate(inputs.files)]
    shapes = [shape for _, shape in looked]
    _check_decoded(job, inputs, shapes)
    output_format, compression = output_format_of(job, inputs)
    kept = with_kept(job, read, shapes[0], inputs.format, output_format)
    read = with_id(job, kept)
    for file, shape in zip(inputs.files, shapes, strict=True):
        check_columns(file.pin.uri, shape, read, job.input.id)
        if inputs.format == "parquet" and shape.arrow_schema:
            check_types(file.pin.uri, shape, read, output_format, unique_id(job))
    outputs = checked_outputs(job, period, inputs, run)
    numbers = {name: number for number, name in enumerate(outputs)}
    targets = [numbers[name] for name in names_of(job, period, inputs, run)]
    files = tuple(
        PlannedFile(pin, file.pin.uri, shape, target)
        for (pin, shape), file, target in zip(looked, inputs.files, targets, strict=True)
    )
    write = _write_options(job, kept, model, shapes[0], output_format, compression)
    return Plan(
        run_id=run,
        folder=folder,
        input_format=inputs.format,
        output_format=output_format,
        read=read,
        write=write,
        files=files,
        outputs=tuple(outputs),
        tasks=tuple(_tasks(files, inputs.format, job.run.chunk_bytes)),
        predict_rows=job.run.predict_rows,
        chunk_seconds=job.run.chunk_seconds,
        extra_columns=tuple(unused(shapes[0], read)),
        unique_id=unique_id(job),
    )


def look(file: InputFile, job: Job, read: ReadOptions, scratch: str, number: int) -> tuple[ObjectInfo, Shape]:
    """The bytes to cut (a decompressed copy where the input is compressed) and their shape."""
    source = Source(storage_for(file.pin.uri), file.pin)
    if file.pin.size_bytes == 0:
        columns = tuple(column.name for column in read.columns)
        return file.pin, Shape(columns=columns, size_bytes=0, rows=0)
    check_magic(source.read(0, 64), file.format, file.compression, file.pin.uri)
    if file.compression:
        path = os.path.join(scratch, f"{number:06d}.{file.format}")
        ratio = job.input.max_ratio or _RATIO_DEFAULT[file.format]
        spool(source, file.compression, path, max_decompressed_bytes=job.input.max_decompressed_bytes, max_ratio=ratio)
        pin = storage_for(path).head(path)
        assert pin is not None, "the decompressed copy was just written"
        source = Source(storage_for(path), pin, file.pin.uri)
    return source.pin, FORMATS[file.format].inspect(source, read)


def _check_decoded(job: Job, inputs: Inputs, shapes: list[Shape]) -> None:
    """The limits on decoded bytes and rows that the shapes tell before anything is decoded."""
    decoded = sum(shape.size_bytes if shape.decoded_bytes is None else shape.decoded_bytes for shape in shapes)
    stored = sum(file.pin.size_bytes for file in inputs.files)
    name = inputs.files[0].pin.uri
    if decoded > job.input.max_decompressed_bytes:
        raise InputTooLarge(
            f"{name} decodes to about {decoded} bytes ({format_bytes(decoded)}), over the limit max_decompressed_bytes = "
            f"{job.input.max_decompressed_bytes} ({format_bytes(job.input.max_decompressed_bytes)})",
            hint="raise [input] max_decompressed_bytes, or split the file",
        )
    ratio = job.input.max_ratio or _RATIO_DEFAULT[inputs.format]
    if inputs.format == "parquet" and decoded > _RATIO_FROM_BYTES and decoded > ratio * stored:
        raise InputTooLarge(
            f"{name} decodes to about {decoded} bytes, {decoded / stored:.0f} times the {stored} stored, "
            f"over the limit max_ratio = {ratio:g}",
            hint="raise [input] max_ratio if the file is genuine",
        )
    rows = sum(shape.rows or 0 for shape in shapes)
    if job.input.max_rows and rows > job.input.max_rows:
        raise InputTooLarge(
            f"{name} has {rows} rows, over the limit max_rows = {job.input.max_rows}", hint="raise [input] max_rows"
        )


def _write_options(
    job: Job, read: ReadOptions, model: ResolvedModel, shape: Shape, output_format: str, compression: str
) -> WriteOptions:
    assert compression in {"", "gz", "zst"}
    return WriteOptions(
        columns=(*read.kept, *read.output_columns),
        delimiter=job.input.delimiter if output_format == "csv" else ",",
        compression=compression,  # type: ignore[arg-type]
        excel_safe=job.output.excel_safe,
        arrow_schema=_schema(read, model, shape).serialize().to_pybytes() if output_format == "parquet" else b"",
        splice=read.keep_line,
    )


def _schema(read: ReadOptions, model: ResolvedModel, shape: Shape) -> pa.Schema:
    """The types of a Parquet output: pinned once, so that no chunk can differ from another."""
    import pyarrow as pa

    from batch.formats.types import arrow_type

    types = {column.name: arrow_type(column.type) for column in read.columns}
    stored = pa.ipc.read_schema(pa.py_buffer(shape.arrow_schema)) if shape.arrow_schema else pa.schema([])
    fields = []
    for name in read.kept:
        kind = types.get(name)
        if kind is None:
            kind = stored.field(name).type if name in stored.names else pa.string()
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        fields.append((name, kind))
    return pa.schema([*fields, *((name, arrow_type(kind)) for name, kind in model.outputs.columns)])


def _tasks(files: tuple[PlannedFile, ...], input_format: str, chunk_bytes: int) -> list[Task]:
    """Cut every file; the chunk size doubles until there are no more than `CHUNKS_MAX` chunks."""
    while True:
        cuts = [
            (number, cut)
            for number, file in enumerate(files)
            for cut in (FORMATS[input_format].cut(file.shape, chunk_bytes) if file.shape.size_bytes else [])
        ]
        if len(cuts) <= max(CHUNKS_MAX, len(files)):
            break
        chunk_bytes *= 2
    tasks = []
    for index, (number, cut) in enumerate(cuts):
        first = index == 0 or cuts[index - 1][0] != number
        tasks.append(Task(index, number, cut, cut.start if first or input_format == "parquet" else None))
    return tasks
