"""From a TOML file, overrides and the environment to a checked `Job`; all problems are reported at once."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from batch import placeholders
from batch.errors import JobInvalid, UsageError
from batch.job import Job
from batch.uri import normalise

_URI_KEYS = ("root", "model", "input.uri", "output.uri", "rejects.uri", "watch.prefix", "monitor.metrics")
_SHORTCUTS = {
    "input": "input.uri",
    "output": "output.uri",
    "model": "model",
    "root": "root",
    "engine": "run.engine",
    "workers": "run.workers",
}


def load(path_or_name: str, settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> Job:
    """See `batch.job.load_job`."""
    path = find(path_or_name)
    document = _read(path)
    for key, value in settings.items():
        _put(document, key, value)
    _absolute(document, os.path.dirname(os.path.abspath(path)))
    for name, value in overrides.items():
        if name not in _SHORTCUTS:
            raise UsageError(f"load_job() has no override '{name}'", hint="use set={'section.key': value}")
        if value is not None:
            key = _SHORTCUTS[name]
            _put(document, key, normalise_value(key, value, os.getcwd()))
    if os.environ.get("BATCH_ROOT") and overrides.get("root") is None:
        document["root"] = normalise(os.environ["BATCH_ROOT"], os.getcwd())
    return check(document, path)


def find(path_or_name: str) -> str:
    """The path of a job file; a bare name is looked up in ``$BATCH_JOBS`` or ``jobs/``. Raises `UsageError`."""
    if os.path.isfile(path_or_name):
        return path_or_name
    folder = os.environ.get("BATCH_JOBS") or "jobs"
    candidate = os.path.join(folder, path_or_name.removesuffix(".toml") + ".toml")
    if os.path.isfile(candidate):
        return candidate
    known = sorted(name[:-5] for name in os.listdir(folder) if name.endswith(".toml")) if os.path.isdir(folder) else []
    near = difflib.get_close_matches(path_or_name, known, 3) or known[:5]
    hint = f"in {folder}/ there are: {', '.join(near)}" if near else "give the path of a .toml file"
    raise UsageError(f"there is no job file '{path_or_name}' and no '{candidate}'", hint=hint)


def parse_setting(text: str) -> tuple[str, Any]:
    """``key.path=value`` with the value read as TOML, or as plain text where it is not TOML. Raises `UsageError`."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text} has no value", hint="write --set section.key=value")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    return key.strip(), value


def check(document: Mapping[str, Any], path: str) -> Job:
    """The document as a `Job`, or `JobInvalid` with every problem in it."""
    problems = list(_cross_problems(document))
    job = None
    try:
        job = Job.model_validate(document)
    except ValidationError as invalid:
        problems = [_sentence(one) for one in invalid.errors()] + problems
    if job is None or problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        error = JobInvalid(f"{path} has {count}:{lines}", hint="docs/job-file.md lists every key with its default")
        error.problems = tuple(problems)
        raise error
    return job


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise JobInvalid(
            f"{path} is not valid TOML: {error}", hint="strings need quotes; tables are written [input]"
        ) from None
    except UnicodeDecodeError as error:
        raise JobInvalid(f"{path} is not UTF-8 at byte {error.start}", hint="save the file as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a number is an index into a list of tables, one past the end appends."""
    *parents, last = key.split(".")
    node: Any = document
    for position, name in enumerate(parents):
        following = ([*parents, last])[position + 1]
        node = _step(node, name, [] if following.isdigit() else {}, key)
    if isinstance(node, list):
        _step(node, last, value, key)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise JobInvalid(f"{key} cannot be set: {'.'.join(parents)} is not a table")


def _step(node: Any, name: str, default: Any, key: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(name, default)
    if isinstance(node, list) and name.isdigit() and int(name) <= len(node):
        if int(name) == len(node):
            node.append(default)
        return node[int(name)]
    raise JobInvalid(f"{key} cannot be set: there is no '{name}' to set it in")


def _get(document: Mapping[str, Any], key: str) -> Any:
    node: Any = document
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _absolute(document: dict[str, Any], base: str) -> None:
    """Resolve relative paths against the job file's folder, wherever the program was started."""
    for key in _URI_KEYS:
        value = _get(document, key)
        if isinstance(value, str) and value:
            _put(document, key, normalise_value(key, value, base))
    variants = document.get("variants")
    for variant in variants if isinstance(variants, list) else ():
        if isinstance(variant, dict) and isinstance(variant.get("model"), str):
            variant["model"] = normalise_value("model", variant["model"], base)
    hook = _get(document, "monitor.on_failure")
    if isinstance(hook, list) and hook and isinstance(hook[0], str) and "/" in hook[0]:  # a bare name is one of $PATH
        hook[0] = os.path.normpath(os.path.join(base, hook[0]))


def normalise_value(key: str, value: Any, base: str) -> Any:
    """`value` with a relative path made absolute where `key` holds a URI; ``models:/…`` and ``off`` stay as they are."""
    if key not in _URI_KEYS or not isinstance(value, str) or value.startswith(("models:", "s3:")):
        return value
    if (key, value) == ("monitor.metrics", "off"):
        return value
    return normalise(value, base)


def _cross_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What no single key shows; reads the raw document so that it is reported together with everything else."""
    if not _get(document, "schedule.period"):
        for key in ("input.uri", "output.uri", "rejects.uri"):
            value = _get(document, key)
            if isinstance(value, str) and placeholders.uses_period(value):
                yield f'{key}: {value!r} needs a period; add [schedule] period = "week" (or hour, day, month)'
    if not _get(document, "input.uri") and not _get(document, "watch.prefix"):
        yield "input.uri: missing (or give [watch] prefix)"
    output = _get(document, "output.uri")
    only_watched = not _get(document, "input.uri") and _get(document, "watch.prefix") and isinstance(output, str)
    if only_watched and not output.endswith("/") and not placeholders.names_in(output) & {"stem", "run_id"}:
        yield f"output.uri: {output!r} would be the same for every dropped file; use {{stem}} or end it with '/'"
    if _get(document, "input.unique_id") is True and not _get(document, "input.id"):
        yield "input.id: required, because [input] unique_id is about it"
    if _get(document, "monitor.capture_rows") and not _get(document, "input.id"):
        yield "input.id: required, because [monitor] capture_rows keeps rows by it"
    prefix, metrics = _get(document, "watch.prefix"), _get(document, "monitor.metrics")
    if isinstance(metrics, str) and isinstance(prefix, str) and prefix and metrics.startswith(prefix):
        yield f"monitor.metrics: {metrics!r} lies inside the watched prefix {prefix!r}: it would be read as an input"
    variants = document.get("variants")
    if isinstance(variants, list) and variants:
        yield from _variant_problems(document, [one for one in variants if isinstance(one, Mapping)])


def _variant_problems(document: Mapping[str, Any], variants: list[Mapping[str, Any]]) -> Iterator[str]:
    names = [str(one.get("name")) for one in variants]
    if len(set(names)) < len(names) or "champion" in names:
        yield "variants: names must differ from each other and from 'champion'"
    weights = [one.get("weight", 0.0) for one in variants if one.get("mode", "split") == "split"]
    if all(isinstance(weight, (int, float)) for weight in weights) and sum(weights) > 1 + 1e-9:
        yield f"variants: the weights add up to {sum(weights):g}; at most 1 is possible"
    if weights and not _get(document, "input.id"):
        yield "input.id: required, because variants are assigned by it"


def _sentence(error: Mapping[str, Any]) -> str:
    """One pydantic error as ``key: what is wrong``."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(location)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}"


def _nearest(location: list[str]) -> str:
    """The closest valid name in the same table, or the table where the very name belongs."""
    *parents, name = location
    table = _model_at([part for part in parents if not part.isdigit()])
    near = difflib.get_close_matches(name, table.model_fields if table else (), 1, cutoff=0.5)
    if near:
        return f"; did you mean '{'.'.join([*parents, near[0]])}'?"
    homes = [f"[{section}]" for section, model in _tables().items() if name in model.model_fields]
    return f"; it belongs to {homes[0]}" if homes else ""


def _tables() -> dict[str, type[BaseModel]]:
    tables = {}
    for name, field in Job.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            tables[name] = field.annotation
    return tables


def _model_at(parents: list[str]) -> type[BaseModel] | None:
    from batch.job import Variant

    if not parents:
        return Job
    return Variant if parents == ["variants"] else _tables().get(parents[0])
