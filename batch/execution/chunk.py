"""The chunk object: one immutable object per chunk, a first line of JSON and then its sections.

One object, so that a chunk is whole or absent. The key carries the range, so that a chunk whose guessed start proved wrong
never stands in the way of the right one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batch.errors import InputChanged, StorageUnavailable
from batch.storage import ObjectInfo, join, storage_for
from batch.uri import parent

FORMAT = 1
SECTIONS = ("rows", "rejects", "profile", "capture", "ids")
PROFILE_KEPT = 64 << 10
"""Bytes of a profile that stay with the record of its chunk, so that nobody needs to read it again."""
UNIQUE = ".unique"
"""Ends the key of a chunk that was scored a second time, without the rows whose id was seen before."""
_KEY = re.compile(r"([0-9]{8})\.([0-9]+)-([0-9]+)")


class ChunkDamaged(StorageUnavailable):
    """A committed chunk is gone or holds other bytes; scoring it again must give the ones that the commit names."""

    def __init__(self, record: ChunkRecord, what: str) -> None:
        super().__init__(
            f"the staged chunk {record.uri} {what}",
            hint="run the job again: it scores this chunk anew and compares; if that fails, use --force",
        )
        self.record = record


@dataclass(frozen=True, slots=True)
class Section:
    """Where a section lies in its object and what its bytes hash to."""

    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """What the coordinator and the commit know of one scored chunk."""

    index: int
    uri: str
    start: int
    """First input byte (text) or row (Parquet) of the chunk."""
    end: int
    """The one after its last."""
    size_bytes: int
    rows_read: int
    rows_predicted: int
    rows_rejected: int
    decoded_bytes: int
    by_code: dict[str, int]
    sections: dict[str, Section]
    variants: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Per variant: rows that it scored, and what a shadow said first of those that it could not. Empty without variants."""
    reused: bool = False
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds per phase; empty for a reused chunk."""
    profile: bytes | None = field(default=None, repr=False)
    """Its section of that name where the object was at hand, unless it is over `PROFILE_KEPT`; None: it must be read."""

    def as_dict(self) -> dict[str, Any]:
        """The chunk as it stands in ``commit.json``."""
        return {
            "key": self.uri.rsplit("/", 1)[-1],
            "start": self.start,
            "end": self.end,
            "size_bytes": self.size_bytes,
            "rows": {"read": self.rows_read, "predicted": self.rows_predicted, "rejected": self.rows_rejected},
            "by_code": self.by_code,
            **({"variants": self.variants} if self.variants else {}),
            "sections": {name: [one.offset, one.length, one.sha256] for name, one in self.sections.items()},
        }


def key_of(index: int, start: int, end: int, *, unique: bool = False) -> str:
    """Name a chunk object by its number and the range it covers."""
    return f"{index:08d}.{start}-{end}{UNIQUE if unique else ''}"


def parse_key(uri: str) -> tuple[int, int, int] | None:
    """(index, start, end) of a chunk object of the first pass, or None for a name that is none."""
    match = _KEY.fullmatch(uri.rsplit("/", 1)[-1])
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def pack(facts: Mapping[str, Any], sections: Mapping[str, bytes]) -> bytes:
    """The object's bytes: the header line, then the sections in the order of `SECTIONS`, then those of shadows."""
    table = {}
    offset = 0
    names = (*SECTIONS, *sorted(set(sections) - set(SECTIONS)))
    for name in names:
        body = sections.get(name, b"")
        table[name] = [offset, len(body), hashlib.sha256(body).hexdigest()]
        offset += len(body)
    head = json.dumps({"format": FORMAT, **facts, "sections": table}, sort_keys=True).encode()
    seal = hashlib.sha256(head).hexdigest().encode()
    return b"".join([head, b" ", seal, b"\n", *(sections.get(name, b"") for name in names)])


def record_of(uri: str, body: bytes, *, reused: bool, phases: dict[str, float]) -> ChunkRecord:
    """The record of a whole chunk object. Raises ValueError where its first line is not what was written."""
    line, newline, _ = body.partition(b"\n")
    head, _, seal = line.rpartition(b" ")
    if hashlib.sha256(head).hexdigest().encode() != seal:
        raise ValueError("the first line does not fit its own digest")
    facts = json.loads(head)
    base = len(line) + len(newline)
    sections = {name: Section(base + one[0], one[1], one[2]) for name, one in facts["sections"].items()}
    profile = sections["profile"]
    return ChunkRecord(
        index=facts["index"],
        uri=uri,
        start=facts["start"],
        end=facts["end"],
        size_bytes=len(body),
        rows_read=facts["rows_read"],
        rows_predicted=facts["rows_predicted"],
        rows_rejected=facts["rows_rejected"],
        decoded_bytes=facts["decoded_bytes"],
        by_code=facts["by_code"],
        sections=sections,
        variants=_variants(facts),
        reused=reused,
        phases=phases,
        profile=body[profile.offset : profile.offset + profile.length] if profile.length <= PROFILE_KEPT else None,
    )


def _variants(document: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    return {name: (int(rows), str(said)) for name, (rows, said) in document.get("variants", {}).items()}


def read_verified(info: ObjectInfo) -> ChunkRecord | None:
    """The record of a chunk that an earlier attempt stored, after every byte of it was compared; None where one differs.

    Its bytes go into the output unseen, and whoever stored it may be long gone: so nothing but the digests is believed.
    """
    try:
        body = storage_for(info.uri).read(info, 0, info.size_bytes)
        record = record_of(info.uri, body, reused=True, phases={})
    except (InputChanged, ValueError, KeyError, TypeError):
        return None
    whole = all(
        hashlib.sha256(body[one.offset : one.offset + one.length]).hexdigest() == one.sha256
        for one in record.sections.values()
    )
    named = parse_key(info.uri.removesuffix(UNIQUE))
    return record if whole and named == (record.index, record.start, record.end) else None


def record_from_commit(folder: str, entry: Mapping[str, Any]) -> ChunkRecord:
    """The record of a chunk as `ChunkRecord.as_dict` wrote it into the commit of the run in `folder`.

    A retry's commit names the chunks of the run that it mends with the id of that run.
    """
    rows = entry["rows"]
    home = join(parent(folder), entry["run"]) if "run" in entry else folder
    return ChunkRecord(
        index=int(entry["key"].partition(".")[0]),
        uri=join(home, "chunks", entry["key"]),
        start=entry["start"],
        end=entry["end"],
        size_bytes=entry["size_bytes"],
        rows_read=rows["read"],
        rows_predicted=rows["predicted"],
        rows_rejected=rows["rejected"],
        decoded_bytes=0,
        by_code=entry["by_code"],
        sections={name: Section(*one) for name, one in entry["sections"].items()},
        variants=_variants(entry),
        reused=True,
    )


def read_section(record: ChunkRecord, name: str) -> bytes:
    """A section's bytes, checked against their digest. Raises `ChunkDamaged` when they differ or are gone."""
    section = record.sections[name]
    if not section.length:
        return b""
    storage = storage_for(record.uri)
    info = storage.head(record.uri)
    if info is None or info.size_bytes != record.size_bytes:
        found = "is gone" if info is None else f"has {info.size_bytes} bytes where {record.size_bytes} were committed"
        raise ChunkDamaged(record, found)
    try:
        body = storage.read(info, section.offset, section.offset + section.length)
    except InputChanged:
        raise ChunkDamaged(record, "was replaced while it was read") from None
    if (found := hashlib.sha256(body).hexdigest()) != section.sha256:
        raise ChunkDamaged(record, f"has sha256 {found} in its section '{name}', committed was {section.sha256}")
    return body
