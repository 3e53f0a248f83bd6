"""Counts the delivered rows of a chunk while it is scored: see `batch.monitor.profile` for what is counted, and why it merges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.formats.id_text import id_texts
from batch.formats.types import arrow_type
from batch.models.outputs import Outputs
from batch.models.profile import as_numbers
from batch.monitor.exact import exact_sums
from batch.monitor.profile import EXAMPLES_MAX, GROUPS_MAX, HEAD, Group, Profile, Tally, first_texts, merge_into

CLASSES_MAX = 50
"""With more classes the labels are not counted per group."""
TEXT_MAX = 200
"""Characters of a group or an unknown value that are kept."""


class Profiler:
    """Counts the delivered rows of one chunk."""

    def __init__(
        self,
        references: Mapping[str, Mapping[str, Any]],
        outputs: Outputs,
        champion: str,
        variant_column: str = "",
        group_by: str = "",
    ) -> None:
        """`references`: the reference profile of each variant that delivers, {} for one that has none; `outputs` is the same for all.

        `variant_column`: of the outputs, where several deliver; else all rows are the `champion`'s. `group_by`: a column of the rows.
        """
        self._champion, self._variant_column, self._group_by = champion, variant_column, group_by
        self._columns = references[champion].get("columns", {})
        self._known = {name: _value_set(one) for name, one in self._columns.items() if one["kind"] == "categorical"}
        self._outputs = outputs
        self._score = score_column(outputs)
        self._edges = {name: score_edges(one) for name, one in references.items()}
        self._centres = {name: score_centre(one) for name, one in references.items()}
        self._classes = _classes(outputs)
        self._found = Profile(group_by=group_by)

    def add(self, rows: pa.Table, outputs: pa.Table) -> None:
        """Count rows and what was delivered for them; both tables are as long."""
        for name, reference in self._columns.items():
            if reference["kind"] in HEAD and name in rows.column_names:
                counts = self._column(name, reference, rows[name])
                known = self._found.columns.get(name)
                self._found.columns[name] = counts if known is None else known + counts
        scores = self._scores(outputs)
        labels = self._labels(outputs)
        for name, mine in self._variants(outputs):
            self._add_variant(
                name, scores if scores is None else scores[mine], labels if labels is None else labels[mine]
            )
        if self._group_by and not self._found.too_many:
            self._add_groups(id_texts(rows, self._group_by), scores, labels)

    def section(self) -> bytes:
        """See `Profile.to_bytes`."""
        return self._found.to_bytes()

    def _column(self, name: str, reference: Mapping[str, Any], values: pa.ChunkedArray) -> np.ndarray:
        if reference["kind"] == "binary":
            return np.array([values.null_count])
        if reference["kind"] == "categorical":
            return self._categorical(name, values)
        numbers = as_numbers(values)
        edges = reference["edges"]
        bins = _binned(numbers, edges, len(numbers) - values.null_count)
        low, high = reference["minimum"], reference["maximum"]
        below = 0 if low is None else np.count_nonzero(numbers < low)
        above = 0 if high is None else np.count_nonzero(numbers > high)
        return np.array([values.null_count, below, above, *bins])

    def _categorical(self, name: str, values: pa.ChunkedArray) -> np.ndarray:
        known, is_all = self._known[name]
        whole = values.combine_chunks()
        if pa.types.is_dictionary(whole.type):
            whole = whole.dictionary_decode()
        places = pc.index_in(whole, known.cast(whole.type), skip_nulls=True).fill_null(len(known))
        counts = np.bincount(places.to_numpy(), minlength=len(known) + 1)
        nulls = whole.null_count
        others = int(counts[-1]) - nulls
        if others and is_all:
            strange = whole.filter(pc.and_(pc.equal(places, len(known)), pc.is_valid(whole)))
            self._found.unseen[name] = first_texts(self._found.unseen.get(name, {}), _examples(strange))
        return np.array([nulls, others, *counts[:-1]])

    def _scores(self, outputs: pa.Table) -> np.ndarray | None:
        if not self._score:
            return None
        found: np.ndarray = outputs[self._score].to_numpy().astype(np.float64, copy=False)
        return found

    def _labels(self, outputs: pa.Table) -> np.ndarray | None:
        """Numbers of the predicted classes; one more stands for a label that is none of them."""
        if not len(self._classes):
            return None
        column = outputs["prediction"].combine_chunks()
        found = pc.index_in(column, self._classes.cast(column.type)).fill_null(len(self._classes))
        numbers: np.ndarray = found.to_numpy()
        return numbers

    def _variants(self, outputs: pa.Table) -> Iterable[tuple[str, Any]]:
        """Each variant of some rows, and which rows are its."""
        if not self._variant_column:
            yield self._champion, slice(None)
            return
        encoded = outputs[self._variant_column].combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy()
        for code, name in enumerate(encoded.dictionary.to_pylist()):
            yield name, codes == code

    def _add_variant(self, name: str, scores: np.ndarray | None, labels: np.ndarray | None) -> None:
        if scores is not None:
            edges, centre = self._edges[name], self._centres[name]
            bins = _binned(scores, edges, len(scores))
            total, squares = _moments(scores, np.zeros(len(scores), np.int64), 1, centre)
            merge_into(self._found.scores, name, Tally(np.array(bins), len(scores), total[0], squares[0]))
        if labels is not None:
            counts = np.bincount(labels, minlength=len(self._classes) + 1)[:-1]
            known = self._found.labels.get(name)
            self._found.labels[name] = counts if known is None else known + counts

    def _add_groups(self, texts: pa.Array, scores: np.ndarray | None, labels: np.ndarray | None) -> None:
        encoded = texts.dictionary_encode()
        names: list[str | None] = [*(text[:TEXT_MAX] for text in encoded.dictionary.to_pylist()), None]
        if len(names) - 1 > GROUPS_MAX:
            self._found.too_many = True
            return self._found.limit()
        codes = encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
        rows = np.bincount(codes, minlength=len(names))
        tallies = self._group_tallies(codes, len(names), rows, scores)
        by_label = self._group_labels(codes, len(names), labels)
        for code in np.flatnonzero(rows).tolist():
            tally = tallies[code] if tallies else None
            merge_into(self._found.groups, names[code], Group(int(rows[code]), tally, by_label[code]))
        return self._found.limit()

    def _group_tallies(
        self, codes: np.ndarray, count: int, rows: np.ndarray, scores: np.ndarray | None
    ) -> list[Tally] | None:
        if scores is None:
            return None
        edges, centre = self._edges[self._champion], self._centres[self._champion]
        width = len(edges) + 1
        places = codes * width + np.searchsorted(edges, scores)
        counts = np.bincount(places, minlength=count * width).reshape(count, width)
        totals, squares = _moments(scores, codes, count, centre)
        return [Tally(*each) for each in zip(counts, map(int, rows), totals, squares, strict=True)]

    def _group_labels(self, codes: np.ndarray, count: int, labels: np.ndarray | None) -> np.ndarray:
        width = len(self._classes) + 1
        if labels is None or width > CLASSES_MAX:
            return np.empty((count, 0), np.int64)
        return np.bincount(codes * width + labels, minlength=count * width).reshape(count, width)[:, :-1]


def score_column(outputs: Outputs) -> str:
    """The output column with a number that says how high a row stands; "" for a classifier without probabilities."""
    return outputs.score if outputs.kind == "regressor" or len(outputs.columns) > 1 else ""


def score_edges(reference: Mapping[str, Any]) -> np.ndarray:
    """Of the histogram of a variant's scores."""
    return np.array(reference.get("scores", {}).get("edges", ()), np.float64)


def score_centre(reference: Mapping[str, Any]) -> float:
    """What the moments of a variant's scores are taken around: anywhere near the scores, so that squares do not drown the differences."""
    return float(reference.get("scores", {}).get("mean") or 0.0)


def class_texts(outputs: Outputs) -> list[str]:
    """The classes as text, in the model's order."""
    found: list[str] = _classes(outputs).cast(pa.string()).to_pylist()
    return found


def _classes(outputs: Outputs) -> pa.Array:
    kind = arrow_type(outputs.columns[0][1]) if outputs.kind == "classifier" else pa.string()
    return pa.array(list(outputs.classes), kind)


def _value_set(reference: Mapping[str, Any]) -> tuple[pa.Array, bool]:
    """The values of a column that are counted one by one, and whether they are all that the reference had."""
    values = [value for value, _ in reference["values"]]
    return pa.array(values, pa.string() if not values else None), reference["other"] == 0


def _examples(values: pa.Array) -> dict[str, int]:
    texts = pc.utf8_slice_codeunits(pc.cast(values, pa.string()), 0, TEXT_MAX)
    counted = {pair["values"]: pair["counts"] for pair in pc.value_counts(texts).to_pylist()}
    return {text: counted[text] for text in sorted(counted)[:EXAMPLES_MAX]}


def _binned(numbers: np.ndarray, edges: Iterable[float], rows: int) -> list[int]:
    """How many of the numbers (NaN: null) are in each bin; `rows` of them are not null.

    One comparison per edge is several times as fast as a search per number.
    """
    upto = [int(np.count_nonzero(numbers <= edge)) for edge in edges]
    found: list[int] = np.diff([0, *upto, rows]).tolist()
    return found


def _moments(scores: np.ndarray, codes: np.ndarray, count: int, centre: float) -> tuple[list[int], list[int]]:
    """Exact sums of the distances from the centre and of their squares, per code; what overflows adds nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        distances = scores - centre
        squares = distances * distances
    fine = np.isfinite(squares)
    if not fine.all():
        distances, squares, codes = distances[fine], squares[fine], codes[fine]
    return exact_sums(distances, codes, count), exact_sums(squares, codes, count)
