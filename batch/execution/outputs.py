"""Which files a run writes: known from the job and the names of its inputs alone."""

from __future__ import annotations

import os

from batch import placeholders
from batch.errors import OutputRefused
from batch.execution.inputs import Inputs
from batch.formats import SUFFIXES, format_of
from batch.job import Job
from batch.period import Period
from batch.storage import join


def output_names(job: Job, period: Period | None, inputs: Inputs, run: str) -> list[str]:
    """The output files of a run, in the order of its inputs, each once: known before anything is read."""
    return list(dict.fromkeys(names_of(job, period, inputs, run)))


def names_of(job: Job, period: Period | None, inputs: Inputs, run: str) -> list[str]:
    """The output file of each input."""
    output_format, _ = output_format_of(job, inputs)
    uri = job.output.uri + ("{stem}" + SUFFIXES[output_format] if job.output.uri.endswith("/") else "")
    return [placeholders.render(uri, period=period, run_id=run, stem=file.stem) for file in inputs.files]


def owned(root: str, uri: str) -> str | None:
    """The folder of the root that an output would lie in and must not: what is there is read as records."""
    folders = (join(root, name, "") for name in ("models", "runs", "outputs", "done", "attempts", "probe"))
    return next((folder for folder in folders if uri.startswith(folder)), None)


def checked_outputs(job: Job, period: Period | None, inputs: Inputs, run: str) -> list[str]:
    """The output files. Raises `OutputRefused` where one would eat an input or another output."""
    named = names_of(job, period, inputs, run)
    outputs = output_names(job, period, inputs, run)
    per_input = job.output.uri.endswith("/") or "{stem}" in job.output.uri
    if per_input and len(outputs) < len(named):
        double = next(uri for uri in outputs if named.count(uri) > 1)
        raise OutputRefused(f"two inputs map to one output, {double}", hint="use {stem} so that each has its own")
    if per_input and (astray := next((file for file in inputs.files if ".." in file.stem.split("/")), None)):
        raise OutputRefused(
            f"the '..' in the key of {astray.pin.uri} would lead its output out of its folder",
            hint="copy the object to another key",
        )
    taken = {file.pin.uri for file in inputs.files}
    folder = placeholders.render(job.input.uri, period=period)
    for uri in outputs:
        if uri in taken:
            raise OutputRefused(f"the output {uri} is also an input", hint="write somewhere else")
        if not uri.startswith("s3://") and os.path.isdir(uri):
            raise OutputRefused(
                f"the output {uri} is a folder", hint="name a file, or end it with '/' for one per input"
            )
        if (own := owned(job.root, uri)) is not None:
            raise OutputRefused(
                f"the output {uri} lies in {own}, which is the program's own", hint="write somewhere else"
            )
        if inputs.many and folder.endswith("/") and uri.startswith(folder):
            raise OutputRefused(f"the output {uri} lies inside the input prefix {folder}", hint="write somewhere else")
        if job.watch.prefix and uri.startswith(job.watch.prefix):
            raise OutputRefused(
                f"the output {uri} lies inside the watched prefix {job.watch.prefix}", hint="write somewhere else"
            )
    return outputs


def output_format_of(job: Job, inputs: Inputs) -> tuple[str, str]:
    """(format, compression) of the outputs. Raises `OutputRefused` for compressed Parquet."""
    by_suffix, compression = format_of(job.output.uri)
    chosen = job.output.format or by_suffix or inputs.format
    if chosen == "parquet" and compression:
        raise OutputRefused(f"{job.output.uri} asks for compressed Parquet", hint="drop the .gz or .zst suffix")
    return chosen, compression
