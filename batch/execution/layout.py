"""What the rows of a run look like: which columns are read for which model, and which are written to which file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batch.execution.columns import check_columns, check_types, read_options, with_kept, with_others
from batch.execution.variants import (
    DELIVERED,
    Shadow,
    Split,
    make_shadows,
    make_splits,
    split_columns,
)
from batch.formats import Column, ReadOptions, Shape, WriteOptions
from batch.job import Job
from batch.models.bundle import ResolvedModel

if TYPE_CHECKING:
    import pyarrow as pa

Fields = Sequence[tuple[str, str]]
"""Output columns besides the kept ones: (name, MLflow type)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """See `batch.execution.plan.Plan`, whose fields these are."""

    output_format: str
    read: ReadOptions
    write: WriteOptions
    id_column: str
    unique_id: str
    salt: str
    splits: tuple[Split, ...]
    shadows: tuple[Shadow, ...]
    captured: tuple[Column, ...]
    group_by: str


def make_layout(
    job: Job,
    models: Mapping[str, ResolvedModel],
    shapes: Sequence[Shape],
    input_format: str,
    output: tuple[str, str],
    outputs: Sequence[str],
) -> Layout:
    """Match models, inputs and outputs. `output`: (format, compression); `outputs`: the URIs. Raises `ModelRefused`."""
    output_format, _ = output
    splits = make_splits(job, models)
    kept = with_kept(job, read_options(job, models), shapes[0], input_format, output_format)
    writing = _Writing(job, kept, shapes[0], output)
    found = make_shadows(job, models, shapes, outputs)
    shadows = tuple(replace(one, write=writing.options(model.outputs.columns)) for one, model in found)
    needed = job.input.id if job.input.unique_id or splits or job.monitor.capture_rows else ""
    group_by = job.report.group_by if all(job.report.group_by in shape.columns for shape in shapes) else ""
    wanted = [column.name for one in shadows for column in one.columns if column.name not in one.lacking]
    return Layout(
        output_format=output_format,
        read=with_others(kept, [needed, group_by, *wanted]),
        write=writing.options((*models[DELIVERED].outputs.columns, *split_columns(splits))),
        id_column=needed,
        unique_id=job.input.id if job.input.unique_id else "",
        salt=job.salt or job.name,
        splits=splits,
        shadows=shadows,
        captured=_captured(kept.columns, job) if job.monitor.capture_rows else (),
        group_by=group_by,
    )


def _captured(columns: Sequence[Column], job: Job) -> tuple[Column, ...]:
    """What is kept of a row for the next training: the id as text, then what the delivering models are given; not what is denied."""
    others = [column for column in columns if column.name != job.input.id]
    return tuple(one for one in (Column(job.input.id, "string"), *others) if one.name not in job.monitor.capture_deny)


def check_layout(layout: Layout, job: Job, uris: Sequence[str], shapes: Sequence[Shape], input_format: str) -> None:
    """Refuse inputs whose columns are not what the models and the job need. Raises `SchemaMismatch`."""
    read, kept = layout.read, [name for name in layout.write.columns if name in layout.read.kept]
    for uri, shape in zip(uris, shapes, strict=True):
        check_columns(uri, shape, read, kept, job.input.id)
        if input_format == "parquet" and shape.arrow_schema:
            check_types(uri, shape, read, kept, layout.output_format, layout.id_column)


@dataclass(frozen=True, slots=True)
class _Writing:
    """How the files of a run are written, whoever gives the predictions in them."""

    job: Job
    kept: ReadOptions
    shape: Shape
    output: tuple[str, str]

    def options(self, columns: Fields) -> WriteOptions:
        """For a file with these columns behind the kept ones."""
        output_format, compression = self.output
        assert compression in {"", "gz", "zst"}
        return WriteOptions(
            columns=(*self.kept.kept, *(name for name, _ in columns)),
            delimiter=self.job.input.delimiter if output_format == "csv" else ",",
            compression=compression,  # type: ignore[arg-type]
            excel_safe=self.job.output.excel_safe,
            arrow_schema=self._schema(columns).serialize().to_pybytes() if output_format == "parquet" else b"",
            splice=self.kept.keep_line,
            joined=output_format == "parquet",
        )

    def _schema(self, columns: Fields) -> pa.Schema:
        """The types of a Parquet output: pinned once, so that no chunk can differ from another."""
        import pyarrow as pa

        from batch.formats.types import arrow_type

        types = {column.name: arrow_type(column.type) for column in self.kept.columns}
        known = self.shape.arrow_schema
        stored = pa.ipc.read_schema(pa.py_buffer(known)) if known else pa.schema([])
        there = set(stored.names)
        fields = []
        for name in self.kept.kept:
            kind = types.get(name)
            if kind is None:
                kind = stored.field(name).type if name in there else pa.string()
                kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            fields.append((name, kind))
        return pa.schema([*fields, *((name, arrow_type(kind)) for name, kind in columns)])
