"""Both back ends keep the same promises, and S3 keeps them while the network does not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch import errors
from batch.storage import ObjectInfo, Unfinished, storage_for
from batch.storage.embedded import EmbeddedS3
from batch.storage.s3 import MIB, S3Storage
from tests.fault_proxy import FaultProxy, fault_proxy

Faulty = tuple[S3Storage, FaultProxy, str]
"""A storage behind the fault proxy, the proxy, and a bucket."""


def put(uri: str, body: bytes, **options: Any) -> ObjectInfo:
    return storage_for(uri).replace(uri, [body], len(body), **options)


def keys(root: str, prefix: str = "", **options: Any) -> list[str]:
    return [each.uri.removeprefix(root + "/") for each in storage_for(root).list(f"{root}/{prefix}", **options)]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("out/a.csv", "text/csv"),
        ("out/a.CSV.gz", "application/gzip"),
        ("out/a.parquet", "application/vnd.apache.parquet"),
        ("out/csv", "application/octet-stream"),
        ("runs/weekly/1/chunks/00000001.20-33", "application/vnd.batch-predict.chunk"),
        ("runs/weekly/1/chunks/00000001.20-33.unique", "application/vnd.batch-predict.chunk"),
        ("report.html", "text/html; charset=utf-8"),
    ],
)
def test_objects_say_what_they_are(moto_bucket: str, name: str, found: str) -> None:
    """Created, replaced at once, and in parts."""
    uri, bucket = f"{moto_bucket}/{name}", moto_bucket.removeprefix("s3://")
    storage = S3Storage()

    def kind() -> str:
        return str(storage.connection.client().head_object(Bucket=bucket, Key=name)["ContentType"])

    assert storage.create(uri, b"x")
    kinds = [kind()]
    storage.replace(uri, [b"y"], 1)
    kinds.append(kind())
    storage.replace(uri, iter([bytes(6 * MIB)] * 4), 24 * MIB)
    assert [*kinds, kind()] == [found] * 3


def test_what_was_stored_is_what_is_read(every_root: str) -> None:
    """Head, get and a whole read agree on the bytes."""
    pin = put(f"{every_root}/a/b", b"0123456789")
    storage = storage_for(every_root)
    found = storage.head(f"{every_root}/a/b")
    assert found is not None
    assert (found.etag, found.size_bytes, found.modified_at.tzinfo) == (pin.etag, 10, UTC)
    assert storage.get(pin.uri) == storage.read(pin, 0, 10) == b"0123456789"


def test_a_range_is_half_open(every_root: str) -> None:
    """Bytes [start, end), in the middle, at the end and empty."""
    pin = put(f"{every_root}/a", b"0123456789")
    storage = storage_for(every_root)
    assert [storage.read(pin, 2, 5), storage.read(pin, 9, 10), storage.read(pin, 4, 4)] == [b"234", b"9", b""]


def test_an_object_is_created_once(any_root: str) -> None:
    """The second creator is refused, unless its bytes are the same, and changes nothing."""
    storage, uri = storage_for(any_root), f"{any_root}/claim"
    assert storage.create(uri, b"mine")
    assert not storage.create(uri, b"theirs")
    assert storage.get(uri) == b"mine"


def test_a_race_of_creators_has_one_winner(any_root: str) -> None:
    """Eight threads claim one key at once: one True, and its bytes are the ones stored."""
    storage, uri = storage_for(any_root), f"{any_root}/claim"
    bodies = [f"worker {number}".encode() for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda body: storage.create(uri, body), bodies))
    assert [body for body, is_winner in zip(bodies, won, strict=True) if is_winner] == [storage.get(uri)]


@pytest.mark.parametrize("body", [b"AAAA", b"longer than before"])
def test_a_replaced_object_is_not_read_through_an_old_pin(every_root: str, body: bytes) -> None:
    """A pin names one version: another body, even of the same size, is InputChanged."""
    pin = put(f"{every_root}/a", b"BBBB")
    put(pin.uri, body)
    with pytest.raises(errors.InputChanged, match="a"):
        storage_for(every_root).read(pin, 0, 2)


def test_a_deleted_object_is_not_read_and_may_be_deleted_again(every_root: str) -> None:
    """After delete: no head, no body, InputChanged through the pin, and a second delete is fine."""
    pin, storage = put(f"{every_root}/a", b"x"), storage_for(every_root)
    storage.delete(pin.uri)
    storage.delete(pin.uri)
    assert (storage.head(pin.uri), storage.get(pin.uri)) == (None, None)
    with pytest.raises(errors.InputChanged):
        storage.read(pin, 0, 1)


def test_a_listing_is_in_the_byte_order_of_keys(every_root: str) -> None:
    """Also where a folder and a sibling differ in a byte below the slash."""
    names = ["d-e", "d.e", "d/x", "d/y/z", "dz", "é"]
    for name in reversed(names):
        put(f"{every_root}/{name}", b"1")
    assert keys(every_root) == names
    assert keys(every_root, "d/") == ["d/x", "d/y/z"]
    assert keys(every_root, "d", start_after=f"{every_root}/d.e") == ["d/x", "d/y/z", "dz"]


@pytest.mark.parametrize("name", ["a b", "a+b", "ü/日本", "a=b&c", "it's", "p=1/part-0"])
def test_keys_may_hold_odd_characters(every_root: str, name: str) -> None:
    """A key comes back from head and list as it was given."""
    is_kept_as_it_is(every_root, name)


def test_a_percent_sign_in_a_key_is_kept(any_root: str) -> None:
    """It is no escape (nanio unquotes such keys twice and then refuses their signature)."""
    is_kept_as_it_is(any_root, "a%20b")


def is_kept_as_it_is(root: str, name: str) -> None:
    uri = put(f"{root}/{name}", b"odd").uri
    assert uri == f"{root}/{name}"
    assert keys(root) == [name]
    assert storage_for(root).get(uri) == b"odd"


def test_an_unknown_size_and_an_empty_body_are_stored_whole(every_root: str) -> None:
    """Parts are joined; no parts are an empty object."""
    storage = storage_for(every_root)
    assert storage.replace(f"{every_root}/a", iter([b"ab", b"", b"c"]), -1).size_bytes == 3
    assert storage.replace(f"{every_root}/b", [], 0).size_bytes == 0
    assert storage.get(f"{every_root}/a") == b"abc"


def test_a_failing_writer_leaves_the_old_object(every_root: str) -> None:
    """An error while the parts are made replaces nothing."""

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise ZeroDivisionError

    uri = put(f"{every_root}/a", b"old").uri
    with pytest.raises(ZeroDivisionError):
        storage_for(uri).replace(uri, parts(), -1)
    assert (storage_for(uri).get(uri), keys(every_root)) == (b"old", ["a"])


@pytest.mark.parametrize("announced", [3, -1])
def test_what_happens_before_a_write_may_forbid_it(every_root: str, announced: int) -> None:
    """`before` is called once all parts were taken; what it raises comes out, and the object of before stands."""
    put(f"{every_root}/a", b"old")
    taken: list[bytes] = []

    def parts() -> Iterator[bytes]:
        for part in (b"n", b"ew"):
            taken.append(part)
            yield part

    def forbid() -> None:
        assert taken == [b"n", b"ew"]
        raise KeyError("forbidden")

    with pytest.raises(KeyError, match="forbidden"):
        storage_for(every_root).replace(f"{every_root}/a", parts(), announced, before=forbid)
    assert storage_for(every_root).get(f"{every_root}/a") == b"old"
    assert keys(every_root) == ["a"]


def test_the_store_tells_its_time(every_root: str) -> None:
    """Now is the clock that stamps objects: in UTC, and here that of this machine."""
    stored, now = put(f"{every_root}/a", b"x"), storage_for(every_root).now(f"{every_root}/")
    assert now.tzinfo == UTC
    assert abs((now - datetime.now(UTC)).total_seconds()) < 60
    assert abs((now - stored.modified_at).total_seconds()) < 60


def test_a_write_under_way_is_listed_as_unfinished(every_root: str) -> None:
    """While its parts come it is there, with when it was begun (moto says: in 2010); when it is done, or was given up, it is not."""
    storage, seen = storage_for(every_root), list[Unfinished]()

    def parts(fails: bool) -> Iterator[bytes]:
        yield bytes(17 * MIB)
        seen.extend(storage.unfinished(f"{every_root}/deep/"))
        if fails:
            raise ZeroDivisionError

    storage.replace(f"{every_root}/deep/a", parts(fails=False), -1)
    with pytest.raises(ZeroDivisionError):
        storage.replace(f"{every_root}/deep/b", parts(fails=True), -1)
    assert len(seen) == 2
    assert all(each.begun_at < storage.now(each.uri) + timedelta(minutes=1) for each in seen)
    assert list(storage.unfinished(every_root)) == []
    assert keys(every_root) == ["deep/a"]


def test_an_unfinished_write_can_be_abandoned(every_root: str) -> None:
    """It is listed below its prefix only, and is gone afterwards; once more is no error, and no object is touched."""
    storage = storage_for(every_root)
    put(f"{every_root}/deep/whole", b"x")
    begin_and_forget(f"{every_root}/deep/half")
    assert list(storage.unfinished(f"{every_root}/other/")) == []
    (found,) = storage.unfinished(f"{every_root}/deep/")
    storage.abandon(found)
    storage.abandon(found)
    assert list(storage.unfinished(f"{every_root}/deep/")) == []
    assert keys(every_root) == ["deep/whole"]


def begin_and_forget(uri: str) -> None:
    """What a killed writer leaves behind."""
    if not uri.startswith("s3://"):
        with open(os.path.join(os.path.dirname(uri), ".partial-0123456789abcdef"), "wb") as file:
            file.write(b"half")
        return
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    S3Storage().connection.client().create_multipart_upload(Bucket=bucket, Key=key)


def test_a_store_with_conditions_does_not_refuse_them(every_root: str) -> None:
    """Also one that silently ignores them: that is for the probe to find out."""
    storage = storage_for(every_root)
    assert storage.create(f"{every_root}/claim", b"mine")
    assert not storage.refuses_conditions


def test_a_store_without_conditions_overwrites(unconditional_root: str) -> None:
    """What the fixture is for: a second creator is told that the object is its own."""
    storage, uri = storage_for(unconditional_root), f"{unconditional_root}/claim"
    assert [storage.create(uri, b"mine"), storage.create(uri, b"theirs"), storage.get(uri)] == [True, True, b"theirs"]


def test_metadata_is_kept_without_conditions(unconditional_root: str) -> None:
    """User metadata does not rest on conditional writes either."""
    assert put(f"{unconditional_root}/a", b"x", metadata={"run-id": "r1"}).metadata == {"run-id": "r1"}


@pytest.mark.s3
def test_metadata_is_kept(bucket: str) -> None:
    """User metadata comes back from head."""
    put(f"{bucket}/a", b"x", metadata={"run-id": "r1"})
    found = storage_for(bucket).head(f"{bucket}/a")
    assert found is not None
    assert found.metadata == {"run-id": "r1"}


@pytest.mark.s3
@pytest.mark.parametrize("announced", [70 * MIB, -1])
def test_a_large_object_goes_up_in_parts(bucket: str, announced: int) -> None:
    """70 MiB, announced or not: one object with the bytes in order and its metadata."""
    blocks = [bytes([number]) * (7 * MIB) for number in range(10)]
    stored = storage_for(bucket).replace(f"{bucket}/big", iter(blocks), announced, metadata={"k": "v"})
    assert (stored.size_bytes, stored.metadata) == (70 * MIB, {"k": "v"})
    assert storage_for(bucket).read(stored, 7 * MIB - 1, 7 * MIB + 1) == b"\0\1"
    assert storage_for(bucket).get(stored.uri) == b"".join(blocks)


@pytest.mark.s3
def test_a_failed_upload_in_parts_leaves_nothing(bucket: str) -> None:
    """The wrong total is refused with both numbers, and the upload is aborted."""
    with pytest.raises(errors.OutputRefused, match=f"{70 * MIB} .* {72 * MIB}"):
        storage_for(bucket).replace(f"{bucket}/big", [bytes(8 * MIB)] * 9, 70 * MIB)
    client = S3Storage().connection.client()
    assert keys(bucket) == []
    assert not client.list_multipart_uploads(Bucket=bucket.removeprefix("s3://")).get("Uploads")


@pytest.mark.s3
def test_a_missing_bucket_is_named(bucket: str) -> None:
    """Reads say InputMissing, writes OutputRefused."""
    storage = storage_for(bucket)
    for ask in (storage.head, storage.get, lambda uri: list(storage.list(uri))):
        with pytest.raises(errors.InputMissing, match="no-such-bucket"):
            ask("s3://no-such-bucket/a")
    with pytest.raises(errors.OutputRefused, match="no-such-bucket"):
        storage.create("s3://no-such-bucket/a", b"")


@pytest.mark.s3
def test_a_wrong_key_is_a_matter_of_permission(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the action."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(errors.PermissionDenied, match="PutObject"):
        S3Storage().create(f"{bucket}/a", b"x")


def test_no_credentials_are_a_matter_of_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is asked of the network when there are no keys."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(errors.PermissionDenied, match="credentials"):
        S3Storage().get("s3://bucket/a")


def test_a_closed_port_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that never answered is unavailable after seconds, with its endpoint in the message."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(errors.StorageUnavailable, match=endpoint):
            S3Storage(retry_seconds=0).get("s3://bucket/a")


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://bucket", "file"])
def test_a_uri_without_bucket_or_key_is_a_usage_error(uri: str) -> None:
    """Before anything is asked of the network."""
    with pytest.raises(errors.UsageError, match="not an object"):
        S3Storage().head(uri)


def test_a_forked_process_gets_a_client_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is kept for a process, never across one."""
    storage = S3Storage()
    first = storage.connection.client()
    assert storage.connection.client() is first
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert storage.connection.client() is not first


@pytest.fixture
def faulty(bucket: str, s3_server: EmbeddedS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """A storage behind the fault proxy that does not wait between attempts, the proxy, and a bucket."""
    with fault_proxy(s3_server.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield S3Storage(sleep=lambda _: None), proxy, bucket


@pytest.mark.s3
def test_an_outage_longer_than_botocores_patience_is_absorbed(faulty: Faulty) -> None:
    """Twelve 503 in a row, and then the answer."""
    storage, proxy, root = faulty
    storage.create(f"{root}/a", b"x")
    proxy.faults["GET"] = [503, 12]
    assert storage.get(f"{root}/a") == b"x"
    assert proxy.requests.count("GET") == 13


@pytest.mark.s3
def test_a_claim_whose_answer_was_lost_is_still_ours(faulty: Faulty) -> None:
    """The retry is refused with 412 because of our own first request."""
    storage, proxy, root = faulty
    proxy.faults["PUT"] = ["lost", 1]
    assert storage.create(f"{root}/claim", b"mine")
    assert proxy.requests.count("PUT") == 2
    assert not storage.create(f"{root}/claim", b"theirs")


@pytest.mark.s3
def test_a_body_cut_short_is_read_again(faulty: Faulty) -> None:
    """Half of the bytes and then the end of the connection is no answer."""
    storage, proxy, root = faulty
    pin = storage.replace(f"{root}/a", [b"0123456789"], 10)
    proxy.faults["GET"] = ["truncated", 2]
    assert storage.read(pin, 2, 8) == b"234567"
    assert proxy.requests.count("GET") == 3


@pytest.mark.s3
def test_a_lost_answer_to_complete_is_settled_by_what_is_stored(faulty: Faulty) -> None:
    """The upload is gone when it is completed again, and the object is there."""
    storage, proxy, root = faulty
    blocks = [bytes(8 * MIB)] * 9
    storage_parts = _losing_the_second_post(proxy, blocks)
    assert storage.replace(f"{root}/big", storage_parts, 72 * MIB).size_bytes == 72 * MIB
    assert proxy.requests.count("POST") == 3


def _losing_the_second_post(proxy: FaultProxy, blocks: list[bytes]) -> Iterator[bytes]:
    yield from blocks
    proxy.faults["POST"] = ["lost", 1]


@pytest.mark.s3
def test_an_outage_beyond_the_budget_is_unavailable(faulty: Faulty) -> None:
    """The message names action, object and endpoint."""
    _, proxy, root = faulty
    proxy.faults["GET"] = [503, 99]
    with pytest.raises(errors.StorageUnavailable, match=f"GetObject {root}/a at {proxy.url}"):
        S3Storage(retry_seconds=0).get(f"{root}/a")
