"""Answers of the store: descriptions of objects, and bodies that are believed only after a check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from typing import Any

from botocore import exceptions as boto

from batch import errors
from batch.storage import ObjectInfo
from batch.storage.s3.failures import code_of, status_of


def split(uri: str, *, key_needed: bool = True) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI; `UsageError` where one is missing."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or (key_needed and not key):
        raise errors.UsageError(f"{uri!r} is not an object in S3", hint="Write s3://bucket/key.")
    return bucket, key


def described(uri: str, answer: dict[str, Any]) -> ObjectInfo:
    """What HEAD told of an object."""
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
    # Some servers ignore If-Match or Range and answer 200 with whatever they hold: believe only what the answer shows.
    if (etag := answer.get("ETag", "").strip('"')) != pin.etag:
        raise _changed(pin, f"its ETag was {pin.etag} and is now {etag}")
    expected = f"bytes {start}-{end - 1}/{pin.size_bytes}"
    if answer.get("ContentRange", f"bytes 0-{answer.get('ContentLength', 0) - 1}/{pin.size_bytes}") != expected:
        raise errors.StorageUnavailable(
            f"{pin.uri}: {expected!r} was asked for, but the store answered {answer.get('ContentRange')!r}",
            hint="The store does not honour byte ranges.",
        )
    return whole_body(answer, end - start)


def _changed(pin: ObjectInfo, how: str) -> errors.InputChanged:
    return errors.InputChanged(f"{pin.uri} changed while it was read: {how}", hint="Run again on the new object.")


def whole_body(answer: dict[str, Any], size_bytes: int | None) -> bytes:
    """The body, which must be `size_bytes` long where that is known."""
    # Not `with answer["Body"]`: that hands out the raw stream, whose errors botocore does not translate.
    with closing(answer["Body"]) as stream:
        body: bytes = stream.read()
    if size_bytes is not None and len(body) != size_bytes:
        raise boto.IncompleteReadError(actual_bytes=len(body), expected_bytes=size_bytes)
    return body
