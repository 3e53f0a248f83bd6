"""The invariants, checked as each effect happens: the numbers are those of the storage protocol.

I1 the output key holds whole, committed files only. I2 a run has one commit and it never changes. I3 its bytes are those of an
undisturbed run. I4 nobody scores a chunk whose object he has seen. I5 a chunk object never changes. I9 rows add up. I10 nothing
staged goes before its run is over. I7 and what must hold in the end stand in `endings`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.world import Actor, Process

if TYPE_CHECKING:
    from tests.simulation.store import Sender, SimStore, Stored

_ENTRY = re.compile(r"outputs/[0-9a-f]{16}/([0-9]{8})\.json")
_CHUNK = re.compile(r"(runs/[^/]+/[^/]+)/chunks/(([0-9]{8})\.([0-9]+)-[0-9]+)")


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Stale:
    """An older run's file put over a newer run's: by a publisher that was stopped between its last look and the effect."""

    process: Process
    request: int
    at: float


@dataclass
class Judge:
    """Sees everything; `broken` lists what must never happen."""

    root: str
    output: str
    rejects: str
    references: dict[str, bytes]
    reject_references: dict[str, bytes]
    fickle: bool = False
    """The model is not deterministic: a run's file is what its commit says, and no reference tells it beforehand."""
    store: SimStore = field(init=False)
    broken: list[str] = field(default_factory=list)
    committed: dict[str, bytes] = field(default_factory=dict)
    """Run id -> the file that its commit stands for."""
    published: set[str] = field(default_factory=set)
    """Runs whose file has stood under the output key."""
    stale: list[Stale] = field(default_factory=list)
    scores: list[tuple[Process | None, str, int, int]] = field(default_factory=list)
    """Who scored what: process, run folder, chunk, first byte."""
    makers: dict[str, Process] = field(default_factory=dict)
    """URI of a record or chunk -> who created it."""
    looks: dict[Actor, str] = field(default_factory=dict)
    """Publisher -> whose entry it found to be the newest in its last request but for those to the output itself."""
    last_looks: dict[Actor, str] = field(default_factory=dict)
    """The same, of the write that is under way: a look is good for one attempt."""
    seen: dict[tuple[Process, str], set[str]] = field(default_factory=dict)
    """(process, run folder) -> the chunks that its last listing showed."""

    def require(self, holds: bool, sentence: str) -> None:
        """Note what is broken, and stop whoever broke it."""
        if holds:
            return
        self.broken.append(f"t={self.store.world.now:.2f}: {sentence}")
        raise Broken(sentence)

    # What the store tells.

    def asked(self, sender: Sender, verb: str, uri: str) -> None:
        if uri == self.output and verb in {"PUT", "COMPLETE"}:
            self.last_looks[sender.actor] = self.looks.pop(sender.actor, "")
        elif uri != self.output:
            self.looks.pop(sender.actor, None)

    def listed(self, sender: Sender | None, prefix: str, uris: list[str]) -> None:
        if sender is None:
            return
        name = prefix.removeprefix(f"{self.root}/")
        if name.startswith("outputs/") and not name.endswith("lease/"):
            self.looks[sender.actor] = self.newest_run()
        if "/chunks/" in name:
            folder, _, rest = name.partition("/chunks/")
            known = self.seen.setdefault((sender.actor.process, folder), set())
            known.difference_update({key for key in known if key.startswith(rest)})
            known.update(uri.rsplit("/", 1)[-1] for uri in uris)

    def wrote(self, sender: Sender | None, uri: str, before: Stored | None, after: Stored) -> None:
        if sender is None:
            return
        name = uri.removeprefix(f"{self.root}/")
        if before is None:
            self.makers[uri] = sender.actor.process
        if uri == self.output:
            self._published(sender, after)
        elif uri == self.rejects:
            known = [*self.reject_references.values()]
            self.require(not known or after.body in known, "I1: a rejects file that no undisturbed run writes")
        elif "/lease/" in name:
            mine = before is None or self.makers.get(uri) is sender.actor.process
            self.require(mine, f"{name} was rewritten by another process than the one that took it")
        elif not name.startswith("in-"):  # the inputs are somebody else's: he may replace them
            rule = "I5" if _CHUNK.fullmatch(name) else "I2" if name.endswith("/commit.json") else "create-once"
            self.require(before is None or before.body == after.body, f"{rule}: {name} was changed")
            self._created(name, after)

    def deleted(self, sender: Sender | None, uri: str, before: Stored) -> None:
        if sender is None:
            return
        name = uri.removeprefix(f"{self.root}/")
        chunk = _CHUNK.fullmatch(name)
        if chunk is None:
            self.require("/lease/" in name, f"{name} was deleted")
            return
        over = self.is_done(chunk[1]) or (self.commit_of(chunk[1]) or {}).get("abandoned", False)
        self.require(over, f"I10: {name} was deleted before its run was over")

    def scored(self, process: Process | None, folder: str, index: int, start: int) -> None:
        """A chunk has been scored (and not stored yet)."""
        name = folder.removeprefix(f"{self.root}/")
        self.scores.append((process, name, index, start))
        stem = f"{index:08d}.{start}-"
        for key in self.seen.get((process, name), ()) if process is not None else ():
            there = f"{folder}/chunks/{key}" in self.store.objects
            self.require(not (key.startswith(stem) and there), f"I4: chunk {key} was there, seen, and scored again")

    # What is asked of the objects.

    def json(self, name: str) -> dict[str, Any] | None:
        stored = self.store.objects.get(f"{self.root}/{name}")
        return json.loads(stored.body) if stored is not None else None

    def commit_of(self, folder: str) -> dict[str, Any] | None:
        return self.json(f"{folder}/commit.json")

    def is_done(self, folder: str) -> bool:
        run = folder.rsplit("/", 1)[-1]
        return any("/done/" in uri and uri.endswith(f"/{run}.json") for uri in self.store.objects)

    def entries(self) -> list[str]:
        """The run ids of the register, oldest first."""
        found = sorted(
            (int(match[1]), name)
            for uri in self.store.objects
            if (match := _ENTRY.fullmatch(name := uri.removeprefix(f"{self.root}/")))
        )
        return [str((self.json(name) or {})["run_id"]) for _, name in found]

    def newest_run(self) -> str:
        entries = self.entries()
        return entries[-1] if entries else ""

    def standing_run(self) -> str:
        """Whose file stands under the output key; "" for none."""
        stored = self.store.objects.get(self.output)
        return stored.metadata.get("commit", "?").partition(":")[0] if stored is not None else ""

    # Rules of single objects.

    def _created(self, name: str, after: Stored) -> None:
        if name.endswith("/commit.json"):
            self._committed(name.removesuffix("/commit.json"), json.loads(after.body))
        elif name.startswith("done/"):
            self._done(json.loads(after.body))

    def _committed(self, folder: str, commit: dict[str, Any]) -> None:
        if commit.get("abandoned"):
            return
        run, rows = commit["run_id"], commit["rows"]
        self.require(
            rows["read"] == rows["predicted"] + rows["rejected"], f"I9: the rows of {run} do not add up: {rows}"
        )
        body = self._header()
        for entry in commit["chunks"]:
            chunk = self.store.objects.get(f"{self.root}/{folder}/chunks/{entry['key']}")
            self.require(chunk is not None, f"the commit of {run} names chunk {entry['key']}, which is not there")
            offset, length, _ = entry["sections"]["rows"]
            body += chunk.body[offset : offset + length] if chunk is not None else b""
        lines = body.count(b"\n") - self._header().count(b"\n")
        self.require(
            lines == rows["predicted"], f"I9: {lines} rows in the chunks of {run}, {rows['predicted']} committed"
        )
        same = self.fickle or not self.references or body in self.references.values()
        self.require(same, f"I3: the chunks of {run} are not those of an undisturbed run")
        self.committed[run] = body

    def _header(self) -> bytes:
        one = next(iter(self.references.values()), b"")
        return one[: one.find(b"\n") + 1] if one else b""

    def _done(self, receipt: dict[str, Any]) -> None:
        run, rows, chunks = receipt["run_id"], receipt["rows"], receipt["chunks"]
        self.require(rows["read"] == rows["predicted"] + rows["rejected"], f"I9: the receipt of {run}: {rows}")
        self.require(chunks["total"] == chunks["scored"] + chunks["reused"], f"I9: the receipt of {run}: {chunks}")
        self.require(run in self.committed, f"the receipt of {run} stands without its commit")
        self.require(run in self.entries(), f"the receipt of {run} stands without its register entry")
        outrun = self.newest_run() != run
        self.require(run in self.published or outrun, f"the receipt of {run} stands, and its file never did")

    def _published(self, sender: Sender, after: Stored) -> None:
        run = after.metadata.get("commit", "?").partition(":")[0]
        if not self.references:  # the undisturbed run itself
            self.published.add(run)
            return
        self.require(run in self.committed, f"I1: the file of {run} was published without a commit")
        self.require(
            after.body == self.committed[run], f"I1: {len(after.body)} bytes are not the file that {run} committed"
        )
        self.require(run in self.entries(), f"the file of {run} was published without a register entry")
        self.published.add(run)
        if run != self.newest_run():
            looked = sender.late or self.last_looks.get(sender.actor) == run
            self.require(looked, f"the file of {run} was put over a newer one without a last look at the register")
            process = sender.actor.process
            self.stale.append(Stale(process, process.requests, self.store.world.now))
