"""What botocore raises: which of it may pass, and how the rest is told as classes of `batch.errors`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from batch import errors

EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}


_DENIED = EXPIRED | {"InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}


_TRANSIENT = {"RequestTimeout", "SlowDown", "Throttling", "OperationAborted", "ConditionalRequestConflict"}


_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)


UNREACHED = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
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
        return (status >= 500 and status != 501) or status == 429 or code_of(error) in _TRANSIENT
    return isinstance(error, _BROKEN_ANSWER)


@contextmanager
def translated(request: Request, endpoint: Callable[[], str]) -> Iterator[None]:
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


def _refusal(error: boto.ClientError, request: Request, where: str) -> errors.BatchError:
    code, status = code_of(error), status_of(error)
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
