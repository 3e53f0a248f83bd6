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
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from itertools import chain
from typing import Any, TypeVar

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError

from batch import errors
from batch.storage import ObjectInfo

T = TypeVar("T")
MIB = 1024 * 1024
ONE_PUT_BYTES = 64 * MIB
UNKNOWN_SIZE_PART_BYTES = 16 * MIB
FIRST_CONTACT_SECONDS = 10.0
"""A store that never answered is more likely a wrong address than an outage."""

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_DENIED = _EXPIRED | {"InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}
_TRANSIENT = {"RequestTimeout", "SlowDown", "Throttling", "OperationAborted", "ConditionalRequestConflict"}
_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)
_BROKEN_ANSWER = (
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    ResponseParserError,
    ConnectionError,
)
_FAILURES = (boto.ClientError, boto.BotoCoreError, ResponseParserError, ConnectionError)


@dataclass(frozen=True, slots=True)
class Access:
    """An explicit endpoint with its key pair, for a client that must not look at the environment."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True)
class _Request:
    """What a message names: the action, its bucket and key, and whether it writes."""

    action: str
    bucket: str
    key: str = ""
    writes: bool = False

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


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
        bucket, key = _split(uri)
        request = _Request("HeadObject", bucket, key)
        answer = self._call(request, lambda client: _unless_missing(client.head_object, Bucket=bucket, Key=key))
        if answer is not None:
            return _info(uri, answer)
        self._require_bucket(bucket)
        return None

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        bucket, key = _split(prefix, key_needed=False)
        after = _split(start_after, key_needed=False)[1] if start_after else ""
        with _translated(_Request("ListObjectsV2", bucket, key), self._endpoint):
            in_order = _is_aws(self._connection().meta.endpoint_url)
        if in_order:
            yield from self._pages(bucket, key, after)
            return
        # Stores that keep folders list "d/x" before "d-e" and apply StartAfter in that order, which would skip keys.
        found = (each for each in self._pages(bucket, key, "") if _split(each.uri)[1].encode() > after.encode())
        yield from sorted(found, key=lambda each: each.uri.encode())

    def _pages(self, bucket: str, key: str, after: str) -> Iterator[ObjectInfo]:
        arguments = {"Bucket": bucket, "Prefix": key} | ({"StartAfter": after} if after else {})
        request = _Request("ListObjectsV2", bucket, key)
        while True:
            page = self._call(request, lambda client: client.list_objects_v2(**arguments))
            for entry in page.get("Contents", ()):
                yield _listed(bucket, entry)
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def read(self, pin: ObjectInfo, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        bucket, key = _split(pin.uri)
        return self._call(_Request("GetObject", bucket, key), lambda client: _read_range(client, pin, start, end))

    def get(self, uri: str) -> bytes | None:
        bucket, key = _split(uri)

        def fetch(client: Any) -> bytes | None:
            answer = _unless_missing(client.get_object, Bucket=bucket, Key=key)
            return None if answer is None else _body(answer, answer.get("ContentLength"))

        return self._call(_Request("GetObject", bucket, key), fetch)

    def create(self, uri: str, body: bytes) -> bool:
        bucket, key = _split(uri)

        def put(client: Any) -> bool:
            try:
                client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
            except boto.ClientError as error:
                if _status(error) not in {409, 412}:
                    raise
                # A retried request is refused because of our own first one: only the stored bytes tell whose it is.
                answer = _unless_missing(client.get_object, Bucket=bucket, Key=key)
                if answer is None:
                    raise _Unsettled(error.response, error.operation_name) from error
                return _body(answer, answer.get("ContentLength")) == body
            return True

        return self._call(_Request("PutObject", bucket, key, writes=True), put)

    def replace(
        self, uri: str, parts: Iterable[bytes], size_bytes: int, *, metadata: dict[str, str] | None = None
    ) -> ObjectInfo:
        bucket, key = _split(uri)
        target = {"Bucket": bucket, "Key": key}
        extra = {"Metadata": metadata} if metadata else {}
        rest = iter(parts)
        held = _take(rest, ONE_PUT_BYTES) if size_bytes <= ONE_PUT_BYTES else b""
        if size_bytes <= ONE_PUT_BYTES and len(held) <= ONE_PUT_BYTES:
            _require_size(uri, len(held), size_bytes)
            request = _Request("PutObject", bucket, key, writes=True)
            self._call(request, lambda client: client.put_object(**target, **extra, Body=held))
            return self._confirm(uri, len(held))
        part_bytes = UNKNOWN_SIZE_PART_BYTES if size_bytes < 0 else max(8 * MIB, -(-size_bytes // 9000))
        return self._multipart(uri, _regrouped(chain([held], rest), part_bytes), size_bytes, target, extra)

    def delete(self, uri: str) -> None:
        bucket, key = _split(uri)
        request = _Request("DeleteObject", bucket, key, writes=True)
        self._call(request, lambda client: client.delete_object(Bucket=bucket, Key=key))

    def create_bucket(self, name: str) -> None:
        """Create the bucket; one that is already ours is not an error."""

        def create(client: Any) -> None:
            region = client.meta.region_name
            where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=name, **where)

        self._call(_Request("CreateBucket", name, writes=True), create)

    def _multipart(
        self, uri: str, blocks: Iterator[bytes], size_bytes: int, target: dict[str, str], extra: dict[str, Any]
    ) -> ObjectInfo:
        bucket, key = target["Bucket"], target["Key"]
        before = self.head(uri)
        opening = _Request("CreateMultipartUpload", bucket, key, writes=True)
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
            with suppress(*_FAILURES):
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
        request = _Request("UploadPart", upload["Bucket"], upload["Key"], writes=True)

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
                if _code(error) == "NoSuchUpload":
                    return False
                raise
            return True

        return self._call(_Request("CompleteMultipartUpload", upload["Bucket"], upload["Key"], writes=True), complete)

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
        request = _Request("HeadBucket", bucket)
        if self._call(request, lambda client: _unless_missing(client.head_bucket, Bucket=bucket)) is None:
            raise errors.InputMissing(f"There is no bucket {bucket!r}", hint="Check the name and the endpoint.")
        self._known_buckets.add(bucket)

    def _call(self, request: _Request, operation: Callable[[Any], T]) -> T:
        with _translated(request, self._endpoint):
            return self._retried(operation)

    def _retried(self, operation: Callable[[Any], T]) -> T:
        started, failures = self._clock(), 0
        while True:
            try:
                result = operation(self._connection())
            except _FAILURES as error:
                failures += 1
                expired = failures == 1 and isinstance(error, boto.ClientError) and _code(error) in _EXPIRED
                if not (expired or _transient(error)):
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
                self._client = _make_client(self._access)
                self._pid = os.getpid()
            return self._client

    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url) if self._client is not None else "the configured endpoint"


class _Unsettled(boto.ClientError):  # type: ignore[misc]
    """Refused as existing, yet nothing is there: a competing request is still under way, so ask again."""


def create_bucket(name: str, access: Access | None = None, *, retry_seconds: float = 120.0) -> None:
    """Create a bucket, with the environment's credentials or explicit ones; one that is ours already is fine."""
    S3Storage(access=access, retry_seconds=retry_seconds).create_bucket(name)


def _make_client(access: Access | None) -> Any:
    """Make a client; a custom endpoint gets path addressing and no checksums that older servers refuse."""
    session = boto3.session.Session(
        aws_access_key_id=access.access_key if access else None,
        aws_secret_access_key=access.secret_key if access else None,
    )
    region = access.region if access else session.region_name or "us-east-1"
    endpoint = access.endpoint_url if access else None
    common: dict[str, Any] = {
        "max_pool_connections": 32,
        "connect_timeout": 5,
        "read_timeout": 60,
        "retries": {"max_attempts": 3, "mode": "standard"},
    }
    if not endpoint and not (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        client = session.client("s3", region_name=region, config=Config(**common))
        if _is_aws(client.meta.endpoint_url):
            return client
    style = (session._session.get_scoped_config().get("s3") or {}).get("addressing_style", "path")  # noqa: SLF001
    custom = Config(
        **common,
        s3={"addressing_style": style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", region_name=region, endpoint_url=endpoint, config=custom)


def _is_aws(endpoint: str) -> bool:
    return ".amazonaws.com" in endpoint


def _split(uri: str, *, key_needed: bool = True) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or (key_needed and not key):
        raise errors.UsageError(f"{uri!r} is not an object in S3", hint="Write s3://bucket/key.")
    return bucket, key


def _info(uri: str, answer: dict[str, Any]) -> ObjectInfo:
    metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
    etag, modified = answer["ETag"].strip('"'), answer["LastModified"].astimezone(UTC)
    return ObjectInfo(uri, answer["ContentLength"], etag, answer.get("VersionId"), modified, metadata)


def _listed(bucket: str, entry: dict[str, Any]) -> ObjectInfo:
    modified = entry["LastModified"].astimezone(UTC)
    return ObjectInfo(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'), None, modified)


def _unless_missing(operation: Callable[..., Any], **arguments: Any) -> Any:
    """The answer, or None for a missing key; a missing bucket is raised where the store says so."""
    try:
        return operation(**arguments)
    except boto.ClientError as error:
        if _status(error) == 404 and _code(error) != "NoSuchBucket":
            return None
        raise


def _read_range(client: Any, pin: ObjectInfo, start: int, end: int) -> bytes:
    bucket, key = _split(pin.uri)
    version = {"VersionId": pin.version_id} if pin.version_id else {"IfMatch": f'"{pin.etag}"'}
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **version)
    except boto.ClientError as error:
        if _status(error) in {404, 412, 416} and _code(error) != "NoSuchBucket":
            raise _changed(pin, "it was replaced or deleted") from error
        raise
    # Some servers ignore If-Match or Range and answer 200 with whatever they hold: believe only what the answer shows.
    if (etag := answer.get("ETag", "").strip('"')) != pin.etag:
        raise _changed(pin, f"its ETag was {pin.etag} and is now {etag}")
    expected = f"bytes {start}-{end - 1}/{pin.size_bytes}"
    if answer.get("ContentRange", f"bytes 0-{answer.get('ContentLength', 0) - 1}/{pin.size_bytes}") != expected:
        raise errors.StorageUnavailable(
            f"{pin.uri}: {expected!r} was asked for, but the store answered {answer.get('ContentRange')!r}",
            hint="The store does not honour byte ranges.",
        )
    return _body(answer, end - start)


def _changed(pin: ObjectInfo, how: str) -> errors.InputChanged:
    return errors.InputChanged(f"{pin.uri} changed while it was read: {how}", hint="Run again on the new object.")


def _body(answer: dict[str, Any], size_bytes: int | None) -> bytes:
    # Not `with answer["Body"]`: that hands out the raw stream, whose errors botocore does not translate.
    with closing(answer["Body"]) as stream:
        body: bytes = stream.read()
    if size_bytes is not None and len(body) != size_bytes:
        raise boto.IncompleteReadError(actual_bytes=len(body), expected_bytes=size_bytes)
    return body


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


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _transient(error: Exception) -> bool:
    if isinstance(error, _Unsettled):
        return True
    if isinstance(error, boto.ClientError):
        status = _status(error)
        return (status >= 500 and status != 501) or status == 429 or _code(error) in _TRANSIENT
    return isinstance(error, _BROKEN_ANSWER)


@contextmanager
def _translated(request: _Request, endpoint: Callable[[], str]) -> Iterator[None]:
    """Tell botocore's errors as classes of `batch.errors`, with action, object and endpoint."""
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(error, request, f"{request.action} {request.uri} at {endpoint()}") from error
    except _NO_CREDENTIALS as error:
        raise errors.PermissionDenied(
            f"{request.action} {request.uri}: no usable credentials were found ({error})",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        ) from error
    except (boto.ParamValidationError, boto.ProfileNotFound, boto.InvalidRegionError) as error:
        raise errors.UsageError(f"{request.action} {request.uri}: {error}", hint="Check the URI and AWS_*.") from error
    except (boto.BotoCoreError, ResponseParserError, ConnectionError) as error:
        raise errors.StorageUnavailable(
            f"{request.action} {request.uri} at {endpoint()}: {error}",
            hint="Check AWS_ENDPOINT_URL and that the store is up; the same command goes on where this one stopped.",
        ) from error
    except ValueError as error:
        if "endpoint" not in str(error).lower():
            raise
        raise errors.UsageError(f"{request.action} {request.uri}: {error}", hint="Check AWS_ENDPOINT_URL.") from error


def _refusal(error: boto.ClientError, request: _Request, where: str) -> errors.BatchError:
    code, status = _code(error), _status(error)
    said = f"{where}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip()
    if code == "RequestTimeTooSkewed":
        return errors.PermissionDenied(f"{said}: the clock of this machine is off", hint="Set the clock (NTP).")
    if code == "InvalidObjectState":
        return errors.InputMissing(f"{said}: the object is archived", hint="Restore it from the archive first.")
    if status in {401, 403} or code in _DENIED:
        return errors.PermissionDenied(said, hint=f"Check the credentials and that they allow {request.action}.")
    if code == "NoSuchBucket":
        kind = errors.OutputRefused if request.writes else errors.InputMissing
        return kind(f"{said}: there is no bucket {request.bucket!r}", hint="Check the name and the endpoint.")
    if status == 404:
        return errors.InputMissing(said, hint="Check the key.")
    if code == "InvalidBucketName":
        return errors.UsageError(said, hint="Check the bucket's name.")
    return errors.StorageUnavailable(said, hint="The store refused the request or stayed unavailable.")
