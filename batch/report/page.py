"""The report as one HTML file: no script, nothing fetched, under 100 kB however many groups there are."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from batch.report import charts, words
from batch.units import format_bytes

if TYPE_CHECKING:
    from jinja2 import Template

MAX_BYTES = 100_000
"""Mail programs clip longer messages (Gmail at about 102 kB)."""
_FULL, _SHORT = (25, 15, 8), (200, 120, 60, 0)
"""Groups with charts, and further ones in a folded list of numbers; tried until the page is small enough."""
_DRIFT_SHOWN = 8
_DOCUMENTS_SHOWN = 6
_LEVELS = {"alert": "Alert", "warn": "Caution"}
_STATES = {"ok": "None seen", "warn": "Some", "alert": "Strong", "unknown": "Not known"}


def render(numbers: dict[str, Any]) -> str:
    """The page for what `batch.report.numbers.collect` found."""
    sizes = [(_FULL[0], short) for short in _SHORT] + [(full, 0) for full in _FULL[1:]]
    text = ""
    for full, short in sizes:
        text = _template().render(_view(numbers, full, short))
        if len(text.encode()) < MAX_BYTES:
            break
    return text


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = files("batch.report").joinpath("template.html.j2").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["tied"] = lambda text: str(text).replace(" %", "\N{NO-BREAK SPACE}%")
    return environment.from_string(source)


@cache
def _style() -> tuple[str, str]:
    """The style sheet, and its digest as the page's policy names it: no other style applies, and nothing is loaded."""
    text = files("batch.report").joinpath("style.css").read_text("utf-8")
    text = "\n".join(line.strip() for line in text.splitlines() if line.strip())
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _view(numbers: dict[str, Any], full: int, short: int) -> dict[str, Any]:
    """What the template shows: texts and drawings only."""
    style, digest = _style()
    kind, column = numbers["measure"]["kind"], numbers["group_by"]
    groups = numbers["groups"]
    charted = sorted(groups[:full], key=lambda row: (row["value"] is None, -(row["value"] or 0.0), -row["rows"]))
    rest = groups[full + short :]
    observed = _observed(numbers)
    on = _group_scale(numbers, charted, observed)
    return {
        "n": numbers,
        "style": style,
        "style_sha256": digest,
        "title": words.title(numbers),
        "job_title": words.job_title(numbers),
        "dates": words.dates(numbers),
        "figures": _figures(numbers),
        "cautions": [{**one, "word": _LEVELS[one["level"]]} for one in numbers["cautions"] if one["level"] in _LEVELS],
        "notes": [one for one in numbers["cautions"] if one["level"] not in _LEVELS],
        "measure": words.measure_name(numbers["measure"]),
        "unit": numbers["unit"],
        "before": words.before(numbers["unit"]),
        "axis": charts.axis(on, [_tick(tick, kind) for tick in on.ticks]),
        "whole": words.value(numbers["overall"]["value"], kind),
        "groups": [_group(row, on, numbers, observed.get(row["group"])) for row in charted],
        "short": [_short(row, kind, column) for row in groups[full : full + short]],
        "rest": {"count": len(rest), "rows": words.rows(sum(row["rows"] for row in rest))},
        "has_observed": bool(observed),
        "history": _history(numbers),
        "classes": _classes(numbers),
        "evaluation": _evaluation(numbers),
        "drift": _drift(numbers),
        "facts": _facts(numbers),
    }


def _group_scale(numbers: dict[str, Any], rows: list[dict[str, Any]], observed: dict[Any, float]) -> charts.Scale:
    values = [value for row in [*rows, numbers["overall"]] for value in (row["interval"] or [row["value"]])]
    known = [value for value in [*values, *observed.values()] if value is not None]
    is_share = numbers["measure"]["kind"] != "mean"
    return charts.scale(known or [0.0, 1.0], from_zero=is_share)


def _tick(value: float, kind: str) -> str:
    return words.decimal(value) if kind == "mean" else f"{value * 100:.3g} %"


def _observed(numbers: dict[str, Any]) -> dict[Any, float]:
    """What really happened by group, where labels of this very period are there."""
    found = numbers["evaluation"]
    if not found or not found["is_this_period"]:
        return {}
    return {
        one["group"]: one["observed"]
        for one in found["groups"]
        if one["rows"] >= numbers["minimum_rows"] and one["observed"] is not None
    }


def _group(row: dict[str, Any], on: charts.Scale, numbers: dict[str, Any], observed: float | None) -> dict[str, Any]:
    kind = numbers["measure"]["kind"]
    return {
        **_short(row, kind, numbers["group_by"]),
        "bar": charts.bar(
            on, row["value"], row["interval"],
            whole=numbers["overall"]["value"], observed=observed, filled=kind != "mean",
        ),
        "observed": words.value(observed, kind) if observed is not None else "",
        "spark": charts.spark(row["history"]),
    }  # fmt: skip


def _short(row: dict[str, Any], kind: str, column: str) -> dict[str, Any]:
    return {
        "name": words.group(row["group"], column),
        "rows": f"{row['rows']:,}",
        "value": words.value(row["value"], kind),
        "has_value": row["value"] is not None,
        "interval": words.between(row["interval"], kind),
        "change": words.changed(row, kind) if row["value"] is not None or row["verdict"] == "new" else "",
        "verdict": row["verdict"].split()[0],
        "change_interval": words.between(row["change_interval"], kind) if row["verdict"] in {"up", "down"} else "",
    }


def _figures(numbers: dict[str, Any]) -> list[dict[str, str]]:
    """The key figures: a label, the number, and what stands under it."""
    row, kind, rows = numbers["overall"], numbers["measure"]["kind"], numbers["rows"]
    interval = words.between(row["interval"], kind)
    first = {
        "label": words.measure_name(numbers["measure"]),
        "value": words.value(row["value"], kind),
        "note": f"{interval} (95 %)" if interval else "",
    }
    rejected = f"{rows['rejected']:,} rejected" if rows["rejected"] else "none rejected"
    scored = {"label": "Rows predicted", "value": f"{rows['predicted']:,}", "note": f"of {rows['read']:,}; {rejected}"}
    found = [first, _changed_figure(numbers), scored, _drift_figure(numbers["drift"])]
    return [*found, seen] if (seen := _seen_figure(numbers)) else found


def _changed_figure(numbers: dict[str, Any]) -> dict[str, str]:
    row, kind = numbers["overall"], numbers["measure"]["kind"]
    label = f"Against {words.before(numbers['unit'])}"
    if row["change"] is None:
        return {"label": label, "value": "\N{EN DASH}", "note": str(row["verdict"])}
    sign = "+" if row["change"] >= 0 else "\N{MINUS SIGN}"
    interval = words.between(row["change_interval"], kind)
    note = f"no clear change: {interval}" if row["verdict"] == "no clear change" else f"{interval} (95 %)"
    return {"label": label, "value": sign + words.points(abs(row["change"]), kind), "note": note}


def _drift_figure(drift: dict[str, Any]) -> dict[str, str]:
    moved = [one for one in drift["columns"] if one["state"] in {"warn", "alert"}]
    columns = {"" if one["role"] == "score" else one["column"] for one in moved}
    note = f"in {len(columns)} of {len({one['column'] for one in drift['columns']})} columns" if moved else ""
    return {"label": "Drift", "value": _STATES[drift["state"]], "note": note}


def _seen_figure(numbers: dict[str, Any]) -> dict[str, str] | None:
    found, kind = numbers["evaluation"], numbers["measure"]["kind"]
    if not found or not found["calibration"] or found["calibration"]["observed"] is None:
        return None
    calibration = found["calibration"]
    when = "" if found["is_this_period"] else f" in {found['period']}"
    return {
        "label": f"Happened{when}",
        "value": words.value(calibration["observed"], kind),
        "note": f"predicted: {words.value(calibration['predicted'], kind)}",
    }


def _history(numbers: dict[str, Any]) -> dict[str, Any] | None:
    """The line over time; None where there is only one point."""
    kind, past = numbers["measure"]["kind"], numbers["history"]
    values = [one["value"] for one in past]
    if sum(value is not None for value in values) < 2:
        return None
    around = [end for one in past for end in (one["interval"] or [one["value"]]) if end is not None]
    on = charts.scale(around, from_zero=False)
    told = "; ".join(f"{one['name']} {words.value(one['value'], kind)}" for one in past)
    labels = [_period_label(one["name"], numbers["unit"]) for one in past]
    ticks = [_tick(tick, kind) for tick in on.ticks]
    drawing = charts.history(on, values, [one["interval"] for one in past], labels, ticks, f"Line over time: {told}")
    models = [one["model"] for one in past]
    switches = [
        f"{past[number + 1]['name']}: {now}"
        for number, (old, now) in enumerate(pairwise(models))
        if old and now and old != now
    ]
    return {"drawing": drawing, "switches": switches, "missing": sum(one["run_id"] is None for one in past)}


def _period_label(name: str, unit: str) -> str:
    """As much of a period's name as tells it from its neighbours."""
    return {"week": name[5:], "day": name[5:], "hour": name[8:13], "month": name}.get(unit, name[:5])


def _classes(numbers: dict[str, Any]) -> list[dict[str, str]]:
    """Rows per predicted class, where there are more than two, or no probabilities."""
    row = numbers["overall"]
    if numbers["measure"]["kind"] != "classes" or not row["rows"]:
        return []
    return [
        {"label": words.group(label, ""), "rows": f"{count:,}", "share": words.share(count / row["rows"])}
        for label, count in list(row["labels"].items())[:20]
    ]


def _evaluation(numbers: dict[str, Any]) -> dict[str, Any] | None:
    found, kind = numbers["evaluation"], numbers["measure"]["kind"]
    if not found:
        return None
    coverage, calibration = found["coverage"], found["calibration"]
    metrics = (found["model"] or {}).get("metrics", {})
    return {
        "when": words.period_words(numbers, found),
        "evaluated_at": words.moment(found["evaluated_at"]),
        "coverage": f"{coverage['labelled']:,} of {words.rows(coverage['rows'])} ({words.share(coverage['share'])})",
        "sentences": found["sentences"],
        "bars": _two_bars(calibration, kind) if calibration and calibration["observed"] is not None else None,
        "bins": _bins(calibration, kind, numbers["minimum_rows"]) if calibration else [],
        "metrics": [
            {
                "name": _capital(words.metric_name(name)),
                "value": words.decimal(one["value"]) if one["value"] is not None else "not enough data",
                "interval": words.between(one["interval"], "mean"),
                "registered": words.decimal(one["registered"]) if one["registered"] is not None else "",
                "verdict": one["verdict"],
            }
            for name, one in metrics.items()
        ],
    }


def _two_bars(calibration: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """What was predicted and what happened, one under the other."""
    on = charts.scale([calibration["predicted"], calibration["observed"]], from_zero=True)
    named = (("Predicted", "predicted"), ("Happened", "observed"))
    return [
        {
            "name": name,
            "value": words.value(calibration[key], kind),
            "bar": charts.bar(on, calibration[key], None, whole=None),
        }
        for name, key in named
    ]


def _bins(calibration: dict[str, Any], kind: str, minimum_rows: int) -> list[dict[str, Any]]:
    """What happened where the model was how sure: a bar for what was predicted, a diamond for what happened."""
    bins = [one for one in calibration["bins"] if one["rows"] >= minimum_rows and one["observed"] is not None]
    on = charts.scale([one[key] for one in bins for key in ("predicted", "observed")], from_zero=True)
    return [
        {
            "rows": f"{one['rows']:,}",
            "predicted": words.value(one["predicted"], kind),
            "observed": words.value(one["observed"], kind),
            "bar": charts.bar(on, one["predicted"], None, whole=None, observed=one["observed"]),
        }
        for one in bins
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _drift(numbers: dict[str, Any]) -> list[dict[str, str]]:
    drift = numbers["drift"]
    return [
        {
            "name": "the predictions" if one["role"] == "score" else words.group(one["column"], ""),
            "against": one["against"],
            "psi": f"{one['psi']:.3f}",
            "limit": f"{one['limit_warn']:.3g}",
            "state": {"ok": "within limits", "warn": "some drift", "alert": "strong drift"}[one["state"]],
            "level": one["state"],
            "nulls": words.share(one["nulls"]) if one.get("nulls") is not None else "",
            "then": words.share(one["reference_nulls"]) if one.get("reference_nulls") is not None else "not known",
        }
        for one in drift["columns"][:_DRIFT_SHOWN]
    ]


def _facts(numbers: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Where the numbers come from: a label, and lines."""
    run, rows = numbers["run"], numbers["rows"]
    models = [
        f"{words.model(one)} ({one['variant']}{', shadow' if one['mode'] == 'shadow' else ''}), given as {one['uri_given']}"
        for one in numbers["models"]
    ]
    inputs = [
        f"{one['uri']} ({format_bytes(one['size_bytes'])}{', ' + words.rows(one['rows']) if one['rows'] is not None else ''})"
        for one in numbers["inputs"]
    ]
    rejects = [f"{one['uri']} ({words.rows(one['rows'])})" for one in numbers["rejects"] if one["rows"]]
    return [
        ("Period", [words.dates(numbers)]),
        ("Model", models),
        ("Run", [f"{run['run_id']}, {run['state'].replace('_', ' ')}, asked for by {run['trigger']}"]),
        ("Rows", [f"{rows['read']:,} read = {rows['predicted']:,} predicted + {rows['rejected']:,} rejected"]),
        ("Input", _first(inputs)),
        ("Predictions", _first([f"{one['uri']} ({words.rows(one['rows'])})" for one in numbers["outputs"]])),
        *([("Rejects", _first(rejects))] if rejects else []),
        ("Scored", [words.moment(run["finished_at"])]),
        ("Made", [f"{words.moment(numbers['made_at'])} by batch-predict {run['version'] or ''}".rstrip()]),
    ]


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _DOCUMENTS_SHOWN
    return [*lines[:_DOCUMENTS_SHOWN], f"and {more} more"] if more > 0 else lines
