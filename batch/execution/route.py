"""One batch of valid rows through the models of a run: each row by the variant its id is assigned to, all of them by the shadows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from batch import routing
from batch.errors import BatchError
from batch.execution import blame
from batch.execution.limit import Limited
from batch.execution.plan import Plan
from batch.execution.variants import DELIVERED, MODEL_VERSION, VARIANT, Shadow
from batch.formats.as_signature import fitting, widened
from batch.formats.id_text import id_texts
from batch.formats.types import arrow_type

Models = dict[str, "Limited | str"]
"""The model of each variant by name; of a shadow that cannot be loaded, or was given up on, what it says of that."""


@dataclass(slots=True)
class Delivered:
    """What the delivering variants make of one batch."""

    outputs: pa.Table
    """Of the rows that are no culprits, in order."""
    culprits: dict[int, str]
    """Row of the batch -> message."""
    rows: dict[str, int] = field(default_factory=dict)
    """Per variant: how many it scored; empty where the champion delivers alone."""


def deliver(plan: Plan, models: Models, batch: pa.Table) -> Delivered:
    """Score a batch by the variants that deliver. Raises `ModelFailed` where it is not single rows that a model fails on."""
    if not plan.splits:
        verdict = blame.predict(_of(models, DELIVERED), batch)
        return Delivered(verdict.outputs, verdict.culprits)
    weights = [split.weight for split in plan.splits[:-1]]
    chosen = routing.assign(id_texts(batch, plan.id_column), plan.salt, weights)
    tables, order, rows = [], [], {}
    culprits: dict[int, str] = {}
    for number, split in enumerate(plan.splits):
        mine = np.flatnonzero(chosen == number)
        if not len(mine):
            continue
        verdict = blame.predict(_of(models, split.name), widened(batch.take(pa.array(mine)), split.columns))
        left = np.delete(mine, list(verdict.culprits)) if verdict.culprits else mine
        culprits |= {int(mine[row]): message for row, message in verdict.culprits.items()}
        rows[split.name] = len(left)
        order.append(left)
        tables.append(_told(verdict.outputs, plan, split.name, split.version))
    return Delivered(pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(order)))), culprits, rows)


def _of(models: Models, name: str) -> Limited:
    model = models[name]
    assert not isinstance(model, str), "a variant that delivers is loaded, or the run has ended"
    return model


def _told(outputs: pa.Table, plan: Plan, name: str, version: int | str) -> pa.Table:
    """The outputs with the columns that tell who scored them."""
    kind = arrow_type(dict(plan.told)[MODEL_VERSION])
    value = version if pa.types.is_integer(kind) else str(version)
    outputs = outputs.append_column(pa.field(VARIANT, pa.string()), pa.repeat(name, outputs.num_rows))
    return outputs.append_column(pa.field(MODEL_VERSION, kind), pa.repeat(pa.scalar(value, kind), outputs.num_rows))


def look_on(shadow: Shadow, models: Models, rows: pa.Table, schema: pa.Schema) -> tuple[pa.Table, int, str]:
    """A shadow's outputs for delivered rows, null where it cannot score; how many it could, and what it says of a failure.

    Never raises: what a shadow does is nobody's business but its own.
    """
    nothing = pa.table([pa.nulls(rows.num_rows, kind.type) for kind in schema], schema=schema)
    model = models[shadow.name]
    if isinstance(model, str):
        return nothing, 0, model
    if shadow.lacking:
        return nothing, 0, lacks(shadow)
    try:
        table, fit = fitting(rows, shadow.columns)
        if not len(fit):
            return nothing, 0, ""
        verdict = blame.predict(model, table)
    except BatchError as error:  # not about single rows: it would fail, or hang, on every batch to come
        models[shadow.name] = error.message
        return nothing, 0, error.message
    except Exception as error:  # foreign code, or types that cannot become the shadow's
        return nothing, 0, f"{type(error).__name__}: {error}"
    left = np.delete(fit, list(verdict.culprits)) if verdict.culprits else fit
    places = np.full(rows.num_rows, -1)
    places[left] = np.arange(len(left))
    said = next(iter(verdict.culprits.values()), "")
    return verdict.outputs.take(pa.array(places, mask=places < 0)), len(left), said


def lacks(shadow: Shadow) -> str:
    """Why a shadow scores nothing of an input without some of its columns."""
    return f"the input has no column {', '.join(shadow.lacking)}"
