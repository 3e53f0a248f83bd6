"""The report goes where the predictions are, and a message into a chat; what fails is told, tried again later, and never fails a run.

Files first, then the message that links to them, then the record that all is done: so the record, and the files' own JSON, are all that
must be remembered, and what is missing is all that is tried again. A message whose answer was lost may come twice.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from batch import placeholders
from batch.clock import SYSTEM, Clock
from batch.errors import BatchError, ExtraMissing, OutputRefused, UsageError
from batch.execution import records, register
from batch.execution.identity import run_folder
from batch.execution.receipt import now
from batch.formats import strip_suffixes
from batch.job import Job
from batch.period import parse_period
from batch.report import numbers as collecting
from batch.report import page, webhook, words, workbook
from batch.storage import join, storage_for
from batch.uri import parent

FORMAT = 1
KINDS = ("json", "xlsx", "md", "html")
"""In the order they are written: the JSON tells whose files these are, the page is what people wait for."""

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one delivery did."""

    uris: dict[str, str]
    """The files by kind that stand now; empty where none could be stored."""
    webhook: str
    """Host of the chat that has the message, now or before; "" without one."""


def deliver(job: Job, receipt: dict[str, Any], *, notice: Notice, clock: Clock = SYSTEM) -> None:
    """Make and deliver the report of a completed run, as far as it is not delivered yet.

    Never raises for what goes wrong: that is given to `notice`, and the next run or report of the same period tries it again.
    """
    try:
        if _is_complete(job, records.load(record_uri(job, receipt["run_id"]))):
            return
        found = collecting.collect(job, receipt=receipt)
        deliver_numbers(job, found, notice=notice, clock=clock, again=_is_ours(job, found))
    except BatchError as error:
        notice(f"the report was not delivered: {error.message}")
    except Exception as error:  # the predictions are out: a bug in their report must not make that run a failed one
        notice(f"the report was not delivered, a bug: {type(error).__name__}: {error}")


def deliver_numbers(
    job: Job, found: dict[str, Any], *, notice: Notice, clock: Clock = SYSTEM, again: bool = False
) -> Delivered:
    """Store the files and send the message of a report that is collected.

    `again`: the files of this very run stand already, only the message is missing. What fails is told to `notice`.
    Raises what storage raises where the record itself cannot be read.
    """
    record = records.load(record_uri(job, found["run"]["run_id"])) or {}
    try:
        uris = report_uris(job, found)
        if again:
            uris = {kind: uri for kind, uri in uris.items() if storage_for(uri).head(uri) is not None}
        else:
            _check_place(job, found, uris)
            uris = _store(found, uris, notice)
    except BatchError as error:
        notice(f"the report was not stored: {error.message}")
        return Delivered({}, str(record.get("webhook") or ""))
    try:
        host = str(record.get("webhook") or "") or _send(job, found, uris.get("html", ""), clock)
    except BatchError as error:
        notice(f"the report's message was not sent: {error.message}")
        return Delivered(uris, "")
    _remember(job, found["run"]["run_id"], record, {"files": uris, "webhook": host})
    return Delivered(uris, host)


def _is_complete(job: Job, record: dict[str, Any] | None) -> bool:
    """Whether nothing is left to do: a chat that the job was given later has not had its message."""
    return record is not None and bool(record["webhook"] or not job.report.webhook)


def _remember(job: Job, run_id: str, record: dict[str, Any], facts: dict[str, Any]) -> None:
    """The record that all is delivered, created once; only a message that the job asked for later is entered into it."""
    if record and record.get("webhook") == facts["webhook"]:
        return
    document = {"format": FORMAT, "run_id": run_id, "job": job.name, **facts, "delivered_at": now()}
    if record:
        records.replace(record_uri(job, run_id), document)
    else:
        records.create(record_uri(job, run_id), document)


def record_uri(job: Job, run_id: str) -> str:
    """The record of a complete delivery."""
    return join(run_folder(job, run_id), "report.json")


def report_uris(job: Job, found: dict[str, Any]) -> dict[str, str]:
    """Where the files go, by kind: beside the predictions, named after them.

    A run with several outputs, or whose ``[output] uri`` is a folder, has them in that folder as ``report.html`` and so on; a
    dropped file's report stands beside its own predictions even so, for the folder is shared with other files.
    """
    outputs = [one["uri"] for one in found["outputs"] if one["role"] == "predictions"]
    is_dropped = found["period"] is None and found["run"]["subject"] != "-"
    if len(outputs) == 1 and (is_dropped or not job.output.uri.endswith("/")):
        return {kind: f"{strip_suffixes(outputs[0])}.report.{kind}" for kind in KINDS}
    folder = _folder(job, found, outputs)
    return {kind: f"{folder}report.{kind}" for kind in KINDS}


def _folder(job: Job, found: dict[str, Any], outputs: list[str]) -> str:
    if job.output.uri.endswith("/") and not placeholders.names_in(job.output.uri) & {"stem"}:
        return placeholders.render(job.output.uri, period=_period(job, found), run_id=found["run"]["run_id"])
    return parent(os.path.commonprefix(outputs))  # noqa: RUF071 (character by character, then back to a slash)


def _period(job: Job, found: dict[str, Any]) -> Any:
    period = found["period"]
    return parse_period(period["name"], job.schedule.period, job.schedule.timezone) if period else None


def _check_place(job: Job, found: dict[str, Any], uris: dict[str, str]) -> None:
    """Refuse to write what would be read as an input, over anybody's file, or beside another run's predictions. Raises `OutputRefused`."""
    own = {one["uri"] for name in ("inputs", "outputs", "rejects") for one in found[name]}
    source = placeholders.render(job.input.uri, period=_period(job, found))
    for uri in uris.values():
        if uri in own:
            raise OutputRefused(f"{uri} is also another file of the run", hint="rename the output")
        if job.watch.prefix and uri.startswith(job.watch.prefix):
            raise OutputRefused(f"{uri} lies inside the watched prefix {job.watch.prefix}", hint="write somewhere else")
        is_read = uri.startswith(source) if source.endswith("/") else fnmatch.fnmatchcase(uri, source)
        if source and is_read:
            raise OutputRefused(f"{uri} would be read as an input of {source}", hint="write the output somewhere else")
    for output in (one["uri"] for one in found["outputs"] if one["role"] == "predictions"):
        ruling = register.newest(job.root, output)
        if ruling is not None and ruling.run_id != found["run"]["run_id"]:
            raise OutputRefused(
                f"{output} holds the predictions of run {ruling.run_id} by now", hint="use {period} in [output] uri"
            )
    if job.output.replace != "any":
        _check_owner(job, uris)


def _check_owner(job: Job, uris: dict[str, str]) -> None:
    """What stands there must be a report of this job: its JSON says so."""
    if _owner(uris["json"]).get("job") == job.name:
        return
    for uri in uris.values():
        if storage_for(uri).head(uri) is not None:
            raise OutputRefused(
                f"{uri} is not a report of this job", hint='move it away, or set [output] replace = "any"'
            )


def _owner(uri: str) -> dict[str, Any]:
    """What the JSON of a report says it is about; empty for anything else."""
    try:
        document = records.load(uri) or {}
    except records.Unreadable:
        return {}
    is_report = (
        document.get("format") == collecting.FORMAT and "headline" in document and isinstance(document.get("run"), dict)
    )
    return document if is_report else {}


def _is_ours(job: Job, found: dict[str, Any]) -> bool:
    """Whether all files of this very run stand, so that only the message can be missing; the page is the last that is written."""
    uris = report_uris(job, found)
    stored = _owner(uris["json"])
    is_same = (stored.get("job"), stored.get("run", {}).get("run_id")) == (job.name, found["run"]["run_id"])
    return is_same and storage_for(uris["html"]).head(uris["html"]) is not None and _made_with(uris["html"], stored)


def _made_with(uri: str, stored: dict[str, Any]) -> bool:
    """Whether a page was made from these numbers: a delivery may have been stopped between the two files."""
    body = storage_for(uri).get(uri) or b""
    return str(stored.get("run", {}).get("run_id")).encode() in body


def _store(found: dict[str, Any], uris: dict[str, str], notice: Notice) -> dict[str, str]:
    """Write the files; the workbook is left out where its library is not installed."""
    stored = {}
    for kind, uri in uris.items():
        try:
            body = RENDERERS[kind](found)
        except ExtraMissing as error:
            notice(f"the report has no workbook: {error.hint}")
            continue
        storage_for(uri).replace(uri, [body], len(body))
        stored[kind] = uri
    return stored


def _json(found: dict[str, Any]) -> bytes:
    return json.dumps(found, indent=1, ensure_ascii=False).encode() + b"\n"


def _page(found: dict[str, Any]) -> bytes:
    return page.render(found).encode()


def _summary(found: dict[str, Any]) -> bytes:
    return words.summary(found).encode()


RENDERERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "json": _json,
    "xlsx": workbook.render,
    "md": _summary,
    "html": _page,
}


def _send(job: Job, found: dict[str, Any], uri: str, clock: Clock) -> str:
    """The message, where the job wants one; gives the host. Raises `UsageError` or `webhook.NotDelivered`."""
    target = webhook.webhook_of(job.report.webhook, job.report.webhook_form)
    if target is None:
        return ""
    link = link_of(job, uri)
    text = words.summary(found, link, markdown=False)
    webhook.post(target, webhook.message(target.form, text, link), clock=clock)
    return target.host


def link_of(job: Job, uri: str) -> str:
    """Where people open the page: the job's ``[report] link`` with the key in it, else the URI as it is."""
    if not job.report.link:
        return uri
    key = uri.removeprefix("s3://").partition("/")[2] if uri.startswith("s3://") else uri.lstrip("/")
    if "{key}" not in job.report.link:
        raise UsageError("[report] link has no {key}", hint='write link = "https://files.example.com/{key}"')
    return job.report.link.replace("{key}", quote(key))
