"""Whose file stands under the keys of a run: a job replaces its own, and somebody else's only where it is told to.

A file in S3 names the commit it follows from. A plain folder keeps no such mark: there an output is known by its receipt or its
bytes, and a rejects file by a record of its digest, which is stored before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from batch.errors import OutputRefused, StorageUnavailable
from batch.execution import records
from batch.execution.committed import COMMIT_KEY, Commits
from batch.execution.register import Entry, newest_first, register_folder
from batch.job import Job
from batch.storage import ObjectInfo, join, storage_for

OVER_BUDGET = "over-budget"
"""In the place of a digest in the mark of a rejects file whose run published nothing else."""


@dataclass(slots=True)
class Owners:
    """Looks whose files stand under the keys of one run, and reads each record once for all of them."""

    job: Job
    run_id: str
    """The run that asks."""
    commits: Commits = field(default_factory=Commits)
    _receipts: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def check_output(self, uri: str) -> None:
        """Refuse to replace a file that this job did not write. Raises `OutputRefused`."""
        standing = self._standing(uri)
        if standing is None:
            return
        mine = (entry for entry in newest_first(self.job.root, uri) if entry.document["job"] == self.job.name)
        if self.job.output.replace == "never":  # what it has published itself before it was killed it may publish again
            mine = (entry for entry in mine if entry.run_id == self.run_id)
        if not any(self._holds(standing, entry) for entry in mine):
            raise self._refusal(uri)

    def check_rejects(self, uri: str, output: str) -> None:
        """The same of the rejects file beside an output. Raises `OutputRefused`."""
        standing = self._standing(uri)
        if standing is None:
            return
        mark = rejects_mark(self.job.root, self.job.name, standing) or self._receipted(standing, output)
        run, _, digest = mark.partition(":")
        # Nobody waits for the rejects file of a run that published nothing: the next one may always replace it.
        if not mark or (self.job.output.replace == "never" and run != self.run_id and digest != OVER_BUDGET):
            raise self._refusal(uri)

    def _standing(self, uri: str) -> ObjectInfo | None:
        """What stands under a key, where it matters whose it is."""
        return None if self.job.output.replace == "any" else storage_for(uri).head(uri)

    def _holds(self, standing: ObjectInfo, entry: Entry) -> bool:
        """Whether the object under the output key is the one that a register entry stands for."""
        if COMMIT_KEY in standing.metadata:
            return standing.metadata[COMMIT_KEY] == str(entry.document["commit"])
        if self._is_in_receipt(standing, entry):
            return True
        # A plain folder keeps no metadata, and the run died before its receipt: publish the same bytes again, into a hash.
        folder = join(self.job.root, "runs", entry.document["job"], entry.run_id)
        try:
            expected = hashlib.sha256()
            for piece in self.commits.files(folder, standing.uri).bytes():
                expected.update(piece)
        except (StorageUnavailable, OutputRefused):
            return False
        return expected.hexdigest() == sha256_of(standing)

    def _receipted(self, standing: ObjectInfo, output: str) -> str:
        """The mark of the job's run whose receipt names this rejects file: of those that were written without a record."""
        for entry in newest_first(self.job.root, output):
            if entry.document["job"] == self.job.name and self._is_in_receipt(standing, entry):
                return str(entry.document["commit"])
        return ""

    def _is_in_receipt(self, standing: ObjectInfo, entry: Entry) -> bool:
        """Whether the receipt of the entered run names exactly this object; it outlives the staged chunks."""
        document = entry.document
        uri = join(self.job.root, "done", document["job"], document["subject"], f"{document['run_id']}.json")
        if uri not in self._receipts:
            receipt = records.load(uri) or {}
            named = [*receipt.get("output", []), *receipt.get("rejects", [])]
            self._receipts[uri] = {one["uri"]: one["etag"] for one in named}
        return self._receipts[uri].get(standing.uri) == standing.etag

    def _refusal(self, uri: str) -> OutputRefused:
        if self.job.output.replace == "never":
            return OutputRefused(
                f'{uri} exists and [output] replace is "never"', hint="delete it or write somewhere else"
            )
        return OutputRefused(
            f"{uri} exists and was not written by job '{self.job.name}'",
            hint='write somewhere else, or set [output] replace = "any" to replace it',
        )


def remember_rejects(root: str, job: str, uri: str, sha256: str, mark: str) -> None:
    """Record, before a rejects file is there, that one with this digest is ours, where the store cannot say so itself."""
    if not uri.startswith("s3://"):
        records.create(_record_uri(root, uri, sha256), {"format": 1, "uri": uri, "job": job, "commit": mark})


def rejects_mark(root: str, job: str, standing: ObjectInfo) -> str:
    """The mark (``<run_id>:…``) of the job's run that wrote the rejects file that stands there; "" where none is known to have."""
    mark = standing.metadata.get(COMMIT_KEY, "")
    if mark:
        plan = join(root, "runs", job, mark.partition(":")[0], "plan.json")
        return mark if storage_for(plan).head(plan) is not None else ""
    if standing.uri.startswith("s3://"):
        return ""
    record = records.load(_record_uri(root, standing.uri, sha256_of(standing))) or {}
    return str(record["commit"]) if record.get("job") == job else ""


def _record_uri(root: str, uri: str, sha256: str) -> str:
    return join(register_folder(root, uri), "rejects", f"{sha256}.json")


def is_there(told: dict[str, Any], mark: str) -> bool:
    """Whether a file stands as a receipt tells of it: the very object, or one that was put back, or moved with its store."""
    standing = storage_for(told["uri"]).head(told["uri"])
    if standing is None or standing.size_bytes != told["size_bytes"]:
        return False
    if standing.etag == told["etag"]:
        return True
    if COMMIT_KEY in standing.metadata:
        return standing.metadata[COMMIT_KEY] == mark
    return sha256_of(standing) == str(told["sha256"])


def sha256_of(info: ObjectInfo) -> str:
    """Of the whole pinned object, read in blocks."""
    digest = hashlib.sha256()
    for start in range(0, info.size_bytes, 8 << 20):
        digest.update(storage_for(info.uri).read(info, start, min(start + (8 << 20), info.size_bytes)))
    return digest.hexdigest()
