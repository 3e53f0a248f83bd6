"""Everything that a report says, as one JSON-ready document: the page, the workbook and the text are only ways to show it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from statistics import median
from typing import Any

from batch.job import Job
from batch.report import cautions, past, words
from batch.report.figures import CHAMPION, MINIMUM_ROWS, Cell, Measure, change, groups, measure_of, overall
from batch.report.past import Past, Window

FORMAT = 1
"""Raised when a reader of the old form would misread the new one."""


def collect(
    job: Job, *, period: str | None = None, now: datetime | None = None, receipt: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The numbers of the report of a period (see `batch.report.past.look_back` for the arguments and what is read).

    Raises `UsageError` where there is no completed run to report on.
    """
    made_at = datetime.now(UTC)
    window = past.look_back(job, period=period, now=now, receipt=receipt)
    found = _about(job, window, made_at)
    measure = measure_of(window.current.profile, job.report.outcome)
    found["measure"] = measure.as_dict()
    cells = [overall(run.profile, run.receipt) if run else None for run in window.runs]
    found["overall"] = _row(None, cells, measure)
    by_group = [groups(run.profile) if run else None for run in window.runs]
    found["group_by"] = _group_by(job, window)
    found["groups"] = _groups(by_group, measure)
    found["gone"] = _gone(by_group)
    found["changes"] = _changes(found["groups"])
    found["history"] = _history(window, cells, measure)
    found["variants"] = _variants(window.current, measure)
    found["drift"] = window.current.receipt.get("drift") or {"state": "unknown", "columns": []}
    found["evaluation"] = _evaluation(job, window)
    found["cautions"] = cautions.of(found, _context(job, window))
    found["headline"], found["lede"] = words.headline(found), words.lede(found)
    return found


def _about(job: Job, window: Window, made_at: datetime) -> dict[str, Any]:
    """What the report is about and where its numbers come from."""
    receipt, previous = window.current.receipt, window.previous
    return {
        "format": FORMAT,
        "job": job.name,
        "made_at": made_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "unit": window.unit,
        "period": receipt["period"] and {**receipt["period"], "timezone": job.schedule.timezone},
        "previous": previous and {"name": previous.name, "run_id": previous.receipt["run_id"]},
        "run": {
            **{name: receipt[name] for name in ("run_id", "state", "subject", "trigger", "retry_of")},
            **{name: receipt["timing"][name] for name in ("started_at", "finished_at", "seconds")},
            "version": receipt["environment"].get("batch-predict"),
        },
        "models": receipt["models"],
        "rows": receipt["rows"],
        "inputs": receipt["input"],
        "outputs": receipt["output"],
        "rejects": receipt["rejects"],
        "minimum_rows": MINIMUM_ROWS,
    }


def _group_by(job: Job, window: Window) -> str:
    """The column that the run was grouped by, else the job's: the job may have changed since."""
    profile = window.current.profile or {}
    return str((profile.get("groups") or {}).get("column") or job.report.group_by)


def _row(name: str | None, cells: list[Cell | None], measure: Measure) -> dict[str, Any]:
    """One group (or all rows) over the periods, the last of which is the report's."""
    now, before = cells[-1] or Cell(), cells[-2] if len(cells) > 1 else None
    return {
        "group": name,
        "rows": now.rows,
        "value": now.value(measure),
        "interval": _listed(now.interval(measure)),
        "previous_rows": before.rows if before else None,
        "previous_value": before.value(measure) if before else None,
        **change(now, before, measure),
        "labels": dict(sorted(now.labels.items(), key=lambda one: (-one[1], one[0]))),
        "history": [cell.value(measure) if cell else None for cell in cells],
        "history_rows": [cell.rows if cell else None for cell in cells],
    }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return list(interval) if interval else None


def _groups(by_group: list[dict[str | None, Cell] | None], measure: Measure) -> list[dict[str, Any]]:
    """The groups that have rows now, most rows first; a group that the period before did not have is new."""
    current, before = by_group[-1] or {}, by_group[-2] if len(by_group) > 1 else None
    found = []
    for name in current:
        cells = [one.get(name) if one is not None else None for one in by_group]
        row = _row(name, cells, measure)
        if before is not None and name not in before and row["verdict"] == "nothing to compare with":
            row["verdict"] = "new"
        found.append(row)
    return sorted(found, key=lambda row: (-row["rows"], row["group"] is None, row["group"] or ""))


def _gone(by_group: list[dict[str | None, Cell] | None]) -> list[dict[str, Any]]:
    """The groups of the period before that have no rows now."""
    before = (by_group[-2] if len(by_group) > 1 else None) or {}
    current = by_group[-1]
    if current is None:
        return []
    gone = [{"group": name, "previous_rows": cell.rows} for name, cell in before.items() if name not in current]
    return sorted(gone, key=lambda one: (-one["previous_rows"], one["group"] or ""))


def _changes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many groups changed clearly, and how many would look so if nothing had: one in twenty."""
    compared = [row for row in rows if row["change_interval"] is not None]
    clear = [row for row in compared if row["verdict"] in {"up", "down"}]
    return {"compared": len(compared), "clear": len(clear), "by_chance": round(0.05 * len(compared), 2)}


def _history(window: Window, cells: list[Cell | None], measure: Measure) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "run_id": run.receipt["run_id"] if run else None,
            "model": _model(run) if run else None,
            "rows": cell.rows if cell else None,
            "value": cell.value(measure) if cell else None,
            "interval": _listed(cell.interval(measure)) if cell else None,
        }
        for name, run, cell in zip(window.names, window.runs, cells, strict=True)
    ]


def _model(run: Past) -> str:
    return words.model(run.receipt["models"][0])


def _variants(run: Past, measure: Measure) -> list[dict[str, Any]]:
    """What each variant said of the rows that it scored; empty where there is one model only."""
    profile, found = run.profile or {}, []
    for one in run.receipt["models"]:
        score = profile.get("scores", {}).get(one["variant"]) or {}
        labels = profile.get("labels", {}).get(one["variant"]) or {}
        cell = Cell(one["rows"], score.get("mean"), score.get("sd"))
        cell.labels.update(labels)
        facts = {name: one[name] for name in ("variant", "mode", "weight", "rows")}
        found.append(
            {
                **facts,
                "model": words.model(one),
                "error": one.get("error", ""),
                "value": cell.value(measure),
                "interval": _listed(cell.interval(measure)),
            }
        )
    return found if len(found) > 1 else []


def _evaluation(job: Job, window: Window) -> dict[str, Any] | None:
    """What labels that arrived later say, in the parts that a report shows."""
    found = past.evaluation(job, window)
    if found is None:
        return None
    run, record = found
    champion = next((one for one in record["models"] if one["variant"] == CHAMPION), None)
    calibrations = {
        one["group"]: {"rows": one["rows"], **one["calibration"]}
        for one in record["groups"]
        if one["variant"] == CHAMPION and one.get("calibration")
    }
    return {
        "period": run.name,
        "is_this_period": run is window.current,
        "run_id": run.receipt["run_id"],
        "evaluated_at": record["evaluated_at"],
        "labels_uri": record["labels"]["uri"],
        "coverage": record["coverage"],
        "state": record["state"],
        "sentences": record["sentences"],
        "model": champion and {key: champion[key] for key in ("name", "version", "rows", "metrics")},
        "calibration": champion and champion["calibration"],
        "groups": [{"group": name, **one} for name, one in calibrations.items()],
    }


def _context(job: Job, window: Window) -> cautions.Context:
    """What cautions are judged by, besides the numbers themselves."""
    runs: Iterable[Past] = [run for run in window.runs[:-1] if run is not None]
    rows = [run.receipt["rows"]["read"] for run in runs]
    shares = [run.receipt["rows"]["rejected"] / max(1, run.receipt["rows"]["read"]) for run in runs]
    previous = window.previous
    profile = window.current.profile
    return cautions.Context(
        cron=job.schedule.cron,
        timezone=job.schedule.timezone,
        siblings=window.siblings,
        has_profile=profile is not None,
        too_many_groups=bool(profile and profile["groups"] and profile["groups"]["too_many"]),
        usual_rows=median(rows) if len(rows) >= 3 else None,
        usual_reject_share=median(shares) if len(shares) >= 3 else None,
        previous_model=_model(previous) if previous else None,
        missing=tuple(name for name, run in zip(window.names[:-1], window.runs[:-1], strict=True) if run is None),
    )
