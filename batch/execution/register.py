"""The register of an output: whose commit the key holds. Entries are create-once, and the highest number is the truth."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batch.errors import StorageUnavailable
from batch.execution import records
from batch.storage import join, storage_for

_ENTRY = re.compile(r"([0-9]{8,})\.json")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an output's register."""

    n: int
    """1-based."""
    document: dict[str, Any]

    @property
    def run_id(self) -> str:
        return str(self.document["run_id"])


def register_folder(root: str, output: str) -> str:
    """Where the register and the lease of an output live."""
    return join(root, "outputs", hashlib.sha256(output.encode()).hexdigest()[:16])


def numbers(root: str, output: str) -> list[int]:
    """The numbers of all entries, ascending: one LIST."""
    folder = join(register_folder(root, output), "")
    names = (info.uri[len(folder) :] for info in storage_for(folder).list(folder))
    return sorted(int(match[1]) for match in map(_ENTRY.fullmatch, names) if match)


def newest(root: str, output: str) -> Entry | None:
    """The entry that rules, or None while nobody has written this output."""
    known = numbers(root, output)
    return _read(root, output, known[-1]) if known else None


def newest_first(root: str, output: str) -> Iterator[Entry]:
    """All entries, each read when it is asked for."""
    for n in reversed(numbers(root, output)):
        yield _read(root, output, n)


def append(root: str, output: str, facts: dict[str, str]) -> int:
    """Enter a run as the output's newest, unless it is already; gives its number.

    `facts`: ``job``, ``run_id``, ``subject``, ``commit`` (what the published object is marked with) and ``at``.
    """
    while True:
        last = newest(root, output)
        if last is not None and last.run_id == facts["run_id"]:
            return last.n
        n = last.n + 1 if last is not None else 1
        if records.create(_uri(root, output, n), {"format": 1, "output": output, **facts}):
            return n


def _uri(root: str, output: str, n: int) -> str:
    return join(register_folder(root, output), f"{n:08d}.json")


def _read(root: str, output: str, n: int) -> Entry:
    uri = _uri(root, output, n)
    document = records.load(uri)
    if document is None:
        raise StorageUnavailable(f"{uri} is listed and cannot be read", hint="run again; nothing may delete it")
    return Entry(n, document)
