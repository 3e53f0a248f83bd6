"""S3-compatible stores: pinned reads, create-once, whole-object replacement, and every botocore error told in our words.

botocore retries a request a few times within seconds; the loop here goes on for minutes, because an outage of a store
is longer than that and a client whose retry quota is spent fails on the first error from then on.
"""

from __future__ import annotations

import builtins
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

from botocore import exceptions as boto

from batch import errors
from batch.storage import ObjectInfo
from batch.storage.s3.answers import described, listed, read_range, split, unless_missing, whole_body
from batch.storage.s3.client import Access as Access
from batch.storage.s3.client import is_aws, make_client
from batch.storage.s3.failures import (
    EXPIRED,
    FAILURES,
    Request,
    Unsettled,
    code_of,
    is_transient,
    status_of,
    translated,
)

T = TypeVar("T")
MIB = 1024 * 1024
ONE_PUT_BYTES = 64 * MIB
UNKNOWN_SIZE_PART_BYTES = 16 * MIB
FIRST_CONTACT_SECONDS = 10.0
"""A store that never answered is more likely a wrong address than an outage."""


class S3Storage:
    """The `Storage` of ``s3://`` URIs; may be shared by threads, and makes a new client in a forked process.

    `retry_seconds` is the time budget of one call for outages of the store.
    """

    def __init__(
        self,
        *,
        retry_seconds: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        access: Access | None = None,
    ) -> None:
        self._retry_seconds = retry_seconds
        self._sleep = sleep
        self._clock = clock
        self._access = access
        self._lock = threading.Lock()
        self._client: Any = None
        self._pid = 0
        self._answered = False
        self._known_buckets: set[str] = set()

    def head(self, uri: str) -> ObjectInfo | None:
        bucket, key = split(uri)
        request = Request("HeadObject", bucket, key)
        answer = self._call(request, lambda client: unless_missing(client.head_object, Bucket=bucket, Key=key))
        if answer is not None:
            return described(uri, answer)
        self._require_bucket(bucket)
        return None

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        bucket, key = split(prefix, key_needed=False)
        after = split(start_after, key_needed=False)[1] if start_after else ""
        with translated(Request("ListObjectsV2", bucket, key), self._endpoint):
            in_order = is_aws(self._connection().meta.endpoint_url)
        if in_order:
            yield from self._pages(bucket, key, after)
            return
        # Stores that keep folders list "d/x" before "d-e" and apply StartAfter in that order, which would skip keys.
        found = (each for each in self._pages(bucket, key, "") if split(each.uri)[1].encode() > after.encode())
        yield from sorted(found, key=lambda each: each.uri.encode())

    def _pages(self, bucket: str, key: str, after: str) -> Iterator[ObjectInfo]:
        arguments = {"Bucket": bucket, "Prefix": key} | ({"StartAfter": after} if after else {})
        request = Request("ListObjectsV2", bucket, key)
        while True:
            page = self._call(request, lambda client: client.list_objects_v2(**arguments))
            for entry in page.get("Contents", ()):
                yield listed(bucket, entry)
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        bucket, key = split(pin.uri)
        return self._call(Request("GetObject", bucket, key), lambda client: read_range(client, pin, start, end))

    def get(self, uri: str) -> bytes | None:
        bucket, key = split(uri)

        def fetch(client: Any) -> bytes | None:
            answer = unless_missing(client.get_object, Bucket=bucket, Key=key)
            return None if answer is None else whole_body(answer, answer.get("ContentLength"))

        return self._call(Request("GetObject", bucket, key), fetch)

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

        return self._call(Request("PutObject", bucket, key, writes=True), put)

    def replace(
        self, uri: str, parts: Iterable[bytes], size_bytes: int, *, metadata: dict[str, str] | None = None
    ) -> ObjectInfo:
        bucket, key = split(uri)
        target = {"Bucket": bucket, "Key": key}
        extra = {"Metadata": metadata} if metadata else {}
        rest = iter(parts)
        held = _take(rest, ONE_PUT_BYTES) if size_bytes <= ONE_PUT_BYTES else b""
        if size_bytes <= ONE_PUT_BYTES and len(held) <= ONE_PUT_BYTES:
            _require_size(uri, len(held), size_bytes)
            request = Request("PutObject", bucket, key, writes=True)
            self._call(request, lambda client: client.put_object(**target, **extra, Body=held))
            return self._confirm(uri, len(held))
        part_bytes = UNKNOWN_SIZE_PART_BYTES if size_bytes < 0 else max(8 * MIB, -(-size_bytes // 9000))
        return self._multipart(uri, _regrouped(chain([held], rest), part_bytes), size_bytes, target, extra)

    def delete(self, uri: str) -> None:
        bucket, key = split(uri)
        request = Request("DeleteObject", bucket, key, writes=True)
        self._call(request, lambda client: client.delete_object(Bucket=bucket, Key=key))

    def create_bucket(self, name: str) -> None:
        """Create the bucket; one that is already ours is not an error."""

        def create(client: Any) -> None:
            region = client.meta.region_name
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=name, **where)

        self._call(Request("CreateBucket", name, writes=True), create)

    def _multipart(
        self, uri: str, blocks: Iterator[bytes], size_bytes: int, target: dict[str, str], extra: dict[str, Any]
    ) -> ObjectInfo:
        bucket, key = target["Bucket"], target["Key"]
        before = self.head(uri)
        opening = Request("CreateMultipartUpload", bucket, key, writes=True)
        upload = target | {
            "UploadId": self._call(opening, lambda client: client.create_multipart_upload(**target, **extra))[
                "UploadId"
            ]
        }
        try:
            sent, etags = self._upload(upload, blocks)
            _require_size(uri, sent, size_bytes)
            settled = self._complete(upload, etags)
        except BaseException:
            with suppress(*FAILURES):
                self._connection().abort_multipart_upload(**upload)
            raise
        stored = self._confirm(uri, sent)
        if not settled and before is not None and before.etag == stored.etag:
            raise errors.StorageUnavailable(
                f"{uri}: the store lost the upload before it was completed", hint="Run the same command again."
            )
        return stored

    def _upload(self, upload: dict[str, str], blocks: Iterator[bytes]) -> tuple[int, builtins.list[str]]:
        """Send the blocks, one in the background while the next is made; total bytes and the ETag of each part."""
        request = Request("UploadPart", upload["Bucket"], upload["Key"], writes=True)

        def send(number: int, block: bytes) -> str:
            answer = self._call(request, lambda client: client.upload_part(**upload, PartNumber=number, Body=block))
            return str(answer["ETag"])

        sent, etags, pending = 0, [], None
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload") as background:
            for number, block in enumerate(blocks, 1):
                if pending is not None:
                    etags.append(pending.result())
                pending = _submit(background, send, number, block)
                sent += len(block)
            if pending is not None:
                etags.append(pending.result())
        return sent, etags

    def _complete(self, upload: dict[str, str], etags: builtins.list[str]) -> bool:
        """Complete the upload; False: the store no longer knows it, as after a first answer that was lost."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]

        def complete(client: Any) -> bool:
            try:
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except boto.ClientError as error:
                if code_of(error) == "NoSuchUpload":
                    return False
                raise
            return True

        return self._call(Request("CompleteMultipartUpload", upload["Bucket"], upload["Key"], writes=True), complete)

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
        if self._call(request, lambda client: unless_missing(client.head_bucket, Bucket=bucket)) is None:
            raise errors.InputMissing(f"There is no bucket {bucket!r}", hint="Check the name and the endpoint.")
        self._known_buckets.add(bucket)

    def _call(self, request: Request, operation: Callable[[Any], T]) -> T:
        with translated(request, self._endpoint):
            return self._retried(operation)

    def _retried(self, operation: Callable[[Any], T]) -> T:
        started, failures = self._clock(), 0
        while True:
            try:
                result = operation(self._connection())
            except FAILURES as error:
                failures += 1
                expired = failures == 1 and isinstance(error, boto.ClientError) and code_of(error) in EXPIRED
                if not (expired or is_transient(error)):
                    raise
                pause = min(20.0, 0.25 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0)  # noqa: S311
                if self._clock() - started + pause > self._budget(error):
                    raise
                if expired or failures >= 2:
                    self._client = None
                self._sleep(pause)
            else:
                self._answered = True
                return result

    def _budget(self, error: Exception) -> float:
        unreached = isinstance(error, boto.EndpointConnectionError) and not self._answered
        return min(FIRST_CONTACT_SECONDS, self._retry_seconds) if unreached else self._retry_seconds

    def _connection(self) -> Any:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._client = make_client(self._access)
                self._pid = os.getpid()
            return self._client

    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url) if self._client is not None else "the configured endpoint"


def create_bucket(name: str, access: Access | None = None, *, retry_seconds: float = 120.0) -> None:
    """Create a bucket, with the environment's credentials or explicit ones; one that is ours already is fine."""
    S3Storage(access=access, retry_seconds=retry_seconds).create_bucket(name)


def _take(parts: Iterator[bytes], limit: int) -> bytes:
    """Join parts until they are more than `limit` bytes or there are no more."""
    held = bytearray()
    for part in parts:
        held += part
        if len(held) > limit:
            break
    return bytes(held)


def _regrouped(parts: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """Cut the same bytes into blocks of equal size (some stores insist), the last one shorter."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= size_bytes:
            yield bytes(held[:size_bytes])
            del held[:size_bytes]
    if held:
        yield bytes(held)


def _submit(pool: ThreadPoolExecutor, send: Callable[[int, bytes], str], number: int, block: bytes) -> Future[str]:
    return pool.submit(send, number, block)


def _require_size(uri: str, found: int, size_bytes: int) -> None:
    if size_bytes >= 0 and found != size_bytes:
        raise errors.OutputRefused(f"{uri}: {size_bytes} bytes were announced, but {found} were produced")
