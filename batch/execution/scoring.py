"""Ready to score: the engine is chosen and sized, and the models are loaded, checked and replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from batch.execution.engine import Engine, choose, open_engine
from batch.execution.loading import Loaded, load_models, shadow_names
from batch.execution.phases import Phases
from batch.execution.plan import Plan
from batch.execution.preflight import Prepared
from batch.execution.sizing import size

_kept: dict[Any, Loaded] = {}
"""The models of at most one job, by URI, digest and pins."""


@contextmanager
def ready(prepared: Prepared, plan: Plan, phases: Phases, notice: Callable[[str], None]) -> Iterator[Engine]:
    """The job's engine, open. Raises `MemoryExceeded`, `ModelRefused`, `ExtraMissing` or `EngineUnavailable`."""
    job, models = prepared.job, prepared.models
    name = choose(job.run.engine, plan)
    sizing = size(job, plan, name, sum(model.size_bytes for model in models.values()))
    with phases.phase("load_model"):
        loaded = _loaded(prepared, shadow_names(plan))
    for variant, model in loaded.items():
        for warning in () if isinstance(model, str) else model.warnings:
            notice(f"model of '{variant}': {warning}")
    with (
        phases.phase("score"),
        open_engine(name, plan, models, loaded, sizing, job.trust.pickle_sha256) as engine,
    ):
        yield engine


def _loaded(prepared: Prepared, shadows: Collection[str]) -> Loaded:
    """The models; a watcher, which scores one file after the other, keeps the last versions it has loaded."""
    pickles = prepared.job.trust.pickle_sha256
    key = (tuple((name, model.uri, model.sha256) for name, model in prepared.models.items()), pickles)
    if prepared.about.dropped is None:
        return load_models(prepared.models, shadows, pickles)
    if key not in _kept:
        _kept.clear()
        _kept[key] = load_models(prepared.models, shadows, pickles)
    return _kept[key]
