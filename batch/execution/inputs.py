"""Which objects a run reads: found, ordered, pinned and weighed before anything else happens."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass

from batch import placeholders
from batch.errors import InputEmpty, InputFormatError, InputMissing, InputTooLarge
from batch.formats import SUFFIXES, format_of, strip_suffixes
from batch.job import Job
from batch.period import Period
from batch.storage import ObjectInfo, normalise, storage_for
from batch.units import format_bytes
from batch.uri import parent

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
        pins, many = _from_listing(uri, prefix), True
    else:
        pins, prefix, many = [_pin(uri)], parent(uri), False
    files = tuple(_describe(pin, prefix, job) for pin in pins)
    _check(job, files)
    return Inputs(files, many)


def _pin(uri: str) -> ObjectInfo:
    pin = storage_for(uri).head(uri)
    if pin is None:
        raise InputMissing(f"there is no input {uri}", hint=_nearest(uri))
    return pin


def _nearest(uri: str) -> str:
    """Name the existing keys that look most like the missing one; looks at no more than 1,000."""
    folder = parent(uri)
    names = [info.uri for info, _ in zip(storage_for(uri).list(folder), range(1000), strict=False)]
    near = difflib.get_close_matches(uri, names, 3, cutoff=0.6) or names[-3:]
    return f"in {folder} there are: {', '.join(name[len(folder) :] for name in near)}" if near else f"{folder} is empty"


def _from_manifest(uri: str) -> list[ObjectInfo]:
    body = storage_for(uri).get(uri)
    if body is None:
        raise InputMissing(f"there is no manifest {uri}", hint=_nearest(uri))
    try:
        named = [str(entry["uri"]) for entry in json.loads(body)["files"]]
    except (ValueError, TypeError, KeyError):
        raise InputFormatError(
            f"{uri} is not a manifest", hint='write {"files": [{"uri": "s3://bucket/key"}]}'
        ) from None
    if not named:
        raise InputMissing(f"the manifest {uri} names no file")
    return [_pin(normalise(name, parent(uri))) for name in named]


def _from_listing(uri: str, prefix: str) -> list[ObjectInfo]:
    pattern = _pattern(uri) if uri != prefix else None
    found = [
        info
        for info in storage_for(prefix).list(prefix)
        if not _skipped(info.uri[len(prefix) :]) and (pattern is None or pattern.fullmatch(info.uri))
    ]
    if not found:
        raise InputMissing(f"no object matches {uri}", hint="keys that end in '/' or begin with '_' or '.' are skipped")
    return sorted(found, key=lambda info: info.uri.encode())


def _skipped(name: str) -> bool:
    return name.endswith("/") or not name or name.rsplit("/", 1)[-1][0] in "_."


def _pattern(uri: str) -> re.Pattern[str]:
    """A glob as a regular expression: ``*`` stays inside a folder, ``**`` does not."""
    rules = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", uri)
    return re.compile(
        "".join(rules.get(piece, piece if piece.startswith("[") else re.escape(piece)) for piece in pieces)
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
