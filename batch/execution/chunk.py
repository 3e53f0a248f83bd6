"""The chunk object: one immutable object per chunk, a first line of JSON and then its sections.

One object, so that a chunk is whole or absent. The key carries the range, so that a chunk whose guessed start proved wrong
never stands in the way of the right one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batch.errors import StorageUnavailable
from batch.storage import ObjectInfo, join, storage_for

FORMAT = 1
SECTIONS = ("rows", "rejects", "profile", "capture")
HEAD_BYTES = 64 << 10


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
    reused: bool = False
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds per phase; empty for a reused chunk."""

    def as_dict(self) -> dict[str, Any]:
        """The chunk as it stands in ``commit.json``."""
        return {
            "key": self.uri.rsplit("/", 1)[-1],
            "start": self.start,
            "end": self.end,
            "size_bytes": self.size_bytes,
            "rows": {"read": self.rows_read, "predicted": self.rows_predicted, "rejected": self.rows_rejected},
            "by_code": self.by_code,
            "sections": {name: [one.offset, one.length, one.sha256] for name, one in self.sections.items()},
        }


def key_of(index: int, start: int, end: int) -> str:
    """Name a chunk object by its number and the range it covers."""
    return f"{index:08d}.{start}-{end}"


def parse_key(uri: str) -> tuple[int, int, int]:
    """(index, start, end) of a chunk key."""
    index, _, span = uri.rsplit("/", 1)[-1].partition(".")
    start, _, end = span.partition("-")
    return int(index), int(start), int(end)


def pack(facts: Mapping[str, Any], sections: Mapping[str, bytes]) -> bytes:
    """The object's bytes: the header line, then the sections in the order of `SECTIONS`."""
    table = {}
    offset = 0
    for name in SECTIONS:
        body = sections.get(name, b"")
        table[name] = [offset, len(body), hashlib.sha256(body).hexdigest()]
        offset += len(body)
    head = json.dumps({"format": FORMAT, **facts, "sections": table}, sort_keys=True).encode() + b"\n"
    return b"".join([head, *(sections.get(name, b"") for name in SECTIONS)])


def record_of(uri: str, head: bytes, size_bytes: int, *, reused: bool, phases: dict[str, float]) -> ChunkRecord:
    """Read the header line of a stored (or just packed) chunk object."""
    line, newline, _ = head.partition(b"\n")
    facts = json.loads(line)
    base = len(line) + len(newline)
    sections = {name: Section(base + one[0], one[1], one[2]) for name, one in facts["sections"].items()}
    return ChunkRecord(
        index=facts["index"],
        uri=uri,
        start=facts["start"],
        end=facts["end"],
        size_bytes=size_bytes,
        rows_read=facts["rows_read"],
        rows_predicted=facts["rows_predicted"],
        rows_rejected=facts["rows_rejected"],
        decoded_bytes=facts["decoded_bytes"],
        by_code=facts["by_code"],
        sections=sections,
        reused=reused,
        phases=phases,
    )


def read_record(info: ObjectInfo) -> ChunkRecord:
    """The record of a chunk that an earlier attempt stored."""
    head = storage_for(info.uri).read(info, 0, min(HEAD_BYTES, info.size_bytes))
    return record_of(info.uri, head, info.size_bytes, reused=True, phases={})


def record_from_commit(folder: str, entry: Mapping[str, Any]) -> ChunkRecord:
    """The record of a chunk as `ChunkRecord.as_dict` wrote it into the commit."""
    rows = entry["rows"]
    return ChunkRecord(
        index=parse_key(entry["key"])[0],
        uri=join(folder, "chunks", entry["key"]),
        start=entry["start"],
        end=entry["end"],
        size_bytes=entry["size_bytes"],
        rows_read=rows["read"],
        rows_predicted=rows["predicted"],
        rows_rejected=rows["rejected"],
        decoded_bytes=0,
        by_code=entry["by_code"],
        sections={name: Section(*one) for name, one in entry["sections"].items()},
        reused=True,
    )


def read_section(record: ChunkRecord, name: str) -> bytes:
    """A section's bytes, checked against their digest. Raises `StorageUnavailable` when they differ."""
    section = record.sections[name]
    if not section.length:
        return b""
    storage = storage_for(record.uri)
    info = storage.head(record.uri)
    if info is None:
        raise StorageUnavailable(f"the staged chunk {record.uri} is gone", hint="run again with --force")
    body = storage.read(info, section.offset, section.offset + section.length)
    if (found := hashlib.sha256(body).hexdigest()) != section.sha256:
        raise StorageUnavailable(
            f"section '{name}' of {record.uri} has sha256 {found}, recorded was {section.sha256}",
            hint="the store changed the object; run again with --force",
        )
    return body
