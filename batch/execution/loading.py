"""The models of a run, loaded: all that deliver, or none; a shadow that cannot be loaded is told of and left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from batch.errors import BatchError
from batch.execution.limit import Limited
from batch.execution.plan import Plan
from batch.execution.route import Models
from batch.models.bundle import ResolvedModel

if TYPE_CHECKING:
    from batch.models.loaded import LoadedModel

Loaded = Mapping[str, "LoadedModel | str"]
"""By variant; of a shadow that cannot be loaded, why."""


def load_models(
    resolved: Mapping[str, ResolvedModel],
    shadows: Collection[str],
    pickles: Collection[str],
    *,
    proven: bool = False,
    record: bool = True,
) -> Loaded:
    """Load the model of every variant. Raises `ModelRefused` for one that delivers; `shadows` are the names of those that do not.

    `proven`: by the coordinator, so that its workers need not try each model in a process of its own again. `record` that
    it passed.
    """
    from batch.models.bundle import load

    found: dict[str, LoadedModel | str] = {}
    for name, model in resolved.items():
        try:
            found[name] = load(model, pickle_sha256=pickles, proven=proven, record=record)
        except BatchError as error:
            if name not in shadows:
                raise
            found[name] = error.message
    return found


def limited(plan: Plan, loaded: Loaded, prepare: Callable[[], None] = lambda: None) -> Models:
    """The same models with the run's time limit on each call. `prepare` is called once in each thread that makes calls."""
    return {
        name: model if isinstance(model, str) else Limited(model, plan.chunk_seconds, prepare)
        for name, model in loaded.items()
    }


def shadow_names(plan: Plan) -> frozenset[str]:
    """The variants that may be missing."""
    return frozenset(one.name for one in plan.shadows)
