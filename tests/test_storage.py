"""Both back ends keep the same promises, and S3 keeps them while the network does not."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from batch import errors
from batch.storage import open_storage, storage_for
from batch.storage.s3 import MIB, S3Storage
from tests.fault_proxy import fault_proxy


def put(uri, body, **options):
    return storage_for(uri).replace(uri, [body], len(body), **options)


def keys(root, prefix="", **options):
    return [each.uri.removeprefix(root + "/") for each in storage_for(root).list(f"{root}/{prefix}", **options)]


def test_what_was_stored_is_what_is_read(any_root):
    """Head, get and a whole read agree on the bytes."""
    pin = put(f"{any_root}/a/b", b"0123456789")
    storage = storage_for(any_root)
    found = storage.head(f"{any_root}/a/b")
    assert (found.etag, found.size_bytes, found.modified_at.utcoffset().seconds) == (pin.etag, 10, 0)
    assert storage.get(pin.uri) == storage.read(pin, 0, 10) == b"0123456789"


def test_a_range_is_half_open(any_root):
    """Bytes [start, end), in the middle, at the end and empty."""
    pin = put(f"{any_root}/a", b"0123456789")
    storage = storage_for(any_root)
    assert [storage.read(pin, 2, 5), storage.read(pin, 9, 10), storage.read(pin, 4, 4)] == [b"234", b"9", b""]


def test_an_object_is_created_once(any_root):
    """The second creator is refused, unless its bytes are the same, and changes nothing."""
    storage, uri = storage_for(any_root), f"{any_root}/claim"
    assert storage.create(uri, b"mine")
    assert not storage.create(uri, b"theirs")
    assert storage.get(uri) == b"mine"


def test_a_race_of_creators_has_one_winner(any_root):
    """Eight threads claim one key at once: one True, and its bytes are the ones stored."""
    storage, uri = storage_for(any_root), f"{any_root}/claim"
    bodies = [f"worker {number}".encode() for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda body: storage.create(uri, body), bodies))
    assert [body for body, is_winner in zip(bodies, won, strict=True) if is_winner] == [storage.get(uri)]


@pytest.mark.parametrize("body", [b"AAAA", b"longer than before"])
def test_a_replaced_object_is_not_read_through_an_old_pin(any_root, body):
    """A pin names one version: another body, even of the same size, is InputChanged."""
    pin = put(f"{any_root}/a", b"BBBB")
    put(pin.uri, body)
    with pytest.raises(errors.InputChanged, match="a"):
        storage_for(any_root).read(pin, 0, 2)


def test_a_deleted_object_is_not_read_and_may_be_deleted_again(any_root):
    """After delete: no head, no body, InputChanged through the pin, and a second delete is fine."""
    pin, storage = put(f"{any_root}/a", b"x"), storage_for(any_root)
    storage.delete(pin.uri)
    storage.delete(pin.uri)
    assert storage.head(pin.uri) is storage.get(pin.uri) is None
    with pytest.raises(errors.InputChanged):
        storage.read(pin, 0, 1)


def test_a_listing_is_in_the_byte_order_of_keys(any_root):
    """Also where a folder and a sibling differ in a byte below the slash."""
    names = ["d-e", "d.e", "d/x", "d/y/z", "dz", "é"]
    for name in reversed(names):
        put(f"{any_root}/{name}", b"1")
    assert keys(any_root) == names
    assert keys(any_root, "d/") == ["d/x", "d/y/z"]
    assert keys(any_root, "d", start_after=f"{any_root}/d.e") == ["d/x", "d/y/z", "dz"]


@pytest.mark.parametrize("name", ["a b", "a+b", "a%20b", "ü/日本", "a=b&c", "it's", "p=1/part-0"])
def test_keys_may_hold_odd_characters(any_root, name):
    """A key comes back from head and list as it was given."""
    uri = put(f"{any_root}/{name}", b"odd").uri
    assert uri == f"{any_root}/{name}"
    assert keys(any_root) == [name]
    assert storage_for(any_root).get(uri) == b"odd"


def test_an_unknown_size_and_an_empty_body_are_stored_whole(any_root):
    """Parts are joined; no parts are an empty object."""
    storage = storage_for(any_root)
    assert storage.replace(f"{any_root}/a", iter([b"ab", b"", b"c"]), -1).size_bytes == 3
    assert storage.replace(f"{any_root}/b", [], 0).size_bytes == 0
    assert storage.get(f"{any_root}/a") == b"abc"


def test_a_failing_writer_leaves_the_old_object(any_root):
    """An error while the parts are made replaces nothing."""

    def parts():
        yield b"new"
        raise ZeroDivisionError

    uri = put(f"{any_root}/a", b"old").uri
    with pytest.raises(ZeroDivisionError):
        storage_for(uri).replace(uri, parts(), -1)
    assert (storage_for(uri).get(uri), keys(any_root)) == (b"old", ["a"])


@pytest.mark.s3
def test_metadata_is_kept(bucket):
    """User metadata comes back from head."""
    put(f"{bucket}/a", b"x", metadata={"run-id": "r1"})
    assert storage_for(bucket).head(f"{bucket}/a").metadata == {"run-id": "r1"}


@pytest.mark.s3
@pytest.mark.parametrize("announced", [70 * MIB, -1])
def test_a_large_object_goes_up_in_parts(bucket, announced):
    """70 MiB, announced or not: one object with the bytes in order and its metadata."""
    blocks = [bytes([number]) * (7 * MIB) for number in range(10)]
    stored = storage_for(bucket).replace(f"{bucket}/big", iter(blocks), announced, metadata={"k": "v"})
    assert (stored.size_bytes, stored.metadata) == (70 * MIB, {"k": "v"})
    assert storage_for(bucket).read(stored, 7 * MIB - 1, 7 * MIB + 1) == b"\0\1"
    assert storage_for(bucket).get(stored.uri) == b"".join(blocks)


@pytest.mark.s3
def test_a_failed_upload_in_parts_leaves_nothing(bucket):
    """The wrong total is refused with both numbers, and the upload is aborted."""
    with pytest.raises(errors.OutputRefused, match=f"{70 * MIB} .* {72 * MIB}"):
        storage_for(bucket).replace(f"{bucket}/big", [bytes(8 * MIB)] * 9, 70 * MIB)
    client = open_storage("s3").connection.client()
    assert keys(bucket) == []
    assert not client.list_multipart_uploads(Bucket=bucket.removeprefix("s3://")).get("Uploads")


@pytest.mark.s3
def test_a_missing_bucket_is_named(bucket):
    """Reads say InputMissing, writes OutputRefused."""
    storage = storage_for(bucket)
    for ask in (storage.head, storage.get, lambda uri: list(storage.list(uri))):
        with pytest.raises(errors.InputMissing, match="no-such-bucket"):
            ask("s3://no-such-bucket/a")
    with pytest.raises(errors.OutputRefused, match="no-such-bucket"):
        storage.create("s3://no-such-bucket/a", b"")


@pytest.mark.s3
def test_a_wrong_key_is_a_matter_of_permission(bucket, monkeypatch):
    """The message names the action."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(errors.PermissionDenied, match="PutObject"):
        S3Storage().create(f"{bucket}/a", b"x")


def test_no_credentials_are_a_matter_of_permission(monkeypatch, tmp_path):
    """Nothing is asked of the network when there are no keys."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(errors.PermissionDenied, match="credentials"):
        S3Storage().get("s3://bucket/a")


def test_a_closed_port_is_given_up_soon(monkeypatch):
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
def test_a_uri_without_bucket_or_key_is_a_usage_error(uri):
    """Before anything is asked of the network."""
    with pytest.raises(errors.UsageError, match="not an object"):
        S3Storage().head(uri)


def test_a_forked_process_gets_a_client_of_its_own(monkeypatch):
    """A client is kept for a process, never across one."""
    storage = S3Storage()
    first = storage.connection.client()
    assert storage.connection.client() is first
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert storage.connection.client() is not first


@pytest.fixture
def faulty(bucket, s3_server, monkeypatch):
    """A storage behind the fault proxy that does not wait between attempts, the proxy, and a bucket."""
    with fault_proxy(s3_server.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield S3Storage(sleep=lambda _: None), proxy, bucket


@pytest.mark.s3
def test_an_outage_longer_than_botocores_patience_is_absorbed(faulty):
    """Twelve 503 in a row, and then the answer."""
    storage, proxy, root = faulty
    storage.create(f"{root}/a", b"x")
    proxy.faults["GET"] = [503, 12]
    assert storage.get(f"{root}/a") == b"x"
    assert proxy.requests.count("GET") == 13


@pytest.mark.s3
def test_a_claim_whose_answer_was_lost_is_still_ours(faulty):
    """The retry is refused with 412 because of our own first request."""
    storage, proxy, root = faulty
    proxy.faults["PUT"] = ["lost", 1]
    assert storage.create(f"{root}/claim", b"mine")
    assert proxy.requests.count("PUT") == 2
    assert not storage.create(f"{root}/claim", b"theirs")


@pytest.mark.s3
def test_a_body_cut_short_is_read_again(faulty):
    """Half of the bytes and then the end of the connection is no answer."""
    storage, proxy, root = faulty
    pin = storage.replace(f"{root}/a", [b"0123456789"], 10)
    proxy.faults["GET"] = ["truncated", 2]
    assert storage.read(pin, 2, 8) == b"234567"
    assert proxy.requests.count("GET") == 3


@pytest.mark.s3
def test_a_lost_answer_to_complete_is_settled_by_what_is_stored(faulty):
    """The upload is gone when it is completed again, and the object is there."""
    storage, proxy, root = faulty
    blocks = [bytes(8 * MIB)] * 9
    storage_parts = _losing_the_second_post(proxy, blocks)
    assert storage.replace(f"{root}/big", storage_parts, 72 * MIB).size_bytes == 72 * MIB
    assert proxy.requests.count("POST") == 3


def _losing_the_second_post(proxy, blocks):
    yield from blocks
    proxy.faults["POST"] = ["lost", 1]


@pytest.mark.s3
def test_an_outage_beyond_the_budget_is_unavailable(faulty):
    """The message names action, object and endpoint."""
    _, proxy, root = faulty
    proxy.faults["GET"] = [503, 99]
    with pytest.raises(errors.StorageUnavailable, match=f"GetObject {root}/a at {proxy.url}"):
        S3Storage(retry_seconds=0).get(f"{root}/a")
