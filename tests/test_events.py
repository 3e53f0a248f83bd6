"""Notifications: every store's spelling becomes the same URI, and whatever arrives, and however, only ever wakes the watcher."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote_plus, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batch.storage
from batch.errors import UsageError
from batch.storage.embedded import EmbeddedS3
from batch.triggers.events import HELD_MAX, SPARING_SECONDS, Sparingly, Wake, notification_in, uris_in
from batch.triggers.listen import BODY_BYTES_MAX, TOKEN_VARIABLE, address_of, listen
from batch.triggers.queue import poll_queue, polling
from tests.clocks import FakeClock
from tests.drop_folder import Folder
from tests.fault_proxy import fault_proxy

pytestmark = pytest.mark.slow

KEY = "drop/a b+c%2B 100% ü日.csv"
URI = f"s3://acme/{KEY}"
VERSION = "v_671497ccc9cc2141a2507a5576ef547d"


def record(key=None, *, name="ObjectCreated:Put", bucket="acme", source="aws:s3", **of_object):
    """One record as S3 sends it; the key is form-encoded."""
    facts = {"key": quote_plus(KEY if key is None else key, safe="/"), "size": 1024, "eTag": "d41d8cd9", **of_object}
    about = {"s3SchemaVersion": "1.0", "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"}, "object": facts}
    return {"eventVersion": "2.1", "eventSource": source, "eventName": name, "s3": about}


def records(*given):
    return {"Records": list(given or [record()])}


def by_sns(body):
    return {"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:…", "Message": json.dumps(body)}


def by_event_bridge(kind="Object Created", key=KEY):
    detail = {"version": "0", "bucket": {"name": "acme"}, "object": {"key": key, "size": 5}, "reason": "PutObject"}
    return {"version": "0", "detail-type": kind, "source": "aws.s3", "detail": detail}


def by_minio(name="s3:ObjectCreated:Put"):
    told = record(name=name, source="minio:s3")
    told["s3"]["object"]["key"] = quote_plus(KEY)  # unlike Amazon's, with the slashes encoded
    return {"EventName": name, "Key": f"acme/{KEY}", "Records": [told]}


def by_seaweedfs(path=f"/buckets/acme/{KEY}", kind="create", **of_entry):
    """What a filer of SeaweedFS 4.48 sends."""
    parent, _, name = path.rpartition("/")
    entry = {"name": name, "attributes": {"file_size": 5, "file_mode": 432}, **of_entry}
    return {"event_type": kind, "key": path, "message": {"new_entry": entry, "new_parent_path": parent}}


def gone_by_seaweedfs():
    body = by_seaweedfs(kind="delete")
    body["message"] = {"old_entry": body["message"]["new_entry"], "delete_chunks": True}
    return body


def renamed_by_seaweedfs():
    return by_seaweedfs(kind="rename") | {"key": "/buckets/acme/tmp/old.csv"}


READ = {
    "S3": (records(), [URI]),
    "S3, in parts": (records(record(name="ObjectCreated:CompleteMultipartUpload")), [URI]),
    "S3, a version": (records(record(versionId="3HL4kqtJ", sequencer="0055AED6DCD90281E5")), [URI]),
    "S3, several": (records(record("b"), record("a"), record("b")), ["s3://acme/b", "s3://acme/a"]),
    "S3, another bucket": (records(record("x", bucket="other"), record("y")), ["s3://other/x", "s3://acme/y"]),
    "S3, encoded slashes": ({"Records": [record() | {"s3": by_minio()["Records"][0]["s3"]}]}, [URI]),
    "S3, a partition": (records(record("year=2025/x.csv")), ["s3://acme/year=2025/x.csv"]),
    "S3, one removed": (records(record("a", name="ObjectRemoved:Delete"), record("b")), ["s3://acme/b"]),
    "S3, tags": (records(record(name="ObjectTagging:Put")), []),
    "S3, nothing": ({"Records": []}, []),
    "S3, test": ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "acme"}, []),
    "SNS": (by_sns(records()), [URI]),
    "SNS, raw": (json.dumps(records()), [URI]),
    "SNS, test": (by_sns({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "acme"}), []),
    "SNS, EventBridge": (by_sns(by_event_bridge()), [URI]),
    "EventBridge": (by_event_bridge(), [URI]),
    "EventBridge, not encoded": (by_event_bridge(key="a+b%2Bc.csv"), ["s3://acme/a+b%2Bc.csv"]),
    "EventBridge, deleted": (by_event_bridge("Object Deleted"), []),
    "MinIO": (by_minio(), [URI]),
    "MinIO, removed": (by_minio("s3:ObjectRemoved:Delete"), []),
    "SeaweedFS": (by_seaweedfs(), [URI]),
    "SeaweedFS, written again": (by_seaweedfs(kind="update"), [URI]),
    "SeaweedFS, moved here": (renamed_by_seaweedfs(), [URI]),
    "SeaweedFS, deleted": (gone_by_seaweedfs(), []),
    "SeaweedFS, a folder": (by_seaweedfs("/buckets/acme/drop", is_directory=True), []),
    "SeaweedFS, a bucket": (by_seaweedfs("/buckets/acme", is_directory=True), []),
    "SeaweedFS, a part": (by_seaweedfs("/buckets/acme/.uploads/88d4_5a/0001_50.part"), []),
    "SeaweedFS, its own": (by_seaweedfs("/buckets/.system/owners/embedded/acme"), []),
    "SeaweedFS, no bucket": (by_seaweedfs("/etc/iam/identity.json"), []),
    "SeaweedFS, a version": (by_seaweedfs(f"/buckets/acme/drop/x.csv.versions/{VERSION}"), ["s3://acme/drop/x.csv"]),
    "SeaweedFS, an older version": (by_seaweedfs(f"/buckets/acme/drop/x.csv.versions/{VERSION}", kind="update"), []),
    "SeaweedFS, a delete marker": (
        by_seaweedfs(f"/buckets/acme/x.versions/{VERSION}", extended={"Seaweed-X-Amz-Delete-Marker": "dHJ1ZQ=="}),
        [],
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_a_notification_names_the_objects_that_were_created(kind):
    """Of every sender, whether the body is text, bytes or already decoded; nothing is left unread."""
    body, uris = READ[kind]
    text = body if isinstance(body, str) else json.dumps(body)
    assert notification_in(body).note == ""
    assert [uris_in(body), uris_in(text), uris_in(text.encode())] == [uris] * 3


def nested(body, times):
    for _ in range(times):
        body = by_sns(body)
    return body


UNREADABLE = {
    "no JSON": "{",
    "no text": b"\xff\xfe{}",
    "empty": "",
    "endless": "[" * 100_000,
    "a digit bomb": '{"Records": ' + "9" * 5000 + "}",
    "no object": "[1, null]",
    "another one's": {"action": "opened", "pull_request": {}},
    "a record of nothing": records({}),
    "a record of a number": records(7),
    "a record without bucket": records({"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "a"}}}),
    "half a character": records(record("x") | {"s3": {"bucket": {"name": "b"}, "object": {"key": "\ud800"}}}),
    "bytes that are no text": records(record("x") | {"s3": {"bucket": {"name": "b"}, "object": {"key": "%ff"}}}),
    "a key that is a list": records({"eventName": "ObjectCreated:Put", "s3": {"object": {"key": []}}}),
    "EventBridge of nothing": {"detail-type": "Object Created", "detail": None},
    "SeaweedFS of nothing": {"event_type": "create", "message": {"new_entry": {}}},
    "SNS of nothing": {"Type": "Notification", "Message": "hello"},
    "too many envelopes": nested(records(), 6),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_a_note(kind):
    """A broken body tells of nothing, in one printable line for the log, and raises nothing."""
    found = notification_in(UNREADABLE[kind])
    assert (found.uris, uris_in(UNREADABLE[kind])) == ((), [])
    assert found.note.isprintable()
    assert "ignored" in found.note


def test_a_broken_record_does_not_hide_the_others():
    """The rest of the body counts, and the note has both numbers."""
    found = notification_in(records(record("a"), {}, record("b")))
    assert found.uris == ("s3://acme/a", "s3://acme/b")
    assert found.note == "1 of 3 records of a notification name no object; they are ignored"


def test_sns_is_confirmed_by_a_person():
    """The address in the body is shown where it is SNS's own, and never fetched."""
    body = {"Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Token=1"}
    assert "open https://sns.eu-west-1.amazonaws.com/?Token=1" in notification_in(body).note
    assert "internal" not in notification_in(body | {"SubscribeURL": "http://internal/"}).note


def json_values():
    names = ["Records", "Message", "Type", "s3", "detail", "detail-type", "event_type", "message", "new_entry", "key"]
    leaves = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["Notification", "Object Created"])
    keys = st.sampled_from(names) | st.text()
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


@given(json_values())
def test_no_body_raises(body):
    """Any JSON value at all gives URIs and a note."""
    found = notification_in(body)
    assert all(uri.startswith("s3://") for uri in found.uris)


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_every_key_survives(key):
    """Whatever a key is made of, all senders that can spell it name the same object."""
    bodies = [records(record(key)), by_sns(records(record(key))), by_event_bridge(key=key)]
    assert [uris_in(json.dumps(body)) for body in bodies] == [[f"s3://acme/{key}"]] * 3


# ---- the signal ----


def test_only_the_watched_prefix_wakes():
    """Other buckets, and keys that merely resemble the prefix, leave the watcher asleep."""
    clock = FakeClock()
    wake = Wake("s3://acme/drop/", clock=clock)
    assert wake.tell(["s3://other/drop/a", "s3://acme/drop", "s3://acme/dropped/a", "s3://acme/out/a"]) == 0
    assert wake.wait(30) == frozenset()
    assert wake.tell(["s3://acme/out/a", "s3://acme/drop/a"]) == 1
    assert wake.wait(30) == {"s3://acme/drop/a"}
    assert clock.seconds == pytest.approx(30 + 0.2), "the second wait ended at once, but for gathering"


def test_doubled_and_reordered_is_the_same():
    """Telling is a set that is emptied by each wait: no order, no count; the next wait begins anew."""
    clock = FakeClock()
    wake = Wake("s3://acme/", clock=clock, gather_seconds=0)
    for uri in ("s3://acme/b", "s3://acme/a", "s3://acme/b"):
        wake.tell([uri])
    assert (wake.wait(30), clock.seconds) == ({"s3://acme/a", "s3://acme/b"}, 0)
    assert (wake.wait(30), clock.seconds) == (frozenset(), 30)


def test_what_comes_shortly_after_is_one_wake():
    """Files that are dropped together are told together."""
    late = ["s3://acme/b"]
    wake = Wake("s3://acme/", clock=FakeClock(lambda: wake.tell([late.pop()] if late else [])))
    wake.tell(["s3://acme/a"])
    assert wake.wait(1) == {"s3://acme/a", "s3://acme/b"}


def test_a_flood_is_held_within_a_limit():
    """A watcher that is busy for hours finds that something happened, not a list without end."""
    wake = Wake("s3://acme/", clock=FakeClock())
    for number in range(2 * HELD_MAX):
        wake.tell([f"s3://acme/{number}"])
    assert len(wake.wait(0)) == HELD_MAX


def test_a_note_comes_once_an_hour():
    """A sender that is set up wrong does not fill the log."""
    told, clock = [], FakeClock()
    note = Sparingly(told.append, clock=clock)
    for text in ("a", "a", "", "b", "a"):
        note(text)
    clock.seconds += SPARING_SECONDS
    note("a")
    assert told == ["a", "b", "a"]


# ---- the listener ----


@contextmanager
def listening(**options):
    """A listener, the wake behind it and its notes."""
    notes = []
    wake = Wake("s3://acme/drop/", gather_seconds=0)
    with listen("127.0.0.1", 0, wake, note=notes.append, **options) as listener:
        yield listener, wake, notes


def ask(listener, method="POST", path="/", body=None, **headers):
    """Status, answer and headers of one request."""
    with closing(http.client.HTTPConnection(listener.host, listener.port, timeout=20)) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it refuses by the head, and need not take the body
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None, answer.headers


def test_a_posted_notification_wakes():
    """POST is answered at once with the number of objects that count; /healthz counts along."""
    with listening() as (listener, wake, notes):
        assert ask(listener, body=json.dumps(by_minio()))[:2] == (200, {"told": 1})
        assert wake.wait(10) == {URI}
        assert ask(listener, body=json.dumps(by_minio("s3:ObjectRemoved:Delete")))[:2] == (200, {"told": 0})
        assert ask(listener, body="{}")[:2] == (200, {"told": 0})
        assert ask(listener, "GET", "/healthz")[:2] == (200, {"ok": True, "notifications": 3, "objects": 1})
    assert notes == ["a notification is of no kind that is known here; it is ignored"]


REFUSED = {
    "bad JSON": (400, "POST", "/", "{", {}),
    "no length": (411, "POST", "/", iter([b"{}"]), {}),
    "too long": (413, "POST", "/", b"x" * (BODY_BYTES_MAX + 1), {}),
    "another method": (405, "PUT", "/", "{}", {}),
    "an unknown method": (405, "BREW", "/", None, {}),
    "reading": (405, "GET", "/", None, {}),
    "posting health": (405, "POST", "/healthz", "{}", {}),
    "another path": (404, "POST", "/x", "{}", {}),
    "a header without end": (431, "POST", "/", "{}", {"x": "y" * 70_000}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_listener_refuses_in_one_sentence(kind, capfd):
    """Each with its status; nothing wakes, nothing is printed, and the next one is served."""
    status, method, path, body, headers = REFUSED[kind]
    with listening() as (listener, wake, _):
        answer = ask(listener, method, path, body, **headers)
        assert (answer[0], list(answer[1])) == (status, ["error"])
        assert ("Allow" in answer[2]) == (status == 405)
        assert ask(listener, "GET", "/healthz")[0] == 200
        assert wake.wait(0) == frozenset()
    assert capfd.readouterr() == ("", "")


def test_the_listener_asks_for_its_token():
    """As a bearer or in the query; any other is refused before the body is looked at, and the probe needs none."""
    body = json.dumps(records())
    with listening(token="se+cret ü") as (listener, wake, notes):
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic se+cret"}, {"Authorization": ""}):
            assert ask(listener, body=body, **wrong)[0] == 401
        assert ask(listener, path="/?token=secret", body=body)[0] == 401
        assert wake.wait(0) == frozenset()
        assert ask(listener, path="/?token=" + quote_plus("se+cret ü"), body=body)[0] == 200
        assert ask(listener, body=body, Authorization="bearer se+cret ü".encode())[0] == 200
        assert ask(listener, "GET", "/healthz")[0] == 200
        assert wake.wait(10) == {URI}
    assert notes == ["a request without the right token was refused (401)"]


def test_a_slow_sender_is_hung_up_on():
    """The time is that of the whole request: a byte now and then does not prolong it."""
    with (
        listening(request_seconds=0.3) as (listener, _, _),
        socket.create_connection((listener.host, listener.port)) as slow,
    ):
        slow.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
        started = time.monotonic()
        slow.settimeout(10)
        answer = slow.recv(1000)
        assert answer.startswith(b"HTTP/1.0 408 ")
        assert time.monotonic() - started < 5


def test_the_listener_has_a_limited_number_of_connections():
    """One too many is sent away at once, and served when another has ended."""
    with ExitStack() as stack:
        listener, _, notes = stack.enter_context(listening(connections_max=2))
        idle = [stack.enter_context(socket.create_connection((listener.host, listener.port))) for _ in range(2)]
        # Accepted in order, so both count by the time that the third is looked at.
        assert ask(listener, "GET", "/healthz")[0] == 503
        idle[0].close()
        deadline = time.monotonic() + 10
        while (status := ask(listener, "GET", "/healthz")[0]) != 200:
            assert (status, time.monotonic() < deadline) == (503, True)
        assert notes == ["more than 2 connections at once; the others are sent away (503)"]


def test_closing_the_listener_ends_its_connections():
    """Nothing is waited for and no thread stays; the port is free, and closing again does nothing."""
    before = threading.active_count()
    with listening() as (listener, wake, _), socket.create_connection((listener.host, listener.port)) as idle:
        assert ask(listener, "GET", "/healthz")[0] == 200
        started = time.monotonic()
        listener.close()
        assert idle.recv(100) == b""
        assert time.monotonic() - started < 2
        assert threading.active_count() == before
        with listen(listener.host, listener.port, wake):
            listener.close()


def test_an_address_that_cannot_be_had_is_a_usage_error():
    """Taken, unknown, or no port at all; a listener that anybody reaches without a token is told of."""
    with listening() as (listener, wake, _):
        with pytest.raises(
            UsageError, match=rf"127.0.0.1:{listener.port} cannot be listened on: Address already in use"
        ):
            listen("127.0.0.1", listener.port, wake)
        with pytest.raises(UsageError, match="cannot be listened on"):
            listen("192.0.2.1", 0, wake, note=(notes := []).append)
        assert "BATCH_WEBHOOK_TOKEN is not set" in notes[0]
    assert [address_of(text) for text in ("8080", "0.0.0.0:80", "[::]:0", ":1")] == [
        ("127.0.0.1", 8080), ("0.0.0.0", 80), ("::", 0), ("127.0.0.1", 1),
    ]  # fmt: skip
    for text in ("", "http", "1.2.3.4", "a:b", "::1:80", "99999", "-1"):
        with pytest.raises(UsageError):
            address_of(text)


# ---- the queue ----


class Amazon:
    """S3, SQS, SNS and EventBridge on moto, with one bucket and one queue of their own."""

    def __init__(self, stack, url, bucket):
        import boto3

        self.s3, self.sqs, self.sns, self.events = (
            stack.enter_context(closing(boto3.client(name, region_name="us-east-1", endpoint_url=url)))
            for name in ("s3", "sqs", "sns", "events")
        )
        self.bucket = urlsplit(bucket).netloc
        self.prefix = f"{bucket}/drop/"
        self.name = f"drop-{uuid.uuid4().hex[:12]}"
        self.queue = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.queue_arn = f"arn:aws:sqs:us-east-1:123456789012:{self.name}"

    def notify(self, **configuration):
        self.s3.put_bucket_notification_configuration(Bucket=self.bucket, NotificationConfiguration=configuration)

    def drop(self, *keys):
        for key in keys:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=b"x")

    def send(self, *bodies):
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.queue, MessageBody=body if isinstance(body, str) else json.dumps(body))

    def left(self):
        """Messages that are there or hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return sum(int(told[name]) for name in names)


@pytest.fixture
def amazon(moto_url, moto_bucket):
    with ExitStack() as stack:
        yield Amazon(stack, moto_url, moto_bucket)


def told_by(wake, count, seconds=20):
    """What is told until there are `count` URIs."""
    seen, deadline = set(), time.monotonic() + seconds
    while len(seen) < count and time.monotonic() < deadline:
        seen |= wake.wait(1)
    return seen


def drained(url, wake, *, until_seconds=1, notes=None):
    """Poll in this thread, on a clock that costs nothing, until that much time was waited."""
    stop = threading.Event()
    clock = FakeClock(lambda: stop.set() if clock.seconds >= until_seconds else None)
    note = (lambda _: None) if notes is None else notes.append
    poll_queue(url, wake, stop, note=note, wait_seconds=0, clock=clock)
    return clock


def test_objects_wake_through_sqs(amazon):
    """S3 -> SQS, end to end: created, written again and copied, with keys of every kind; the queue is empty afterwards."""
    wake = Wake(amazon.prefix)
    queue = {"QueueArn": amazon.queue_arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    with polling(amazon.queue, wake, wait_seconds=1):
        amazon.notify(QueueConfigurations=[queue])
        amazon.drop(KEY, KEY, "drop/日本.csv", "elsewhere/x.csv")
        amazon.s3.copy_object(Bucket=amazon.bucket, Key="drop/copy.csv", CopySource=f"{amazon.bucket}/elsewhere/x.csv")
        amazon.s3.delete_object(Bucket=amazon.bucket, Key="elsewhere/x.csv")
        uris = {f"{amazon.prefix}{name}" for name in (KEY.removeprefix("drop/"), "日本.csv", "copy.csv")}
        assert told_by(wake, 3) == uris
        deadline = time.monotonic() + 10
        while amazon.left():
            assert time.monotonic() < deadline


@pytest.mark.parametrize("raw", ["true", "false"])
def test_objects_wake_through_sns(amazon, raw):
    """S3 -> SNS -> SQS, wrapped and by raw delivery."""
    topic = amazon.sns.create_topic(Name=amazon.name)["TopicArn"]
    raw_delivery = {"RawMessageDelivery": raw}
    amazon.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=amazon.queue_arn, Attributes=raw_delivery)
    amazon.notify(TopicConfigurations=[{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}])
    amazon.drop(KEY)
    wake, notes = Wake(amazon.prefix, gather_seconds=0), []
    drained(amazon.queue, wake, notes=notes)
    assert (wake.wait(0), notes, amazon.left()) == ({f"s3://{amazon.bucket}/{KEY}"}, [], 0)


def test_objects_wake_through_event_bridge(amazon):
    """S3 -> EventBridge -> SQS, where the key is not encoded."""
    amazon.events.put_rule(Name=amazon.name, EventPattern=json.dumps({"source": ["aws.s3"]}))
    amazon.events.put_targets(Rule=amazon.name, Targets=[{"Id": "1", "Arn": amazon.queue_arn}])
    amazon.notify(EventBridgeConfiguration={})
    amazon.drop(KEY)
    wake = Wake(amazon.prefix, gather_seconds=0)
    drained(amazon.queue, wake)
    assert wake.wait(0) == {f"s3://{amazon.bucket}/{KEY}"}


def test_a_poison_message_does_not_block(amazon):
    """What cannot be read, or is about other objects, is deleted with a note, and what stands behind it is told."""
    amazon.send("}{", *["{}"] * 15, records(record("x")), records(record("drop/a", bucket=amazon.bucket)))
    wake, notes = Wake(amazon.prefix, gather_seconds=0), []
    drained(amazon.queue, wake, notes=notes)
    assert wake.wait(0) == {f"{amazon.prefix}a"}
    assert sorted(notes) == [
        "a notification is not JSON in UTF-8; it is ignored",
        "a notification is of no kind that is known here; it is ignored",
        f"the queue also tells of objects outside {amazon.prefix}; they are ignored",
    ]
    assert amazon.left() == 0


def test_an_outage_of_the_queue_is_outlasted(amazon, moto_url):
    """Pauses double, the outage is told once, and the message is told when the queue is back."""
    amazon.send(records(record("drop/a", bucket=amazon.bucket)))
    wake, notes = Wake(amazon.prefix, gather_seconds=0), []
    with fault_proxy(moto_url) as proxy:
        proxy.faults = {"POST": [503, 4]}
        clock = drained(amazon.queue.replace(moto_url, proxy.url), wake, until_seconds=16, notes=notes)
    assert clock.seconds == 1 + 2 + 4 + 8 + 1
    assert wake.wait(0) == {f"{amazon.prefix}a"}
    assert len(notes) == 1
    assert "files are found by the poll: ReceiveMessage http://127.0.0.1:" in notes[0]


def test_nobody_there_and_no_queue_are_told_once(amazon):
    """Neither ends the poll, which asks a lost queue once a minute."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{held.getsockname()[1]}/1/x"
        for url, words in ((dead, "Could not connect"), (amazon.queue + "x", "there is no such queue")):
            notes = []
            clock = drained(url, Wake("s3://acme/"), until_seconds=120, notes=notes)
            assert len(notes) == 1
            assert words in notes[0]
            assert clock.seconds == 1 + 2 + 4 + 8 + 16 + 32 + 60


def test_missing_credentials_are_told_once(amazon, monkeypatch, tmp_path):
    """And the poll goes on: they are looked for anew each time."""
    amazon.send(records(record("drop/a", bucket=amazon.bucket)))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    wake, notes, stop = Wake(amazon.prefix, gather_seconds=0), [], threading.Event()

    def meanwhile():
        if clock.seconds >= 7:
            Path(tmp_path / "AWS_SHARED_CREDENTIALS_FILE").write_text(
                "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"
            )
        if clock.seconds >= 8:
            stop.set()

    clock = FakeClock(meanwhile)
    poll_queue(amazon.queue, wake, stop, note=notes.append, wait_seconds=0, clock=clock)
    assert wake.wait(0) == {f"{amazon.prefix}a"}
    assert len(notes) == 1
    assert "no usable credentials were found" in notes[0]


def test_the_queue_lets_go_within_a_second(monkeypatch):
    """Leaving does not wait for the long poll that is under way, and what becomes of that is not told any more."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    notes = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with polling(f"http://127.0.0.1:{silent.getsockname()[1]}/1/q", Wake("s3://acme/"), note=notes.append):
            asking, _ = silent.accept()
            started = time.monotonic()
        assert time.monotonic() - started < 2
        asking.close()
        for thread in threading.enumerate():
            if thread.name == "queue":
                thread.join(10)
    assert notes == []


def test_a_url_that_is_none_is_a_usage_error():
    """Found before anything is started."""
    for url in (
        "",
        "drop-queue",
        "arn:aws:sqs:us-east-1:1:drop",
        "s3://acme/drop",
        "https://sqs.eu-west-1.amazonaws.com/",
    ):
        with pytest.raises(UsageError, match=r"\[watch\] queue: .* is not the URL of a queue"):
            poll_queue(url, Wake("s3://acme/"), threading.Event())


def test_the_region_is_that_of_the_url(monkeypatch):
    """A request is signed for where the queue is; a host that names no region leaves it to the environment."""
    from batch.storage.s3.queue import region_of

    monkeypatch.setenv("AWS_REGION", "eu-south-2")
    hosts = {
        "sqs.eu-west-1.amazonaws.com": "eu-west-1",
        "sqs-fips.us-gov-west-1.amazonaws.com": "us-gov-west-1",
        "sqs.cn-north-1.amazonaws.com.cn": "cn-north-1",
        "vpce-0a1-b2.sqs.us-east-2.vpce.amazonaws.com": "us-east-2",
        "ap-south-1.queue.amazonaws.com": "ap-south-1",
        "sqs.us-west-2.localhost.localstack.cloud": "us-west-2",
        "elasticmq": "eu-south-2",
    }
    assert {host: region_of(f"https://{host}:443/1/q") for host in hosts} == hosts


# ---- a real store's webhook ----


class TellingS3(EmbeddedS3):
    """SeaweedFS that posts what happens in its filer; it reads notification.toml in its working directory."""

    def __init__(self, webhook, token):
        super().__init__()
        self.webhook = webhook
        self.token = token

    def _launch(self, binary):
        Path(self._scratch, "notification.toml").write_text(
            f'[notification.webhook]\nenabled = true\nendpoint = "{self.webhook}"\nbearer_token = "{self.token}"\n'
        )
        super()._launch(binary)


@pytest.mark.s3
def test_seaweedfs_wakes_by_its_webhook():
    """A real server posts to the listener, with its token; of all that happens in its filer only objects are told."""
    import boto3

    wake, notes = Wake("s3://acme/"), []
    with (
        listen("127.0.0.1", 0, wake, token="tok", note=notes.append) as listener,
        TellingS3(listener.url, "tok") as server,
    ):
        server.create_bucket("acme")
        keys = server.environment()
        access = {
            "aws_access_key_id": keys["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": keys["AWS_SECRET_ACCESS_KEY"],
        }
        with closing(boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1", **access)) as s3:
            s3.put_object(Bucket="acme", Key=KEY, Body=b"x")
            upload = s3.create_multipart_upload(Bucket="acme", Key="drop/parts.csv")["UploadId"]
            whole = {"Bucket": "acme", "Key": "drop/parts.csv", "UploadId": upload}
            etag = s3.upload_part(**whole, PartNumber=1, Body=b"x" * 5_000_000)["ETag"]
            s3.complete_multipart_upload(**whole, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
            s3.put_bucket_versioning(Bucket="acme", VersioningConfiguration={"Status": "Enabled"})
            s3.put_object(Bucket="acme", Key="drop/version.csv", Body=b"x")
            s3.delete_object(Bucket="acme", Key="drop/gone.csv")
            assert told_by(wake, 3) == {URI, "s3://acme/drop/parts.csv", "s3://acme/drop/version.csv"}
    assert notes == []


# ---- the whole program ----


@contextmanager
def watching(folder, environment, *options):
    """The real watcher, which would not look again by itself for an hour; ended by SIGTERM, with 143."""
    command = [sys.executable, "-m", "batch", "watch", str(folder.path), "--interval", "1h", *options]
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
            child.send_signal(signal.SIGTERM)
            assert child.wait(10) == 143
        finally:
            child.kill()
            child.communicate()


def scored(folder, name):
    """Wait until a dropped file's receipt stands beside its output."""
    deadline = time.monotonic() + 30
    while folder.get(f"out/{name}.receipt.json") is None:
        assert time.monotonic() < deadline, "nobody has scored it"
        time.sleep(0.05)


def test_a_watcher_is_woken_by_its_queue(amazon, model, tmp_path):
    """`[watch] queue`: S3 tells SQS, SQS the watcher, and the file that was dropped is scored within seconds, not within the hour."""
    folder = Folder(amazon.prefix.removesuffix("/drop/"), model, tmp_path, queue=json.dumps(amazon.queue))
    amazon.notify(QueueConfigurations=[{"QueueArn": amazon.queue_arn, "Events": ["s3:ObjectCreated:*"]}])
    folder.put("in/first.csv")
    with watching(folder, {}):
        scored(folder, "first")  # found by its first look: from now on only the queue can tell
        folder.put("in/a b+c.csv")
        scored(folder, "a b+c")


@pytest.mark.s3
def test_a_watcher_is_woken_by_seaweedfs(model, tmp_path, monkeypatch):
    """`watch --listen`: the store's own webhook, with its token."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TellingS3(f"http://127.0.0.1:{port}/", "tok") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        batch.storage.open_storage.cache_clear()
        server.create_bucket("acme")
        folder = Folder("s3://acme", model, tmp_path)
        folder.put("in/first.csv")
        with watching(folder, {TOKEN_VARIABLE: "tok"}, "--listen", str(port)):
            scored(folder, "first")
            folder.put("in/a b+c.csv")
            scored(folder, "a b+c")
