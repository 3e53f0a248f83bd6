"""Ready to score: the engine is chosen and sized, and the models are loaded, checked and replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

from batch.execution.engine import Engine, choose, open_engine
from batch.execution.loading import Loaded, load_models, shadow_names
from batch.execution.memory import freed_memory_kept
from batch.execution.phases import Phases
from batch.execution.plan import Plan
from batch.execution.preflight import Prepared
from batch.execution.process import collect_as_usual
from batch.execution.sizing import size

_kept: dict[Any, Loaded] = {}
"""The models of at most one job, by URI, digest and pins."""


@contextmanager
def ready(prepared: Prepared, plan: Plan, phases: Phases, notice: Callable[[str], None]) -> Iterator[Engine]:
    """The job's engine, open. Raises `MemoryExceeded`, `ModelRefused`, `ExtraMissing` or `EngineUnavailable`.

    Threads begin to read while the models are being loaded: what is wrong with those is then raised by the first chunk. Where all
    chunks are stored already nobody waits for them.
    """
    job, models = prepared.job, prepared.models
    name = choose(job.run.engine, plan)
    sizing = size(job, plan, name, sum(model.size_bytes for model in models.values()))
    loading = Loading(lambda: _loaded(prepared, shadow_names(plan)), notice)
    began = time.perf_counter()
    try:
        loading.start(in_background=name == "threads")
        with (
            freed_memory_kept() if sizing.keeps_freed else nullcontext(),
            open_engine(name, plan, models, loading.result, sizing, job.trust.pickle_sha256) as engine,
        ):
            yield engine
    finally:
        _tell(phases, time.perf_counter() - began, loading.seconds)


def _tell(phases: Phases, total: float, loading: float) -> None:
    """Split the time since loading began: until the models were there, and after that."""
    phases.add("load_model", min(loading, total))
    phases.add("score", max(0.0, total - loading))


class Loading:
    """Models that are being loaded, perhaps in a thread of their own."""

    def __init__(self, load: Callable[[], Loaded], notice: Callable[[str], None]) -> None:
        self._load, self._notice = load, notice
        self._future: Future[Loaded] = Future()
        self.seconds = 0.0
        """How long it took; 0 while it is not over."""

    def start(self, *, in_background: bool) -> None:
        """Load. Raises what loading raises, unless that goes on in the background: then `result` does."""
        if not in_background:
            self._future.set_result(self._carry_out())
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._future = pool.submit(self._carry_out)
        pool.shutdown(wait=False)

    def result(self) -> Loaded:
        """The models, as soon as they are there."""
        return self._future.result()

    def _carry_out(self) -> Loaded:
        began = time.perf_counter()
        try:
            loaded = self._load()
        finally:
            self.seconds = time.perf_counter() - began
        collect_as_usual()
        for variant, model in loaded.items():
            for warning in () if isinstance(model, str) else model.warnings:
                self._notice(f"model of '{variant}': {warning}")
        return loaded


def _loaded(prepared: Prepared, shadows: Collection[str]) -> Loaded:
    """The models; a watcher, which scores one file after the other, keeps the last versions it has loaded."""
    pickles = prepared.job.trust.pickle_sha256
    key = (tuple((name, model.uri, model.sha256) for name, model in prepared.models.items()), pickles)
    if prepared.about.dropped is None:
        return load_models(prepared.models, shadows, pickles)
    if (known := _kept.get(key)) is not None:
        return known
    loaded = load_models(prepared.models, shadows, pickles)
    # A run that needed no model has not waited for its own: another thread may be here for the run before.
    _kept.clear()
    _kept[key] = loaded
    return loaded
