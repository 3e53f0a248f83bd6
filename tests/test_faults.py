"""Every row of the fault matrix that a proxy can play, before two S3 servers, and whole runs through bad days.

A row that only a killed process shows (30-33, 42-48) is tested elsewhere; row 12 is not for us: nothing rests on If-Match.
"""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import batch.storage
from batch import errors
from batch.storage import open_storage, storage_for
from batch.storage.embedded import EmbeddedS3
from batch.storage.s3 import MIB, S3Storage
from tests.fault_proxy import FaultProxy, fault_proxy
from tests.run_cases import Bench, encode, register, rows

pytestmark = pytest.mark.slow

COMPLETE: dict[str, Any] = {"method": "POST", "query": "uploadId"}
PART: dict[str, Any] = {"method": "PUT", "query": "partNumber"}
BIG = [b"a" * (5 * MIB), b"b" * MIB, b"c" * MIB]
"""Two parts, when a part is 5 MiB."""


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.on_sleep()


@dataclass
class Faulty:
    """A storage behind the proxy, which waits in no time, and one that goes straight to the server."""

    storage: S3Storage
    proxy: FaultProxy
    root: str
    time: Time
    direct: S3Storage

    def put(self, name: str, body: bytes, **options: Any) -> Any:
        return self.direct.replace(f"{self.root}/{name}", [body], len(body), **options)

    def another(self, **options: Any) -> S3Storage:
        """A storage through the proxy that has not been used."""
        return S3Storage(sleep=self.time.sleep, clock=lambda: self.time.seconds, **options)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of botocore itself take no time, and parts are as small as S3 allows."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr("batch.storage.s3.UNKNOWN_SIZE_PART_BYTES", 5 * MIB)


def behind_a_proxy(root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    direct = open_storage("s3")
    assert isinstance(direct, S3Storage)
    with fault_proxy(direct.endpoint(root)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        time = Time()
        storage = S3Storage(sleep=time.sleep, clock=lambda: time.seconds)
        yield Faulty(storage, proxy, root, time, direct)


@pytest.fixture(scope="module")
def shared_bucket(s3_server: EmbeddedS3) -> str:
    """One bucket on SeaweedFS for all these tests: a fresh one takes it 0.3 s."""
    name = f"faults-{uuid.uuid4().hex[:16]}"
    s3_server.create_bucket(name)
    return f"s3://{name}"


@pytest.fixture
def seaweedfs(shared_bucket: str, s3_server: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh root on SeaweedFS; the environment points there."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"{shared_bucket}/{uuid.uuid4().hex[:16]}"


@pytest.fixture(params=["moto_bucket", pytest.param("seaweedfs", marks=pytest.mark.s3)], ids=["moto", "seaweedfs"])
def faulty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """The proxy before moto and before SeaweedFS."""
    yield from behind_a_proxy(request.getfixturevalue(request.param), monkeypatch)


@pytest.fixture
def faulty_seaweedfs(seaweedfs: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """The proxy before SeaweedFS alone, which looks at signatures and knows what an upload is."""
    yield from behind_a_proxy(seaweedfs, monkeypatch)


ACTIONS: dict[str, Callable[[S3Storage, str], Any]] = {
    "head": lambda storage, root: storage.head(f"{root}/old"),
    "get": lambda storage, root: storage.get(f"{root}/old"),
    "list": lambda storage, root: [each.uri for each in storage.list(f"{root}/ol")],
    "create": lambda storage, root: storage.create(f"{root}/claim", b"mine"),
    "replace": lambda storage, root: storage.replace(f"{root}/new", [b"new"], 3).size_bytes,
    "delete": lambda storage, root: storage.delete(f"{root}/gone"),
}


def calm(faulty: Faulty) -> dict[str, Any]:
    """What each action gives when nothing fails."""
    found = {name: act(faulty.direct, faulty.root) for name, act in ACTIONS.items()}
    faulty.direct.delete(f"{faulty.root}/claim")
    faulty.direct.delete(f"{faulty.root}/new")
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("err", {"status": 503, "code": "SlowDown"}),
        ("err", {"status": 500, "code": "InternalError"}),
        ("err", {"status": 502, "code": None}),
        ("err", {"status": 504, "code": None}),
        ("err", {"status": 429, "code": "TooManyRequests"}),
        ("err", {"status": 400, "code": "RequestTimeout"}),
        ("reset_before", {}),
        ("reset_after", {}),
    ],
)
def test_a_passing_fault_is_absorbed(faulty: Faulty, kind: str, options: dict[str, Any]) -> None:
    """Rows 1, 4, 5, 8, 9: every action gives what it gives on a calm day, four faults later."""
    faulty.put("old", b"0123456789")
    expected = calm(faulty)
    for name, act in ACTIONS.items():
        # HEAD has no body: its 400 could be anything, and is told instead of tried again.
        method = None if options.get("status") != 400 else {"replace": "PUT", "head": "GET"}.get(name)
        rule = faulty.proxy.add(kind, method=method, times=4, **options)
        assert act(faulty.storage, faulty.root) == expected[name], name
        assert rule.hits == (4 if method != "GET" or name == "get" else rule.hits), name
        faulty.proxy.clear()


def test_an_outage_of_minutes_is_absorbed(faulty: Faulty) -> None:
    """Row 2: 27 times 503, for much longer than botocore waits."""
    faulty.put("a", b"x")
    rule = faulty.proxy.add("err", times=27)
    assert faulty.storage.get(f"{faulty.root}/a") == b"x"
    assert (rule.hits, faulty.time.seconds > 10) == (27, True)


def test_an_outage_beyond_the_budget_is_told(faulty: Faulty) -> None:
    """Row 2: after two minutes the action, the object, the endpoint and what to do are named; exit 69."""
    faulty.proxy.add("err")
    with pytest.raises(errors.StorageUnavailable, match=f"PutObject {faulty.root}/a at {faulty.proxy.url}") as caught:
        faulty.storage.create(f"{faulty.root}/a", b"x")
    assert caught.value.exit_code == 69
    assert "same command again" in caught.value.hint
    assert 60 < faulty.time.seconds <= 120


def test_a_spent_retry_quota_is_no_reason_to_fail(faulty: Faulty) -> None:
    """Row 3: a client that fails on the first error is left for a new one, which tries again by itself."""
    faulty.put("a", b"x")
    spent = faulty.storage.connection.client()
    outage = faulty.proxy.add("reset_before")
    bucket, _, folder = faulty.root.removeprefix("s3://").partition("/")
    for _ in range(60):
        with pytest.raises(Exception, match=r"[Cc]onnection"):
            spent.head_object(Bucket=bucket, Key=f"{folder}/a")
    faulty.proxy.clear()
    assert outage.hits < 60 * 3, "the quota was not spent"
    faulty.proxy.add("reset_before", times=4)
    assert faulty.storage.get(f"{faulty.root}/a") == b"x"
    assert faulty.storage.connection.client() is not spent


@pytest.mark.parametrize(
    ("status", "code"), [(400, "ExpiredToken"), (403, "InvalidAccessKeyId"), (400, "InvalidToken")]
)
def test_expired_credentials_are_read_anew_once(faulty: Faulty, status: int, code: str) -> None:
    """Row 6: refused once, and the client is made anew; refused twice, and it is a matter of permission (77)."""
    faulty.put("a", b"x")
    first = faulty.storage.connection.client()
    faulty.proxy.add("err", status=status, code=code, times=1)
    assert faulty.storage.get(f"{faulty.root}/a") == b"x"
    assert faulty.storage.connection.client() is not first
    for_ever = faulty.proxy.add("err", status=status, code=code)
    with pytest.raises(errors.PermissionDenied, match=f"GetObject {faulty.root}/a at {faulty.proxy.url}: {code}") as it:
        faulty.storage.get(f"{faulty.root}/a")
    assert (it.value.exit_code, "Renew the credentials" in it.value.hint, for_ever.hits) == (77, True, 2)
    with pytest.raises(errors.PermissionDenied, match=f"HeadObject {faulty.root}/a .*{code}"):
        faulty.storage.head(f"{faulty.root}/a")


@pytest.mark.s3
def test_new_credentials_are_found(faulty_seaweedfs: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 6: keys that were put in the place of expired ones while the program ran."""
    faulty_seaweedfs.put("a", b"x")
    with monkeypatch.context() as expired:
        expired.setenv("AWS_ACCESS_KEY_ID", "EXPIRED")
        faulty_seaweedfs.storage.connection.client()
    assert faulty_seaweedfs.storage.get(f"{faulty_seaweedfs.root}/a") == b"x"


@pytest.mark.parametrize(("seconds", "how"), [(3600, "behind"), (-7200, "ahead of")])
@pytest.mark.parametrize("action", ["get", "head"])
def test_a_wrong_clock_is_named(faulty: Faulty, action: str, seconds: int, how: str) -> None:
    """Row 7: by how many seconds and in which direction, from the Date of the answer; not tried again."""
    rule = faulty.proxy.add("err", status=403, code="RequestTimeTooSkewed")
    faulty.proxy.add("skew", seconds=seconds)
    with pytest.raises(errors.PermissionDenied, match=rf"clock of this machine is \d+ s {how} the store's") as caught:
        ACTIONS[action](faulty.storage, faulty.root)
    told = int(str(caught.value).split(" s " + how)[0].rsplit(" ", 1)[1])
    assert abs(told - abs(seconds)) < 30
    assert (caught.value.exit_code, rule.hits <= 2, faulty.time.seconds) == (77, True, 0)


@pytest.mark.parametrize("kind", ["reset_after", "err_after", "dup"])
def test_a_claim_whose_answer_was_lost_is_ours(faulty: Faulty, kind: str) -> None:
    """Rows 10, 11, 15: refused because of our own first request; somebody else's claim stays somebody else's."""
    rule = faulty.proxy.add(kind, method="PUT", times=1)
    assert faulty.storage.create(f"{faulty.root}/claim", b"mine")
    faulty.proxy.add(kind, method="PUT", times=1)
    assert not faulty.storage.create(f"{faulty.root}/claim", b"theirs")
    assert faulty.direct.get(f"{faulty.root}/claim") == b"mine"
    assert rule.hits == 1


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_is_tried_again(faulty: Faulty, code: str) -> None:
    """Row 13: 409 while the key is free means that a competing request is under way; on Complete as well."""
    faulty.proxy.add("err", method="PUT", status=409, code=code, times=2)
    assert faulty.storage.create(f"{faulty.root}/claim", b"mine")
    faulty.proxy.add("err", **COMPLETE, status=409, code="OperationAborted", times=2)
    assert faulty.storage.replace(f"{faulty.root}/big", BIG, -1).size_bytes == 7 * MIB


def test_a_claim_that_lands_late_changes_nothing(faulty: Faulty) -> None:
    """Row 14: the retry won, and the first request is refused when it arrives at last."""
    landed = threading.Event()
    faulty.proxy.on_request = lambda number, *_: landed.set() if number == 1 and _[-1] == "after" else None
    faulty.proxy.add("late", method="PUT", times=1, seconds=0.2)
    assert faulty.storage.create(f"{faulty.root}/claim", b"mine")
    before = faulty.direct.head(f"{faulty.root}/claim")
    assert landed.wait(10)
    assert faulty.direct.head(f"{faulty.root}/claim") == before


def test_a_lost_upload_id_is_listed_and_can_be_given_back(faulty: Faulty) -> None:
    """Row 16: the object is stored by a second upload; the first one is found as unfinished and abandoned."""
    rule = faulty.proxy.add("reset_after", method="POST", query="uploads", times=1)
    assert faulty.storage.replace(f"{faulty.root}/big", BIG, -1).size_bytes == 7 * MIB
    (leaked,) = faulty.storage.unfinished(f"{faulty.root}/big")
    faulty.storage.abandon(leaked)
    assert (list(faulty.storage.unfinished(faulty.root)), rule.hits) == ([], 1)


@pytest.mark.parametrize(
    ("which", "kind", "options"),
    [
        (PART, "reset_after", {}),
        (PART, "err_after", {}),
        (COMPLETE, "reset_after", {}),
        (COMPLETE, "err_after", {"status": 500, "code": "InternalError"}),
        (COMPLETE, "ok_err", {}),
        (COMPLETE, "ok_err", {"forward": True}),
        (COMPLETE, "close_delim", {"n": 0}),
        (COMPLETE, "close_delim", {"n": 60}),
        (COMPLETE, "trunc", {}),
        (COMPLETE, "err", {"status": 200, "code": None}),
    ],
)
def test_an_upload_in_parts_survives_lost_answers(
    faulty: Faulty, which: dict[str, Any], kind: str, options: dict[str, Any]
) -> None:
    """Rows 17, 18, 19, 20: lost, broken and lying answers to UploadPart and Complete; what is stored decides."""
    faulty.put("big", b"before", metadata={"commit": "0"})
    rule = faulty.proxy.add(kind, **which, times=1, **options)
    stored = faulty.storage.replace(f"{faulty.root}/big", BIG, -1, metadata={"commit": "1"})
    assert (stored.size_bytes, stored.metadata, rule.hits) == (7 * MIB, {"commit": "1"}, 1)
    assert faulty.direct.read(stored, 5 * MIB - 1, 5 * MIB + 1) == b"ab"
    assert list(faulty.direct.unfinished(faulty.root)) == []


@pytest.mark.parametrize("which", [{"method": "PUT"}, COMPLETE], ids=["one-put", "parts"])
@pytest.mark.parametrize("kind", ["err", "reset_before"])
def test_each_attempt_at_a_write_is_looked_at_first(faulty: Faulty, which: dict[str, Any], kind: str) -> None:
    """A write that is repeated for minutes is forbidden by the first look that says so, also where botocore repeats it."""
    faulty.put("out", b"newer")
    rule = faulty.proxy.add(kind, **which)
    looks: list[int] = []

    def look() -> None:
        looks.append(rule.hits)
        faulty.storage.head(f"{faulty.root}/out")  # it may ask the store itself
        if rule.hits == 5:
            raise KeyError("outrun")

    parts = [b"older"] if which["method"] == "PUT" else BIG
    with pytest.raises(KeyError, match="outrun"):
        faulty.storage.replace(f"{faulty.root}/out", parts, -1, before=look)
    assert looks == [0, 1, 2, 3, 4, 5]
    assert faulty.direct.get(f"{faulty.root}/out") == b"newer"
    assert list(faulty.direct.unfinished(f"{faulty.root}/out")) == []


def test_an_upload_that_is_never_completed_is_told(faulty: Faulty) -> None:
    """Row 20: a proxy that says 200 to everything and passes nothing on; the object of before stands."""
    faulty.put("big", b"before")
    rule = faulty.proxy.add("err", **COMPLETE, status=200, code=None)
    with pytest.raises(
        errors.StorageUnavailable, match=f"{7 * MIB} bytes .* were written, but the store shows 6 bytes"
    ):
        faulty.storage.replace(f"{faulty.root}/big", BIG, -1, metadata={"commit": "1"})
    assert rule.hits == 3
    assert faulty.direct.get(f"{faulty.root}/big") == b"before"


@pytest.mark.parametrize(
    ("kind", "options"), [("trunc", {}), ("close_delim", {"n": 3}), ("close_delim", {"n": 0}), ("reset_after", {})]
)
def test_a_body_that_is_cut_short_is_read_again(faulty: Faulty, kind: str, options: dict[str, Any]) -> None:
    """Rows 21, 22: whether the length was announced or not; ranges and whole objects."""
    pin = faulty.put("a", b"0123456789")
    faulty.proxy.add(kind, method="GET", times=2, **options)
    assert faulty.storage.read(pin, 2, 8) == b"234567"
    faulty.proxy.add(kind, method="GET", times=2, **options)
    assert faulty.storage.get(pin.uri) == b"0123456789"


def test_an_unannounced_length_is_asked_for(faulty: Faulty) -> None:
    """Row 22: the ETag of an object made of parts shows nothing, so its size has to."""
    faulty.direct.replace(f"{faulty.root}/big", BIG, -1)
    faulty.proxy.add("close_delim", method="GET", times=1, n=6 * MIB)
    assert faulty.storage.get(f"{faulty.root}/big") == b"".join(BIG)


def test_a_flipped_bit_in_a_small_object_is_read_again(faulty: Faulty) -> None:
    """Rows 23, 24: body and ETag do not fit: read again, three times at most, and then it is told; exit 69."""
    faulty.put("a", b"0123456789")
    faulty.proxy.add("corrupt", method="GET", times=2)
    assert faulty.storage.get(f"{faulty.root}/a") == b"0123456789"
    rule = faulty.proxy.add("corrupt", method="GET")
    with pytest.raises(errors.StorageUnavailable, match=f"{faulty.root}/a .* is not the ETag"):
        faulty.storage.get(f"{faulty.root}/a")
    assert rule.hits == 3


def test_a_flipped_bit_is_found_by_the_checksum_of_aws(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Row 24: as on AWS, botocore compares the CRC that was stored; three reads at most, and then it is told."""
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {faulty.proxy.url}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setattr("batch.storage.s3.client.is_aws", lambda _: True)
    storage = faulty.another()
    storage.replace(f"{faulty.root}/a", [b"0123456789"], 10)
    faulty.proxy.add("corrupt", method="GET", times=2)
    assert storage.get(f"{faulty.root}/a") == b"0123456789"
    rule = faulty.proxy.add("corrupt", method="GET")
    with pytest.raises(errors.StorageUnavailable, match=r"damaged: Expected checksum"):
        storage.get(f"{faulty.root}/a")
    assert (rule.hits, faulty.time.seconds) == (3, 0)


def test_a_flipped_bit_does_not_lose_a_claim(faulty: Faulty) -> None:
    """Rows 10, 23: the read-back that decides whose claim it is, is checked like any other."""
    faulty.proxy.add("reset_after", method="PUT", times=1)
    faulty.proxy.add("corrupt", method="GET", times=1)
    assert faulty.storage.create(f"{faulty.root}/claim", b"mine")


@pytest.mark.parametrize("kind", ["stall", "stall_body"])
def test_silence_is_a_failure(faulty: Faulty, kind: str) -> None:
    """Row 25: before the headers or in the middle of the body, for longer than the patience; then read again."""
    pin = faulty.put("a", b"0123456789")
    storage = faulty.another(read_timeout_seconds=0.3)
    rule = faulty.proxy.add(kind, method="GET", times=2, seconds=1.0)
    assert storage.read(pin, 2, 8) == b"234567"
    assert storage.get(pin.uri) == b"0123456789"
    assert rule.hits == 2


@pytest.mark.parametrize(("kind", "options"), [("trunc", {}), ("close_delim", {"n": 200}), ("close_delim", {"n": 0})])
def test_a_listing_that_is_cut_is_asked_again(faulty: Faulty, kind: str, options: dict[str, Any]) -> None:
    """Row 26: half an XML document is no listing, also where its length was not announced."""
    for name in ("a", "b", "c"):
        faulty.put(name, b"x")
    rule = faulty.proxy.add(kind, method="GET", query="list-type", times=2, **options)
    assert [each.uri[-1] for each in faulty.storage.list(f"{faulty.root}/")] == ["a", "b", "c"]
    assert rule.hits == 2


def test_a_store_that_ignores_ranges_is_refused(faulty: Faulty) -> None:
    """Row 27: the whole object in place of a range is not taken for the range; all of it is fine."""
    pin = faulty.put("a", b"0123456789")
    faulty.proxy.add("ignore_headers", names=["Range"])
    with pytest.raises(errors.StorageUnavailable, match="bytes 2-7/10"):
        faulty.storage.read(pin, 2, 8)
    assert faulty.storage.read(pin, 0, 10) == b"0123456789"


@pytest.mark.parametrize("names", [["If-Match"], ["If-Match", "Range"]])
@pytest.mark.parametrize("body", [b"AAAAAAAAAA", b"short"])
def test_a_store_that_ignores_the_pin_is_seen_through(faulty: Faulty, names: list[str], body: bytes) -> None:
    """Rows 27, 28: another version answers 206 or 200: its ETag tells; exit 3."""
    pin = faulty.put("a", b"0123456789")
    faulty.put("a", body)
    faulty.proxy.add("ignore_headers", names=names)
    with pytest.raises(errors.InputChanged, match=r"ETag was .* and is now|replaced") as caught:
        faulty.storage.read(pin, 2, 5)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_input_that_changes_while_it_is_read_is_noticed(faulty: Faulty, change: str) -> None:
    """Rows 28, 29: between two ranges of one object; exit 3, and no second try."""
    pin = faulty.put("a", b"0123456789")
    assert faulty.storage.read(pin, 0, 5) == b"01234"
    if change == "replaced":
        faulty.put("a", b"9876543210")
    else:
        faulty.direct.delete(pin.uri)
    with pytest.raises(errors.InputChanged, match="a changed while it was read"):
        faulty.storage.read(pin, 5, 10)
    assert faulty.time.seconds == 0


def closed_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_server_that_restarts_is_waited_for(faulty: Faulty) -> None:
    """Row 34: down in the middle of an upload and back after three pauses, at another port; the upload goes on."""
    upstream, naps = faulty.direct.endpoint(faulty.root), iter(range(100))
    faulty.time.on_sleep = lambda: faulty.proxy.send_to(upstream if next(naps) >= 2 else closed_port())

    def parts() -> Iterator[bytes]:
        yield from BIG
        faulty.proxy.send_to(closed_port())

    stored = faulty.storage.replace(f"{faulty.root}/big", parts(), -1)
    assert faulty.direct.read(stored, 5 * MIB - 1, 5 * MIB + 1) == b"ab"
    assert faulty.time.seconds > 1


def test_a_closed_port_is_waited_for_once_it_was_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 34, 35: nothing answers, and never did: told within 10 s; exit 69, with endpoint, region and what to do."""
    endpoint, time = closed_port(), Time()
    point_at(endpoint, monkeypatch)
    storage = S3Storage(sleep=time.sleep, clock=lambda: time.seconds)
    with pytest.raises(errors.StorageUnavailable, match=rf"{endpoint} \(region eu-test-1\): nothing answers") as caught:
        storage.get("s3://bucket/a")
    assert (caught.value.exit_code, time.seconds <= 10) == (69, True)
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-test-1"}
    for name, value in {"AWS_ENDPOINT_URL": endpoint, **keys}.items():
        monkeypatch.setenv(name, value)


def test_an_unknown_name_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 36: DNS; no waiting, for a misspelt name does not become right."""

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    point_at("http://no-such-store.invalid", monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    time = Time()
    with pytest.raises(errors.StorageUnavailable, match=r"no-such-store.* \(region eu-test-1\): the name .* not known"):
        S3Storage(sleep=time.sleep, clock=lambda: time.seconds).get("s3://bucket/a")
    assert time.seconds == 0


def test_a_store_without_tls_is_told_at_once(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 36: https to a server that speaks http; and the other way round is a broken answer."""
    point_at(faulty.proxy.url.replace("http:", "https:"), monkeypatch)
    with pytest.raises(errors.StorageUnavailable, match=r"https.* \(region eu-test-1\): TLS failed") as caught:
        faulty.another().get("s3://bucket/a")
    assert faulty.time.seconds == 0
    assert "AWS_CA_BUNDLE" in caught.value.hint


@pytest.mark.parametrize("action", ["head", "get", "create"])
@pytest.mark.parametrize(
    "options",
    [
        {"status": 301, "code": "PermanentRedirect"},
        {"status": 307, "code": "TemporaryRedirect"},
        {"status": 400, "code": "AuthorizationHeaderMalformed"},
    ],
    ids=lambda options: options["code"],
)
def test_a_bucket_of_another_region_is_told(faulty: Faulty, action: str, options: dict[str, Any]) -> None:
    """Row 36: both regions and the endpoint; exit 77, without waiting."""
    faulty.proxy.add("redirect", endpoint="store.eu-far-2.test", region="eu-far-2", **options)
    with pytest.raises(errors.PermissionDenied, match="region us-east-1, but in region eu-far-2") as caught:
        ACTIONS[action](faulty.storage, faulty.root)
    assert faulty.proxy.url in caught.value.message
    assert "AWS_REGION to eu-far-2" in caught.value.hint
    assert (caught.value.exit_code, faulty.time.seconds) == (77, 0)


@pytest.mark.s3
def test_an_upload_that_was_purged_is_told(faulty_seaweedfs: Faulty) -> None:
    """Row 38: NoSuchUpload in the middle: exit 69 with the lifecycle rule in the hint, and the object of before stands."""
    faulty = faulty_seaweedfs
    faulty.put("big", b"before")

    def parts() -> Iterator[bytes]:
        yield BIG[0] + b"x"
        for write in faulty.direct.unfinished(faulty.root):
            faulty.direct.abandon(write)
        yield BIG[0]
        yield BIG[0]

    with pytest.raises(errors.StorageUnavailable, match="ended from outside") as caught:
        faulty.storage.replace(f"{faulty.root}/big", parts(), -1)
    assert "lifecycle" in caught.value.hint
    assert (faulty.time.seconds, faulty.direct.get(f"{faulty.root}/big")) == (0, b"before")


@pytest.mark.parametrize("which", [{"method": "PUT"}, COMPLETE], ids=["one-put", "parts"])
def test_a_foreign_object_of_the_same_size_is_not_ours(faulty: Faulty, which: dict[str, Any]) -> None:
    """Row 39: written right after ours, before we look: told with both commits, and not written over."""
    parts = [b"ours"] if which["method"] == "PUT" else BIG
    size_bytes = sum(map(len, parts))

    def intrude(_: int, method: str, path: str, phase: str) -> None:
        if phase == "after" and method == which["method"] and which.get("query", "") in path:
            faulty.put("out", b"x" * size_bytes, metadata={"commit": "theirs"})

    faulty.proxy.on_request = intrude
    with pytest.raises(errors.StorageUnavailable, match=r"'ours'.* but the store shows .*'theirs'"):
        faulty.storage.replace(f"{faulty.root}/out", parts, -1, metadata={"commit": "ours"})
    stored = faulty.direct.head(f"{faulty.root}/out")
    assert stored is not None
    assert stored.metadata == {"commit": "theirs"}


PERMISSIONS = {
    "head": "s3:GetObject", "get": "s3:GetObject", "list": "s3:ListBucket", "create": "s3:PutObject",
    "replace": "s3:PutObject", "delete": "s3:DeleteObject",
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_a_missing_permission_is_named(faulty: Faulty, action: str) -> None:
    """Row 40: action, endpoint, bucket and key; exit 77, without waiting."""
    faulty.proxy.add("err", status=403, code="AccessDenied")
    with pytest.raises(errors.PermissionDenied, match=PERMISSIONS[action]) as caught:
        ACTIONS[action](faulty.storage, faulty.root)
    assert f"{faulty.root}/" in caught.value.message
    assert faulty.proxy.url in caught.value.message
    assert PERMISSIONS[action] in caught.value.hint
    assert (caught.value.exit_code, faulty.time.seconds) == (77, 0)


def test_a_refused_look_may_be_a_missing_object(faulty: Faulty) -> None:
    """Row 40: without the right to list, a store answers 403 in place of 404."""
    faulty.proxy.add("err", status=403, code="AccessDenied")
    with pytest.raises(errors.PermissionDenied, match="no such object and they do not allow s3:ListBucket"):
        faulty.storage.head(f"{faulty.root}/a")


def test_a_refused_abort_does_not_hide_the_first_error(faulty: Faulty) -> None:
    """Row 40: giving the parts back is only tidying up."""

    def parts() -> Iterator[bytes]:
        yield from BIG
        raise ZeroDivisionError

    rule = faulty.proxy.add("err", method="DELETE", status=403, code="AccessDenied")
    with pytest.raises(ZeroDivisionError):
        faulty.storage.replace(f"{faulty.root}/big", parts(), -1)
    assert rule.hits == 1


def put_big(storage: S3Storage, root: str) -> Any:
    return storage.replace(f"{root}/big", BIG, -1)


@pytest.mark.parametrize("action", ["create", "replace", "parts", "begin"])
@pytest.mark.parametrize(
    ("status", "code"),
    [(507, "InsufficientStorage"), (403, "QuotaExceeded"), (507, "XMinioStorageFull"), (400, "XMinioAdminBucketQuotaExceeded")],
)  # fmt: skip
def test_a_full_bucket_is_told_at_once(faulty: Faulty, action: str, status: int, code: str) -> None:
    """Row 41: one request, no waiting; exit 69, and how to go on."""
    which = {"parts": PART, "begin": {"method": "POST"}}.get(action, {"method": "PUT"})
    rule = faulty.proxy.add("err", **which, status=status, code=code)
    with pytest.raises(errors.StorageUnavailable, match="is full or its quota is used up") as caught:
        (ACTIONS | {"parts": put_big, "begin": put_big})[action](faulty.storage, faulty.root)
    assert caught.value.exit_code == 69
    assert "Free space" in caught.value.hint
    assert (rule.hits <= 2, faulty.time.seconds) == (True, 0)


def test_a_store_that_refuses_conditions_is_asked_without(faulty: Faulty) -> None:
    """501 to If-None-Match (B2): `create` looks before it writes, and the storage says so."""
    refused_before = faulty.storage.refuses_conditions
    seen: list[str] = []
    faulty.proxy.on_request = lambda _n, method, _path, phase: seen.append(method) if phase == "before" else None
    for body, is_ours in ((b"mine", True), (b"theirs", False), (b"mine", True)):
        seen.clear()
        faulty.proxy.add("err", method="PUT", status=501, code="NotImplemented", times=1)
        assert faulty.storage.create(f"{faulty.root}/claim", body) is is_ours
        assert (refused_before, faulty.storage.refuses_conditions) == (False, True)
        assert seen[:2] == ["PUT", "GET"]
    assert faulty.direct.get(f"{faulty.root}/claim") == b"mine"


FOUR_CHUNKS: dict[str, Any] = {
    "run__chunk_bytes": 700,
    "run__predict_rows": 7,
    "run__engine": "threads",
    "run__workers": 2,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a bundle in a folder: the store sees the requests of the run alone."""
    return register(str(tmp_path_factory.mktemp("model")))


@dataclass
class Runs:
    """A job of four chunks whose every request goes through the proxy, and what it gives on a calm day."""

    bench: Bench
    proxy: FaultProxy
    expected: bytes

    def run(self) -> dict[str, Any]:
        """Run the job; its receipt."""
        receipt: dict[str, Any] = self.bench.run("in.csv", "out.csv", **FOUR_CHUNKS).as_dict()
        return receipt

    def output(self) -> bytes | None:
        """What stands under the output key, read on a calm day."""
        self.proxy.clear()
        return self.bench.get("out.csv")


@pytest.fixture
def runs(moto_bucket: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    for faulty in behind_a_proxy(moto_bucket, monkeypatch):
        batch.storage.open_storage.cache_clear()
        calm_day = Bench(f"{moto_bucket}/calm", model, tmp_path)
        calm_day.put("in.csv", encode(rows(60), "csv"))
        calm_day.run("in.csv", "out.csv", **FOUR_CHUNKS)
        expected = calm_day.get("out.csv")
        assert expected is not None
        bench = Bench(f"{moto_bucket}/bad", model, tmp_path)
        bench.put("in.csv", encode(rows(60), "csv"))
        yield Runs(bench, faulty.proxy, expected)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_a_run_through_a_bad_day_gives_the_bytes_of_a_calm_one(runs: Runs, seed: int) -> None:
    """Rows 1, 4, 8-11, 15, 21, 22, 25, 26: one request in six fails in one of nine ways."""
    kinds = ("err", "err_after", "reset_before", "reset_after", "dup", "trunc")
    rules = [runs.proxy.add(kind, probability=0.02, seed=seed) for kind in kinds]
    rules += [runs.proxy.add(kind, probability=0.02, seed=seed, seconds=0.05) for kind in ("stall", "stall_body")]
    rules.append(runs.proxy.add("close_delim", method="GET", n=10, probability=0.05, seed=seed))
    receipt = runs.run()
    assert runs.output() == runs.expected
    assert receipt["chunks"]["scored"] + receipt["chunks"]["reused"] == 4
    assert sum(rule.hits for rule in rules) >= 3


def test_a_flipped_bit_in_a_staged_chunk_is_noticed(runs: Runs) -> None:
    """Row 23: a ranged read has no checksum of its own; the chunk's sha256 tells, and nothing wrong is published."""
    rule = runs.proxy.add("corrupt", method="GET", key="/chunks/", times=1)
    runs.run()
    assert (rule.hits, runs.output()) == (1, runs.expected)


def test_a_run_into_a_full_bucket_is_resumed(runs: Runs) -> None:
    """Row 41: exit 69 when there is no room for the third chunk; the next run reuses the two and scores the others."""
    runs.proxy.add("err", method="PUT", key="/chunks/", after=2, status=507, code="InsufficientStorage")
    with pytest.raises(errors.StorageUnavailable, match="is full or its quota is used up") as caught:
        runs.run()
    assert (caught.value.exit_code, runs.output()) == (69, None)
    assert runs.run()["chunks"] == {"total": 4, "scored": 2, "reused": 2}
    assert runs.output() == runs.expected


def test_a_run_whose_credentials_expire_is_resumed(runs: Runs) -> None:
    """Row 6: exit 77 in mid-run, with nothing published; with new ones the same command goes on."""
    runs.proxy.add("err", after=25, status=400, code="ExpiredToken")
    with pytest.raises(errors.PermissionDenied) as caught:
        runs.run()
    assert (caught.value.exit_code, runs.output()) == (77, None)
    runs.run()
    assert runs.output() == runs.expected


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_run_whose_input_changes_publishes_nothing(runs: Runs, change: str) -> None:
    """Rows 28, 29: replaced or deleted after the first chunk was stored; exit 3, and the output key is not touched."""
    source = runs.bench.put("in.csv", encode(rows(600), "csv"))
    changed = threading.Event()

    def intrude(_: int, method: str, path: str, phase: str) -> None:
        if phase == "after" and method == "PUT" and "/chunks/" in path and not changed.is_set():
            changed.set()
            if change == "deleted":
                storage_for(source).delete(source)
            else:
                runs.bench.put("in.csv", encode(rows(601), "csv"))

    runs.proxy.on_request = intrude
    with pytest.raises(errors.InputChanged) as caught:
        runs.run()
    assert (caught.value.exit_code, runs.output()) == (3, None)


def test_the_proxy_drops_the_request_of_a_client_that_is_gone(faulty: Faulty) -> None:
    """What a kill "before" a request means: the server never sees it."""
    phases: list[str] = []
    address = faulty.proxy.server_address
    with socket.create_connection((str(address[0]), int(address[1]))) as client:

        def leave(_: int, _method: str, _path: str, phase: str) -> None:
            phases.append(phase)
            client.shutdown(socket.SHUT_RDWR)

        faulty.proxy.on_request = leave
        client.sendall(b"PUT /bucket/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert client.recv(1) == b""
    faulty.put("b", b"x")
    assert phases == ["before"]


def test_the_proxy_keeps_connections_whose_answers_have_no_body(faulty: Faulty) -> None:
    """HEAD, 204 and 304 are told apart from a body of their length, on one connection."""
    pin = faulty.put("a", b"0123456789")
    client, (bucket, _, key) = faulty.storage.connection.client(), pin.uri.removeprefix("s3://").partition("/")
    for _ in range(2):
        with pytest.raises(client.exceptions.ClientError, match="304"):
            client.get_object(Bucket=bucket, Key=key, IfNoneMatch=f'"{pin.etag}"')
        assert client.head_object(Bucket=bucket, Key=key)["ContentLength"] == 10
        assert client.delete_object(Bucket=bucket, Key=f"{key}-gone")["ResponseMetadata"]["HTTPStatusCode"] == 204
        assert faulty.storage.get(pin.uri) == b"0123456789"
