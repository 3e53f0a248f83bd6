"""The profile of a whole run in the form in which it is kept: readable by people and programs, and by itself.

It holds the reference that the columns were counted against, so nothing else is needed to compare it with another one later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batch.models.outputs import Outputs
from batch.monitor.profile import HEAD, Profile
from batch.monitor.profiler import class_texts, score_centre, score_column, score_edges


def summarise(
    profile: Profile, references: Mapping[str, Mapping[str, Any]], outputs: Outputs, champion: str
) -> dict[str, Any]:
    """JSON-ready: ``reference`` (the champion's), ``columns``, and of the predictions ``scores``, ``labels`` and ``groups``.

    The arguments are those of the `Profiler`s whose sections were merged.
    """
    reference = references[champion]
    classes = class_texts(outputs)
    return {
        "kind": outputs.kind,
        "classes": classes,
        "reference": reference,
        "columns": {
            name: _column(reference["columns"][name], counts.tolist(), profile.unseen.get(name, {}))
            for name, counts in profile.columns.items()
        },
        "scores": {
            name: {
                "column": score_column(outputs),
                "rows": tally.rows,
                "edges": score_edges(references[name]).tolist(),
                "counts": tally.counts.tolist(),
                **tally.moments(score_centre(references[name])),
            }
            for name, tally in profile.scores.items()
        },
        "labels": {name: dict(zip(classes, counts.tolist(), strict=True)) for name, counts in profile.labels.items()},
        "groups": _groups(profile, classes, score_centre(reference)),
    }


def _column(reference: Mapping[str, Any], counts: list[int], unseen: Mapping[str, int]) -> dict[str, Any]:
    kind = reference["kind"]
    head, bins = counts[: HEAD[kind]], counts[HEAD[kind] :]
    if kind == "binary":
        return {"kind": kind, "nulls": head[0]}
    if kind == "categorical":
        values = [[value, count] for (value, _), count in zip(reference["values"], bins, strict=True)]
        return {
            "kind": kind,
            "nulls": head[0],
            "values": values,
            "other": head[1],
            "unseen": [[text, count] for text, count in unseen.items()],
        }
    return {"kind": kind, "nulls": head[0], "counts": bins, "below": head[1], "above": head[2]}


def _groups(profile: Profile, classes: list[str], centre: float) -> dict[str, Any] | None:
    if not profile.group_by:
        return None
    found = []
    for text, group in sorted(profile.groups.items(), key=lambda item: (item[0] is None, item[0] or "")):
        scores = group.scores
        counted = group.labels.tolist()
        found.append(
            {
                "group": text,
                "rows": group.rows,
                **(scores.moments(centre) if scores else {"mean": None, "sd": None}),
                "counts": scores.counts.tolist() if scores else [],
                "labels": dict(zip(classes, counted, strict=True)) if counted else {},
            }
        )
    return {"column": profile.group_by, "too_many": profile.too_many, "groups": found}
