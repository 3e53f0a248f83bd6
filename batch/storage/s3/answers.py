"""Answers of the store: descriptions of objects, and bodies that are believed only after a check."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from batch import errors
from batch.storage import ObjectInfo
from batch.storage.s3.failures import code_of, status_of

READS_MAX = 3
"""Times that a small object is read before a body that does not fit its ETag is believed to be stored like that."""


def split(uri: str, *, key_needed: bool = True) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI; `UsageError` where one is missing."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or (key_needed and not key):
        raise errors.UsageError(f"{uri!r} is not an object in S3", hint="Write s3://bucket/key.")
    return bucket, key


def require(answer: dict[str, Any], *names: str) -> dict[str, Any]:
    """The answer, if all of this is in it: an empty 200, such as a proxy gives, would else be an empty listing.

    Raises what botocore raises for an answer that cannot be read, which is asked for again.
    """
    if missing := [name for name in names if name not in answer]:
        raise ResponseParserError(f"the answer is cut short or not of S3: it does not tell {', '.join(missing)}")
    return answer


def described(uri: str, answer: dict[str, Any]) -> ObjectInfo:
    """What HEAD told of an object."""
    require(answer, "ETag", "LastModified", "ContentLength")
    metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
    etag, modified = answer["ETag"].strip('"'), answer["LastModified"].astimezone(UTC)
    return ObjectInfo(uri, answer["ContentLength"], etag, answer.get("VersionId"), modified, metadata)


def listed(bucket: str, entry: dict[str, Any]) -> ObjectInfo:
    """What one entry of a listing told."""
    modified = entry["LastModified"].astimezone(UTC)
    return ObjectInfo(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'), None, modified)


def unless_missing(operation: Callable[..., Any], **arguments: Any) -> Any:
    """The answer, or None for a missing key; a missing bucket is raised where the store says so."""
    try:
        return operation(**arguments)
    except boto.ClientError as error:
        if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
            return None
        raise


def look(client: Any, uri: str) -> ObjectInfo | None:
    """What HEAD tells of the object, or None where there is none."""
    bucket, key = split(uri)
    try:
        answer = unless_missing(client.head_object, Bucket=bucket, Key=key)
    except boto.ClientError as error:
        if code_of(error) in {"400", "403"}:
            _raise_reason(client, bucket, key)
        raise
    return None if answer is None else described(uri, answer)


def _raise_reason(client: Any, bucket: str, key: str) -> None:
    """Raise what HEAD was refused for, which its answer cannot say: expired keys, another region, a wrong clock."""
    try:
        client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].close()
    except boto.ClientError as error:
        if status_of(error) not in {404, 416}:
            raise


def read_range(client: Any, pin: ObjectInfo, start: int, end: int) -> bytes:
    """Bytes ``[start, end)`` of the pinned version; `InputChanged` where the store holds another one."""
    bucket, key = split(pin.uri)
    version = {"VersionId": pin.version_id} if pin.version_id else {"IfMatch": f'"{pin.etag}"'}
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **version)
    except boto.ClientError as error:
        if status_of(error) in {404, 412, 416} and code_of(error) != "NoSuchBucket":
            raise _changed(pin, "it was replaced or deleted") from error
        raise
    with closing(answer["Body"]):
        _require_range(pin, answer, f"bytes {start}-{end - 1}/{pin.size_bytes}")
        return whole_body(answer, end - start)


def _require_range(pin: ObjectInfo, answer: dict[str, Any], expected: str) -> None:
    """Believe only what the answer shows: some servers ignore If-Match or Range and send 200 with whatever they hold."""
    etag = answer.get("ETag", "").strip('"')
    if etag and etag != pin.etag:
        raise _changed(pin, f"its ETag was {pin.etag} and is now {etag}")
    sent = answer.get("ContentRange", f"bytes 0-{answer.get('ContentLength', 0) - 1}/{pin.size_bytes}")
    if not etag or sent != expected:
        raise errors.StorageUnavailable(
            f"GetObject {pin.uri}: {expected!r} was asked for, but the store sent {sent!r} {'' if etag else 'without an ETag'}".rstrip(),
            hint="The store does not honour byte ranges as S3 does; use another one.",
        )


def read_whole(client: Any, uri: str) -> bytes | None:
    """The current body of a small object, None where there is none; checked against its ETag where that is a digest.

    Raises `StorageUnavailable` where body and digest (or the checksum that AWS keeps) differ each time.
    """
    bucket, key = split(uri)
    difference = ""
    for _ in range(READS_MAX):
        answer = unless_missing(client.get_object, Bucket=bucket, Key=key)
        if answer is None:
            return None
        try:
            body = whole_body(answer, _size_of(client, answer, bucket, key))
        except boto.FlexibleChecksumError as error:
            difference = str(error)
            continue
        etag, found = answer.get("ETag", "").strip('"'), hashlib.md5(body, usedforsecurity=False).hexdigest()
        if found == etag or not _is_digest(etag, answer):
            return body
        difference = f"its md5 {found} is not the ETag {etag}"
    raise errors.StorageUnavailable(
        f"GetObject {uri} at {client.meta.endpoint_url}: the body was read {READS_MAX} times and is damaged: {difference}",
        hint="The object is damaged, or something on the way to the store changes what it sends: read it with another program.",
    )


def _size_of(client: Any, answer: dict[str, Any], bucket: str, key: str) -> int:
    """How long the body is to be; asked for where the answer ends with its connection, for that may happen anywhere."""
    size_bytes = answer.get("ContentLength")
    if size_bytes is None:
        size_bytes = client.head_object(Bucket=bucket, Key=key)["ContentLength"]
    return int(size_bytes)


def _is_digest(etag: str, answer: dict[str, Any]) -> bool:
    """Whether the ETag is the md5 of the body: not for an object of several parts, nor for one encrypted with a key of its own."""
    plain = answer.get("ServerSideEncryption") in {None, "AES256"} and not answer.get("SSECustomerAlgorithm")
    return plain and re.fullmatch("[0-9a-f]{32}", etag) is not None


def _changed(pin: ObjectInfo, how: str) -> errors.InputChanged:
    return errors.InputChanged(f"{pin.uri} changed while it was read: {how}", hint="Run again on the new object.")


def whole_body(answer: dict[str, Any], size_bytes: int) -> bytes:
    """The body, which must be `size_bytes` long."""
    # Not `with answer["Body"]`: that hands out the raw stream, whose errors botocore does not translate.
    with closing(answer["Body"]) as stream:
        body: bytes = stream.read()
    if len(body) != size_bytes:
        raise boto.IncompleteReadError(actual_bytes=len(body), expected_bytes=size_bytes)
    return body
