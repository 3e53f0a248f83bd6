"""The plan: what is read, what is written, and where the input is cut. A pure function of inputs, models and job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch.errors import InputTooLarge
from batch.execution.columns import read_options, unused
from batch.execution.identity import FORMAT, library_versions
from batch.execution.inputs import InputFile, Inputs
from batch.execution.layout import check_layout, make_layout
from batch.execution.outputs import checked_outputs, names_of, output_format_of
from batch.execution.variants import Shadow, Split, split_columns
from batch.formats import FORMATS, Column, Cut, ReadOptions, Shape, WriteOptions
from batch.formats.compression import check_magic, spool
from batch.job import Job
from batch.models.bundle import ResolvedModel
from batch.period import Period
from batch.storage import ObjectInfo, Source, storage_for
from batch.units import format_bytes

if TYPE_CHECKING:
    import numpy as np

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
    id_column: str = ""
    """The id, where the run itself needs it; then it is among the columns that are read, also if it is not kept."""
    unique_id: str = ""
    """The id column, where no two rows may have the same."""
    salt: str = ""
    """Of every hash of an id."""
    splits: tuple[Split, ...] = ()
    """The variants that deliver, where the champion does not do so alone."""
    shadows: tuple[Shadow, ...] = ()
    capture_rows: int = 0
    """How many rows of the input to keep for the next training."""
    captured: tuple[Column, ...] = ()
    """What is kept of them."""
    group_by: str = ""
    """The column whose values the report tells apart, where the input has it; then it is among those that are read."""

    @property
    def told(self) -> tuple[tuple[str, str], ...]:
        """(name, type) of the output columns that tell who scored a row."""
        return split_columns(self.splits)

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
            **({"shadows": {one.name: list(one.outputs) for one in self.shadows}} if self.shadows else {}),
            "cuts": [[task.file, task.cut.start, task.cut.end] for task in self.tasks],
            "config": job.model_dump(mode="json"),
            "libraries": library_versions(),
        }


def make_plan(
    job: Job,
    period: Period | None,
    inputs: Inputs,
    models: Mapping[str, ResolvedModel],
    run: str,
    folder: str,
    scratch: str,
) -> Plan:
    """Look at every input's head, match the columns with the model's signature, and cut. Scores nothing.

    `scratch`: a folder for decompressed copies. Raises `InputRefused` or `OutputRefused` for what can be known by now.
    """
    looked = [look(file, job, read_options(job, models), scratch, number) for number, file in enumerate(inputs.files)]
    shapes = [shape for _, shape in looked]
    _check_decoded(job, inputs, shapes)
    outputs = checked_outputs(job, period, inputs, run)
    layout = make_layout(job, models, shapes, inputs.format, output_format_of(job, inputs), outputs)
    check_layout(layout, job, [file.pin.uri for file in inputs.files], shapes, inputs.format)
    numbers = {name: number for number, name in enumerate(outputs)}
    targets = [numbers[name] for name in names_of(job, period, inputs, run)]
    files = tuple(
        PlannedFile(pin, file.pin.uri, shape, target)
        for (pin, shape), file, target in zip(looked, inputs.files, targets, strict=True)
    )
    return Plan(
        run_id=run,
        folder=folder,
        input_format=inputs.format,
        output_format=layout.output_format,
        read=layout.read,
        write=layout.write,
        files=files,
        outputs=tuple(outputs),
        tasks=tuple(_tasks(files, inputs.format, job.run.chunk_bytes)),
        predict_rows=job.run.predict_rows,
        chunk_seconds=job.run.chunk_seconds,
        extra_columns=tuple(unused(shapes[0], layout.read)),
        id_column=layout.id_column,
        unique_id=layout.unique_id,
        salt=layout.salt,
        splits=layout.splits,
        shadows=layout.shadows,
        capture_rows=job.monitor.capture_rows,
        captured=layout.captured,
        group_by=layout.group_by,
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
