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
from batch.monitor.arms import Arm, arm_groups, judge, sample_ratio, shares, unpaired_shift
from batch.monitor.compare import Comparison
from batch.monitor.delivered import CHAMPION, Batch, Codes, Run
from batch.monitor.join import Spill, join, parts_for
from batch.monitor.labels import read_labels, truth_of
from batch.monitor.metrics import unpaired

ROWS = 50_000
"""Compared at a time."""
PAIR = [("first", "<i8"), ("second", "<i8"), ("score", "<f8"), ("other", "<f8"), ("group", "<i8")]
LABEL = [("code", "<i8"), ("truth", "<f8")]
ARM = [("variant", "<i8"), ("label", "<i8"), ("score", "<f8")]


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
    asked = _Asked(found, labels, label_column, group_by or _default_group(found))
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


def _default_group(run: Run) -> str:
    name = run.job.report.group_by
    return name if name in run.outputs("predictions")[0]["columns"] else ""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One comparison of a run's variants."""

    run: Run
    labels: str
    label_column: str
    group_by: str

    @property
    def parts(self) -> int:
        return parts_for(self.run.receipt["rows"]["predicted"])

    def shadow(self, variant: str, scratch: str) -> dict[str, Any]:
        """The delivered rows and the shadow's, which stand in the same order."""
        outputs, other = self.run.kind(CHAMPION), self.run.kind(variant)
        about = {"first": CHAMPION, "second": variant, "mode": "shadow", "group_by": self.group_by}
        if (outputs.kind, outputs.classes) != (other.kind, other.classes):
            return about | {"refused": "the shadow gives other outputs than the champion: there is nothing to compare"}
        found = Comparison(outputs)
        pairs = Spill(scratch, f"pairs-{variant}", PAIR, self.parts) if self.labels else None
        for one, two in self._side_by_side(variant, found, scratch):
            scored = two.labels >= 0 if outputs.kind == "classifier" else ~np.isnan(two.scores)
            keys = digests(one.ids)["high"] if self.run.id_column else np.arange(len(scored), dtype=np.uint64)
            labels = one.labels[scored], two.labels[scored]
            scores = one.scores[scored], two.scores[scored]
            found.add(labels, scores, one.groups[scored], keys[scored])
            if pairs is not None:
                values = (*labels, *scores, one.groups[scored])
                names = [name for name, _ in PAIR]
                pairs.add(one.ids.filter(pa.array(scored)), dict(zip(names, values, strict=True)))
        if pairs is not None:
            for part in join(pairs, self._labels(found.outputs, found.labels, scratch)):
                rows = part.left
                found.judge(
                    (rows["first"], rows["second"]),
                    (rows["score"], rows["other"]),
                    part.right["code"],
                    part.right["truth"],
                )
        return about | found.as_dict()

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

    def _labels(self, outputs: Outputs, codes: Codes, scratch: str) -> Spill:
        side = Spill(scratch, "labels", LABEL, self.parts)
        for ids, texts in read_labels(self.labels, self.run.id_column, self.label_column, scratch):
            code, truth = truth_of(texts, outputs, codes)
            side.add(ids, {"code": code, "truth": truth})
        return side

    def split(self, splits: list[dict[str, Any]], scratch: str) -> Iterator[dict[str, Any]]:
        """The arms of a split, each on its own rows."""
        outputs = self.run.kind(CHAMPION)
        labels, groups = Codes(), Codes()
        arms: dict[str, Arm] = {}
        rows = Spill(scratch, "arms", ARM, self.parts) if self.labels else None
        for batch in self._batches(self.run.outputs("predictions"), outputs, labels, groups, scratch):
            for code in np.unique(batch.variants).tolist():
                mine = batch.variants == code
                arms.setdefault(groups.texts[code], Arm()).add(batch, mine)
            if rows is not None:
                rows.add(batch.ids, {"variant": batch.variants, "label": batch.labels, "score": batch.scores})
        if rows is not None:
            for part in join(rows, self._labels(outputs, labels, scratch)):
                judge(arms, part.left, part.right, groups, outputs)
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
                "labels": shares(champion, arm, labels.texts),
                "groups": arm_groups(champion, arm, groups.texts) if self.group_by else [],
                "metrics": {
                    name: unpaired(name, mean, arm.metrics[name])
                    for name, mean in champion.metrics.items()
                    if name in arm.metrics
                },
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
    names = ("labels", "scores", "groups", "variants")
    return Batch(ids, *(np.concatenate([getattr(one, name) for one in batches]) for name in names))


def _sliced(batch: Batch, start: int, end: int) -> Batch:
    arrays = (batch.labels, batch.scores, batch.groups, batch.variants)
    return Batch(batch.ids.slice(start, end - start), *(one[start:end] for one in arrays))
