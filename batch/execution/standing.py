"""What is done already: a subject with any record, or this very run with its files in their places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batch.execution import history, ownership, records, register
from batch.execution.preflight import Prepared
from batch.execution.receipt import Receipt
from batch.job import Job


def done_before(job: Job, subject: str) -> Receipt | None:
    """The newest record of a subject that was done (or given up on), whatever has changed since."""
    document = history.newest_receipt(job.root, job.name, subject)
    return Receipt(document, already_done=True) if document is not None else None


def standing(prepared: Prepared) -> Receipt | None:
    """The receipt of this very run where it is done and its outputs stand: then nothing is to be done, or written."""
    document = records.load(prepared.done_uri)
    if document is None or any(True for _ in missing(prepared, document)):
        return None
    return Receipt(document, already_done=True)


def missing(prepared: Prepared, receipt: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The outputs of a done run that do not stand as its receipt says, each looked at when it is asked for."""
    beside: dict[str, list[dict[str, Any]]] = {}
    for one in receipt["rejects"]:
        beside.setdefault(one["output"], []).append(one)
    return (one for one in receipt["output"] if not _stands(prepared, one, beside.get(one["uri"], [])))


def _stands(prepared: Prepared, output: dict[str, Any], rejects: list[dict[str, Any]]) -> bool:
    """Whether the output's key, and its rejects file's, still hold what the receipt says, and the register says so too."""
    ruling = register.newest(prepared.job.root, output["uri"])
    if ruling is None or ruling.run_id != prepared.run_id:
        return False
    mark = str(ruling.document["commit"])
    return all(ownership.is_there(one, mark) for one in (output, *rejects))
