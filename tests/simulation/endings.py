"""What must hold when everybody has ended, and after a last worker that nothing happens to."""

from __future__ import annotations

from typing import Any

from batch.errors import BatchError, Busy, StorageUnavailable
from batch.execution.chunk import parse_key
from batch.execution.receipt import Receipt
from batch.execution.verify import verify
from tests.simulation.stage import INPUTS, ROOT, Stage
from tests.simulation.store import Stored
from tests.simulation.world import Killed, Process

ENDS = (Busy, StorageUnavailable)
"""How a worker may fail in any weather; each has its exit code."""
MISTAKES = (AttributeError, ImportError, NameError, TypeError)
"""The simulator's own world is wrong: no test may take one for the fault that it looks for."""


def everybody_ended_well(stage: Stage, *, also: tuple[type[BatchError], ...] = ()) -> None:
    """A worker succeeds, is killed, or fails with an error of the documented kinds."""
    judge = stage.judge
    judge.require(not judge.broken, "; ".join(judge.broken))
    judge.require(not stage.world.failures, "; ".join(stage.world.failures))
    for process in stage.world.processes:
        ended = process.outcome
        if isinstance(ended, MISTAKES):
            raise ended
        fine = not isinstance(ended, BaseException) or isinstance(ended, (Killed, *ENDS, *also))
        judge.require(fine, f"{process.name} ended with {type(ended).__name__}: {ended}")
        _accounts(stage, process)


def _accounts(stage: Stage, process: Process) -> None:
    """Who could speak at its end has told of it; and a receipt counts exactly the chunks that its process has scored."""
    judge, ended = stage.judge, process.outcome
    if isinstance(ended, Killed):
        return
    mine = [uri for uri, maker in judge.makers.items() if maker is process]
    for uri in mine:
        if uri.endswith(".start.json") and not process.gave_up:
            end = uri.removesuffix(".start.json") + ".end.json"
            judge.require(end in stage.store.objects, f"{process.name} began {uri} and never told its end")
    if isinstance(ended, Receipt) and not ended.already_done:
        folder = f"runs/weekly/{ended.run_id}"
        keys = {entry["key"] for entry in (judge.commit_of(folder) or {})["chunks"]}
        made = sum(uri.rsplit("/", 1)[-1] in keys and f"/{folder}/" in uri for uri in mine)
        spans = [key for key in map(parse_key, keys) if key is not None]
        did = {(index, start) for who, where, index, start in judge.scores if who is process and where == folder}
        scored = ended.as_dict()["chunks"]["scored"]
        most = sum((index, start) in did for index, start, _ in spans)
        told = f"{process.name} says it scored {scored} chunks: {made} to {most} were"
        judge.require(made <= scored, told)
        judge.require(scored <= most, told)


def key_holds_newest(stage: Stage) -> bool:
    """Whether the output key shows the newest entry's file. It may not where, and only where, a publisher died in between."""
    judge = stage.judge
    newest, standing = judge.newest_run(), judge.standing_run()
    if newest in {"", standing}:
        return True
    entries = [uri for uri in stage.store.objects if uri.startswith(f"{ROOT}/outputs/") and uri.endswith(".json")]
    writer = judge.makers[max(entries)]
    unfinished = [writer, *(stale.process for stale in judge.stale)]
    judge.require(
        any(isinstance(process.outcome, BaseException) for process in unfinished),
        f"everybody ended well, and the key holds the file of {standing} where {newest} is the newest entry",
    )
    return False


def undisturbed(stage: Stage, source: str, **options: Any) -> Receipt:
    """The receipt of a worker that nothing happens to; another heartbeat that lands late may make it come back later."""
    for number in range(4):
        before, scored = dict(stage.store.objects), len(stage.judge.scores)
        worker = stage.worker(f"last{number}", source, at=1.0 + 100.0 * number, **options)
        stage.world.run()
        if not isinstance(worker.outcome, Busy):
            break
    ended = worker.outcome
    stage.judge.require(isinstance(ended, Receipt), f"the last worker ended with {type(ended).__name__}: {ended}")
    assert isinstance(ended, Receipt)
    if not ended.already_done:
        _went_on(stage, ended, before, len(stage.judge.scores) - scored)
    return ended


def _went_on(stage: Stage, receipt: Receipt, before: dict[str, Stored], scored: int) -> None:
    """I4: whatever was stored and proven is reused; after the commit nothing is scored at all."""
    folder = f"{ROOT}/runs/weekly/{receipt.run_id}/"
    chunks = receipt.as_dict()["chunks"]
    was_committed = f"{folder}commit.json" in before
    proven = (
        chunks["total"] if was_committed else _proven([uri for uri in before if uri.startswith(f"{folder}chunks/")])
    )
    stage.judge.require(
        chunks["reused"] >= proven and chunks["scored"] + chunks["reused"] == chunks["total"],
        f"I4: {proven} chunks were stored and proven, the receipt says {chunks}",
    )
    stage.judge.require(not (was_committed and scored), f"I4: {scored} chunks were scored after the commit")


def _proven(uris: list[str]) -> int:
    """How many stored chunks tile the file from its start."""
    spans = {key[:2]: key[2] for key in map(parse_key, uris) if key is not None}
    index, start = 0, min((start for index, start in spans if index == 0), default=-1)
    while (index, start) in spans:
        index, start = index + 1, spans[index, start]
    return index


def rests(stage: Stage, source: str, receipt: Receipt) -> None:
    """All of it is right, nothing that lands late changes it, and asking again does nothing (I3, I7, I9)."""
    judge, store = stage.judge, stage.store
    if stage.world.settle(_decides):
        receipt = undisturbed(stage, source)
    judge.require(not judge.broken, "; ".join(judge.broken))
    body = store.objects[stage.judge.output].body
    judge.require(body == judge.committed[receipt.run_id], "I3: the key does not hold the file of the last run")
    judge.require(
        judge.newest_run() == receipt.run_id, f"{judge.newest_run()} is the newest entry, not {receipt.run_id}"
    )
    judge.require(receipt.rows.read == INPUTS[source], f"I9: {receipt.rows} of {INPUTS[source]} rows")
    if not stage.fickle:
        judge.require(body == stage.materials.references[source], "I3: the file is not that of an undisturbed run")
        for one in verify(ROOT, receipt.run_id).differences:
            judge.require(one.what == "model", f"verify finds {one}")
    writes, scores = store.writes, len(judge.scores)
    again = stage.worker("again", source)
    stage.world.run()
    idle = isinstance(again.outcome, Receipt) and again.outcome.already_done
    judge.require(idle, f"I7: asked again it ended with {again.outcome!r:.100}")
    judge.require(store.writes == writes, f"I7: asked again it wrote {store.writes - writes} times")
    judge.require(len(judge.scores) == scores, "I7: asked again it scored")


def _decides(what: str, effect: Any) -> bool:
    """Whether a request that landed now is one after which there is more to do: a run that enters itself or is planned."""
    entered = "/lease/" not in what and "outputs/" in what
    return effect == "True" and (entered or what.endswith("/plan.json"))
