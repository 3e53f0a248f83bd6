"""S3-compatible stores: pinned reads, create-once, whole-object replacement, and every botocore error told in our words."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as boto

from batch import errors
from batch.storage import ObjectInfo, Unfinished, nothing
from batch.storage.s3.answers import listed, look, read_range, read_whole, require, split, unless_missing
from batch.storage.s3.client import Access as Access
from batch.storage.s3.client import before_each_attempt, is_aws
from batch.storage.s3.connection import Connection, Patience
from batch.storage.s3.content import content_type
from batch.storage.s3.failures import Request, Unsettled, status_of
from batch.storage.s3.upload import Upload, Written, etag_of, opened, regrouped, take

MIB = 1024 * 1024
ONE_PUT_BYTES = 64 * MIB
UNKNOWN_SIZE_PART_BYTES = 16 * MIB
COMPLETES_MAX = 3
"""Times that an upload is completed while the answers prove nothing and the object is not there."""


class S3Storage:
    """The `Storage` of ``s3://`` URIs; may be shared by threads, and makes a new client in a forked process.

    `retry_seconds` is the time budget of one call for outages of the store, `first_contact_seconds` what of it is used
    while the store has never answered; `read_timeout_seconds` is the silence that counts as a failure.
    """

    def __init__(
        self,
        *,
        retry_seconds: float = 120.0,
        first_contact_seconds: float = 10.0,
        read_timeout_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        access: Access | None = None,
    ) -> None:
        patience = Patience(retry_seconds, first_contact_seconds, read_timeout_seconds)
        self.connection = Connection(access, patience, sleep, clock)
        self._known_buckets: set[str] = set()
        self._refuses_conditions = False

    @property
    def refuses_conditions(self) -> bool:
        return self._refuses_conditions

    def endpoint(self, uri: str) -> str:
        return self.connection.endpoint_url(Request("PutObject", split(uri, key_needed=False)[0]))

    def head(self, uri: str) -> ObjectInfo | None:
        bucket, key = split(uri)
        found = self.connection.call(Request("HeadObject", bucket, key), lambda client: look(client, uri))
        if found is None:
            self._require_bucket(bucket)
        return found

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        bucket, key = split(prefix, key_needed=False)
        after = split(start_after, key_needed=False)[1] if start_after else ""
        request = Request("ListObjectsV2", bucket, key)
        if is_aws(self.connection.endpoint_url(request)):
            yield from self._pages(bucket, key, after)
            return
        # Stores that keep folders list "d/x" before "d-e" and apply StartAfter in that order, which would skip keys.
        found = (each for each in self._pages(bucket, key, "") if split(each.uri)[1].encode() > after.encode())
        yield from sorted(found, key=lambda each: each.uri.encode())

    def _pages(self, bucket: str, key: str, after: str) -> Iterator[ObjectInfo]:
        arguments = {"Bucket": bucket, "Prefix": key} | ({"StartAfter": after} if after else {})
        request = Request("ListObjectsV2", bucket, key)
        while True:
            page = self.connection.call(
                request, lambda client: require(client.list_objects_v2(**arguments), "IsTruncated")
            )
            for entry in page.get("Contents", ()):
                yield listed(bucket, entry)
            if not page["IsTruncated"]:
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        bucket, key = split(pin.uri)
        return self.connection.call(
            Request("GetObject", bucket, key), lambda client: read_range(client, pin, start, end)
        )

    def get(self, uri: str) -> bytes | None:
        return self.connection.call(Request("GetObject", *split(uri)), lambda client: read_whole(client, uri))

    def create(self, uri: str, body: bytes) -> bool:
        bucket, key = split(uri)

        def put(client: Any) -> bool:
            try:
                client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*", ContentType=content_type(key))
            except boto.ClientError as error:
                if status_of(error) == 501:
                    self._refuses_conditions = True  # B2 does: then only a single writer may use this store (see probe)
                    return _create_unguarded(client, uri, body)
                if status_of(error) not in {409, 412}:
                    raise
                # A retried request is refused because of our own first one: only the stored bytes tell whose it is.
                stored = read_whole(client, uri)
                if stored is None:
                    raise Unsettled(error.response, error.operation_name) from error
                return stored == body
            return True

        return self.connection.call(Request("PutObject", bucket, key, writes=True), put)

    def replace(
        self,
        uri: str,
        parts: Iterable[bytes],
        size_bytes: int,
        *,
        metadata: dict[str, str] | None = None,
        before: Callable[[], None] = nothing,
    ) -> ObjectInfo:
        bucket, key = split(uri)
        limit = UNKNOWN_SIZE_PART_BYTES if size_bytes < 0 else ONE_PUT_BYTES
        rest = iter(parts)
        body = take(rest, limit) if size_bytes <= limit else bytearray()
        if size_bytes > limit or len(body) > limit:
            part_bytes = UNKNOWN_SIZE_PART_BYTES if size_bytes < 0 else max(8 * MIB, -(-size_bytes // 9000))
            blocks = regrouped(body, rest, part_bytes)
            return self._multipart(uri, blocks, part_bytes, size_bytes, metadata or {}, before)
        _require_size(uri, len(body), size_bytes)
        request = Request("PutObject", bucket, key, writes=True)
        what = {"Bucket": bucket, "Key": key, "Body": body, **_with(key, metadata)}

        def put(client: Any) -> Any:
            with before_each_attempt(before):
                return client.put_object(**what)

        answer = self.connection.call(request, put)
        written = Written(len(body), metadata or {}, str(answer.get("ETag", "")).strip('"'))
        stored = self.head(uri)
        if stored is None or not written.is_stored_as(stored):
            raise _not_kept(uri, written, stored)
        return stored

    def delete(self, uri: str) -> None:
        bucket, key = split(uri)
        request = Request("DeleteObject", bucket, key, writes=True)
        self.connection.call(request, lambda client: client.delete_object(Bucket=bucket, Key=key))

    def now(self, uri: str) -> datetime:
        bucket, _ = split(uri, key_needed=False)
        request = Request("HeadBucket", bucket)
        answer = self.connection.call(request, lambda client: client.head_bucket(Bucket=bucket))
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        bucket, key = split(prefix, key_needed=False)
        arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": key}
        request = Request("ListMultipartUploads", bucket, key)
        while True:
            page = self.connection.call(
                request, lambda client: _unless_unknown(client.list_multipart_uploads, arguments)
            )
            for entry in page.get("Uploads", ()):
                if entry["Key"].startswith(key):  # not every server filters
                    begun = entry["Initiated"].astimezone(UTC)
                    yield Unfinished(f"s3://{bucket}/{entry['Key']}", entry["UploadId"], begun)
            if not page.get("IsTruncated"):
                return
            arguments.update(KeyMarker=page["NextKeyMarker"], UploadIdMarker=page["NextUploadIdMarker"])

    def abandon(self, write: Unfinished) -> None:
        bucket, key = split(write.uri)
        where = {"Bucket": bucket, "Key": key, "UploadId": write.upload_id}
        request = Request("AbortMultipartUpload", bucket, key, writes=True)
        self.connection.call(request, lambda client: unless_missing(client.abort_multipart_upload, **where))

    def create_bucket(self, name: str) -> None:
        """Create the bucket; one that is already ours is not an error."""

        def create(client: Any) -> None:
            region = client.meta.region_name
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=name, **where)

        self.connection.call(Request("CreateBucket", name, writes=True), create)

    def _multipart(
        self,
        uri: str,
        blocks: Iterator[bytes],
        part_bytes: int,
        size_bytes: int,
        metadata: dict[str, str],
        before: Callable[[], None],
    ) -> ObjectInfo:
        standing = self.head(uri)
        bucket, key = split(uri)
        upload = opened(self.connection, bucket, key, _with(key, metadata))
        try:
            sent, etags = upload.send(blocks, part_bytes)
            _require_size(uri, sent, size_bytes)
            return self._complete(uri, upload, etags, Written(sent, metadata, etag_of(etags)), standing, before)
        except BaseException:
            upload.abort()
            raise

    def _complete(
        self,
        uri: str,
        upload: Upload,
        etags: Sequence[str],
        written: Written,
        standing: ObjectInfo | None,
        before: Callable[[], None],
    ) -> ObjectInfo:
        """Complete the upload and find our object, whatever the answers were: what is stored decides."""

        def is_ours(found: ObjectInfo | None, told: str = "") -> bool:
            """Whether this is the object; while the store has not told that it completed it, that of before is not."""
            if told:
                return dataclasses.replace(written, etag=told).is_stored_as(found)
            was_there = found is not None and standing is not None and standing.etag == found.etag != written.etag
            return not was_there and written.is_stored_as(found)

        for _ in range(COMPLETES_MAX):
            told = upload.complete(etags, lambda client: is_ours(look(client, uri)), before)
            stored = self.head(uri)
            if stored is not None and is_ours(stored, told):
                return stored
            if told:
                break
        raise _not_kept(uri, written, stored)

    def _require_bucket(self, bucket: str) -> None:
        """Tell a missing bucket from a missing key, which HEAD answers alike; asked once per bucket."""
        if bucket in self._known_buckets:
            return
        request = Request("HeadBucket", bucket)
        if self.connection.call(request, lambda client: unless_missing(client.head_bucket, Bucket=bucket)) is None:
            raise errors.InputMissing(f"There is no bucket {bucket!r}", hint="Check the name and the endpoint.")
        self._known_buckets.add(bucket)


def create_bucket(name: str, access: Access | None = None, *, retry_seconds: float = 120.0) -> None:
    """Create a bucket, with the environment's credentials or explicit ones; one that is ours already is fine."""
    S3Storage(access=access, retry_seconds=retry_seconds).create_bucket(name)


def _unless_unknown(operation: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """The answer, or an empty one where the server does not know the action."""
    try:
        return require(operation(**arguments), "IsTruncated")
    except boto.ClientError as error:
        if status_of(error) in {405, 501}:
            return {}
        raise


def _create_unguarded(client: Any, uri: str, body: bytes) -> bool:
    """Look, then write: right for as long as nobody else writes."""
    stored = read_whole(client, uri)
    if stored is not None:
        return stored == body
    bucket, key = split(uri)
    client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type(key))
    return True


def _with(key: str, metadata: dict[str, str] | None) -> dict[str, Any]:
    return {"ContentType": content_type(key), **({"Metadata": metadata} if metadata else {})}


def _not_kept(uri: str, written: Written, stored: ObjectInfo | None) -> errors.StorageUnavailable:
    """The error of a write that the store does not show; nothing is written again, for the other may be the newer one."""
    told = f"{written.size_bytes} bytes{f' with {written.metadata}' if written.metadata else ''}"
    shown = (
        "no object"
        if stored is None
        else f"{stored.size_bytes} bytes{f' with {stored.metadata}' if stored.metadata else ''}"
    )
    return errors.StorageUnavailable(
        f"PutObject {uri}: {told} were written, but the store shows {shown} (ETag {stored.etag if stored else 'none'})",
        hint="Another writer uses the same key, or the store lost the write: run the same command again.",
    )


def _require_size(uri: str, found: int, size_bytes: int) -> None:
    if size_bytes >= 0 and found != size_bytes:
        raise errors.OutputRefused(f"{uri}: {size_bytes} bytes were announced, but {found} were produced")
