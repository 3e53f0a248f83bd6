"""An evaluation as Markdown: the sentences first, then the numbers they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from batch.monitor.calibration import LACKING
from batch.monitor.findings import name_of
from batch.monitor.markdown import table

ORDER = ("accuracy", "roc_auc", "brier", "log_loss", "mae", "rmse", "mse", "r2")
"""Of the metrics that can be computed; others follow."""


def evaluation_text(found: dict[str, Any]) -> str:
    """A record of `batch.monitor.evaluate`."""
    subject = found["period"]["name"] if found["period"] else "no period"
    lines = [f"# {found['job']} {found['run_id']} ({subject}): {found['state']}", "", *found["sentences"], ""]
    lines += _coverage(found["coverage"])
    for model in found["models"]:
        lines += ["", f"## {name_of(model)}, {model['rows']:,} labelled rows", "", *_metrics(model["metrics"])]
        if model["calibration"] is not None:
            lines += ["", _calibration(model["calibration"], found["positive"])]
    return "\n".join([*lines, *_groups(found)])


def _coverage(coverage: dict[str, Any]) -> Iterator[str]:
    others = {
        "empty": "labels are empty",
        "foreign": "labels are no class of the model or no number",
        "without_row": "labels have no row",
        "repeated": "labels and rows left out for a repeated or empty id",
    }
    parts = [f"{coverage[name]:,} {what}" for name, what in others.items() if coverage[name]]
    share = f"{coverage['labelled']:,} of {coverage['rows']:,} rows have a label ({coverage['share']:.1%})"
    yield "Coverage: " + "; ".join([share, *parts])


def _metrics(metrics: dict[str, Any]) -> Iterator[str]:
    cells = [
        (
            name,
            _number(metrics[name]["value"]),
            _between(metrics[name]["interval"]),
            _number(metrics[name]["registered"]),
            metrics[name]["verdict"],
        )
        for name in _in_order(metrics)
    ]
    yield from table(("metric", "value", "95 % interval", "registered", "verdict"), cells)


def _calibration(one: dict[str, Any], positive: str | None) -> str:
    if one["verdict"] == LACKING:
        return f"Calibration: {LACKING}"
    of = f"probability of {positive!r}" if positive is not None else "prediction"
    told = f"Calibration: {one['verdict']}. Mean {of} {_number(one['predicted'])}, observed {_number(one['observed'])}"
    between = f", difference {one['observed'] - one['predicted']:+.4g}"
    interval = f" (95 %: {_between(one['interval'])})" if one["interval"] else ""
    return f"{told}{between}{interval}; it matters beyond {_number(one['margin'])}"


def _groups(found: dict[str, Any]) -> Iterator[str]:
    """One line per group and model."""
    if not found["groups"]:
        return
    many = len(found["models"]) > 1
    names = _in_order(found["groups"][0]["metrics"])
    is_calibrated = found["groups"][0]["calibration"] is not None
    head = (
        found["group_by"],
        *(["variant"] if many else []),
        "rows",
        *names,
        *(["predicted", "observed", "calibration"] if is_calibrated else []),
    )
    cells = [
        (
            "(null)" if one["group"] is None else one["group"],
            *([one["variant"]] if many else []),
            f"{one['rows']:,}",
            *_values(one, names, found["minimum"]),
            *(_means(one["calibration"]) if is_calibrated else []),
        )
        for one in found["groups"]
    ]
    yield from ("", *table(head, cells))


def _values(group: dict[str, Any], names: Sequence[str], minimum: int) -> Iterator[str]:
    """A group with too few labels says so once; one with too few of a class says so where its curve would be."""
    for place, name in enumerate(names):
        value = group["metrics"][name]["value"]
        is_told = place == 0 or group["rows"] >= minimum
        yield LACKING if value is None and is_told else _number(value)


def _means(one: dict[str, Any]) -> tuple[str, str, str]:
    return _number(one["predicted"]), _number(one["observed"]), one["verdict"]


def _in_order(metrics: dict[str, Any]) -> list[str]:
    return sorted(metrics, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _between(interval: Sequence[float] | None) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}" if interval else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
