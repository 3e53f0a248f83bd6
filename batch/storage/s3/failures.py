"""What botocore raises, sorted by what may be done about it: wait, ask for new credentials, or give up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

EXPIRED = {
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId",
    "InvalidClientTokenId",
}  # fmt: skip
"""Keys that were good once, or will be where a new pair was just put in the place of an old one."""


DENIED = EXPIRED | {"SignatureDoesNotMatch", "AccessDenied"}


_TRANSIENT = {"RequestTimeout", "SlowDown", "Throttling", "OperationAborted", "ConditionalRequestConflict"}


_FULL = ("QuotaExceeded", "StorageFull", "CapExceeded", "InsufficientStorage")
"""Ends of codes: QuotaExceeded (Ceph), XMinioStorageFull and XMinioAdminBucketQuotaExceeded (MinIO)."""


_ELSEWHERE = {
    "PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}  # fmt: skip


_REQUEST_ACTIONS = {
    "HeadObject": "GetObject",
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
}
"""Requests that are allowed under another name than their own."""


UNREACHED = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError, boto.SSLError)
"""No connection came about. None of them is an `HTTPClientError`, though a store that restarts raises just these."""


_BROKEN_ANSWER = (
    *UNREACHED,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    ResponseParserError,
    ConnectionError,
)


FAILURES = (boto.ClientError, boto.BotoCoreError, ResponseParserError, ConnectionError)


@dataclass(frozen=True, slots=True)
class Request:
    """What a message names: the action, its bucket and key, and whether it writes."""

    action: str
    bucket: str
    key: str = ""
    writes: bool = False

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def permission(self) -> str:
        """What a policy calls the right to do this."""
        return f"s3:{_REQUEST_ACTIONS.get(self.action, self.action)}"


class Unsettled(boto.ClientError):  # type: ignore[misc]
    """Refused as existing, yet nothing is there: a competing request is still under way, so ask again."""


def status_of(error: boto.ClientError) -> int:
    """The HTTP status of an answer, 0 where there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: boto.ClientError) -> str:
    """The store's name of the error, such as NoSuchKey; HEAD gives only a number."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, Unsettled):
        return True
    if isinstance(error, boto.ClientError):
        status = status_of(error)
        may_pass = (status >= 500 and status != 501) or status == 429 or code_of(error) in _TRANSIENT
        return may_pass and not is_full(error)
    return isinstance(error, _BROKEN_ANSWER)


def is_stale(error: Exception) -> bool:
    """Whether other credentials may help; HEAD, whose answer has no body, does not say what was refused."""
    return isinstance(error, boto.ClientError) and code_of(error) in EXPIRED | {"400", "401", "403"}


def is_full(error: boto.ClientError) -> bool:
    """Whether there is no room: that does not change by waiting."""
    return status_of(error) == 507 or code_of(error).endswith(_FULL)


def is_elsewhere(error: boto.ClientError) -> bool:
    """Whether the store says that the bucket is to be asked at another endpoint, or as one of another region."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    unsaid = code_of(error) == "400" and "x-amz-bucket-region" in headers
    return status_of(error) in {301, 302, 307, 308} or code_of(error) in _ELSEWHERE or unsaid


def is_misdirected(error: Exception) -> bool:
    """Whether no request can ever have reached the store: an unknown name, or no trust in who answers."""
    return isinstance(error, boto.SSLError) or is_unknown_name(error)


def is_unknown_name(error: BaseException) -> bool:
    """Whether the endpoint's name was not found (DNS)."""
    return any(isinstance(cause, socket.gaierror) for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the innermost last; botocore hands its cause over as an argument."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        given = following.kwargs.get("error") if isinstance(following, boto.BotoCoreError) else None
        inner = given if isinstance(given, BaseException) else None
        following = inner or following.__cause__ or following.__context__
