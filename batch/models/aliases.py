"""Aliases: append-only histories of which version a name like ``champion`` means.

``aliases/<alias>/<n:08d>.json`` is created once and never changed; the highest n is in force. Two people who promote at the
same time get two entries, one after the other, and nothing is lost.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from batch.errors import ModelMissing, ModelRefused
from batch.models import catalogue
from batch.storage import join, storage_for

FORMAT = 1

Action = Literal["set", "rollback"]


@dataclass(frozen=True, slots=True)
class AliasEntry:
    """One change of an alias."""

    n: int
    """1-based number of the entry in the alias' history."""
    version: int
    action: Action
    by: str
    at: str
    """UTC, ISO 8601."""
    restores: int | None = None
    """Of a rollback: the number of the ``set`` entry that is in force again."""


def history(root: str, name: str, alias: str) -> list[AliasEntry]:
    """Every entry of the alias, oldest first; empty where there is no such alias."""
    newest = catalogue.shelf(root, name).aliases.get(alias, 0)
    return [_read(root, name, alias, n) for n in range(1, newest + 1)]


def current(root: str, name: str, alias: str, newest: int) -> AliasEntry:
    """The entry in force, given the number of the newest one (see `catalogue.Shelf.aliases`)."""
    return _read(root, name, alias, newest)


def set_version(root: str, name: str, alias: str, version: int, by: str, *, after: int | None = None) -> AliasEntry:
    """Append a ``set`` entry. The caller has checked that the version exists.

    `after`: the number of the entry that must be the newest until then, 0 for none; raises `ModelRefused` where it is not.
    """

    def made(entries: Sequence[AliasEntry]) -> AliasEntry:
        if after is not None and len(entries) != after:
            raise ModelRefused(
                f"alias {alias!r} of model {name!r} was moved to version {entries[-1].version} in the meantime",
                hint="look at the new champion, and compare again",
            )
        return _entry(len(entries) + 1, version, "set", by)

    return _append(root, name, alias, made)


def roll_back(root: str, name: str, alias: str, by: str) -> AliasEntry:
    """Append the entry before the one in force. Raises `ModelMissing` when there is none."""

    def restored(entries: Sequence[AliasEntry]) -> AliasEntry:
        target = _before(entries, name, alias)
        return _entry(len(entries) + 1, target.version, "rollback", by, restores=target.n)

    return _append(root, name, alias, restored)


def _before(entries: Sequence[AliasEntry], name: str, alias: str) -> AliasEntry:
    """The last earlier entry in force with another version, so a rollback always changes something.

    A rollback stands for the entry it restores; walking back from there makes a second rollback go one further, and never
    returns to a version that somebody rolled away from.
    """
    if not entries:
        raise ModelMissing(f"model {name!r} has no alias {alias!r}", hint="set it with `models promote`")
    in_force = _origin(entries, entries[-1])
    earlier = in_force
    while earlier.n > 1:
        earlier = _origin(entries, entries[earlier.n - 2])
        if earlier.version != in_force.version:
            return earlier
    raise ModelMissing(
        f"alias {alias!r} of {name!r} means version {in_force.version} and meant no other version before",
        hint="choose a version with `models promote`",
    )


def _origin(entries: Sequence[AliasEntry], entry: AliasEntry) -> AliasEntry:
    return entry if entry.restores is None else entries[entry.restores - 1]


def _append(root: str, name: str, alias: str, make: Callable[[Sequence[AliasEntry]], AliasEntry]) -> AliasEntry:
    """Create the next entry; whoever loses the number reads the winner's entry and tries the next."""
    entries = history(root, name, alias)
    storage = storage_for(root)
    while True:
        entry = make(entries)
        # The nonce keeps two equal changes apart: creators of equal bytes may both be told that they won.
        body = {"format": FORMAT, **asdict(entry), "nonce": uuid.uuid4().hex}
        if storage.create(_uri(root, name, alias, entry.n), json.dumps(body, indent=2).encode()):
            return entry
        entries.append(_read(root, name, alias, entry.n))


def _entry(n: int, version: int, action: Action, by: str, restores: int | None = None) -> AliasEntry:
    return AliasEntry(n, version, action, by, datetime.now(UTC).isoformat(), restores)


def _uri(root: str, name: str, alias: str, n: int) -> str:
    return join(catalogue.alias_folder(root, name, alias), f"{n:08d}.json")


def _read(root: str, name: str, alias: str, n: int) -> AliasEntry:
    uri = _uri(root, name, alias, n)
    body = storage_for(root).get(uri)
    if body is None:
        raise ModelMissing(f"entry {n} of alias {alias!r} of model {name!r} is missing: {uri}")
    try:
        spec: dict[str, Any] = json.loads(body)
        return AliasEntry(n, int(spec["version"]), spec["action"], spec["by"], spec["at"], spec.get("restores"))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{uri} is not an alias entry: {error!r}") from error
