"""Which jobs use a model: what the newest completed run of each says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batch.execution import records
from batch.execution.history import PARKED, Done
from batch.storage import join, storage_for

_READERS = 16
"""Receipts are small: what counts is how many are asked for at once."""


def used_by(root: str, name: str, version: int | None = None) -> list[dict[str, Any]]:
    """The variants that a model (of any version, unless one is named) scored in the newest completed run of each job under the root.

    Each is ``job``, ``run_id``, ``subject``, ``finished_at`` (UTC), ``variant``, ``mode``, ``version`` and ``rows``. Newest is the latest
    period, of equal ones the receipt stored last. It costs one LIST and one receipt per job, however many runs there were; what a job
    file names but no run has used yet is not known. Raises `StorageUnavailable`.
    """
    with ThreadPoolExecutor(_READERS, thread_name_prefix="usage") as pool:
        receipts = [one for one in pool.map(records.load, _newest_receipts(root)) if one is not None]
    return [
        {
            "job": receipt["job"],
            "run_id": receipt["run_id"],
            "subject": receipt["subject"],
            "finished_at": receipt["timing"]["finished_at"],
            **{key: model[key] for key in ("variant", "mode", "version", "rows")},
        }
        for receipt in receipts
        for model in receipt["models"]
        if model["name"] == name and version in {None, model["version"]}
    ]


def _newest_receipts(root: str) -> list[str]:
    """The URI of the newest receipt of each job, by job: one LIST."""
    folder = join(root, "done", "")
    newest: dict[str, Done] = {}
    for info in storage_for(folder).list(folder):
        job, _, rest = info.uri[len(folder) :].partition("/")
        subject, _, file = rest.rpartition("/")
        done = Done(info.uri, subject, info.modified_at)
        if file != PARKED and (job not in newest or done.age > newest[job].age):
            newest[job] = done
    return [newest[job].uri for job in sorted(newest)]
