"""The end of a run, whatever began it: refused for its rejects, or published, and told in a receipt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from batch.errors import BatchError, Interrupted, RejectBudgetExceeded
from batch.execution import records, register, rejects_file
from batch.execution.attempt import Attempt
from batch.execution.budget import budget_of
from batch.execution.chunk import ChunkRecord, record_from_commit
from batch.execution.commit import UNPUBLISHED, variants_of
from batch.execution.memory import PeakMemory
from batch.execution.ownership import OVER_BUDGET
from batch.execution.preflight import Prepared
from batch.execution.profiles import drift_of, summary_of, summary_uri
from batch.execution.publish import Published, Written, publish, write_rejects
from batch.execution.receipt import Receipt, now
from batch.job import Job
from batch.monitor.drift import unknown
from batch.storage import join

Around = Callable[[Callable[[], Published]], Published]
"""Calls what it is given, perhaps again after it has mended what was in the way."""


@contextmanager
def accounted(attempt: Attempt, memory: PeakMemory) -> Iterator[None]:
    """However the attempt ends, its record says how, and then its lease is free."""
    try:
        yield
    except BatchError as error:
        attempt.fail(error, memory)
        raise
    except KeyboardInterrupt as signalled:
        interrupted = Interrupted.by(signalled)
        attempt.fail(interrupted, memory)
        signalled.receipt = interrupted.receipt  # type: ignore[attr-defined]  # for the program that ends because of it
        raise
    except Exception as error:  # a bug: it goes on as it is, but `runs` shall tell of it
        attempt.fail(BatchError(f"a bug: {type(error).__name__}: {error}", hint="report it with the traceback"), memory)
        raise
    finally:
        attempt.let_go()


def allowed_of(job: Job, chunks: Sequence[ChunkRecord]) -> int:
    """How many rejected rows the job puts up with."""
    return budget_of(job).allowed(_read(chunks))


def rejected_of(chunks: Sequence[ChunkRecord]) -> int:
    """How many rows were rejected."""
    return sum(record.rows_rejected for record in chunks)


def _read(chunks: Sequence[ChunkRecord]) -> int:
    return sum(record.rows_read for record in chunks)


def refuse_complete(
    attempt: Attempt, document: dict[str, Any], chunks: Sequence[ChunkRecord], allowed: int
) -> NoReturn:
    """Over budget with every row looked at: what would have been committed stays, for `retry` to put mended rows into it."""
    records.replace(join(attempt.prepared.folder, UNPUBLISHED), document | {"allowed": allowed})
    outputs = [one["uri"] for one in document["outputs"]]
    refuse(attempt, outputs, document["rejects"], chunks, allowed, is_complete=True)


def refuse(
    attempt: Attempt,
    outputs: Sequence[str],
    specs: Sequence[dict[str, Any]],
    chunks: Sequence[ChunkRecord],
    allowed: int,
    *,
    is_complete: bool,
) -> NoReturn:
    """Over budget: the rejects files are written so that all bad rows are seen at once, the outputs are not."""
    read, rejected = _read(chunks), rejected_of(chunks)
    attempt.still_mine()
    attempt.rejects = files = _write_rejects(attempt, outputs, specs, chunks, is_complete=is_complete)
    attempt.rows = {"read": read, "predicted": read - rejected, "rejected": rejected}
    worst = ", ".join(f"{code}: {count}" for file in files for code, count in sorted(file["by_code"].items()))
    mend = (
        f"mend a copy of it and run batch-predict retry {attempt.prepared.run_id} --input COPY, or "
        if is_complete
        else ""
    )
    raise RejectBudgetExceeded(
        f"{rejected} of {read} rows were rejected ({worst}), allowed are {allowed}; nothing was published, the bad rows are in "
        f"{', '.join(file['uri'] for file in files)}",
        hint=f"{mend}raise the budget in [rejects]: what is scored stays scored",
    )


def _write_rejects(
    attempt: Attempt,
    outputs: Sequence[str],
    specs: Sequence[dict[str, Any]],
    chunks: Sequence[ChunkRecord],
    *,
    is_complete: bool,
) -> list[dict[str, Any]]:
    """The rejects files of a run that publishes nothing else, as its receipt tells of them."""
    staged = {record.index: record for record in chunks}
    job, mark = attempt.prepared.job, f"{attempt.prepared.run_id}:{OVER_BUDGET}"
    found = []
    for output, spec in zip(outputs, specs, strict=True):
        if rejects_file.is_wanted(spec):
            written = write_rejects(job.root, job.name, spec, staged, mark, attempt.still_mine)
            found.append(_reject_entry(spec, output, written, is_complete))
    return found


def _reject_entry(spec: dict[str, Any], output: str, written: Written, complete: bool) -> dict[str, Any]:
    facts = {"rows": spec["rows"], "complete": complete, "by_code": spec["by_code"], "output": output}
    return written.as_dict() | facts


def publish_outputs(attempt: Attempt, document: dict[str, Any], around: Around) -> list[dict[str, Any]]:
    """Publish what a commit stands for; the outputs as the receipt tells of them."""
    attempt.rows = document["rows"]
    attempt.variants = variants_of(record_from_commit(attempt.prepared.folder, one) for one in document["chunks"])
    with attempt.phases.phase("publish"):
        attempt.still_mine()
        pairs = zip(document["outputs"], document["rejects"], strict=True)
        return [
            *(_output(attempt, spec, rejects, around) for spec, rejects in pairs),
            *(_shadow(attempt, spec, around) for spec in document.get("shadows", ())),
        ]


def _output(attempt: Attempt, spec: dict[str, Any], rejects: dict[str, Any], around: Around) -> dict[str, Any]:
    """Publish one output; its entry in the receipt. The etag is None where a newer run came in between."""
    done = publish_output(attempt, spec["uri"], spec["chunks_sha256"], around)
    if done.rejects is not None:
        attempt.rejects.append(_reject_entry(rejects, spec["uri"], done.rejects, complete=True))
    return done.output.as_dict() | {"role": "predictions"} | _told(spec)


def _shadow(attempt: Attempt, spec: dict[str, Any], around: Around) -> dict[str, Any]:
    """Publish a shadow's file beside an output; its entry in the receipt."""
    done = publish_output(attempt, spec["uri"], spec["chunks_sha256"], around)
    return done.output.as_dict() | {"role": "shadow", "variant": spec["variant"]} | _told(spec)


def _told(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: spec[key] for key in ("chunks_sha256", "rows", "columns")}


def publish_output(attempt: Attempt, uri: str, digest: str, around: Around) -> Published:
    """Enter the run as the newest of an output, and publish the newest."""
    prepared, job = attempt.prepared, attempt.prepared.job
    facts = {
        "job": job.name,
        "run_id": prepared.run_id,
        "subject": prepared.subject,
        "commit": f"{prepared.run_id}:{digest}",
        "at": now(),
    }
    attempt.still_mine()
    register.append(job.root, uri, facts)
    return around(lambda: publish(job.root, uri, prepared.folder, attempt.commits))


def record(
    attempt: Attempt,
    document: dict[str, Any],
    outputs: list[dict[str, Any]],
    rows_per_input: Sequence[int],
    memory: PeakMemory,
    told: Callable[[dict[str, Any]], None] | None = None,
) -> Receipt:
    """The receipt, written once and last. `told` is given it before that, unless a newer run's files stand."""
    prepared = attempt.prepared
    attempt.drift = _store_summary(attempt, document)
    captured = _store_capture(prepared, document)
    receipt = attempt.receipt("completed_with_rejects" if document["rows"]["rejected"] else "completed", memory)
    receipt["output"] = outputs
    for one, rows in zip(receipt["input"], rows_per_input, strict=True):
        one["rows"] = rows
    if captured is not None:
        receipt["capture"] = captured
    if told is not None and _is_newest(attempt, outputs):
        told(receipt)
    records.create(prepared.done_uri, receipt)
    attempt.end(receipt["state"], 0, receipt, None)
    return Receipt(receipt)


def _is_newest(attempt: Attempt, outputs: list[dict[str, Any]]) -> bool:
    """Whether its files are the ones that stand: what is said beside an output is then said of that output."""
    root, run_id = attempt.prepared.job.root, attempt.prepared.run_id
    if any(one["etag"] is None for one in outputs):  # outrun while it published
        return False
    ruling = (register.newest(root, one["uri"]) for one in outputs)
    return all(one is not None and one.run_id == run_id for one in ruling)


def _store_summary(attempt: Attempt, document: dict[str, Any]) -> dict[str, Any]:
    """Store what the rows looked like, and say whether that is new; nothing in the way of that stops a run that has published."""
    prepared = attempt.prepared
    with attempt.phases.phase("profile"):
        try:
            summary = summary_of(prepared, document, _chunks(attempt, document))
            records.create(summary_uri(prepared.job.root, prepared.job.name, prepared.run_id), summary)
            return drift_of(prepared.job, summary, prepared.models, prepared.period)
        except BatchError as error:
            return unknown(error.message)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # records that somebody changed
            return unknown(f"the profile cannot be compared: {type(error).__name__}: {error}")


def _chunks(attempt: Attempt, document: dict[str, Any]) -> Iterator[ChunkRecord]:
    """The committed chunks, as this attempt knows them where it has seen them whole."""
    seen = {one.uri: one for one in (attempt.scored.records.values() if attempt.scored else ())}
    for entry in document["chunks"]:
        found = record_from_commit(attempt.prepared.folder, entry)
        yield seen.get(found.uri, found)


def _store_capture(prepared: Prepared, document: dict[str, Any]) -> dict[str, Any] | None:
    """Store the rows that are kept for the next training; nothing that stands in the way of that stops a run that has published."""
    count = prepared.job.monitor.capture_rows
    if not count:
        return None
    from batch.execution.capture import store_capture

    uri = join(prepared.folder, "capture.parquet")
    try:
        rows = store_capture(uri, (record_from_commit(prepared.folder, one) for one in document["chunks"]), count)
    except BatchError as error:
        return {"uri": uri, "rows": 0, "error": error.message}
    return {"uri": uri, "rows": rows or 0}
