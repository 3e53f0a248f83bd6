"""What two runs say differently of the same customers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from batch.errors import UsageError
from batch.execution.scratch import scratch_folder
from batch.models.outputs import Outputs
from batch.monitor.codes import Codes, codes_of_classes
from batch.monitor.compare import differ_in_kind
from batch.monitor.delivered import CHAMPION, Run
from batch.monitor.join import Field, Spill, join, parts_for
from batch.monitor.shift import Shift

FIELDS: list[Field] = [("label", "<i8"), ("score", "<f8"), ("group", "<i8")]


def diff(root: str, run_a: str, run_b: str, *, group_by: str = "") -> dict[str, Any]:
    """Join the delivered rows of two completed runs by id, and say how they differ from the first to the second.

    `group_by`: a column of both outputs; default the job's ``[report] group_by`` where both have it. Memory is bounded; what does
    not fit goes through a scratch folder. The result holds ``runs``, ``rows`` (both, changed, added, gone, repeated, without_id), the
    ``score`` column (None where the runs have none in common) and what `Shift.as_dict` gives. Raises `UsageError` for runs without ids or
    of different kinds of model, and `InputRefused` where a run's rows cannot be read any more.
    """
    runs = [Run(root, run) for run in (run_a, run_b)]
    outputs = [_comparable(run) for run in runs]
    if outputs[0].kind != outputs[1].kind:
        kinds = " and ".join(f"{run.run_id} is of a {one.kind}" for run, one in zip(runs, outputs, strict=True))
        raise UsageError(f"{kinds}: there is nothing to compare", hint="compare runs of models of one kind")
    if differs := differ_in_kind(*outputs):  # a probability of something else says nothing about this one
        outputs = [replace(one, columns=one.columns[:1]) for one in outputs]
    group = _group_column(runs, group_by)
    labels, groups, shift = codes_of_classes(*outputs), Codes(group), Shift()
    rows: Counter[str] = Counter()
    only: dict[str, Counter[int]] = {"added": Counter(), "gone": Counter()}
    with scratch_folder() as scratch:
        parts = parts_for(max(run.receipt["rows"]["predicted"] for run in runs))
        sides = [
            _spill(run, one, Spill(scratch, f"side{number}", FIELDS, parts), scratch, (labels, groups), group)
            for number, (run, one) in enumerate(zip(runs, outputs, strict=True))
        ]
        for part in join(*sides):
            before, after = part.left, part.right
            pairs = (before["label"], after["label"]), (before["score"], after["score"])
            shift.add(*pairs, after["group"], after["high"])
            rows["repeated"] += part.repeated_left + part.repeated_right
            for name, alone in (("gone", part.only_left), ("added", part.only_right)):
                rows[name] += len(alone)
                codes, counts = np.unique(alone["group"], return_counts=True)
                only[name].update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
    rows["without_id"] = sum(side.without_id for side in sides)
    found = shift.as_dict(labels.texts, groups.texts)
    counted = {name: rows[name] for name in ("added", "gone", "repeated", "without_id")}
    return {
        "runs": [_named(run) for run in runs],
        "group_by": group,
        "rows": {"both": shift.pairs, "changed": found.pop("changed"), **counted},
        "score": None if found["score_shift"] is None else outputs[0].score,
        "not_compared": f"the scores, for they are of {differs}" if differs else "",
        **found,
        "groups": _with_alone(found["groups"], only, groups) if group else [],
    }


def _comparable(run: Run) -> Outputs:
    """What the run's delivered rows hold. Raises `UsageError` where they cannot be joined."""
    if not run.id_column:
        why = f"[output] keep leaves out {run.job.input.id}" if run.job.input.id else "the job has no [input] id"
        raise UsageError(f"the rows of run {run.run_id} cannot be told apart: {why}", hint="keep the id in the output")
    return run.kind(CHAMPION)


def _group_column(runs: list[Run], asked: str) -> str:
    found = [run.group_column(asked) for run in runs]
    return found[1] if found[1] in runs[0].columns else ""


def _spill(run: Run, outputs: Outputs, side: Spill, scratch: str, codes: tuple[Codes, Codes], group_by: str) -> Spill:
    """The delivered rows of a run as one side of the join."""
    files = run.outputs("predictions")
    for batch in run.batches(files, outputs, codes[0], scratch, group_codes=codes[1], group_by=group_by):
        side.add(batch.ids, {"label": batch.labels, "score": batch.scores, "group": batch.groups})
    return side


def _named(run: Run) -> dict[str, Any]:
    models = [f"{one['name']}/{one['version']}" for one in run.receipt["models"] if one["mode"] == "split"]
    return {"run_id": run.run_id, "job": run.receipt["job"], "subject": run.receipt["subject"], "models": models}


def _with_alone(groups: list[dict[str, Any]], only: dict[str, Counter[int]], codes: Codes) -> list[dict[str, Any]]:
    """The groups with the rows that one run alone has in them, also those in which no customer is in both."""
    texts = [*codes.texts, None]
    alone = {name: {texts[code]: count for code, count in counts.items()} for name, counts in only.items()}
    known = {one["group"]: one for one in groups}
    shifts = dict.fromkeys(("mean_shift", "mean_absolute_shift", "largest_shift", "quantiles"))
    nothing: dict[str, Any] = {"pairs": 0, "changed": 0, "flips": 0, "flips_by_kind": [], **shifts}
    names = sorted({*known, *alone["added"], *alone["gone"]}, key=lambda name: (name is None, name or ""))
    return [
        {
            "group": name,
            **nothing,
            **known.get(name, {}),
            "added": alone["added"].get(name, 0),
            "gone": alone["gone"].get(name, 0),
        }
        for name in names
    ]
