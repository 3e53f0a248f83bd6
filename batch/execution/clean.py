"""Cleaning: runs that are dead are closed, and what is not needed any more is given back. Decisions and receipts stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from batch.execution import attempts, commit, history, lease, records
from batch.execution.history import Trace
from batch.execution.receipt import now
from batch.storage import ObjectInfo, Unfinished, join, storage_for
from batch.uri import parent

OLDER_THAN = timedelta(days=7)
SILENT_SECONDS = 10 * lease.WATCH_SECONDS
"""How long a holder on another host must have been silent before its run is closed: longer than it waits for an outage to end."""


@dataclass(slots=True)
class Remains:
    """The objects of one run folder."""

    job: str
    run_id: str
    staged: list[ObjectInfo] = field(default_factory=list)
    """Chunks and decompressed input: all that `clean` may delete."""
    newest_at: datetime | None = None
    planned: bool = False
    cleaned: bool = False

    @property
    def is_over(self) -> bool:
        """There is nothing to take, and `clean` has been here: nothing of it need be read again."""
        return self.cleaned and not self.staged

    def folder(self, root: str) -> str:
        """URI of the run folder."""
        return join(root, "runs", self.job, self.run_id)

    @property
    def size_bytes(self) -> int:
        return sum(info.size_bytes for info in self.staged)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was (or would be) done about one run or one unfinished write."""

    action: str
    """cleaned: its staged objects are gone; closed: it was dead and can never publish now; kept: committed but not published;
    aborted: an unfinished upload."""
    job: str
    run_id: str
    objects: int
    size_bytes: int
    uri: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def clean(root: str, *, older_than: timedelta = OLDER_THAN, dry_run: bool = False) -> list[Cleaned]:
    """Give back the staged objects of runs that have rested for so long, and uploads that were never finished.

    A dead run is closed first, by winning its commit: a process that wakes up later cannot commit chunks that are gone. Ages
    are told by the store's clock. Nothing of a run that somebody works on is touched.
    """
    before = storage_for(root).now(root) - older_than
    known = {(trace.job, trace.run_id): trace for trace in history.traces(root)}
    done: list[Cleaned] = []
    everything = _remains(root)
    for remains in everything:
        if remains.is_over or remains.newest_at is None or remains.newest_at > before:
            continue
        trace = known.get((remains.job, remains.run_id), Trace(root, remains.job, remains.run_id, "", None))
        found = _clean_run(remains, trace, remains.folder(root), dry_run=dry_run)
        done += [found] if found is not None else []
    return done + list(_abort(root, _outputs(root, everything), before, dry_run=dry_run))


def _remains(root: str) -> list[Remains]:
    """What there is of every run: one LIST."""
    folder = join(root, "runs", "")
    found: dict[tuple[str, str], Remains] = {}
    for info in storage_for(folder).list(folder):
        job, run_id, *rest = [*info.uri[len(folder) :].split("/"), ""]
        if not any(rest):  # not an object of a run
            continue
        rest.pop()
        remains = found.setdefault((job, run_id), Remains(job, run_id))
        remains.cleaned |= rest == [commit.CLEANED]
        if rest != [commit.CLEANED]:  # the record of a clean that was interrupted does not make the run young again
            remains.newest_at = max(remains.newest_at or info.modified_at, info.modified_at)
        remains.planned |= rest == ["plan.json"]
        if rest[0] in {"chunks", "input"}:
            remains.staged.append(info)
    return list(found.values())


def _clean_run(remains: Remains, trace: Trace, folder: str, *, dry_run: bool) -> Cleaned | None:
    """What is to be done about one run, done; None where that is nothing."""
    decision = commit.load_commit(folder)
    action = "cleaned"
    if not trace.done and decision is None:
        if _is_at_work(trace):
            return None
        action = "closed"
        if not dry_run and not _close(trace, folder):
            return None  # it was not dead: it has just committed
    elif not trace.done and not commit.is_abandoned(decision):
        action = "kept"
    if not remains.staged and action != "closed":
        return None
    if action != "kept" and not dry_run:
        commit.mark_cleaned(folder, now())
        for info in remains.staged:
            storage_for(info.uri).delete(info.uri)
    return _told(action, remains, folder)


def _is_at_work(trace: Trace) -> bool:
    """Whether somebody may still be at the run; looked at anew, for the listing of all runs may be minutes old by now."""
    tries = attempts.of_job(trace.root, trace.job, trace.run_id).get(trace.run_id)
    return history.state_of(replace(trace, tries=tries), None, silent_after_seconds=SILENT_SECONDS) == "running"


def _told(action: str, remains: Remains, folder: str) -> Cleaned:
    return Cleaned(action, remains.job, remains.run_id, len(remains.staged), remains.size_bytes, folder)


def _close(trace: Trace, folder: str) -> bool:
    if not commit.abandon(folder, now()):
        return False
    for number in trace.tries.open if trace.tries else []:
        attempts.lost(trace.root, trace.job, trace.run_id, number)
    return True


def _outputs(root: str, everything: list[Remains]) -> set[str]:
    """The files in whose places unfinished writes are ours: of runs that were not cleaned before, and of each job's newest.

    A run whose remains were all taken long ago has none: they were given back with them.
    """
    newest: dict[str, Remains] = {}
    for one in everything:
        if one.planned and (one.job not in newest or _age(one) > _age(newest[one.job])):
            newest[one.job] = one
    wanted = [one for one in everything if one.planned and (not one.is_over or newest[one.job] is one)]
    return {uri for one in wanted for uri in _written_to(one.folder(root))}


def _age(remains: Remains) -> float:
    return remains.newest_at.timestamp() if remains.newest_at is not None else 0.0


def _written_to(folder: str) -> list[str]:
    """The output and rejects files that a plan names."""
    plan = records.load(join(folder, "plan.json")) or {}
    return [*plan.get("outputs", []), *plan.get("rejects", [])]


def _abort(root: str, outputs: set[str], before: datetime, *, dry_run: bool) -> Iterator[Cleaned]:
    """Unfinished writes below the root and of files that our runs write; anybody else's beside them are left alone."""
    seen: set[tuple[str, str]] = set()
    for prefix in sorted({join(root, ""), *(parent(uri) for uri in outputs)}):
        for write in storage_for(prefix).unfinished(prefix):
            if (write.uri, write.upload_id) in seen:
                continue
            seen.add((write.uri, write.upload_id))
            if write.begun_at < before and _is_ours(write, root, outputs):
                if not dry_run:
                    storage_for(prefix).abandon(write)
                yield Cleaned("aborted", "", "", 1, 0, write.uri)


def _is_ours(write: Unfinished, root: str, outputs: set[str]) -> bool:
    """An upload names the object it would have become, a partial file only its folder."""
    if write.uri.startswith(join(root, "")):
        return True
    return write.uri in outputs if write.upload_id else parent(write.uri) in {parent(uri) for uri in outputs}
