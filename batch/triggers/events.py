"""Notifications of object stores: which objects one tells of, and the signal that wakes a watcher early.

A notification decides nothing. Stores deliver it late, twice, in another order or never; the watcher's LIST is the truth, and
all that a notification does is to have it made sooner. So a body that cannot be read is a note for the log and no failure.

Two kinds of spelling meet here: keys in S3's own records are form-encoded ("a+b" is a key with a space), also in MinIO's;
EventBridge and SeaweedFS write the key as it is.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from batch.clock import SYSTEM, Clock

WRAPS_MAX: Final = 4
"""Envelopes around a notification: a topic is one, and a topic that is subscribed to a topic cannot be had."""
HELD_MAX: Final = 10_000
"""URIs that are kept between two waits; of more only the fact that there were some."""
GATHER_SECONDS: Final = 0.2
"""How long the first notification waits for others, so that a thousand files dropped at once are one LIST and not a thousand."""
SPARING_SECONDS: Final = 3600.0

BUCKETS: Final = "/buckets/"
"""The filer's folder that holds the buckets of SeaweedFS."""
# A version of `key` in a bucket of SeaweedFS that keeps versions: a file of its own in a folder beside the key's place.
_VERSION: Final = re.compile(r"(?P<key>.+)\.versions/v_[0-9a-f]{32}", re.DOTALL)
_DELETE_MARKER: Final = "Seaweed-X-Amz-Delete-Marker"


@dataclass(frozen=True, slots=True)
class Notification:
    """What one body tells."""

    uris: tuple[str, ...] = ()
    """``s3://bucket/key`` of the objects that were created or written again, in the body's order, each once."""
    note: str = ""
    """One line for the log about what could not be read; empty where all was understood."""


def uris_in(body: str | bytes | dict[str, Any]) -> list[str]:
    """The URIs of the objects whose creation the body tells of; empty for anything else. Never raises."""
    return list(notification_in(body).uris)


def notification_in(body: object) -> Notification:
    """The same with a note about what could not be read. `body`: text, or what `decode` made of it."""
    try:
        return _read(body, WRAPS_MAX)
    except ValueError:
        return Notification(note="a notification is not JSON in UTF-8; it is ignored")


def decode(body: str | bytes) -> Any:
    """The JSON value of `body`; any text that has none raises `ValueError`, however it is broken."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read(body: object, wraps: int) -> Notification:
    value = decode(body) if isinstance(body, str | bytes) else body
    if isinstance(value, dict):
        if value.get("Type") == "Notification" and isinstance(value.get("Message"), str) and wraps:
            return _read(value["Message"], wraps - 1)
        for shape in _SHAPES:
            found = shape(value)
            if found is not None:
                return found
    return Notification(note="a notification is of no kind that is known here; it is ignored")


def _test_event(body: dict[str, Any]) -> Notification | None:
    """What S3 sends once to see whether the target exists."""
    return Notification() if body.get("Event") == "s3:TestEvent" else None


def _subscription(body: dict[str, Any]) -> Notification | None:
    """What SNS sends to a new HTTP subscriber. It is not answered: the body could name any address to be fetched."""
    if body.get("Type") != "SubscriptionConfirmation":
        return None
    url = body.get("SubscribeURL")
    is_sound = isinstance(url, str) and url.isprintable() and url.startswith("https://sns.") and len(url) < 1000
    return Notification(
        note=f"SNS waits for a confirmation: open {url if is_sound else 'the SubscribeURL that it sent'}"
    )


def _records(body: dict[str, Any]) -> Notification | None:
    """S3's own records, by queue or topic, or by webhook from stores that took the form over, such as MinIO."""
    records = body.get("Records")
    if not isinstance(records, list):
        return None
    uris = [_record_uri(record) for record in records if _may_be_creation(record)]
    unread = sum(uri is None for uri in uris)
    note = f"{unread} of {len(records)} records of a notification name no object; they are ignored" if unread else ""
    return _told(uris, note)


def _may_be_creation(record: object) -> bool:
    """Whether it is a creation, or nothing at all that could be told from one."""
    # AWS writes ObjectCreated:Put, MinIO s3:ObjectCreated:Put.
    name = _at(record, "eventName")
    return not isinstance(name, str) or name.removeprefix("s3:").startswith("ObjectCreated:")


def _record_uri(record: object) -> str | None:
    name, key = _at(record, "eventName"), _at(record, "s3", "object", "key")
    if not isinstance(name, str) or not isinstance(key, str):
        return None
    try:
        return _uri(_at(record, "s3", "bucket", "name"), unquote_plus(key, errors="strict"))
    except UnicodeDecodeError:
        return None


def _event_bridge(body: dict[str, Any]) -> Notification | None:
    kind = body.get("detail-type")
    if not isinstance(kind, str):
        return None
    if kind != "Object Created":
        return Notification()
    uri = _uri(_at(body, "detail", "bucket", "name"), _at(body, "detail", "object", "key"))
    return _told([uri], "" if uri else "an event of EventBridge names no object; it is ignored")


def _seaweedfs(body: dict[str, Any]) -> Notification | None:
    """The webhook of SeaweedFS' filer, which tells of each change of any entry: folders, parts and versions as well."""
    entry = _at(body, "message", "new_entry")
    if not isinstance(body.get("event_type"), str) or not isinstance(body.get("message"), dict):
        return None
    if not isinstance(entry, dict) or entry.get("is_directory"):
        return Notification()
    # After a rename `key` is the old path; the parent is that of the new entry in any case.
    parent, name, path = _at(body, "message", "new_parent_path"), entry.get("name"), body.get("key")
    if isinstance(parent, str) and isinstance(name, str):
        path = f"{parent.rstrip('/')}/{name}"
    if not isinstance(path, str):
        return Notification(note="an event of SeaweedFS names no entry; it is ignored")
    return _told([_filer_uri(path, entry, is_new=body["event_type"] == "create")])


def _filer_uri(path: str, entry: dict[str, Any], *, is_new: bool) -> str | None:
    """The object that a filer entry holds, or None where it holds none."""
    bucket, _, key = path.removeprefix(BUCKETS).partition("/")
    # Below a leading dot the server keeps its own: parts in .uploads, and buckets such as .system.
    if not path.startswith(BUCKETS) or bucket.startswith(".") or key.startswith(".uploads/"):
        return None
    version = _VERSION.fullmatch(key)
    if version is None:
        return _uri(bucket, key)
    # A version is written once; later it only learns that it is no longer the newest.
    is_object = is_new and _at(entry, "extended", _DELETE_MARKER) is None
    return _uri(bucket, version["key"]) if is_object else None


_SHAPES: Final[tuple[Callable[[dict[str, Any]], Notification | None], ...]] = (
    _test_event, _subscription, _records, _event_bridge, _seaweedfs,
)  # fmt: skip
"""Each reads bodies of its own kind and gives None for others."""


def _told(uris: Iterable[str | None], note: str = "") -> Notification:
    return Notification(tuple(dict.fromkeys(uri for uri in uris if uri is not None)), note)


def _uri(bucket: object, key: object) -> str | None:
    """The URI, or None where one of the two is not a name."""
    if not isinstance(bucket, str) or not isinstance(key, str) or not bucket or not key or "/" in bucket:
        return None
    try:
        (bucket + key).encode()  # JSON can spell half a character, which no key has and no log can print
    except UnicodeEncodeError:
        return None
    return f"s3://{bucket}/{key}"


def _at(value: object, *names: str) -> Any:
    """``value[name][name]…``, or None where something on the way is missing or of another type."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


class Wake:
    """The signal that something may have happened below a prefix: any thread tells, one waits.

    Telling twice, or in another order, is the same as telling once.
    """

    def __init__(self, prefix: str, *, clock: Clock = SYSTEM, gather_seconds: float = GATHER_SECONDS) -> None:
        self.prefix = prefix
        self._clock = clock
        self._gather_seconds = gather_seconds
        self._never = threading.Event()
        self._is_told = threading.Event()
        self._lock = threading.Lock()
        self._uris: set[str] = set()

    def tell(self, uris: Iterable[str]) -> int:
        """Wake whoever waits if any of the URIs lies below the prefix; the number that do."""
        below = {uri for uri in uris if uri.startswith(self.prefix)}
        if below:
            with self._lock:
                self._uris |= below if len(self._uris) < HELD_MAX else set()
                self._is_told.set()
        return len(below)

    def wait(self, seconds: float) -> frozenset[str]:
        """Wait until something is told, at most so long; what was told since the last wait, empty where nothing was."""
        if self._clock.wait(self._is_told, seconds):
            self._clock.wait(self._never, self._gather_seconds)
        with self._lock:
            told, self._uris = frozenset(self._uris), set()
            self._is_told.clear()
        return told


class Sparingly:
    """Passes a note on, and the same again only an hour later: a sender that is set up wrong sends on for ever."""

    def __init__(self, note: Callable[[str], None], *, clock: Clock = SYSTEM) -> None:
        self._note = note
        self._clock = clock
        self._lock = threading.Lock()
        self._told_at: dict[str, float] = {}

    def __call__(self, text: str) -> None:
        """Pass `text` on unless it was passed on within the hour; an empty one is none."""
        now = self._clock.monotonic()
        with self._lock:
            self._told_at = {old: at for old, at in self._told_at.items() if now - at < SPARING_SECONDS}
            is_new = bool(text) and text not in self._told_at and len(self._told_at) < 100
            if is_new:
                self._told_at[text] = now
        if is_new:
            self._note(text)
