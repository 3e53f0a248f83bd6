"""What the rows of a chunk become: the delivered section, and one per shadow, each encoded batch by batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from batch.execution.phases import Phases
from batch.execution.plan import Plan
from batch.execution.route import Delivered, Models, look_on
from batch.formats import FORMATS, LINE_COLUMN, WriteOptions
from batch.formats.types import arrow_type


class Streams:
    """The sections with predictions of one chunk while it is scored."""

    def __init__(self, plan: Plan, models: Models, clock: Phases) -> None:
        self._plan, self._models, self._clock = plan, models, clock
        make = FORMATS[plan.output_format].encoder
        self._delivered = make(plan.write)
        self._shadows = [(one, make(one.write), _schema(plan, one.write, one.output_types)) for one in plan.shadows]
        self._rows: Counter[str] = Counter()
        self._errors: dict[str, str] = {}
        self.predicted = 0

    def add(self, rows: pa.Table, delivered: Delivered) -> None:
        """Take in the rows of a batch that were delivered, with their outputs; the shadows score them now."""
        with self._clock.phase("encode"):
            self._delivered.add(output_table(self._plan, rows, delivered.outputs, self._plan.write))
        self._rows.update(delivered.rows)
        self.predicted += rows.num_rows
        for shadow, encoder, schema in self._shadows:
            with self._clock.phase(f"shadow.{shadow.name}"):
                outputs, count, error = look_on(shadow, self._models, rows, schema)
            with self._clock.phase("encode"):
                encoder.add(output_table(self._plan, rows, outputs, shadow.write))
            self._rows[shadow.name] += count
            if error:
                self._errors.setdefault(shadow.name, error)

    def sections(self) -> dict[str, bytes]:
        """The encoded bytes, by section."""
        with self._clock.phase("encode"):
            shadows = {shadow.section: encoder.finish() for shadow, encoder, _ in self._shadows}
            return {"rows": self._delivered.finish(), **shadows}

    def facts(self) -> dict[str, Any]:
        """Per variant how many rows it scored, and what a shadow said first of those that it could not; {} without variants."""
        names = [*(one.name for one in self._plan.splits), *(one.name for one in self._plan.shadows)]
        return {name: [self._rows[name], self._errors.get(name, "")] for name in names}


def _schema(plan: Plan, write: WriteOptions, types: tuple[str, ...]) -> pa.Schema:
    names = write.columns[len(plan.kept) :]
    return pa.schema([(name, arrow_type(kind)) for name, kind in zip(names, types, strict=True)])


def output_table(plan: Plan, batch: pa.Table, outputs: pa.Table, write: WriteOptions) -> pa.Table:
    """Kept columns in front of the model's."""
    kept = batch.select(list(plan.kept))
    if write.splice:
        kept = kept.append_column(LINE_COLUMN, batch[LINE_COLUMN])
    for name in outputs.column_names:
        kept = kept.append_column(outputs.schema.field(name), outputs[name])
    return kept
