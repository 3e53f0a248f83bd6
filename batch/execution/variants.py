"""Model variants of a run: those that share the delivered rows out between them, and shadows that score all rows on the side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batch.errors import ModelRefused
from batch.formats import Column, Shape, WriteOptions, strip_suffixes
from batch.job import Job, Variant
from batch.models.bundle import ResolvedModel

if TYPE_CHECKING:
    from batch.models.outputs import Outputs

DELIVERED = "champion"
"""Name of the variant that `Job.model` stands for."""
VARIANT, MODEL_VERSION = "variant", "model_version"
"""Output columns of a run whose rows are shared out."""

_INTEGERS = ("integer", "long")
_NUMBERS = (*_INTEGERS, "float", "double")


@dataclass(frozen=True, slots=True)
class Split:
    """A variant that scores its share of the delivered rows."""

    name: str
    weight: float
    """Of the champion: what the others leave."""
    version: int | str
    columns: tuple[Column, ...]
    """Of its own signature."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A variant that scores every delivered row without anybody seeing it; its file stands beside each output."""

    name: str
    columns: tuple[Column, ...]
    """Of its own signature."""
    output_types: tuple[str, ...]
    """Of its own output columns."""
    lacking: tuple[str, ...]
    """Columns of its signature that the input does not have: then it scores nothing."""
    write: WriteOptions
    outputs: tuple[str, ...]
    """URIs, one per output of the run."""

    @property
    def section(self) -> str:
        """Of a chunk object."""
        return f"shadow.{self.name}"


def splits_of(job: Job) -> list[Variant]:
    """The variants of the job file that take rows from the champion."""
    return [one for one in job.variants if one.mode == "split"]


def shadows_of(job: Job) -> list[Variant]:
    """The variants of the job file that only look on."""
    return [one for one in job.variants if one.mode == "shadow"]


def columns_of(model: ResolvedModel) -> tuple[Column, ...]:
    """A model's signature as a decoder needs it."""
    return tuple(
        Column(one.name, one.type, one.required, one.minimum, one.maximum, one.categories) for one in model.signature
    )


def make_splits(job: Job, models: Mapping[str, ResolvedModel]) -> tuple[Split, ...]:
    """The variants that deliver, in the order of the job file, the champion last; empty where it delivers alone.

    Raises `ModelRefused` where their output columns differ.
    """
    shares = splits_of(job)
    if not shares:
        return ()
    champion = models[DELIVERED]
    for one in shares:
        _check_equal(champion.outputs, models[one.name].outputs, one.name)
    rest = max(0.0, 1.0 - sum(one.weight for one in shares))
    weights = {**{one.name: one.weight for one in shares}, DELIVERED: rest}
    return tuple(
        Split(name, weight, _version(models[name]), columns_of(models[name])) for name, weight in weights.items()
    )


def _check_equal(champion: Outputs, other: Outputs, name: str) -> None:
    if champion.columns != other.columns:
        mine, theirs = (", ".join(f"{column} {kind}" for column, kind in one.columns) for one in (champion, other))
        raise ModelRefused(
            f"variant '{name}' gives the columns {theirs}, the champion gives {mine}: one file cannot hold both",
            hint='give it mode = "shadow": then it writes a file of its own',
        )


def _version(model: ResolvedModel) -> int | str:
    return model.sha256[:12] if model.version is None else model.version


def split_columns(splits: Sequence[Split]) -> tuple[tuple[str, str], ...]:
    """(name, type) of the output columns that tell who scored a row."""
    if not splits:
        return ()
    numbered = all(isinstance(one.version, int) for one in splits)
    return ((VARIANT, "string"), (MODEL_VERSION, "long" if numbered else "string"))


def delivered_columns(models: Mapping[str, ResolvedModel], splits: Sequence[Split]) -> tuple[Column, ...]:
    """The columns that a delivered row must have so that it satisfies the signature of each variant that may score it.

    Raises `ModelRefused` where no value could.
    """
    found = {column.name: column for column in columns_of(models[DELIVERED])}
    for split in splits:
        for column in split.columns:
            found[column.name] = _both(found[column.name], column, split.name) if column.name in found else column
    return tuple(found.values())


def _both(one: Column, other: Column, variant: str) -> Column:
    """The column whose values satisfy both."""
    return replace(
        one,
        type=_narrower(one, other, variant),
        required=one.required or other.required,
        minimum=_pick(max, one.minimum, other.minimum),
        maximum=_pick(min, one.maximum, other.maximum),
        categories=_common(one.categories, other.categories),
    )


def _narrower(one: Column, other: Column, variant: str) -> str:
    types = {one.type, other.type}
    if len(types) == 1:
        return one.type
    if not types <= set(_NUMBERS):
        raise ModelRefused(
            f"column '{one.name}' is {one.type} to the champion and {other.type} to variant '{variant}'",
            hint="register the variant with data of the same types",
        )
    return min(types & set(_INTEGERS), key=_INTEGERS.index, default="double")


def _pick(choose: Any, one: float | None, other: float | None) -> float | None:
    given = [each for each in (one, other) if each is not None]
    return choose(given) if given else None


def _common(one: tuple[Any, ...] | None, other: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if one is None or other is None:
        return one if other is None else other
    return tuple(each for each in one if each in other)


def make_shadows(
    job: Job, models: Mapping[str, ResolvedModel], shapes: Sequence[Shape], outputs: Sequence[str]
) -> Iterator[tuple[Shadow, ResolvedModel]]:
    """The shadows whose model is there, with it; how they write is not known yet."""
    for one in shadows_of(job):
        if (model := models.get(one.name)) is None:
            continue
        columns = columns_of(model)
        lacking = [column.name for column in columns if any(column.name not in shape.columns for shape in shapes)]
        uris = tuple(shadow_uri(uri, one.name) for uri in outputs)
        types = tuple(kind for _, kind in model.outputs.columns)
        yield Shadow(one.name, columns, types, tuple(lacking), WriteOptions(()), uris), model


def shadow_uri(output: str, name: str) -> str:
    """Where a shadow's file stands: the output's name with ``.shadow-<name>`` before its suffixes."""
    stem = strip_suffixes(output)
    return f"{stem}.shadow-{name}{output[len(stem) :]}"
