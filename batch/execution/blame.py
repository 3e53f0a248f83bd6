"""Which rows a model fails on: found by halving the batch, so that one bad row costs itself and a few model calls.

The rows that are left are predicted in one call of their own, as if the others had never been there; what is published is that
call's, so it does not depend on how the culprits were found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from batch.errors import ModelFailed

CULPRITS_MAX = 1_000
"""Per batch. A model that fails on more rows does not fail because of rows; each costs about 2 log2(rows of the batch) calls."""


class Model(Protocol):
    """All that is needed of a model here."""

    def predict(self, table: pa.Table) -> pa.Table:
        """Raises `ModelFailed`."""
        ...


@dataclass(slots=True)
class Verdict:
    """The outputs of the rows that a model can score, and what it says of the others."""

    outputs: pa.Table
    culprits: dict[int, str] = field(default_factory=dict)
    """Row of the batch -> message."""


def predict(model: Model, batch: pa.Table) -> Verdict:
    """Predict a batch, without the rows that the model fails on.

    Raises `ModelFailed` where it is not single rows that it fails on: more than `CULPRITS_MAX`, or none alone.
    """
    try:
        return Verdict(model.predict(batch))
    except ModelFailed as error:
        if not error.is_about_rows:
            raise
    culprits: dict[int, str] = {}
    while True:
        rest = [row for row in range(batch.num_rows) if row not in culprits]
        try:
            return Verdict(model.predict(batch.take(pa.array(rest, pa.int64()))), culprits)
        except ModelFailed as error:
            found = _find(model, batch, rest, error, CULPRITS_MAX - len(culprits))
            if not found:
                raise
            culprits |= found


def _find(model: Model, batch: pa.Table, rows: list[int], error: ModelFailed, most: int) -> dict[int, str]:
    """Some culprits among the rows that made the model fail with `error`; empty where no row fails alone."""
    found: dict[int, str] = {}
    parts = [(rows, error)]
    while parts:
        part, why = parts.pop()
        if not why.is_about_rows:
            raise why
        if why.rows:
            found |= {part[row]: why.message for row in why.rows}
        elif len(part) == 1:
            found[part[0]] = why.message
        else:
            middle = len(part) // 2
            parts += [
                (half, again) for half in (part[middle:], part[:middle]) if (again := _failure(model, batch, half))
            ]
        if len(found) > most:
            raise ModelFailed(
                f"the model fails on more than {CULPRITS_MAX} of {batch.num_rows} rows; of one it says: {why.message}",
                hint=why.hint,
            )
    return found


def _failure(model: Model, batch: pa.Table, rows: list[int]) -> ModelFailed | None:
    try:
        model.predict(batch.take(pa.array(rows)))
    except ModelFailed as error:
        return error
    return None
