"""What botocore raises, told as classes of `batch.errors`: one sentence with action, object and endpoint, and a hint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from batch import errors
from batch.storage.s3.failures import (
    DENIED,
    EXPIRED,
    UNREACHED,
    Request,
    causes,
    code_of,
    is_elsewhere,
    is_full,
    is_unknown_name,
    status_of,
)

RESUMES = "run the same command again, and it goes on where this one stopped"
SKEW_SECONDS = 900
"""A request whose time is further off is refused by every store."""

_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go."""

    endpoint: str = "the configured endpoint"
    region: str = ""


@contextmanager
def translated(request: Request, place: Callable[[], Place]) -> Iterator[None]:
    """Tell botocore's errors as classes of `batch.errors`; `place` is asked only then."""
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(error, request, place()) from error
    except _NO_CREDENTIALS as error:
        raise errors.PermissionDenied(
            f"{request.action} {request.uri}: no usable credentials were found ({error})",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        ) from error
    except (boto.ParamValidationError, boto.ProfileNotFound, boto.InvalidRegionError) as error:
        raise errors.UsageError(f"{request.action} {request.uri}: {error}", hint="Check the URI and AWS_*.") from error
    except UNREACHED as error:
        raise _unreached(error, request, place()) from error
    except (boto.BotoCoreError, ResponseParserError, ConnectionError) as error:
        raise errors.StorageUnavailable(
            f"{_where(request, place())}: {error}",
            hint=f"Check AWS_ENDPOINT_URL and that the store is up; {RESUMES}.",
        ) from error
    except ValueError as error:
        if "endpoint" not in str(error).lower():
            raise
        raise errors.UsageError(f"{request.action} {request.uri}: {error}", hint="Check AWS_ENDPOINT_URL.") from error


def lost_upload(request: Request, why: str) -> errors.StorageUnavailable:
    """The error of an upload in parts that the store does not know any more."""
    return errors.StorageUnavailable(
        f"{request.action} {request.uri}: the upload in parts was ended from outside while it was under way ({why})",
        hint=f"Look for a lifecycle rule or a clean-up of unfinished uploads; {RESUMES}.",
    )


def seconds_ahead(error: boto.ClientError) -> float | None:
    """How far this machine's clock is ahead of the one that dated the answer; None where the answer has no date."""
    date = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() if date else None
    except (TypeError, ValueError):
        return None


def _where(request: Request, place: Place) -> str:
    return f"{request.action} {request.uri} at {place.endpoint}"


def _refusal(error: boto.ClientError, request: Request, place: Place) -> errors.BatchError:
    code, status, where = code_of(error), status_of(error), _where(request, place)
    said = f"{where}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip(" .")
    if _is_skewed(error):
        return _skewed(error, said)
    if is_full(error):
        return errors.StorageUnavailable(
            f"{said}: the bucket {request.bucket!r} is full or its quota is used up",
            hint=f"Free space or raise the quota; {RESUMES}.",
        )
    if is_elsewhere(error):
        return _elsewhere(error, said, request, place)
    if code == "InvalidObjectState":
        return errors.InputMissing(f"{said}: the object is archived", hint="Restore it from the archive first.")
    if status in {401, 403} or code in DENIED:
        return _denied(code, said, request)
    if code == "NoSuchBucket":
        kind = errors.OutputRefused if request.writes else errors.InputMissing
        return kind(f"{said}: there is no bucket {request.bucket!r}", hint="Check the name and the endpoint.")
    if code == "NoSuchUpload":
        return lost_upload(request, code)
    if status == 404:
        return errors.InputMissing(said, hint="Check the key.")
    if code == "InvalidBucketName":
        return errors.UsageError(said, hint="Check the bucket's name.")
    return errors.StorageUnavailable(said, hint=f"The store refused this or stayed unavailable; {RESUMES}.")


def _is_skewed(error: boto.ClientError) -> bool:
    """Whether the clocks differ too much; HEAD says only 403, but the answer has a date as well."""
    unsaid = code_of(error) == "403" and abs(seconds_ahead(error) or 0) > SKEW_SECONDS
    return code_of(error) == "RequestTimeTooSkewed" or unsaid


def _skewed(error: boto.ClientError, said: str) -> errors.PermissionDenied:
    ahead = seconds_ahead(error)
    if ahead is None:
        how = "off by more than the store allows"
    else:
        how = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the store's"
    return errors.PermissionDenied(f"{said}: the clock of this machine is {how}", hint="Set the clock (NTP).")


def _elsewhere(error: boto.ClientError, said: str, request: Request, place: Place) -> errors.PermissionDenied:
    facts, headers = error.response.get("Error", {}), error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region, endpoint = facts.get("Region") or headers.get("x-amz-bucket-region"), facts.get("Endpoint")
    told = ", ".join(
        f"{name} {value}" for name, value in (("region", region), ("endpoint", endpoint)) if value is not None
    )
    return errors.PermissionDenied(
        f"{said}: the bucket {request.bucket!r} is not to be asked in region {place.region}, but "
        f"{f'in {told}' if told else 'elsewhere'}",
        hint=f"Set AWS_REGION{f' to {region}' if region else ''} and AWS_ENDPOINT_URL to where the bucket is.",
    )


def _denied(code: str, said: str, request: Request) -> errors.PermissionDenied:
    if code in EXPIRED:
        return errors.PermissionDenied(
            f"{said}: the credentials are expired or unknown, also after they were read anew",
            hint=f"Renew the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_SESSION_TOKEN); {RESUMES}.",
        )
    if code == "SignatureDoesNotMatch":
        return errors.PermissionDenied(
            f"{said}: the secret key is not that of the access key, or the request was changed on its way",
            hint="Check AWS_SECRET_ACCESS_KEY, and what stands between this machine and the store.",
        )
    # Without the right to list, a store answers 403 in place of 404, so that nobody learns which keys there are.
    unless = ", or there is no such object and they do not allow s3:ListBucket" if _is_a_look(request) else ""
    return errors.PermissionDenied(
        f"{said}: the credentials do not allow {request.permission}{unless}",
        hint=f"Check the credentials and that they allow {request.permission} on {request.uri}.",
    )


def _is_a_look(request: Request) -> bool:
    return request.action in {"HeadObject", "GetObject"}


def _unreached(error: Exception, request: Request, place: Place) -> errors.StorageUnavailable:
    innermost = list(causes(error))[-1]
    where = f"{_where(request, place)} (region {place.region})"
    if is_unknown_name(error):
        what, hint = "the name of the endpoint is not known", "Check AWS_ENDPOINT_URL, AWS_REGION and the DNS."
    elif isinstance(error, boto.SSLError):
        what = "TLS failed"
        hint = "Check that the endpoint speaks https and that its certificate is trusted (AWS_CA_BUNDLE)."
    elif isinstance(error, boto.ProxyConnectionError):
        what, hint = "the proxy cannot be reached", "Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    else:
        what, hint = "nothing answers there", f"Check AWS_ENDPOINT_URL and that the store is up; {RESUMES}."
    return errors.StorageUnavailable(f"{where}: {what} ({innermost})", hint=hint)
