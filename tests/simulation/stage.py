"""What stands around a simulation: the store as the back end of ``s3://``, a model that costs nothing, hosts that are not this one."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pytest

import batch.storage
from batch.execution import attempt, clean, holder, lease, preflight, receipt, runner, score
from batch.execution.holder import Holder
from batch.execution.limit import Limited
from batch.job import Job
from batch.models import bundle
from tests.run_cases import Bench, encode, register, rows
from tests.simulation.judge import Judge
from tests.simulation.store import SimStore
from tests.simulation.world import Process, SimClock, World

ROOT = "s3://sim/root"
OUTPUT = f"{ROOT}/out.csv"
REJECTS = f"{ROOT}/out.rejects.csv"
INPUTS = {"old": 48, "new": 44}
"""Name of an input -> its rows; the last of "old" and the last two of "new" are refused."""
SETTINGS = {"run__engine": "inline", "run__chunk_bytes": 420, "run__predict_rows": 1000, "rejects__max_rows": 5}


@dataclass
class Materials:
    """What all simulations share: made once, never changed."""

    jobs: dict[str, Job]
    inputs: dict[str, bytes]
    model: bundle.ResolvedModel
    loaded: Any
    references: dict[str, bytes] = field(default_factory=dict)
    """Name of an input -> the output of an undisturbed run over it."""
    rejects: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[str, int] = field(default_factory=dict)
    """Name of an input -> how many chunks it has."""


class Remembering:
    """The real model; what it has predicted once it looks up."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self.warnings: list[str] = loaded.warnings
        self.profile, self.outputs = loaded.profile, loaded.outputs
        self._known: dict[tuple[Any, ...], pa.Table] = {}

    def predict(self, table: pa.Table) -> pa.Table:
        key = tuple(tuple(column) for column in table.to_pydict().values())
        if key not in self._known:
            self._known[key] = self._loaded.predict(table)
        return self._known[key]


class Stage:
    """One simulation at a time: its world, its store, its judge, and the processes that are started in it."""

    def __init__(self, materials: Materials) -> None:
        self.materials = materials
        self.fickle = False
        """The model gives other bytes in each process."""
        self.store_class: type[SimStore] = SimStore

    def open(self, seed: int, *, fickle: bool = False) -> None:
        """An empty store with the inputs in it, and nobody there yet."""
        self.fickle = fickle
        self.world = World(seed)
        self.judge = Judge(ROOT, OUTPUT, REJECTS, self.materials.references, self.materials.rejects, fickle=fickle)
        parts = self.world.random.choice([1 << 20, 600])
        self.store = self.store_class(
            self.world, self.judge, root=ROOT, published=frozenset({OUTPUT, REJECTS}), one_put_bytes=parts
        )
        self.judge.store = self.store
        batch.storage.open_storage.cache_clear()
        lease._held.clear()
        for name, body in self.materials.inputs.items():
            self.put(name, body)

    def put(self, name: str, body: bytes) -> None:
        """Let an input be there."""
        self.store.replace(f"{ROOT}/in-{name}.csv", [body], len(body))

    def worker(
        self, name: str, source: str = "old", *, at: float = 0.0, host: str = "", faults: Any = None, **options: Any
    ) -> Process:
        """A process that runs the job over an input."""
        job = self.materials.jobs[source]
        return self.world.spawn(
            name, lambda: runner.run(job, clock=SimClock(self.world), **options), at=at, host=host, faults=faults
        )

    def cleaner(self, name: str, *, at: float = 0.0, older_seconds: float = 60.0, faults: Any = None) -> Process:
        """A process that gives back what dead runs hold."""
        age = timedelta(seconds=older_seconds)
        return self.world.spawn(name, lambda: clean.clean(ROOT, older_than=age), at=at, faults=faults)

    @property
    def process(self) -> Process | None:
        actor = self.world.current()
        return actor.process if actor is not None else None


@contextmanager
def staged(materials: Materials) -> Iterator[Stage]:
    """A stage that all of `batch` plays on while it is entered."""
    stage = Stage(materials)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(batch.storage.BACK_ENDS, "s3", lambda: stage.store)
        patch.setattr(attempt, "enforced", lambda *_, **__: None)
        patch.setattr(runner, "PeakMemory", NoMemory)
        patch.setattr(runner, "scratch_folder", _no_scratch)
        patch.setattr(runner, "prepare_process", lambda: None)
        patch.setattr(preflight, "resolve", lambda *_, **__: materials.model)
        patch.setattr(bundle, "load", lambda *_, **__: Fickle(stage) if stage.fickle else materials.loaded)
        patch.setattr(importlib.metadata, "version", cache(importlib.metadata.version))
        patch.setattr(receipt, "_processor", lambda: "simulated")
        patch.setattr(
            Limited, "predict", lambda limited, table: limited.model.predict(table)
        )  # in the process's own thread
        patch.setattr(score, "score_range", _watched(stage, score.score_range))
        _move_house(patch, stage)
        yield stage
    batch.storage.open_storage.cache_clear()


def _watched(stage: Stage, real: Callable[..., Any]) -> Callable[..., Any]:
    """`score_range`, which tells the judge of each chunk that is scored."""

    def score_range(context: Any, task: Any, *rest: Any) -> Any:
        facts, sections = real(context, task, *rest)
        stage.judge.scored(stage.process, context.plan.folder, facts["index"], facts["start"])
        return facts, sections

    return score_range


def _move_house(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Each process lives on its own simulated host; what the real `Holder` asks of /proc, the world answers."""

    def myself() -> Holder:
        process = stage.process
        assert process is not None
        return Holder(process.host, f"boot of {process.host}", "pid:[1]", process.pid, f"start of {process.pid}")

    def started(pid: int) -> str:
        here = stage.process
        living = (
            one
            for one in stage.world.processes
            if one.pid == pid and one.alive and one.host == getattr(here, "host", "")
        )
        return next((f"start of {one.pid}" for one in living), "")

    patch.setattr(Holder, "myself", myself)
    patch.setattr(holder, "_boot_id", lambda: f"boot of {stage.process.host}" if stage.process else "elsewhere")
    patch.setattr(holder, "_pid_namespace", lambda: "pid:[1]")
    patch.setattr(holder, "_started", started)


class NoMemory:
    """Stands for `PeakMemory`, whose thread is not of this world."""

    peak_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@contextmanager
def _no_scratch() -> Iterator[str]:
    yield "never written to"


class Fickle:
    """A model that is not deterministic: each process gets its own bits."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.warnings: list[str] = []
        self.profile, self.outputs = stage.materials.loaded.profile, stage.materials.loaded.outputs

    def predict(self, table: pa.Table) -> pa.Table:
        found = self._stage.materials.loaded.predict(table)
        process = self._stage.process
        shift = process.pid * 1e-9 if process is not None else 0.0
        last = found.num_columns - 1
        moved = pa.array([value + shift for value in found.column(last).to_pylist()], found.schema.field(last).type)
        return found.set_column(last, found.schema.field(last), moved)


def prepared(folder: Path) -> Materials:
    """Register the model, write the inputs, and run each job once undisturbed."""
    model = register(str(folder))
    bench = Bench(ROOT, model, folder)
    resolved = bundle.resolve(model, ROOT)
    inputs = {name: encode(_table(count, name), "csv") for name, count in INPUTS.items()}
    jobs = {name: bench.job(f"in-{name}.csv", "out.csv", **SETTINGS) for name in INPUTS}
    # The digest holds the moment of registration: pinned, so that run ids (and the order of listings) repeat.
    pinned = replace(resolved, sha256="5" * 64)
    materials = Materials(jobs, inputs, pinned, Remembering(bundle.load(resolved, proven=True)))
    found: dict[str, SimStore] = {}
    with staged(materials) as stage:
        for name in INPUTS:
            stage.open(0)
            worker = stage.worker("reference", name)
            stage.world.run()
            assert isinstance(worker.outcome, batch.Receipt), worker.outcome
            found[name] = stage.store
            materials.chunks[name] = worker.outcome.as_dict()["chunks"]["total"]
    materials.references.update({name: store.objects[OUTPUT].body for name, store in found.items()})
    materials.rejects.update({name: store.objects[REJECTS].body for name, store in found.items()})
    return materials


def _table(count: int, name: str) -> Any:
    table = rows(count).astype({"age": object})
    table.loc[table.index[-1 if name == "old" else -2 :], "age"] = "unknown"
    return table
