"""S3-compatible stores: pinned reads, create-once, whole-object replacement, and every botocore error told in our words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from botocore import exceptions as boto

from batch import errors
from batch.storage import ObjectInfo
from batch.storage.s3.answers import described, listed, read_range, split, unless_missing, whole_body
from batch.storage.s3.client import Access as Access
from batch.storage.s3.client import is_aws
from batch.storage.s3.connection import Connection, Patience
from batch.storage.s3.failures import Request, Unsettled, status_of
from batch.storage.s3.upload import etag_of, opened, regrouped, take

MIB = 1024 * 1024
ONE_PUT_BYTES = 64 * MIB
UNKNOWN_SIZE_PART_BYTES = 16 * MIB


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

    def head(self, uri: str) -> ObjectInfo | None:
        bucket, key = split(uri)
        request = Request("HeadObject", bucket, key)
        answer = self.connection.call(
            request, lambda client: unless_missing(client.head_object, Bucket=bucket, Key=key)
        )
        if answer is not None:
            return described(uri, answer)
        self._require_bucket(bucket)
        return None

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
            page = self.connection.call(request, lambda client: client.list_objects_v2(**arguments))
            for entry in page.get("Contents", ()):
                yield listed(bucket, entry)
            if not page.get("IsTruncated"):
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
        bucket, key = split(uri)

        def fetch(client: Any) -> bytes | None:
            answer = unless_missing(client.get_object, Bucket=bucket, Key=key)
            return None if answer is None else whole_body(answer, answer.get("ContentLength"))

        return self.connection.call(Request("GetObject", bucket, key), fetch)

    def create(self, uri: str, body: bytes) -> bool:
        bucket, key = split(uri)

        def put(client: Any) -> bool:
            try:
                client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
            except boto.ClientError as error:
                if status_of(error) not in {409, 412}:
                    raise
                # A retried request is refused because of our own first one: only the stored bytes tell whose it is.
                answer = unless_missing(client.get_object, Bucket=bucket, Key=key)
                if answer is None:
                    raise Unsettled(error.response, error.operation_name) from error
                return whole_body(answer, answer.get("ContentLength")) == body
            return True

        return self.connection.call(Request("PutObject", bucket, key, writes=True), put)

    def replace(
        self, uri: str, parts: Iterable[bytes], size_bytes: int, *, metadata: dict[str, str] | None = None
    ) -> ObjectInfo:
        bucket, key = split(uri)
        extra = {"Metadata": metadata} if metadata else {}
        limit = UNKNOWN_SIZE_PART_BYTES if size_bytes < 0 else ONE_PUT_BYTES
        rest = iter(parts)
        body = take(rest, limit) if size_bytes <= limit else bytearray()
        if size_bytes > limit or len(body) > limit:
            part_bytes = UNKNOWN_SIZE_PART_BYTES if size_bytes < 0 else max(8 * MIB, -(-size_bytes // 9000))
            return self._multipart(uri, regrouped(body, rest, part_bytes), size_bytes, extra)
        _require_size(uri, len(body), size_bytes)
        request = Request("PutObject", bucket, key, writes=True)
        self.connection.call(request, lambda client: client.put_object(Bucket=bucket, Key=key, Body=body, **extra))
        return self._confirm(uri, len(body))

    def delete(self, uri: str) -> None:
        bucket, key = split(uri)
        request = Request("DeleteObject", bucket, key, writes=True)
        self.connection.call(request, lambda client: client.delete_object(Bucket=bucket, Key=key))

    def create_bucket(self, name: str) -> None:
        """Create the bucket; one that is already ours is not an error."""

        def create(client: Any) -> None:
            region = client.meta.region_name
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=name, **where)

        self.connection.call(Request("CreateBucket", name, writes=True), create)

    def _multipart(self, uri: str, blocks: Iterator[bytes], size_bytes: int, extra: dict[str, Any]) -> ObjectInfo:
        before = self.head(uri)
        upload = opened(self.connection, *split(uri), extra)
        try:
            sent, etags = upload.send(blocks)
            _require_size(uri, sent, size_bytes)
            settled = upload.complete(etags)
            stored = self._confirm(uri, sent)
            if not settled and before is not None and before.etag == stored.etag != etag_of(etags):
                raise errors.StorageUnavailable(
                    f"{uri}: the store did not complete the upload of {sent} bytes and shows the object of before",
                    hint="Run the same command again.",
                )
        except BaseException:
            upload.abort()
            raise
        return stored

    def _confirm(self, uri: str, size_bytes: int) -> ObjectInfo:
        stored = self.head(uri)
        found = -1 if stored is None else stored.size_bytes
        if stored is None or found != size_bytes:
            raise errors.StorageUnavailable(
                f"{uri}: {size_bytes} bytes were written, but the store shows {'no object' if found < 0 else found}",
                hint="Another writer uses the same key, or the store lost the write: run the same command again.",
            )
        return stored

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


def _require_size(uri: str, found: int, size_bytes: int) -> None:
    if size_bytes >= 0 and found != size_bytes:
        raise errors.OutputRefused(f"{uri}: {size_bytes} bytes were announced, but {found} were produced")
