"""Towards 10,000 chunks: what a run asks of the store and of its coordinator, counted, not timed. See docs/scaling.md."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import batch
from batch.execution import score
from batch.storage import BACK_ENDS, ObjectInfo, nothing, open_storage, storage_for
from batch.storage.local import LocalStorage
from tests.run_cases import Bench, encode, rows

PAGE_KEYS = 1_000
LATENCY_SECONDS = 0.03
BYTES_PER_SECOND = 100e6
PART_BYTES = 8 << 20


class Counted(LocalStorage):
    """Counts what an S3 server would be asked, and keeps a clock that only requests move."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def _ask(self, verb: str, size: int = 0, count: int = 1) -> None:
        self.requests[verb] += count
        self.bytes[verb] += size

    @property
    def seconds(self) -> float:
        """Of all requests one after the other."""
        return sum(self.requests.values()) * LATENCY_SECONDS + sum(self.bytes.values()) / BYTES_PER_SECOND

    def head(self, uri: str) -> ObjectInfo | None:
        self._ask("HEAD")
        return super().head(uri)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        for number, info in enumerate(super().list(prefix, start_after=start_after)):
            if number % PAGE_KEYS == 0 and number:
                self._ask("LIST")
            yield info
        self._ask("LIST")

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        self._ask("GET", end - start)
        return super().read(pin, start, end)

    def get(self, uri: str) -> bytes | None:
        body = super().get(uri)
        self._ask("GET", len(body or b""))
        return body

    def create(self, uri: str, body: bytes) -> bool:
        self._ask("PUT", len(body))
        return super().create(uri, body)

    def replace(
        self,
        uri: str,
        parts: Iterable[bytes],
        size_bytes: int,
        *,
        metadata: dict[str, str] | None = None,
        before: Callable[[], None] = nothing,
    ) -> ObjectInfo:
        info = super().replace(uri, parts, size_bytes, metadata=metadata, before=before)
        self._ask("PUT", info.size_bytes, 1 + info.size_bytes // PART_BYTES)
        return info


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    made = Counted()
    monkeypatch.setitem(BACK_ENDS, "file", lambda: made)
    open_storage.cache_clear()
    yield made
    open_storage.cache_clear()


def _copy(context: Any, task: Any, _: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """`score_range` without a model: the rows of a chunk are its lines, and its predictions their first bytes."""
    plan, cut = context.plan, task.cut
    source, last = plan.files[task.file].source, plan.files[task.file].shape.size_bytes
    body = source.read(cut.start, min(last, cut.end + 200))  # a record is shorter
    start = task.start if task.start is not None else cut.start + body.index(b"\n") + 1
    end = last if cut.end >= last else cut.end + body[cut.end - cut.start :].index(b"\n") + 1
    lines = body[start - cut.start : end - cut.start].splitlines()
    facts = {
        "index": task.index, "start": start, "end": end, "rows_read": len(lines), "rows_predicted": len(lines), "rows_rejected": 0,
        "by_code": {}, "variants": {}, "decoded_bytes": len(body),
    }  # fmt: skip
    return facts, {"rows": b"".join(line[:5] + b"\n" for line in lines)}


def lines(chunks: int) -> bytes:
    """A CSV of about so many chunks of 100 bytes."""
    frame = rows(60).assign(comment="")
    body: bytes = encode(frame, "csv")
    head, _, rest = body.partition(b"\n")
    whole = [line for line in rest.splitlines() if b'"' not in line and len(line) < 100]
    size = sum(map(len, whole)) / len(whole) + 1
    return head + b"\n" + b"".join(whole[number % len(whole)] + b"\n" for number in range(int(chunks * 100 / size)))


def run_of(folder: Path, model: str, chunks: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Bench]:
    monkeypatch.setattr(score, "score_range", _copy)
    bench = Bench(str(folder), model, folder)
    bench.put("in.csv", lines(chunks))
    return bench.job("in.csv", "out.csv", run__chunk_bytes=100, run__engine="threads", run__workers=2), bench


@pytest.mark.slow
def test_ten_thousand_chunks(
    model: str, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Per chunk four requests (input, chunk; to publish its size and rows), and what a run asks besides does not grow but for pages of listings."""
    per_chunk, rest, seconds = {}, {}, {}
    for chunks in (1_000, 9_900):
        folder = tmp_path / str(chunks)
        folder.mkdir()
        job, bench = run_of(folder, model, chunks, monkeypatch)
        counted.requests.clear()
        counted.bytes.clear()
        began = time.process_time()
        receipt = batch.run(job).as_dict()
        total = receipt["chunks"]["total"]
        assert abs(total - chunks) < chunks * 0.02
        asked = counted.requests.total()
        per_chunk[chunks], rest[chunks] = asked / total, dict(counted.requests)
        seconds[chunks] = counted.seconds / total
        commit = storage_for(bench.root).get(f"{bench.root}/runs/weekly/{receipt['run_id']}/commit.json")
        assert commit is not None
        with capsys.disabled():
            print(
                f"\n{total} chunks: {dict(counted.requests)}, {asked / total:.2f} per chunk, commit {len(commit) / total:.0f} bytes per chunk, "
                f"{(time.process_time() - began) / total * 1e3:.2f} ms of the processor per chunk, simulated {counted.seconds:.0f} s one by one"
            )
        assert len(commit) / total < 1_000
    assert per_chunk[9_900] < 4.1
    assert 0.95 * seconds[1_000] < seconds[9_900] < seconds[1_000], "ten times the chunks are ten times the work"
    many, few = rest[9_900], rest[1_000]
    assert many["LIST"] - few["LIST"] <= 10 + 10, (
        "a page of 1,000 keys each, before scoring and after a guess that was wrong"
    )
    assert many["HEAD"] - few["HEAD"] < 1.02 * 8_900 + 10
