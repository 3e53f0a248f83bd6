"""Which objects a run reads: found, ordered, pinned and weighed before anything else happens."""

from __future__ import annotations

import difflib
import json
import re
from collections import deque
from dataclasses import dataclass
from itertools import islice

from batch import placeholders
from batch.errors import InputChanged, InputEmpty, InputFormatError, InputMissing, InputTooLarge
from batch.formats import SUFFIXES, format_of, strip_suffixes
from batch.job import Job
from batch.period import Period
from batch.storage import ObjectInfo, normalise, storage_for
from batch.units import format_bytes
from batch.uri import parent

LOOK_AT, KEPT = 20_000, 2_000
"""Keys that are listed for a hint, and how many of the last of them are compared: the newest periods come last."""
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One pinned input object."""

    pin: ObjectInfo
    stem: str
    """Its path below the fixed prefix, without format suffixes: what ``{stem}`` stands for."""
    format: str
    compression: str
    """"" or ``gz`` or ``zst``."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All inputs of a run, in the order of their rows in the output."""

    files: tuple[InputFile, ...]
    many: bool
    """The job names a prefix, a glob or a manifest, however many objects it matched."""

    @property
    def format(self) -> str:
        return self.files[0].format


def find_inputs(job: Job, period: Period | None) -> Inputs:
    """Pin the job's inputs. Raises `InputMissing`, `InputEmpty`, `InputFormatError` or `InputTooLarge`."""
    uri = placeholders.render(job.input.uri, period=period)
    if not uri:
        raise InputMissing("the job names no input", hint="give --input URI")
    if uri.endswith(".json"):
        pins, prefix, many = _from_manifest(uri), parent(uri), True
    elif uri.endswith("/") or _GLOB.search(uri):
        prefix = parent(uri[: match.start()]) if (match := _GLOB.search(uri)) else uri
        pins, many = _from_listing(uri, prefix, job.input.uri), True
    else:
        pins, prefix, many = [_pin(uri, job.input.uri)], parent(uri), False
    files = tuple(_describe(pin, prefix, job) for pin in pins)
    _check(job, files)
    return Inputs(files, many)


def dropped_input(job: Job, listed: ObjectInfo) -> Inputs:
    """A dropped object as the one input, whatever its name looks like. Raises as `find_inputs`, and `InputChanged`."""
    pin = storage_for(listed.uri).head(listed.uri)
    if pin is None:
        raise InputMissing(f"{listed.uri} was deleted since it was listed")
    if pin.etag != listed.etag:
        raise InputChanged(f"{listed.uri} was replaced since it was listed", hint="its new version is another run")
    files = (_describe(pin, job.watch.prefix, job),)
    _check(job, files)
    return Inputs(files, many=False)


def _pin(uri: str, template: str = "") -> ObjectInfo:
    pin = storage_for(uri).head(uri)
    if pin is None:
        raise InputMissing(f"there is no input {uri}", hint=_nearest(uri, template or uri))
    return pin


def _nearest(uri: str, template: str) -> str:
    """Name the existing keys that look most like the missing one: in its folder, else below what all periods share."""
    for folder in dict.fromkeys((parent(uri), parent(template.partition("{")[0]))):
        names = [info.uri for info in deque(islice(storage_for(uri).list(folder), LOOK_AT), KEPT)]
        if names:
            near = difflib.get_close_matches(uri, names, 3, cutoff=0.6) or names[-3:]
            return f"in {folder} there are: {', '.join(name[len(folder) :] for name in near)}"
    return f"{folder} is empty"


def _from_manifest(uri: str) -> list[ObjectInfo]:
    body = storage_for(uri).get(uri)
    if body is None:
        raise InputMissing(f"there is no manifest {uri}", hint=_nearest(uri, uri))
    try:
        named = [str(entry["uri"]) for entry in json.loads(body)["files"]]
    except (ValueError, TypeError, KeyError):
        raise InputFormatError(
            f"{uri} is not a manifest", hint='write {"files": [{"uri": "s3://bucket/key"}]}'
        ) from None
    if not named:
        raise InputMissing(f"the manifest {uri} names no file")
    return [_pin(normalise(name, parent(uri))) for name in named]


def _from_listing(uri: str, prefix: str, template: str) -> list[ObjectInfo]:
    pattern = pattern_of(uri) if uri != prefix else None
    found = [
        info
        for info in storage_for(prefix).list(prefix)
        if not is_skipped(info.uri[len(prefix) :]) and (pattern is None or pattern.fullmatch(info.uri))
    ]
    if not found:
        hint = _nearest(uri, template) if "{" in template else ""
        raise InputMissing(
            f"no object matches {uri}", hint=hint or "keys that end in '/' or begin with '_' or '.' are skipped"
        )
    return sorted(found, key=lambda info: info.uri.encode())


def is_skipped(name: str) -> bool:
    """Whether a name below a prefix is not an input by convention: a folder marker, hidden, or ``_SUCCESS`` and its like."""
    return name.endswith("/") or not name or name.rsplit("/", 1)[-1][0] in "_."


def pattern_of(uri: str) -> re.Pattern[str]:
    """A glob as a regular expression: ``*`` stays inside a folder, ``**`` does not."""
    rules = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", uri)
    return re.compile(
        "(?s)" + "".join(rules.get(piece, piece if piece.startswith("[") else re.escape(piece)) for piece in pieces)
    )


def _describe(pin: ObjectInfo, prefix: str, job: Job) -> InputFile:
    format_name, compression = format_of(pin.uri)
    format_name = job.input.format or format_name
    if not format_name:
        raise InputFormatError(
            f"the name of {pin.uri} does not tell its format",
            hint='set [input] format = "csv", "jsonl" or "parquet", or use one of the suffixes '
            + " ".join(SUFFIXES.values()),
        )
    if compression and format_name == "parquet":
        raise InputFormatError(f"{pin.uri} is a compressed Parquet file", hint="Parquet compresses its own pages")
    return InputFile(pin, strip_suffixes(pin.uri[len(prefix) :]), format_name, compression)


def _check(job: Job, files: tuple[InputFile, ...]) -> None:
    """Everything that HEAD and LIST tell: one format, no empty object, no more bytes than allowed."""
    formats = sorted({file.format for file in files})
    if len(formats) > 1:
        raise InputFormatError(f"the inputs have different formats: {', '.join(formats)}", hint="name one with a glob")
    for file in files:
        if file.pin.size_bytes == 0 and not job.input.allow_empty:
            raise InputEmpty(f"{file.pin.uri} is empty (0 bytes)", hint="set [input] allow_empty = true to accept it")
    total = sum(file.pin.size_bytes for file in files)
    if total > job.input.max_bytes:
        raise InputTooLarge(
            f"the input is {total} bytes ({format_bytes(total)}), over the limit max_bytes = {job.input.max_bytes} "
            f"({format_bytes(job.input.max_bytes)}): {files[0].pin.uri}",
            hint="raise [input] max_bytes, or split the file",
        )
