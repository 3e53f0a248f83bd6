"""Which columns of an input are read: those of the model, those that are kept, and the id; refused where one is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from batch.errors import SchemaMismatch
from batch.execution.variants import DELIVERED, delivered_columns, make_splits, split_columns
from batch.formats import ReadOptions, Shape
from batch.job import Job
from batch.models.bundle import ResolvedModel


def read_options(job: Job, models: Mapping[str, ResolvedModel]) -> ReadOptions:
    """How the rows of a job are read for its models; what passes through to the output is not known yet: see `with_kept`."""
    splits = make_splits(job, models)
    return ReadOptions(
        columns=delivered_columns(models, splits),
        kept=(job.input.id,) if job.input.id and not job.input.header else (),
        delimiter=job.input.delimiter,
        header=job.input.header,
        null_values=job.input.null_values,
        max_record_bytes=job.input.max_record_bytes,
        on_null=job.checks.on_null,
        on_range=job.checks.on_range,
        on_category=job.checks.on_category,
        output_columns=(*models[DELIVERED].outputs.names, *(name for name, _ in split_columns(splits))),
    )


def with_kept(job: Job, read: ReadOptions, shape: Shape, input_format: str, output_format: str) -> ReadOptions:
    """The read options with the columns that pass through to the output, in its order."""
    everything = "*" in job.output.keep or not (job.output.keep or job.input.id)
    if everything and input_format == output_format == "jsonl":
        return replace(read, kept=(), keep_line=True)
    wanted = shape.columns if everything else job.output.keep or (job.input.id,)
    return replace(read, kept=tuple(dict.fromkeys(name for name in wanted if name)))


def with_others(read: ReadOptions, names: Iterable[str]) -> ReadOptions:
    """The read options with columns that somebody needs although they are neither the delivering models' nor kept."""
    signature = {column.name for column in read.columns}
    more = [name for name in dict.fromkeys(names) if name and name not in signature and name not in read.kept]
    return replace(read, kept=(*read.kept, *more))


def check_columns(uri: str, shape: Shape, read: ReadOptions, kept: Sequence[str], id_column: str) -> None:
    """Refuse missing columns before anything is scored; a wrongly spelt one is named with its nearest neighbour.

    `kept`: the columns of `read` that pass through to the output.
    """
    if not shape.columns and not shape.size_bytes:
        return
    wanted = [column.name for column in read.columns]
    passed = [*read.kept, *([id_column] if id_column and id_column not in read.kept else [])]
    missing = [name for name in dict.fromkeys((*wanted, *passed)) if name not in shape.columns]
    if not (shape.row_groups or shape.arrow_schema or shape.columns):
        missing = []  # no record has told its names
    if missing and shape.size_bytes:
        near = {name: _nearest(name, shape.columns) for name in missing}
        hints = [f"'{found}' looks like '{name}'" for name, found in near.items() if found]
        raise SchemaMismatch(
            f"{uri} has no column {', '.join(repr(name) for name in missing)}; "
            f"the model and the job need {len(wanted)} and {len(passed)} columns, {len(shape.columns)} are there",
            hint="; ".join(hints) or f"its columns are: {', '.join(shape.columns[:20])}",
        )
    if clash := [name for name in kept if name in read.output_columns]:
        raise SchemaMismatch(
            f"the kept column '{clash[0]}' of {uri} is named like an output column of the model",
            hint="leave it out of [output] keep",
        )


def _nearest(name: str, columns: tuple[str, ...]) -> str:
    """The column that looks most like `name`, whatever its case and blanks around it; "" where none does."""
    import difflib

    plain = {column.strip().casefold(): column for column in columns}
    found = difflib.get_close_matches(name.strip().casefold(), plain, 1, cutoff=0.6)
    return plain[found[0]] if found else ""


def check_types(
    uri: str, shape: Shape, read: ReadOptions, kept: Sequence[str], output_format: str, id_column: str
) -> None:
    """Refuse Parquet types that cannot become the signature's, and nested columns that no text format can hold."""
    import pyarrow as pa

    from batch.formats import parquet_read

    parquet_read.check_types(shape, read, uri)
    stored = parquet_read.schema_of(shape)
    if id_column and pa.types.is_nested(stored.field(id_column).type):
        raise SchemaMismatch(
            f"the id column '{id_column}' of {uri} is nested ({stored.field(id_column).type})",
            hint="name a column of texts or numbers in [input] id",
        )
    signature = {column.name for column in read.columns}
    for name in kept:
        if output_format != "parquet" and name not in signature and pa.types.is_nested(stored.field(name).type):
            raise SchemaMismatch(
                f"the kept column '{name}' of {uri} is nested ({stored.field(name).type}), which {output_format} cannot hold",
                hint="write Parquet, or leave the column out of [output] keep",
            )


def unused(shape: Shape, read: ReadOptions) -> list[str]:
    """The columns of the input that nobody reads."""
    used = {column.name for column in read.columns} | set(read.kept)
    return [] if read.keep_line else [name for name in shape.columns if name not in used]
