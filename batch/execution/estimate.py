"""What a run would cost, from the heads of its inputs and a timed model call; nothing is scored."""

from __future__ import annotations

from typing import Any

from batch.execution.engine import choose
from batch.execution.loading import Loaded, load_models, shadow_names
from batch.execution.plan import Plan
from batch.execution.preflight import Prepared
from batch.execution.route import lacks
from batch.execution.sizing import size
from batch.execution.variants import DELIVERED

BYTES_PER_SECOND = 40e6
"""Decoding, encoding and storing on one core: an order of magnitude, not a promise."""
START_SECONDS = 1.5


def estimate(prepared: Prepared, plan: Plan) -> tuple[dict[str, Any], dict[str, str]]:
    """``{"rows", "chunks", "seconds", "memory_bytes"}``, and of each shadow that would score nothing, why. Raises `ModelRefused` or `MemoryExceeded` as the run would."""
    job, models = prepared.job, prepared.models
    sizing = size(job, plan, choose(job.run.engine, plan), sum(model.size_bytes for model in models.values()))
    loaded = load_models(models, shadow_names(plan), job.trust.pickle_sha256, record=False)
    rows = sum(_rows(file.shape) for file in plan.files)
    decoded = sum(file.shape.decoded_bytes or file.shape.size_bytes for file in plan.files)
    seconds = START_SECONDS + (decoded / BYTES_PER_SECOND + rows * _seconds_per_row(plan, loaded)) / sizing.workers
    found = {"rows": rows, "chunks": len(plan.tasks), "seconds": round(seconds, 1), "memory_bytes": sizing.memory_bytes}
    lacking = {one.name: lacks(one) for one in plan.shadows if one.lacking}
    failed = {name: model for name, model in loaded.items() if isinstance(model, str)}
    return found, prepared.broken | lacking | failed


def _rows(shape: Any) -> int:
    if shape.rows is not None:
        return int(shape.rows)
    return round((shape.size_bytes - shape.data_start) / shape.sample_record_bytes) if shape.sample_record_bytes else 0


def _seconds_per_row(plan: Plan, loaded: Loaded) -> float:
    """Of all model calls that a delivered row costs."""
    weights = {split.name: split.weight for split in plan.splits} or {DELIVERED: 1.0}
    weights |= dict.fromkeys(shadow_names(plan), 1.0)
    return sum(weights[name] * model.seconds_per_row() for name, model in loaded.items() if not isinstance(model, str))
