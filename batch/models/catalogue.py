"""What stands in a registry: one listing of ``<root>/models/`` tells every name, version and alias.

A version exists once its ``model.json`` does; a number that was only claimed does not exist and is not given out again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from batch.errors import InputMissing, UsageError
from batch.storage import join, normalise, storage_for

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

CARD = "model.json"
CLAIM = "claim.json"


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is stored under one model name."""

    versions: set[int] = field(default_factory=set)
    claimed: set[int] = field(default_factory=set)
    """Every number that was ever given out, with or without a model."""
    aliases: dict[str, int] = field(default_factory=dict)
    """Alias -> number of its newest entry (not a version)."""


def check_name(name: str, what: str = "model name") -> str:
    """The name itself. Raises `UsageError` unless it matches ``[a-z0-9][a-z0-9._-]*``."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{what} {name!r} is not allowed",
            hint="use lower-case letters, digits, dots, underscores and hyphens, and begin with a letter or a digit",
        )
    return name


def models_folder(root: str) -> str:
    """``<root>/models/``, spelled as the store lists it."""
    return join(normalise(root), "models", "")


def version_folder(root: str, name: str, version: int) -> str:
    """The folder of one version, with the slash at its end."""
    return join(models_folder(root), name, str(version), "")


def alias_folder(root: str, name: str, alias: str) -> str:
    """The folder of an alias' entries, with the slash at its end."""
    return join(models_folder(root), name, "aliases", alias, "")


def shelf(root: str, name: str) -> Shelf:
    """What is stored under one name; empty where there is nothing."""
    return shelves(root, name).get(name, Shelf())


def shelves(root: str, name: str = "") -> dict[str, Shelf]:
    """Everything in the registry by name, or only what is stored under `name`."""
    folder = models_folder(root)
    prefix = join(folder, name, "") if name else folder
    found: dict[str, Shelf] = {}
    try:
        for info in storage_for(folder).list(prefix):
            key = info.uri[len(folder) :].split("/")
            if len(key) > 1:
                _note(found.setdefault(key[0], Shelf()), key[1:])
    except InputMissing:  # S3 says so for a bucket that does not exist: no registry, so no model
        return {}
    return found


def _note(entry: Shelf, key: list[str]) -> None:
    match key:
        case [version, file] if version.isascii() and version.isdigit():
            entry.claimed.add(int(version))
            if file == CARD:
                entry.versions.add(int(version))
        case ["aliases", alias, file] if re.fullmatch(r"\d{8}\.json", file):
            entry.aliases[alias] = max(int(file[:8]), entry.aliases.get(alias, 0))
