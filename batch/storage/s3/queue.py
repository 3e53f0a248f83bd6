"""A queue of SQS, or of a server that speaks its protocol: messages are received, and deleted when they have been told.

It is here because this package alone knows boto3 and what botocore raises.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from batch import errors
from batch.storage.s3.failures import DENIED, FAILURES, code_of, status_of

BATCH_MAX: Final = 10
"""Messages that SQS gives, and deletes, at a time."""
READ_SPARE_SECONDS: Final = 10.0
"""How much longer than the long poll an answer may take."""
# sqs.eu-west-1.amazonaws.com, sqs-fips.…, vpce-1.sqs.eu-west-1.vpce.amazonaws.com and, from before 2012, eu-west-1.queue.…
_REGION: Final = re.compile(r"(?:^|\.)sqs(?:-fips)?\.(?P<new>[a-z0-9-]+)\.|^(?P<old>[a-z0-9-]+)\.queue\.amazonaws\.")
_DENIED: Final = DENIED | {
    "AccessDeniedException", "InvalidSignatureException", "IncompleteSignature", "InvalidSecurity", "KmsAccessDenied",
    "KMS.AccessDeniedException", "MissingAuthenticationToken", "UnrecognizedClientException",
}  # fmt: skip
_NO_CREDENTIALS: Final = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was received this time."""

    body: str
    receipt: str
    """Names this reception, for `Queue.delete`."""


class Queue:
    """A queue by its URL; raises only classes of ``batch.errors``. For one thread.

    Requests go to the host that the URL names, whatever AWS_ENDPOINT_URL says: that is where the objects are, and many stores have
    no queues. A URL that is none raises `UsageError` here; nothing is asked of the network.
    """

    def __init__(self, url: str, *, wait_seconds: int) -> None:
        place = urlsplit(url)
        if place.scheme not in {"http", "https"} or not place.hostname or not place.path.strip("/"):
            raise errors.UsageError(
                f"{url!r} is not the URL of a queue",
                hint="such as https://sqs.eu-west-1.amazonaws.com/123456789012/name",
            )
        self.url = url
        self._wait_seconds = wait_seconds
        self._client: Any = None

    def receive(self) -> list[Message]:
        """What is there, or comes within the wait; an empty list where nothing does. It stays hidden from others for a while."""
        with self._translated("ReceiveMessage"):
            answer = self._connected().receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=BATCH_MAX, WaitTimeSeconds=self._wait_seconds
            )
        return [Message(each.get("Body", ""), each["ReceiptHandle"]) for each in answer.get("Messages", [])]

    def delete(self, messages: Sequence[Message]) -> None:
        """Have at most ten messages never come again. One that cannot be deleted comes again, which is harmless."""
        entries = [{"Id": str(number), "ReceiptHandle": each.receipt} for number, each in enumerate(messages)]
        with self._translated("DeleteMessage"):
            self._connected().delete_message_batch(QueueUrl=self.url, Entries=entries)

    def close(self) -> None:
        """Close the connections; the next call opens new ones, with credentials that are read anew."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        if self._client is None:
            self._client = _make_client(self.url, self._wait_seconds)
        return self._client

    @contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except boto.ClientError as error:
            raise _refusal(error, f"{action} {self.url}", action) from error
        except _NO_CREDENTIALS as error:
            raise errors.PermissionDenied(
                f"{action} {self.url}: no usable credentials were found ({error})",
                hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
            ) from error
        except FAILURES as error:
            raise errors.StorageUnavailable(
                f"{action} {self.url}: {error}", hint="Check the queue's URL and the network."
            ) from error


def region_of(url: str) -> str:
    """The region that the host of a queue's URL names, for signing; without one that of the environment."""
    found = _REGION.search(urlsplit(url).hostname or "")
    named = (found["new"] or found["old"]) if found else ""
    return named or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _make_client(url: str, wait_seconds: int) -> Any:
    place = urlsplit(url)
    config = Config(
        connect_timeout=5.0,
        read_timeout=wait_seconds + READ_SPARE_SECONDS,
        retries={"total_max_attempts": 1},  # the poll goes on for ever anyway
    )
    session = boto3.session.Session()
    endpoint = f"{place.scheme}://{place.netloc}"
    return session.client("sqs", region_name=region_of(url), endpoint_url=endpoint, config=config)


def _refusal(error: boto.ClientError, where: str, action: str) -> errors.BatchError:
    code = code_of(error)
    said = f"{where}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip(" .")
    if code.endswith(("NonExistentQueue", "QueueDoesNotExist")):
        return errors.InputMissing(f"{said}: there is no such queue", hint="Check the queue's URL and its region.")
    if code in _DENIED or status_of(error) in {401, 403}:
        return errors.PermissionDenied(
            said, hint=f"Check the credentials, and that they allow sqs:{action} on the queue."
        )
    return errors.StorageUnavailable(said, hint="The queue refused this or stayed unavailable.")
