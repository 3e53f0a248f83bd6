"""Promotion behind a gate: an alias moves only to a version that is better than the one it means now."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from batch.errors import ModelRefused, UsageError
from batch.models import aliases, bundle
from batch.models.aliases import AliasEntry
from batch.models.catalogue import check_name
from batch.monitor.compare import compare_models
from batch.monitor.metrics import HIGHER_IS_BETTER


def promote_if_better(
    root: str,
    name: str,
    version: int,
    alias: str,
    metric: str,
    *,
    data: str = "",
    target: str = "",
    by: str = "",
    pickle_sha256: Collection[str] = (),
) -> AliasEntry:
    """Make `alias` mean `version` if that is better by `metric` than the version it means now; one that means none is set.

    With `data` and `target`, a labelled file, better means that the 95 % interval of the paired difference lies on the good side of
    0. Without them the metrics that were stored at registration are compared. Raises `ModelRefused` where it is not better, or where
    somebody else moved the alias meanwhile, and `UsageError` for a metric whose direction is unknown.
    """
    if metric not in HIGHER_IS_BETTER:
        known = ", ".join(sorted(HIGHER_IS_BETTER))
        raise UsageError(f"it is not known whether a higher {metric!r} is better", hint=f"known metrics: {known}")
    if bool(data) != bool(target):
        raise UsageError("a labelled file and its label column belong together", hint="give both --data and --target")
    challenger = bundle.resolve_bundle(f"models:/{check_name(name)}/{version}", root)
    entries = aliases.history(root, name, check_name(alias, "alias"))
    if entries:
        champion = bundle.resolve_bundle(f"models:/{name}/{entries[-1].version}", root)
        if data:
            found = compare_models(
                root, name, str(champion.version), str(version), data=data, target=target, pickle_sha256=pickle_sha256
            )
            _check_measured(found["metrics"], name, champion.version, version, metric)
        else:
            _check_recorded(champion.card, challenger.card, name, metric)
    return aliases.set_version(root, name, alias, version, by, after=len(entries))


def _check_measured(found: dict[str, Any], name: str, champion: int | None, version: int, metric: str) -> None:
    if metric not in found:
        usable = f"use one of: {', '.join(found)}" if found else "the file has no row that both can be measured on"
        raise UsageError(f"these models cannot be compared by {metric} on this file", hint=usable)
    one = found[metric]
    if one["verdict"] == "better":
        return
    why = one["verdict"]
    if one["interval"] is not None:
        low, high = one["interval"]
        why = f"{why}, difference {one['difference']:+.4f} (95 %: {low:+.4f} to {high:+.4f})"
    first, second = (f"{value:.4f}" if value is not None else "unknown" for value in (one["first"], one["second"]))
    raise ModelRefused(
        f"{name}/{version} is not better than {name}/{champion}: {metric} {second} against {first} on {one['rows']} rows; {why}",
        hint="nothing was promoted; without --if-better the decision is yours",
    )


def _check_recorded(champion: dict[str, Any], challenger: dict[str, Any], name: str, metric: str) -> None:
    values = []
    for card in (champion, challenger):
        value = card.get("metrics", {}).get(metric)
        if value is None:
            raise ModelRefused(
                f"{name}/{card['version']} was registered without the metric {metric!r}",
                hint="compare on a labelled file: --data FILE --target COLUMN",
            )
        values.append(float(value))
    better = values[1] > values[0] if HIGHER_IS_BETTER[metric] else values[1] < values[0]
    if not better:
        raise ModelRefused(
            f"{name}/{challenger['version']} is not better than {name}/{champion['version']}: {metric} {values[1]:g} against "
            f"{values[0]:g}, as they were registered",
            hint="nothing was promoted; without --if-better the decision is yours",
        )
