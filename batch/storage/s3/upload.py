"""Uploads in parts: blocks of one size, one on its way while the next is gathered, aborted unless all goes well."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from botocore import exceptions as boto

from batch.errors import BatchError
from batch.storage.s3.connection import Connection
from batch.storage.s3.failures import FAILURES, Request, code_of


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was opened and not yet completed."""

    connection: Connection
    target: dict[str, str]
    """Bucket, Key and UploadId."""

    def send(self, blocks: Iterable[bytes]) -> tuple[int, list[str]]:
        """Send the blocks; their total in bytes and the ETag of each part, in order. Two blocks are held at a time."""
        sent: int = 0
        etags: list[str] = []
        pending = None
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload") as background:
            for number, block in enumerate(blocks, 1):
                if pending is not None:
                    etags.append(pending.result())
                pending = background.submit(self._send_part, number, block)
                sent += len(block)
            if pending is not None:
                etags.append(pending.result())
        return sent, etags

    def complete(self, etags: list[str]) -> bool:
        """Complete the upload; False where the answer does not prove it.

        The store no longer knows the upload after a first answer that was lost, and botocore takes an empty answer,
        such as a proxy gives, for a success.
        """
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]

        def ask(client: Any) -> bool:
            try:
                answer = client.complete_multipart_upload(**self.target, MultipartUpload={"Parts": parts})
            except boto.ClientError as error:
                if code_of(error) == "NoSuchUpload":
                    return False
                raise
            return bool(answer.get("ETag"))

        return self.connection.call(self._request("CompleteMultipartUpload"), ask)

    def abort(self) -> None:
        """Give the parts back; where that fails, the bucket's lifecycle rule has to."""
        with suppress(BatchError, *FAILURES):
            self.connection.client().abort_multipart_upload(**self.target)

    def _send_part(self, number: int, block: bytes) -> str:
        def ask(client: Any) -> str:
            return str(client.upload_part(**self.target, PartNumber=number, Body=block)["ETag"])

        return self.connection.call(self._request("UploadPart"), ask)

    def _request(self, action: str) -> Request:
        return Request(action, self.target["Bucket"], self.target["Key"], writes=True)


def opened(connection: Connection, bucket: str, key: str, extra: dict[str, Any]) -> Upload:
    """Open a multipart upload; `extra` are further arguments, such as Metadata."""
    request = Request("CreateMultipartUpload", bucket, key, writes=True)
    target = {"Bucket": bucket, "Key": key}
    answer = connection.call(request, lambda client: client.create_multipart_upload(**target, **extra))
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
