"""Uploads in parts: blocks of one size, one on its way while the next is gathered, aborted unless all goes well."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from botocore import exceptions as boto

from batch.errors import BatchError
from batch.storage import ObjectInfo
from batch.storage.s3.answers import require
from batch.storage.s3.client import before_each_attempt
from batch.storage.s3.connection import Connection
from batch.storage.s3.failures import FAILURES, Request, code_of, is_transient


@dataclass(frozen=True, slots=True)
class Written:
    """What was sent, by which a stored object is known to be ours."""

    size_bytes: int
    metadata: dict[str, str]
    etag: str
    """As the store told it, or as it is to be; empty where neither is known."""

    def is_stored_as(self, found: ObjectInfo | None) -> bool:
        """Whether `found` is what was sent, as far as the store can show it.

        Without metadata that is its size alone: whoever writes such an object writes it again with other bytes, and a
        later write is no reason to fail.
        """
        if found is None or found.size_bytes != self.size_bytes:
            return False
        wanted = {name.lower(): value for name, value in self.metadata.items()}
        kept = {name: value for name, value in found.metadata.items() if name in wanted}
        if wanted and not kept:  # a store that keeps no metadata, or somebody else's object
            return self.etag in {"", found.etag}
        return kept == wanted


SENDERS = 3
"""Parts on their way at a time: one connection carries a fraction of what a store takes."""
SENDING_BYTES = 48 << 20
"""The most that all of these may hold; with larger parts there are fewer, down to one."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was opened and not yet completed."""

    connection: Connection
    target: dict[str, str]
    """Bucket, Key and UploadId."""

    def send(self, blocks: Iterable[bytes], part_bytes: int) -> tuple[int, list[str]]:
        """Send the blocks, of `part_bytes` each; their total in bytes and the ETag of each part, in order.

        One more block is held than are on their way.
        """
        senders = max(1, min(SENDERS, SENDING_BYTES // part_bytes))
        sent: int = 0
        etags: list[str] = []
        pending: deque[Future[str]] = deque()
        with ThreadPoolExecutor(senders, thread_name_prefix="upload") as background:
            for number, block in enumerate(blocks, 1):
                if len(pending) == senders:
                    etags.append(pending.popleft().result())
                pending.append(background.submit(self._send_part, number, block))
                sent += len(block)
            etags.extend(one.result() for one in pending)
        return sent, etags

    def complete(self, etags: Sequence[str], has_landed: Callable[[Any], bool], before: Callable[[], None]) -> str:
        """Complete the upload; the object's ETag, or "" where the answer does not prove that it was completed.

        The store no longer knows the upload after a first answer that was lost (or fails in another way), and botocore
        takes an empty answer, such as a proxy gives, for a success. `has_landed(client)` looks at what is stored. `before` is
        called before each attempt, and stops it by raising.
        """
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]

        def ask(client: Any) -> str:
            try:
                with before_each_attempt(before):
                    answer = client.complete_multipart_upload(**self.target, MultipartUpload={"Parts": parts})
            except FAILURES as error:
                if is_lost(error) or (is_transient(error) and has_landed(client)):
                    return ""
                raise
            return str(answer.get("ETag", "")).strip('"')

        return self.connection.call(self._request("CompleteMultipartUpload"), ask)

    def abort(self) -> None:
        """Give the parts back; where that fails, the bucket's lifecycle rule has to."""
        with suppress(BatchError, *FAILURES):
            self.connection.client().abort_multipart_upload(**self.target)

    def _send_part(self, number: int, block: bytes) -> str:
        def ask(client: Any) -> str:
            answer = client.upload_part(**self.target, PartNumber=number, Body=block)
            return str(require(answer, "ETag")["ETag"])

        return self.connection.call(self._request("UploadPart"), ask)

    def _request(self, action: str) -> Request:
        return Request(action, self.target["Bucket"], self.target["Key"], writes=True)


def is_lost(error: Exception) -> bool:
    """Whether the store does not know the upload: it was completed, aborted or purged."""
    return isinstance(error, boto.ClientError) and code_of(error) == "NoSuchUpload"


def opened(connection: Connection, bucket: str, key: str, extra: dict[str, Any]) -> Upload:
    """Open a multipart upload; `extra` are further arguments, such as Metadata.

    Where the answer is lost, a second upload is opened and the first one stays until it is purged: see `unfinished`.
    """
    request = Request("CreateMultipartUpload", bucket, key, writes=True)
    target = {"Bucket": bucket, "Key": key}
    answer = connection.call(
        request, lambda client: require(client.create_multipart_upload(**target, **extra), "UploadId")
    )
    return Upload(connection, target | {"UploadId": answer["UploadId"]})


def etag_of(etags: list[str]) -> str:
    """The ETag that most stores give to an object made of parts with these ETags: md5 of the md5s, and their number."""
    try:
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"


def take(parts: Iterator[bytes], limit: int) -> bytearray:
    """Join parts until they are more than `limit` bytes or there are no more."""
    held = bytearray()
    for part in parts:
        held += part
        if len(held) > limit:
            break
    return held


def regrouped(held: bytearray, parts: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """Cut `held` and what follows it into blocks of equal size (some stores insist), the last one shorter.

    `held` is the buffer and is empty in the end, so that no part is kept longer than it is needed.
    """
    for part in chain([b""], parts):
        held += part
        while len(held) >= size_bytes:
            yield _cut(held, size_bytes)
    if held:
        yield bytes(held)


def _cut(held: bytearray, size_bytes: int) -> bytes:
    """Take the first bytes out of the buffer with one copy."""
    with memoryview(held) as view, view[:size_bytes] as first:
        block = bytes(first)
    del held[:size_bytes]
    return block
