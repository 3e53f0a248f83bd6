"""Counts the delivered rows of a chunk while it is scored: see `batch.monitor.profile` for what is counted, and why it merges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.formats.id_text import id_texts
from batch.formats.types import arrow_type
from batch.models.outputs import Outputs
from batch.models.profile import as_numbers
from batch.monitor.exact import exact_sums, rounded_sums
from batch.monitor.profile import EXAMPLES_MAX, GROUPS_MAX, HEAD, Group, Profile, Tally, first_texts, merge_into

CLASSES_MAX = 50
"""With more classes the labels are not counted per group."""
REACH_MAX = 400
"""Powers of two that are squared and stay in range."""
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
        self._reach = {name: _score_reach(one, outputs) for name, one in references.items()}
        self._classes = _classes(outputs)
        self._found = Profile(group_by=group_by)

    def add(self, rows: pa.Table, outputs: pa.Table) -> None:
        """Count rows and what was delivered for them; both tables are as long."""
        there = set(rows.column_names)
        for name, reference in self._columns.items():
            if name in there and self._fits(name, reference["kind"], rows[name].type):
                counts = self._column(name, reference, rows[name])
                known = self._found.columns.get(name)
                self._found.columns[name] = counts if known is None else known + counts
        self._add_predictions(rows, outputs)

    def section(self) -> bytes:
        """See `Profile.to_bytes`."""
        return self._found.to_bytes()

    def _fits(self, name: str, kind: str, of_rows: pa.DataType) -> bool:
        """Whether a column can be counted as its reference says: that may come from anywhere, and be about another one."""
        if kind == "categorical":
            known, _ = self._known[name]
            plain = of_rows.value_type if pa.types.is_dictionary(of_rows) else of_rows
            return bool(pa.types.is_boolean(plain) if pa.types.is_boolean(known.type) else _is_text(plain))
        if kind == "datetime":
            return bool(pa.types.is_timestamp(of_rows))
        if kind == "numeric":
            return bool(pa.types.is_integer(of_rows) or pa.types.is_floating(of_rows))
        return kind in HEAD

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
        if len(self._classes) == 2 and not column.null_count:  # half the time of looking both up
            is_second: np.ndarray = pc.equal(column, self._classes[1].cast(column.type)).to_numpy(zero_copy_only=False)
            return is_second.view(np.int8)
        found = pc.index_in(column, self._classes.cast(column.type)).fill_null(len(self._classes))
        numbers: np.ndarray = found.to_numpy()
        return numbers

    def _add_predictions(self, rows: pa.Table, outputs: pa.Table) -> None:
        """Count scores and labels by variant and by group: each row once, in the cell of both."""
        variants, of_variant = self._variants(outputs)
        groups, of_group = self._groups(rows)
        scores, labels = self._scores(outputs), self._labels(outputs)
        for number, variant in enumerate(variants):
            mine = slice(None) if len(variants) == 1 else of_variant == number
            codes = of_group[mine]
            counts = np.bincount(codes, minlength=len(groups))
            tallies = None if scores is None else self._tallies(self._champion, scores[mine], codes, counts)
            by_label = None if labels is None else self._by_label(labels[mine], codes, len(groups))
            if tallies is not None and scores is not None:
                merge_into(self._found.scores, variant, self._whole(variant, scores[mine], tallies))
            if by_label is not None:
                known = self._found.labels.get(variant, np.zeros(len(self._classes), np.int64))
                self._found.labels[variant] = known + by_label.sum(axis=0)
            if self._group_by and not self._found.too_many:
                self._add_groups(groups, counts, tallies, by_label)

    def _variants(self, outputs: pa.Table) -> tuple[list[str], np.ndarray]:
        """The variants of some rows, and the number of each row's."""
        if not self._variant_column:
            return [self._champion], np.empty(0)
        encoded = outputs[self._variant_column].combine_chunks().dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()

    def _groups(self, rows: pa.Table) -> tuple[list[str | None], np.ndarray]:
        """The groups of some rows, None last, and the number of each row's; one group of all where they are not told apart."""
        everybody: list[str | None] = [None]
        if not self._group_by or self._found.too_many:
            return everybody, np.zeros(rows.num_rows, np.int64)
        encoded = id_texts(rows, self._group_by).dictionary_encode()
        if len(encoded.dictionary) > GROUPS_MAX:
            self._found.too_many = True
            self._found.limit()
            return everybody, np.zeros(rows.num_rows, np.int64)
        names = [*(text[:TEXT_MAX] for text in encoded.dictionary.to_pylist()), None]
        return names, encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)

    def _tallies(self, variant: str, scores: np.ndarray, codes: np.ndarray, rows: np.ndarray) -> list[Tally]:
        """Per group, in the edges of a variant; `rows`: how many each has."""
        edges, width = self._edges[variant], len(self._edges[variant]) + 1
        bins = np.zeros(len(scores), np.int16)
        for edge in edges:
            bins += (scores > edge).view(np.int8)
        counts = np.bincount(codes * width + bins, minlength=len(rows) * width).reshape(len(rows), width)
        totals, squares = _moments(scores, codes, len(rows), self._centres[variant], self._reach[variant])
        return [Tally(*each) for each in zip(counts, map(int, rows), totals, squares, strict=True)]

    def _by_label(self, labels: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
        """Rows per group and class, shape (groups, classes)."""
        width = len(self._classes) + 1
        return np.bincount(codes * width + labels, minlength=groups * width).reshape(groups, width)[:, :-1]

    def _whole(self, variant: str, scores: np.ndarray, tallies: list[Tally]) -> Tally:
        """The scores of a variant: of the champion the sum of its groups, of another one counted in its own edges."""
        if variant != self._champion:
            nobody = np.zeros(len(scores), np.int64)
            return self._tallies(variant, scores, nobody, np.array([len(scores)]))[0]
        whole = Tally(np.zeros_like(tallies[0].counts))
        for tally in tallies:
            whole.merge(tally)
        return whole

    def _add_groups(
        self, names: list[str | None], rows: np.ndarray, tallies: list[Tally] | None, by_label: np.ndarray | None
    ) -> None:
        """In the champion's edges, whoever scored."""
        has_labels = by_label is not None and len(self._classes) <= CLASSES_MAX
        for code in np.flatnonzero(rows).tolist():
            labels = by_label[code] if by_label is not None and has_labels else np.empty(0, np.int64)
            merge_into(
                self._found.groups, names[code], Group(int(rows[code]), tallies[code] if tallies else None, labels)
            )
        self._found.limit()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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


def _score_reach(reference: Mapping[str, Any], outputs: Outputs) -> int | None:
    """A power of two beyond which hardly any score is away from the centre; None where nobody knows."""
    scores = reference.get("scores", {})
    low, high, centre = scores.get("minimum"), scores.get("maximum"), score_centre(reference)
    if low is None or high is None:
        return 0 if outputs.kind == "classifier" else None
    span = max(high - centre, centre - low)
    reach = math.frexp(span)[1] + 1 if span > 0 and math.isfinite(span) else None
    return reach if reach is not None and abs(reach) <= REACH_MAX else None


def _moments(
    scores: np.ndarray, codes: np.ndarray, count: int, centre: float, reach: int | None
) -> tuple[list[int], list[int]]:
    """Sums of the distances from the centre and of their squares, per code; what overflows adds nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        distances = scores - centre
        squares = distances * distances
    fine = np.isfinite(squares)
    if not fine.all():
        distances, squares, codes = distances[fine], squares[fine], codes[fine]
    if reach is None:
        return exact_sums(distances, codes, count), exact_sums(squares, codes, count)
    return rounded_sums(distances, codes, count, reach), rounded_sums(squares, codes, count, 2 * reach)
