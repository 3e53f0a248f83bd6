"""Faults planted into the product: a simulator that does not find them would prove nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batch.execution import attempts, commit, coordinate, finish, lease, publish, records, register, score
from batch.execution.committed import Commits
from batch.execution.identity import canonical
from batch.storage import ObjectInfo, nothing, storage_for
from tests.simulation.scenarios import cleaning, two_workers, zombie_publisher
from tests.simulation.stage import Stage
from tests.simulation.store import SimStore

Plant = Callable[[pytest.MonkeyPatch, Stage], None]


class Heedless(SimStore):
    """Does nothing before it writes."""

    def replace(self, *what: Any, before: Callable[[], None] = nothing, **how: Any) -> ObjectInfo:
        return super().replace(*what, **how)


def no_last_look(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Publish without looking at the register again before the write takes effect."""
    patch.setattr(stage, "store_class", Heedless)


class HeedfulOnce(SimStore):
    """Does what is to be done before the first attempt at a write, and not again when it is repeated."""

    def replace(self, *what: Any, before: Callable[[], None] = nothing, **how: Any) -> ObjectInfo:
        left = [before]
        return super().replace(*what, before=lambda: left.pop()() if left else None, **how)


def one_look_for_all_attempts(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Publish with a look before the first attempt at the write alone."""
    patch.setattr(stage, "store_class", HeedfulOnce)


def no_look_afterwards(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Publish once, and believe that nobody came in between."""

    def published(root: str, output: str, folder: str, commits: Commits) -> publish.Published:
        while True:
            entry = register.newest(root, output)
            assert entry is not None
            files = commits.files(f"{root}/runs/{entry.document['job']}/{entry.run_id}", output)
            with contextlib.suppress(publish._Outrun):
                return publish._write(root, files, entry)

    patch.setattr(finish, "publish", published)


class NoReadBack(SimStore):
    """A refused create is taken for lost, also where its own first copy won."""

    def refused(self, uri: str, body: bytes) -> bool:
        return False


def no_read_back(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Create treats "exists already" as lost, without reading back whose it is."""
    patch.setattr(stage, "store_class", NoReadBack)


def overwrite(uri: str, document: dict[str, Any]) -> bool:
    """A record stored by a plain PUT."""
    body = canonical(document)
    storage_for(uri).replace(uri, [body], len(body))
    return True


def commit_overwritten(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """The commit is stored by whoever comes last."""

    def store_commit(folder: str, document: dict[str, Any]) -> dict[str, Any]:
        overwrite(commit.commit_uri(folder), document)
        return document

    patch.setattr(commit, "store_commit", store_commit)


def register_overwritten(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Two runs may take the same number of the register."""
    real = records.create
    patch.setattr(
        records, "create", lambda uri, facts: overwrite(uri, facts) if "/outputs/" in uri else real(uri, facts)
    )


def no_lease_and_chunks_overwritten(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Nobody heeds the lease, and whoever scores last stores the chunk."""
    patch.setattr(lease.Lease, "check", lambda _: None)
    patch.setattr(lease, "_watch", lambda *_: None)
    patch.setattr(score, "store", _store_over(score.store))


def _store_over(real: Callable[..., Any]) -> Callable[..., Any]:
    def store(plan: Any, *rest: Any, **named: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            storage = storage_for(plan.folder)
            patch.setattr(storage, "create", lambda uri, body: bool(storage.replace(uri, [body], len(body))))
            return real(plan, *rest, **named)

    return store


def no_lease(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Nobody waits to see whether the holder lives: nothing is wrong in the end, but work is done twice."""
    patch.setattr(lease, "_watch", lambda *_: None)
    patch.setattr(lease.Lease, "check", lambda _: None)


def receipt_before_output(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """The receipt is written before the output."""
    real = finish._output

    def output(attempt: Any, *rest: Any) -> Any:
        receipt = {
            "run_id": attempt.prepared.run_id,
            "rows": attempt.rows,
            "chunks": {"total": 0, "scored": 0, "reused": 0},
        }
        records.create(attempt.prepared.done_uri, receipt)
        return real(attempt, *rest)

    patch.setattr(finish, "_output", output)


def stored_chunks_forgotten(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """A resumed run does not use what the listing shows."""
    real = coordinate._with_stored
    patch.setattr(
        coordinate, "_with_stored", lambda plan, tasks: [replace(task, stored=None) for task in real(plan, tasks)]
    )
    patch.setattr(score, "staged", lambda *_: None)


def cleaned_without_closing(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """`clean` deletes the chunks of a dead run without winning its commit first."""
    patch.setattr(commit, "abandon", lambda *_: True)


def no_end_told(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """A failed attempt does not say so."""
    patch.setattr(attempts, "end", lambda *_: None)


MUTANTS: dict[Plant, Any] = {
    no_last_look: zombie_publisher,
    one_look_for_all_attempts: zombie_publisher,
    no_look_afterwards: zombie_publisher,
    no_read_back: two_workers,
    commit_overwritten: cleaning,
    register_overwritten: zombie_publisher,
    no_lease_and_chunks_overwritten: two_workers,
    no_lease: two_workers,
    receipt_before_output: two_workers,
    stored_chunks_forgotten: two_workers,
    cleaned_without_closing: cleaning,
    no_end_told: two_workers,
}
"""What is planted -> the story that must find it."""
