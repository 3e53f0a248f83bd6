"""Runs that were, and runs that are: read back from receipts, attempts and leases, the only record there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from batch.errors import UsageError
from batch.execution import attempts, commit, lease, records, register
from batch.execution.attempts import Tries
from batch.period import end_of
from batch.storage import join, storage_for
from batch.uri import parent

T = TypeVar("T")
R = TypeVar("R")

_STATES_OF_DONE = ("completed", "completed_with_rejects", "superseded")

PARKED = "parked.json"
"""Under ``done/<job>/<subject>/``: the dropped file was given up on."""

_READERS = 16
"""Records are small: what counts is how many are asked for at once."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run has left under the root; nothing of it is read yet."""

    root: str
    job: str
    run_id: str
    done: str
    """URI of its receipt, or ""."""
    tries: Tries | None
    subject: str = ""
    """What it is about, where a key tells: of a completed run, and of one that was refused before it had an id."""
    parked: frozenset[str] = frozenset()
    """The subjects of the job that were given up on."""


def list_runs(
    root: str,
    *,
    job: str | None = None,
    state: str | None = None,
    period: str | None = None,
    trigger: str | None = None,
    input_part: str | None = None,
) -> list[dict[str, Any]]:
    """One line per run, newest first, failures included; each filter is optional."""
    lines = _each(_line, [trace for trace in traces(root, job) if _may_be(trace, state, period)])
    wanted = {"state": state, "subject": period, "trigger": trigger}
    chosen = [one for one in lines if all(value is None or one[key] == value for key, value in wanted.items())]
    if input_part is not None:
        chosen = [one for one in chosen if any(input_part in uri for uri in one["input"])]
    return sorted(chosen, key=lambda one: str(one["started_at"]), reverse=True)


def _may_be(trace: Trace, state: str | None, subject: str | None) -> bool:
    """Whether the keys alone do not rule out that a run has this state and subject: then nothing of it need be read."""
    if subject is not None and trace.subject and trace.subject != subject:
        return False
    return state is None or (state in _STATES_OF_DONE) == bool(trace.done)


def find_run(root: str, run: str) -> dict[str, Any]:
    """The receipt of a run: by id, by a unique prefix of one, or ``JOB@latest``. Raises `UsageError`."""
    if run.endswith("@latest"):
        return _latest(root, run.removesuffix("@latest"))
    known = {trace.run_id: trace for trace in traces(root)}
    matching = [run] if run in known else sorted(one for one in known if one.startswith(run))
    if len(matching) != 1:
        what = f"{len(matching)} runs begin with '{run}'" if matching else f"there is no run '{run}' under {root}"
        hint = f"they are: {', '.join(matching[:5])}" if matching else "batch-predict runs lists them"
        raise UsageError(what, hint=hint)
    receipt = _receipt(known[matching[0]])
    if receipt is None:
        raise UsageError(f"run {matching[0]} has no receipt yet", hint="batch-predict runs tells its state")
    return receipt


def newest_receipt(root: str, job: str, subject: str) -> dict[str, Any] | None:
    """The newest record of a subject that was done (or given up on): one LIST and one small read."""
    folder = join(root, "done", job, subject, "")
    newest = max(storage_for(folder).list(folder), key=lambda info: info.modified_at, default=None)
    return records.load(newest.uri) if newest is not None else None


def done_subjects(root: str, job: str) -> dict[str, bool]:
    """What was done, and whether it was given up on: one LIST, and nothing is read."""
    folder = join(root, "done", job, "")
    found: dict[str, bool] = {}
    for info in storage_for(folder).list(folder):
        subject, _, name = info.uri[len(folder) :].partition("/")
        found[subject] = name == PARKED and found.get(subject, True)
    return found


def traces(root: str, job: str | None = None) -> list[Trace]:
    """Every run there ever was: two LISTs, nothing is read."""
    found: dict[tuple[str, str], Trace] = {}
    for name in [job] if job else _jobs(root):
        receipts, parked = _done(root, name)
        tries = attempts.of_job(root, name)
        for run in {**tries, **receipts}:
            done = receipts.get(run)
            subject = done.subject if done else run.removeprefix("refused-") if run.startswith("refused-") else ""
            found[name, run] = Trace(root, name, run, done.uri if done else "", tries.get(run), subject, parked)
    return list(found.values())


def state_of(trace: Trace, receipt: dict[str, Any] | None, *, silent_after_seconds: float = lease.WATCH_SECONDS) -> str:
    """What became of a run, or what it is doing; whoever holds a lease is running until he has been silent for so long."""
    if trace.done and receipt is not None:
        return "superseded" if _is_superseded(trace, receipt) else str(receipt["state"])
    if receipt is not None and receipt["subject"] in trace.parked:
        return "parked"
    if commit.is_abandoned(commit.load_commit(join(trace.root, "runs", trace.job, trace.run_id))):
        return "abandoned"
    if trace.tries is None:
        return "lost"
    if (ended := trace.tries.ends.get(trace.tries.last)) is not None:
        return str((records.load(ended) or {}).get("state", "failed"))
    return _state_of_open(records.load(trace.tries.starts[trace.tries.last]) or {}, silent_after_seconds)


def _state_of_open(start: dict[str, Any], silent_after_seconds: float) -> str:
    """Of an attempt that has not said how it ended: its lease tells whether anybody is still at it."""
    uri = start.get("lease", "")
    ruling = lease.newest(parent(uri).rstrip("/")) if uri else None
    if ruling is None or ruling.uri != uri or ruling.is_free:
        return "lost"
    info, now = storage_for(uri).head(uri), storage_for(uri).now(uri)
    is_fresh = info is not None and (now - info.modified_at).total_seconds() < silent_after_seconds
    return "running" if is_fresh else "silent"


def _is_superseded(trace: Trace, receipt: dict[str, Any]) -> bool:
    """Whether each of its outputs now belongs to a later run."""
    ruling = [register.newest(trace.root, output["uri"]) for output in receipt["output"]]
    return bool(ruling) and all(one is not None and one.run_id != trace.run_id for one in ruling)


def _latest(root: str, job: str) -> dict[str, Any]:
    """The newest period's run; within it the one that its output's register names last. What is about no period counts by its age."""
    done = _done(root, job)[0]
    if not done:
        raise UsageError(f"job '{job}' has no completed run under {root}", hint="batch-predict runs lists all runs")
    newest = max(one.age for one in done.values())
    # A store's clock may tick in seconds.
    youngest = [receipt for one in done.values() if one.age == newest and (receipt := records.load(one.uri))]
    any_one = max(youngest, key=lambda receipt: str(receipt["timing"]["finished_at"]))
    candidates = {run_id: one.uri for run_id, one in done.items() if one.subject == any_one["subject"]}
    for output in any_one["output"]:
        for entry in register.newest_first(root, output["uri"]):
            if entry.run_id in candidates:
                return records.load(candidates[entry.run_id]) or any_one
    return any_one


def _jobs(root: str) -> list[str]:
    folder = join(root, "attempts", "")
    return sorted({info.uri[len(folder) :].split("/", 1)[0] for info in storage_for(folder).list(folder)})


@dataclass(frozen=True, slots=True)
class Done:
    """The receipt of a completed run, as the listing shows it."""

    uri: str
    subject: str
    stored_at: datetime
    """By the store."""

    @property
    def age(self) -> tuple[datetime, datetime]:
        """What is later in time is greater: by the end of the period, else by when the receipt was stored."""
        return end_of(self.subject) or self.stored_at, self.stored_at


def _done(root: str, job: str) -> tuple[dict[str, Done], frozenset[str]]:
    """The receipts of a job's completed runs by run id, and which subjects were given up on: one LIST."""
    folder = join(root, "done", job, "")
    receipts, parked = {}, set()
    for info in storage_for(folder).list(folder):
        subject, _, name = info.uri[len(folder) :].rpartition("/")
        if name == PARKED:
            parked.add(subject)
        else:
            receipts[name.removesuffix(".json")] = Done(info.uri, subject, info.modified_at)
    return receipts, frozenset(parked)


def _receipt(trace: Trace) -> dict[str, Any] | None:
    """Of the completed run, else of its last attempt that left one."""
    if trace.done:
        return records.load(trace.done)
    for _, uri in sorted((trace.tries.ends if trace.tries else {}).items(), reverse=True):
        receipt: dict[str, Any] | None = (records.load(uri) or {}).get("receipt")
        if receipt is not None:
            return receipt
    return None


def _line(trace: Trace) -> dict[str, Any]:
    receipt = _receipt(trace)
    tries = trace.tries
    start = records.load(tries.starts[tries.last]) if tries and tries.last in tries.starts else None
    end = records.load(tries.ends[tries.last]) if tries and tries.last in tries.ends else None
    of_done = receipt if trace.done else None
    models = receipt["models"] if receipt else []
    return {
        "run_id": None if trace.run_id.startswith("refused-") else trace.run_id,
        "job": trace.job,
        "state": state_of(trace, receipt),
        "subject": (receipt or start or {}).get("subject"),
        "trigger": (of_done or start or receipt or {}).get("trigger"),
        "input": [one["uri"] for one in receipt["input"]] if receipt else [],
        "started_at": of_done["timing"]["started_at"] if of_done else (start or {}).get("at"),
        "seconds": receipt["timing"]["seconds"] if receipt else None,
        "rows": receipt["rows"] if receipt else None,
        "model": ", ".join(f"{one['name']}/{one['version']}" if one["name"] else one["uri_given"] for one in models),
        "attempts": len(tries.starts) if tries else 0,
        "exit_code": 0 if trace.done else (end or {}).get("exit_code"),
        "error": None if trace.done else (end or {}).get("error"),
    }


def _each(work: Callable[[T], R], items: Iterable[T] | Sequence[T]) -> list[R]:
    """`work` over all items, many at once, in order."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="history") as pool:
        return list(pool.map(work, items))
