"""The real program against a real S3 server, killed wherever it can be killed: nothing lost, nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import pytest

import batch
from batch.execution.chunk import parse_key
from batch.execution.history import list_runs
from batch.execution.verify import verify
from batch.models import bundle, quarantine
from batch.storage import open_storage, storage_for
from batch.storage.embedded import EmbeddedS3
from tests import children
from tests.fault_proxy import fault_proxy
from tests.run_cases import Bench, encode, rows

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(900)]

SEED = int(os.environ.get("NEMESIS_SEED", "1"))
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
FOUR_CHUNKS = {"run__chunk_bytes": 700, "run__predict_rows": 7, "run__engine": "threads", "run__workers": 2}


class Place(Bench):
    """A root on S3, and the environment that leads a child there through the proxy."""

    def __init__(self, root: str, model: str, folder: Any, environment: dict[str, str]) -> None:
        super().__init__(root, model, folder)
        self.environment = environment

    def prepare(self, count: int, **settings: Any) -> str:
        self.put("in.csv", encode(rows(count), "csv"))
        self.job("in.csv", "out.csv")
        self._probed()
        # Nor is there anything to kill in the trial of a model from elsewhere, which takes seconds.
        quarantine._record(bundle.resolve(self.model, self.root))
        self.settings = {key.replace("__", "."): value for key, value in settings.items()}
        return str(self.folder / "weekly.toml")

    def _probed(self) -> None:
        """Let the store be known already: a probe has nothing that a kill could hurt, and would treble the requests."""
        endpoint = self.environment.get("AWS_ENDPOINT_URL", "")
        body = json.dumps({"format": 1, "endpoint": endpoint, "at": datetime.now(UTC).isoformat()}).encode()
        self.put(f"probe/{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}.json", body)

    def start(self, **options: Any) -> Any:
        return children.start(str(self.folder / "weekly.toml"), self.environment, set=self.settings, **options)

    def here(self) -> Any:
        """The same run in this process, straight to the server."""
        return batch.run(batch.load_job(str(self.folder / "weekly.toml"), set=self.settings))

    def chunks(self) -> dict[str, str]:
        """Staged chunks by index, with their ETags; a guess that proved wrong has none of its own."""
        found = storage_for(self.root).list(f"{self.root}/runs/")
        return {info.uri: info.etag for info in found if "/chunks/" in info.uri and parse_key(info.uri)}


@pytest.fixture
def reference(bucket: str, model: str, tmp_path: Any) -> bytes:
    """The output of an undisturbed run over 60 rows."""
    calm = Bench(f"{bucket}/calm", model, tmp_path)
    calm.put("in.csv", encode(rows(60), "csv"))
    calm.run("in.csv", "out.csv", **FOUR_CHUNKS)
    body = calm.get("out.csv")
    assert body is not None
    return body


@dataclass
class Killer:
    """Kills a child at one request, before or after it was applied."""

    at: int
    phase: str
    child: Any = None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, number: int, method: str, path: str, phase: str) -> None:
        if phase == "before":
            self.requests.append((method, path))
        if len(self.requests) == self.at and phase == self.phase and self.child is not None:
            os.kill(self.child.pid, signal.SIGKILL)
            self.child.join()


def test_killed_at_every_request(
    bucket: str, model: str, tmp_path: Any, s3_server: EmbeddedS3, reference: bytes
) -> None:
    """A 4-chunk run, killed before and after each of its requests, then run again: the same bytes, no stored chunk scored twice."""
    with fault_proxy(s3_server.endpoint_url) as proxy:
        environment = s3_server.environment() | {"AWS_ENDPOINT_URL": proxy.url}
        total = _count_requests(proxy, Place(f"{bucket}/count", model, tmp_path, environment))
        assert total > 20
        # After request n the store is as it is before request n + 1: only the nightly run kills at both.
        points = [
            (number, phase)
            for number in range(1, total + 1)
            for phase in (("before", "after") if NIGHTLY else ("after",))
        ]
        for number, phase in points:
            place = Place(f"{bucket}/{number}-{phase}", model, tmp_path, environment)
            _kill_and_resume(proxy, place, Killer(number, phase), reference)
        print(f"{len(points)} kills at {total} requests")


def _count_requests(proxy: Any, place: Place) -> int:
    place.prepare(60, **FOUR_CHUNKS)
    proxy.on_request = counter = Killer(0, "never")
    child = place.start()
    child.join()
    assert child.exitcode == 0
    return len(counter.requests)


def _kill_and_resume(proxy: Any, place: Place, killer: Killer, reference: bytes) -> None:
    place.prepare(60, **FOUR_CHUNKS)
    proxy.on_request = killer
    killer.child = place.start()
    killer.child.join()
    proxy.on_request = None
    where = f"{killer.phase} request {killer.at}: {killer.requests[-1] if killer.requests else 'none'}"
    finished, standing = place.chunks(), place.get("out.csv")
    assert standing in (None, reference), where
    receipt = place.here()
    assert place.get("out.csv") == reference, where
    after = place.chunks()
    assert finished.items() <= after.items(), f"{where}: a stored chunk was written again"
    facts = receipt.as_dict()["chunks"]
    if not receipt.already_done:
        assert facts["scored"] + facts["reused"] == facts["total"] == 4, where
        assert facts["scored"] <= 4 - min(4, _proven(finished)), f"{where}: {facts}, stored were {sorted(finished)}"
    assert not verify(place.root, receipt.run_id).differences, where


def _proven(finished: dict[str, str]) -> int:
    """How many of the stored chunks tile the file from its start: those count, whatever was guessed."""
    spans = {}
    for uri in finished:
        key = parse_key(uri)
        assert key is not None
        spans[key[0], key[1]] = key[2]
    index, start = 0, min((span[1] for span in spans if span[0] == 0), default=-1)
    while (index, start) in spans:
        index, start = index + 1, spans[index, start]
    return index


def test_six_at_once(bucket: str, model: str, tmp_path: Any, s3_server: EmbeddedS3, reference: bytes) -> None:
    """Six processes start one job together: every chunk is scored once, and each ends with 0 or 75."""
    place = Place(f"{bucket}/six", model, tmp_path, s3_server.environment())
    place.prepare(60, **FOUR_CHUNKS)
    started = [place.start() for _ in range(6)]
    for child in started:
        child.join()
    assert {child.exitcode for child in started} <= {0, 75}
    assert 0 in {child.exitcode for child in started}
    receipt = place.here()
    assert (receipt.already_done, receipt.as_dict()["chunks"]) == (True, {"total": 4, "scored": 4, "reused": 0})
    assert place.get("out.csv") == reference


class Observer(threading.Thread):
    """Reads the output key all the time and keeps every body that it saw."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self.uri = uri
        self.seen: dict[str, int] = {}
        self.looks = 0
        self.over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        storage = open_storage("s3")
        while not self.over.wait(0.01):
            body = storage.get(self.uri)
            self.looks += 1
            digest = "absent" if body is None else hashlib.sha256(body).hexdigest()
            self.seen[digest] = self.seen.get(digest, 0) + 1


def _storm(place: Place, dice: random.Random, rounds: int, disturb: Any = None) -> dict[str, int]:
    """Two workers at one job all the time; one of them is killed or stopped for a while, again and again."""
    counts = {"killed": 0, "stopped": 0, "started": 0}
    workers: list[Any] = []
    try:
        while counts["killed"] < rounds:
            for child in [one for one in workers if not one.is_alive()]:
                child.join()
                workers.remove(child)
            while len(workers) < 2:
                workers.append(place.start(speed=20.0, force=True))
                counts["started"] += 1
            time.sleep(dice.uniform(0.1, 1.2))
            if disturb is not None:
                disturb()
            counts["stopped" if _strike(dice.choice(workers), dice) else "killed"] += 1
    finally:
        for child in workers:
            child.kill()
            child.join()
    return counts


def _strike(victim: Any, dice: random.Random) -> bool:
    """Stop a worker for a while (then True) or kill it; one that has just ended by itself counts all the same."""
    is_stopped = dice.random() < 0.25
    with suppress(ProcessLookupError):
        if is_stopped:
            os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(dice.uniform(0.1, 2.5))
            os.kill(victim.pid, signal.SIGCONT)
        else:
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
    return is_stopped


def test_a_storm_of_kills(bucket: str, model: str, tmp_path: Any, s3_server: EmbeddedS3) -> None:
    """30 kill -9 and some SIGSTOP of two workers through a proxy with 2 % faults: only whole files are ever seen."""
    dice = random.Random(SEED)
    place = Place(f"{bucket}/storm", model, tmp_path, {})
    place.prepare(600, run__chunk_bytes=2000, run__predict_rows=20, run__engine="threads", run__workers=2)
    place.here()
    whole = place.get("out.csv")
    assert whole is not None
    with Observer(f"{place.root}/out.csv") as observer, fault_proxy(s3_server.endpoint_url) as proxy:
        place.environment = s3_server.environment() | {"AWS_ENDPOINT_URL": proxy.url}
        for number, kind in enumerate(("reset_before", "reset_after", "err", "err_after", "trunc")):
            proxy.add(kind, probability=0.004, seed=SEED + number)
        counts = _storm(place, dice, 30)
        injected = sum(rule.hits for rule in proxy.rules)
        receipt = place.here()
    assert place.get("out.csv") == whole
    assert set(observer.seen) == {hashlib.sha256(whole).hexdigest()}, f"NEMESIS_SEED={SEED}: {observer.seen}"
    assert not verify(place.root, receipt.run_id).differences
    print(f"{counts}, {injected} faults, {observer.looks} looks, seed {SEED}")
    assert (counts["killed"], observer.looks > 500, injected > 10) == (30, True, True)


def test_the_server_is_killed_under_load(model: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The S3 server is killed with -9 in mid-run, three times: the run waits, goes on and completes by itself."""
    with EmbeddedS3(str(tmp_path / "data"), memory="2GiB") as server, fault_proxy(server.endpoint_url) as proxy:
        environment = server.environment() | {"AWS_ENDPOINT_URL": proxy.url}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        open_storage.cache_clear()
        server.create_bucket("nemesis")
        place = Place("s3://nemesis/root", model, tmp_path, environment)
        place.prepare(3000, run__chunk_bytes=2000, run__predict_rows=20, run__engine="threads", run__workers=2)
        child = place.start(said=str(tmp_path / "said"))
        for _ in range(3):
            _await_chunks(place, child, len(place.chunks()) + 5)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            server.stop()
            server.start()
            proxy.send_to(server.endpoint_url)
        child.join()
        assert child.exitcode == 0, (tmp_path / "said").read_text()
        receipt = place.here()
        assert (receipt.already_done, receipt.rows.predicted) == (True, 3000)
        assert not verify(place.root, receipt.run_id).differences


def _await_chunks(place: Place, child: Any, count: int) -> None:
    while len(place.chunks()) < count:
        assert child.is_alive(), "the run was over before the server could be killed"
        time.sleep(0.02)


FILES = 300 if NIGHTLY else 80


def test_watchers_are_killed(bucket: str, model: str, tmp_path: Any, s3_server: EmbeddedS3) -> None:
    """4 watchers, many files dropped while they run, kill -9 of a watcher again and again: each file once, none missed."""
    dice = random.Random(SEED)
    root = f"{bucket}/drops"
    path = tmp_path / "drop.toml"
    path.write_text(
        f'name = "dropped"\nroot = "{root}"\nmodel = "{model}"\n[input]\nid = "customer_id"\n'
        f'[output]\nuri = "{root}/out/"\n[run]\nengine = "inline"\n[watch]\nprefix = "{root}/in/"\n'
    )
    body = encode(rows(20), "csv")
    storage = open_storage("s3")
    quarantine._record(bundle.resolve(model, root))  # as in `Place.prepare`
    killed, dropped = 0, 0
    watchers: list[Any] = []
    until = time.monotonic() + 300
    try:
        while len(_receipts(root)) < FILES:
            assert time.monotonic() < until, f"NEMESIS_SEED={SEED}: {len(_receipts(root))} of {FILES} files after 300 s"
            for _ in range(min(20, FILES - dropped)):
                storage.replace(f"{root}/in/{dropped:04d}.csv", [body], len(body))
                dropped += 1
            watchers = [child for child in watchers if child.is_alive()]
            while len(watchers) < 4:
                seed = dice.randrange(1 << 30)
                watchers.append(children.start_watcher(str(path), s3_server.environment(), speed=20.0, seed=seed))
            time.sleep(dice.uniform(0.1, 1.0))
            _await_more(root, until)
            victim = dice.choice(watchers)
            victim.kill()
            victim.join()
            killed += 1
    finally:
        for child in watchers:
            child.kill()
            child.join()
    _each_once(root, body, killed)


def _await_more(root: str, until: float) -> None:
    """Until one more file is done, or 5 s: on a slow machine, kills by the clock alone would leave no watcher the time to start."""
    before, until = len(_receipts(root)), min(until, time.monotonic() + 5)
    while len(_receipts(root)) == before < FILES and time.monotonic() < until:
        time.sleep(0.05)


def _receipts(root: str) -> list[str]:
    return [info.uri for info in open_storage("s3").list(f"{root}/done/dropped/")]


def _each_once(root: str, body: bytes, killed: int) -> None:
    """Each file has one receipt, one register entry, and the same predictions as all the others."""
    storage = open_storage("s3")
    outputs = [info.uri for info in storage.list(f"{root}/out/") if info.uri.endswith(".csv")]
    assert len(_receipts(root)) == len(outputs) == FILES
    assert len({storage.get(uri) for uri in outputs}) == 1
    assert len((storage.get(outputs[0]) or b"").splitlines()) == 21
    entries = [
        info.uri
        for info in storage.list(f"{root}/outputs/")
        if info.uri.endswith(".json") and "/rejects/" not in info.uri
    ]
    assert len(entries) == FILES, "a file was published by two runs"
    assert not [one for one in list_runs(root, job="dropped") if one["state"] != "completed"]
    print(f"{FILES} files, {killed} watchers killed, seed {SEED}")
