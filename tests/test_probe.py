"""A store that does not keep what every run relies on is refused before anything is scored, and says what to do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

import batch
from batch.cli import program
from batch.errors import StorageUnavailable
from batch.storage import open_storage, probe, storage_for
from batch.storage.local import LocalStorage
from tests.run_cases import Bench, encode, register, rows


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from an earlier test."""
    monkeypatch.setattr(probe, "_known", set())


class Broken(LocalStorage):
    """Files of this machine, with one promise broken."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    @property
    def refuses_conditions(self) -> bool:  # type: ignore[override]
        return self.fault == "501"

    def create(self, uri: str, body: bytes) -> bool:
        if self.fault == "overwrites":
            self.replace(uri, [body], len(body))
            return True
        won = super().create(uri, body)
        return True if self.fault == "race" and "race" in uri else won

    def get(self, uri: str) -> bytes | None:
        body = super().get(uri)
        return body.replace(b"\r\n", b"\n") if self.fault == "newlines" and body is not None else body

    def list(self, prefix: str, **options: Any) -> Any:
        found = [*super().list(prefix, **options)]
        return iter(found[:-1] if self.fault == "stale" and prefix.endswith("list/") else found)

    def read(self, pin: Any, start: int, end: int) -> bytes:
        if self.fault == "unpinned":
            return (super().get(pin.uri) or b"")[start:end]
        return super().read(pin, start, end)[:: -1 if self.fault == "range" else 1]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setitem(batch.storage.BACK_ENDS, "file", lambda: Broken(request.param))
    open_storage.cache_clear()


def leftovers(root: str) -> list[str]:
    return [info.uri.removeprefix(f"{root}/probe/") for info in storage_for(root).list(f"{root}/probe/")]


def test_a_sound_store_keeps_every_promise(any_root: str) -> None:
    """All back ends that the product is tested with do, and the probe leaves nothing behind."""
    verdict = probe.probe(any_root)
    assert [promise.name for promise in verdict.promises] == ["create-once", "bytes", "listing", "pinned reads"]
    assert not verdict.broken
    assert abs(verdict.skew_seconds) < 60
    assert leftovers(any_root) == []


def test_a_sound_store_is_probed_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is stored under the root, by endpoint; another process asks for that one record."""
    root, count = str(tmp_path), 0
    real = probe.probe

    def counted(root: str) -> probe.Verdict:
        nonlocal count
        count += 1
        return real(root)

    monkeypatch.setattr(probe, "probe", counted)
    for _ in range(2):
        probe.enforced(root, single_writer=False)
        probe._known.clear()  # as in another process
    (record,) = leftovers(root)
    assert count == 1
    body = json.loads(storage_for(root).get(f"{root}/probe/{record}") or b"")
    assert (body["format"], body["endpoint"]) == (1, "this machine's files")
    for old in (
        json.dumps(body | {"at": (datetime.now(UTC) - timedelta(days=31)).isoformat()}).encode(),
        b"{",
        b"[]",
        json.dumps(body | {"format": 2}).encode(),
        json.dumps({"at": body["at"]}).encode(),
    ):
        probe._known.clear()
        storage_for(root).replace(f"{root}/probe/{record}", [old], len(old))
        probe.enforced(root, single_writer=False)
    assert count == 6


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("broken", ["overwrites"], indirect=True)
def test_a_single_writer_is_not_probed_for_every_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is excused is remembered by the process, but only for jobs that excuse it."""
    real, count = probe.probe, 0

    def counted(root: str) -> probe.Verdict:
        nonlocal count
        count += 1
        return real(root)

    monkeypatch.setattr(probe, "probe", counted)
    for _ in range(3):
        probe.enforced(str(tmp_path), single_writer=True)
    assert (count, leftovers(str(tmp_path))) == (1, [])
    with pytest.raises(StorageUnavailable):
        probe.enforced(str(tmp_path), single_writer=False)
    assert count == 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("overwrites", "accepts If-None-Match and overwrites the object all the same"),
        ("race", "let 2 of 2 concurrent creators of one object win"),
        ("501", 'answers conditional writes with "not implemented"'),
    ],
    indirect=["broken"],
)
@pytest.mark.usefixtures("broken")
def test_a_store_that_does_not_create_once_needs_a_single_writer(tmp_path: Any, said: str) -> None:
    """Refused with what was seen; accepted where the job says that nobody else runs it; not remembered as sound."""
    root = str(tmp_path)
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=said) as caught:
            probe.enforced(root, single_writer=False)
        assert (caught.value.exit_code, "single_writer = true" in caught.value.hint) == (69, True)
    assert probe.known_refusal(root, single_writer=True) is None
    for _ in range(2):
        probe.enforced(root, single_writer=True)
    assert len(leftovers(root)) == 1
    refusal = probe.known_refusal(root, single_writer=False)
    assert refusal is not None
    assert (refusal.message, refusal.hint) == (caught.value.message, caught.value.hint)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("newlines", "gives other bytes back"),
        ("range", "gives other bytes for a range"),
        ("stale", "does not list objects right after"),
        ("unpinned", "does not tell that an object was replaced"),
    ],
    indirect=["broken"],
)
@pytest.mark.usefixtures("broken")
def test_a_store_that_loses_bytes_is_refused_in_any_case(tmp_path: Any, said: str) -> None:
    """A single writer does not help against those."""
    for single_writer in (False, True):
        with pytest.raises(StorageUnavailable, match=said):
            probe.enforced(str(tmp_path), single_writer=single_writer)


@pytest.mark.s3
def test_a_real_store_without_conditional_writes(unconditional_root: str, tmp_path: Any) -> None:
    """Nanio takes If-None-Match and overwrites: refused with exit 69, and it works for a single writer."""
    bench = Bench(unconditional_root, register(str(tmp_path / "model")), tmp_path)
    bench.put("in.csv", encode(rows(60), "csv"))
    with pytest.raises(StorageUnavailable, match="overwrites the object all the same") as caught:
        bench.run("in.csv", "out.csv")
    assert "single_writer" in caught.value.hint
    assert bench.get("out.csv") is None
    alone = {"run__single_writer": True, "run__chunk_bytes": 700, "run__predict_rows": 7}
    first = bench.run("in.csv", "out.csv", **alone)
    assert (first.rows.predicted, first.already_done) == (60, False)
    assert bench.run("in.csv", "out.csv", **alone).already_done
    body = bench.get("out.csv")
    again = batch.run(bench.job("in.csv", "out.csv", **alone), force=True)
    assert again.run_id == f"{first.run_id}-2"
    assert bench.get("out.csv") == body


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("broken", ["overwrites"], indirect=True)
def test_doctor_tells_what_to_do(tmp_path: Any) -> None:
    """Each finding has its state; the program ends with the code of the worst."""
    result = CliRunner().invoke(program, ["doctor", str(tmp_path), "--json"])
    findings = {one["name"]: one for one in json.loads(result.stdout)}
    assert result.exit_code == 69
    assert findings["create-once"]["state"] == "failed"
    assert "single_writer = true" in findings["create-once"]["hint"]
    assert {findings[name]["state"] for name in ("access", "clock", "bytes", "listing", "pinned reads")} == {"ok"}


def test_doctor_is_content_with_a_sound_store(any_root: str) -> None:
    """Exit 0, one line per finding."""
    result = CliRunner().invoke(program, ["doctor", any_root])
    assert result.exit_code == 0, result.output
    assert "creates an object once" in result.stdout
