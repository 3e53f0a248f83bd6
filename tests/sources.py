"""An object in memory as formats see it, with a record of the ranges that were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from batch.storage import ObjectInfo, Source


@dataclass
class MemoryStore:
    """One object; of the `Storage` protocol a format uses nothing but `read`."""

    body: bytes
    reads: list[tuple[int, int]] = field(default_factory=list)

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        assert 0 <= start < end <= pin.size_bytes
        self.reads.append((start, end))
        return self.body[start:end]


def source_of(body: bytes, uri: str = "s3://bucket/in.csv") -> Source:
    """`body` as a pinned source."""
    pin = ObjectInfo(uri, len(body), "etag", None, datetime(2026, 11, 9, tzinfo=UTC))
    return Source(MemoryStore(body), pin)  # type: ignore[arg-type]


def reads_of(source: Source) -> list[tuple[int, int]]:
    """The byte ranges read so far."""
    store = source.storage
    assert isinstance(store, MemoryStore)
    return store.reads
