"""Delivered rows and the labels of a file, joined by id in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

from batch.models.outputs import Outputs
from batch.monitor.codes import Codes
from batch.monitor.join import Field, Joined, Spill, join, parts_for
from batch.monitor.labels import LabelFile, Labelling, truth_of
from batch.monitor.metrics import chances_of

LABEL: list[Field] = [("code", "<i8"), ("truth", "<f8")]


class LabelledRows:
    """Where rows are put until they are joined with their labels."""

    def __init__(self, known: LabelFile, fields: list[Field], about_rows: int, scratch: str) -> None:
        """`fields`: what is kept of a row besides its id; `about_rows`: how many there will be.

        Both sides are in as many parts as the larger one needs.
        """
        parts = parts_for(max(about_rows, known.about_rows))
        self.rows = Spill(scratch, "rows", fields, parts)
        self._known, self._scratch = known, scratch

    def joined(self, outputs: Outputs, classes: Codes, labelling: Labelling) -> Iterator[Joined]:
        """Rows and their labels (`LABEL`, as `truth_of` gives them), part by part; `labelling` is told what is left over."""
        side = Spill(self._scratch, "labels", LABEL, self.rows.parts)
        for ids, texts in self._known:
            code, truth = truth_of(texts, outputs, classes)
            side.add(ids, {"code": code, "truth": truth})
        labelling.repeated += self.rows.without_id + side.without_id
        for part in join(self.rows, side):
            labelling.left_over(part)
            yield part


def chances_fields(outputs: Outputs, *names: str) -> list[Field]:
    """Columns of a `Spill` for the probabilities of all classes; of no width where there are none."""
    return [(name, "<f8", (len(chances_of(outputs)),)) for name in names]
