"""The variants of one run side by side: shadows row by row, the arms of a split as samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batch.errors import UsageError
from batch.execution.scratch import scratch_folder
from batch.execution.unique import digests
from batch.models.outputs import Outputs
from batch.monitor.arms import Arm, arm_groups, arm_metrics, judge, sample_ratio, shares, unpaired_shift
from batch.monitor.codes import Codes, codes_of_classes
from batch.monitor.compare import SPREAD, Comparison, differ_in_kind
from batch.monitor.delivered import CHAMPION, Batch, Run
from batch.monitor.join import Field
from batch.monitor.labelled import LabelledRows, chances_fields
from batch.monitor.labels import LabelFile, Labelling

ROWS = 50_000
"""Compared at a time."""
ARM: list[Field] = [("variant", "<i8"), ("label", "<i8"), ("score", "<f8")]
PAIR: list[Field] = [("first", "<i8"), ("second", "<i8"), ("score", "<f8"), ("other", "<f8")]


def compare_run(
    root: str, run: str, *, labels: str = "", label_column: str = "", group_by: str = ""
) -> list[dict[str, Any]]:
    """Compare the champion of a completed run with each of its other variants: shadows row by row, splits arm by arm.

    `labels`: a file with the job's id column and `label_column`. Raises `UsageError` for a run without variants, and what reading
    raises. Memory is bounded.
    """
    found = Run(root, run)
    others = [one for one in found.receipt["models"] if one["variant"] != CHAMPION and one["sha256"]]
    if not others:
        raise UsageError(f"run {found.run_id} has no variant besides its champion", hint="add [[variants]] to the job")
    if labels and not found.id_column:
        raise UsageError(
            f"the output of run {found.run_id} has no id to join labels by", hint="keep the id in the output"
        )
    asked = _Asked(found, labels, label_column, found.group_column(group_by))
    splits = [one for one in others if one["mode"] == "split"]
    results: list[dict[str, Any]] = []
    for one in others:
        if one["mode"] == "shadow":
            with scratch_folder() as scratch:
                results.append(asked.shadow(one["variant"], scratch))
    if splits:
        with scratch_folder() as scratch:
            results += asked.split(splits, scratch)
    return results


@dataclass(frozen=True, slots=True)
class _Asked:
    """One comparison of a run's variants."""

    run: Run
    labels: str
    label_column: str
    group_by: str

    def shadow(self, variant: str, scratch: str) -> dict[str, Any]:
        """The delivered rows and the shadow's, which stand in the same order."""
        outputs, other = self.run.kind(CHAMPION), self.run.kind(variant)
        about = {"first": CHAMPION, "second": variant, "mode": "shadow", "group_by": self.group_by}
        if differs := differ_in_kind(outputs, other):
            return about | {"refused": f"{differs} cannot be compared"}
        found = Comparison(outputs, self.labels, self.group_by)
        pairs = self._to_join([*PAIR, *chances_fields(outputs, "chances", "its_chances")], scratch)
        unscored = 0
        seen = 0
        for one, two in self._side_by_side(variant, found, scratch):
            scored = two.labels >= 0 if outputs.kind == "classifier" else ~np.isnan(two.scores)
            unscored += int((~scored).sum())
            keys = np.arange(seen, seen + len(scored), dtype=np.uint64) * SPREAD
            seen += len(scored)
            if self.run.id_column:
                keys = digests(one.ids)["high"]
            labels = one.labels[scored], two.labels[scored]
            scores = one.scores[scored], two.scores[scored]
            found.add(labels, scores, one.groups[scored], keys[scored])
            if pairs is not None:
                values = (*labels, *scores, one.chances[scored], two.chances[scored])
                pairs.rows.add(one.ids.filter(pa.array(scored)), dict(zip(pairs.rows.fields, values, strict=True)))
        for part in pairs.joined(outputs, found.labels, found.labelling) if pairs is not None else ():
            rows = part.left
            found.judge(
                (rows["first"], rows["second"]),
                (rows["score"], rows["other"]),
                (rows["chances"], rows["its_chances"]),
                part.right["code"],
                part.right["truth"],
            )
        return about | {"left_out": unscored} | found.as_dict()

    def _to_join(self, fields: list[Field], scratch: str) -> LabelledRows | None:
        """Where rows are put until they are joined with the labels; None without labels."""
        if not self.labels:
            return None
        known = LabelFile(self.labels, self.run.id_column, self.label_column, scratch)
        return LabelledRows(known, fields, self.run.receipt["rows"]["predicted"], scratch)

    def _side_by_side(self, variant: str, found: Comparison, scratch: str) -> Iterator[tuple[Batch, Batch]]:
        # Two files of one run are read at once: each in a folder of its own.
        with tempfile.TemporaryDirectory(dir=scratch) as one, tempfile.TemporaryDirectory(dir=scratch) as two:
            delivered = self._batches(self.run.outputs("predictions"), found.outputs, found.labels, found.groups, one)
            other = self.run.kind(variant)
            shadow = self._batches(self.run.outputs("shadow", variant), other, found.labels, found.groups, two)
            yield from zip(_regrouped(delivered), _regrouped(shadow), strict=True)

    def _batches(
        self, files: list[dict[str, Any]], outputs: Outputs, labels: Codes, groups: Codes, scratch: str
    ) -> Iterator[Batch]:
        return self.run.batches(files, outputs, labels, scratch, group_codes=groups, group_by=self.group_by)

    def split(self, splits: list[dict[str, Any]], scratch: str) -> Iterator[dict[str, Any]]:
        """The arms of a split, each on its own rows."""
        outputs = self.run.kind(CHAMPION)
        labels, groups = codes_of_classes(outputs), Codes(self.group_by)
        arms: dict[str, Arm] = {}
        to_join = self._to_join([*ARM, *chances_fields(outputs, "chances")], scratch)
        for batch in self._batches(self.run.outputs("predictions"), outputs, labels, groups, scratch):
            for code in np.unique(batch.variants).tolist():
                arms.setdefault(groups.texts[code], Arm()).add(batch, batch.variants == code)
            if to_join is not None:
                values = (batch.variants, batch.labels, batch.scores, batch.chances)
                to_join.rows.add(batch.ids, dict(zip(to_join.rows.fields, values, strict=True)))
        labelling = Labelling(self.labels)
        for part in to_join.joined(outputs, labels, labelling) if to_join is not None else ():
            usable = labelling.count(part.right["code"])
            judge(arms, part.left[usable], part.right[usable], groups, outputs)
        champion = arms.get(CHAMPION, Arm())
        check = sample_ratio(self.run.receipt["models"])
        for one in splits:
            arm = arms.get(one["variant"], Arm())
            yield {
                "first": CHAMPION,
                "second": one["variant"],
                "mode": "split",
                "group_by": self.group_by,
                "sample_ratio": check,
                "rows": {"first": champion.rows, "second": arm.rows},
                "score": unpaired_shift(champion.score, arm.score),
                "predicted": shares(champion, arm, labels.texts),
                "groups": arm_groups(champion, arm, groups.texts) if self.group_by else [],
                "labels": labelling.as_dict(outputs) if self.labels else None,
                "metrics": arm_metrics(champion, arm),
            }


def _regrouped(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same rows in batches of exactly `ROWS`, the last one less."""
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch.labels)
        while count >= ROWS:
            whole = _joined(waiting)
            yield _sliced(whole, 0, ROWS)
            waiting, count = [_sliced(whole, ROWS, count)], count - ROWS
    if count:
        yield _joined(waiting)


def _joined(batches: list[Batch]) -> Batch:
    ids = pa.concat_arrays([one.ids for one in batches])
    names = ("labels", "scores", "chances", "groups", "variants")
    return Batch(ids, *(np.concatenate([getattr(one, name) for one in batches]) for name in names))


def _sliced(batch: Batch, start: int, end: int) -> Batch:
    arrays = (batch.labels, batch.scores, batch.chances, batch.groups, batch.variants)
    return Batch(batch.ids.slice(start, end - start), *(one[start:end] for one in arrays))
