"""Why to be careful with a report's numbers, in plain words, the most serious first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from batch.cron import parse_cron
from batch.report import words

ALERT, WARN, NOTE = "alert", "warn", "note"
_ORDER = (ALERT, WARN, NOTE)
FEW_ROWS, MANY_ROWS = 0.5, 2.0
"""Against the median of the earlier periods: below and above that the file is worth a look."""
REJECTS_WARN = 0.01
LATE_SHARE = 0.1
"""Of the period's length, behind the time at which the schedule would have run: later than that is late."""
NAMES_SHOWN = 5

Caution = dict[str, str]


@dataclass(frozen=True, slots=True)
class Context:
    """What the numbers themselves do not show."""

    cron: str
    timezone: str
    siblings: int
    """Further completed runs of the same period."""
    has_profile: bool
    too_many_groups: bool
    usual_rows: float | None
    """Median of the rows read in earlier periods; None for fewer than three of them."""
    usual_reject_share: float | None
    previous_model: str | None
    missing: tuple[str, ...]
    """Periods of the history without a completed run."""


def of(numbers: dict[str, Any], context: Context) -> list[Caution]:
    """Each with ``level`` (alert, warn, note), ``code`` and ``text``."""
    found = [
        *_from_labels(numbers),
        *_from_drift(numbers),
        *_from_model(numbers, context),
        *_from_rows(numbers, context),
        *_from_rejects(numbers, context),
        *_from_groups(numbers, context),
        *_from_timing(numbers, context),
        *_from_runs(numbers, context),
        *_from_variants(numbers),
    ]
    return sorted(found, key=lambda one: _ORDER.index(one["level"]))


def _one(level: str, code: str, text: str) -> Caution:
    return {"level": level, "code": code, "text": text}


def _from_labels(numbers: dict[str, Any]) -> Iterator[Caution]:
    found = numbers["evaluation"]
    if found is None:
        return
    calibration, when = found["calibration"], words.period_words(numbers, found)
    if calibration and calibration["verdict"].startswith("predicts too"):
        predicted, observed = (
            words.value(calibration[key], numbers["measure"]["kind"]) for key in ("predicted", "observed")
        )
        too_much = calibration["verdict"] == "predicts too much"
        yield _one(
            WARN,
            "calibration",
            f"Labels that arrived later for {when}: the model predicted {predicted} where {observed} happened. "
            f"Read the predictions here as too {'high' if too_much else 'low'}.",
        )
    metrics = (found["model"] or {}).get("metrics", {})
    if below := [words.metric_name(name) for name, one in metrics.items() if one["verdict"] == "below"]:
        text = f"By the labels for {when} the model is worse in {words.joined(below)} than when it was registered."
        yield _one(WARN, "degraded", text)


def _from_drift(numbers: dict[str, Any]) -> Iterator[Caution]:
    drift = numbers["drift"]
    if drift["state"] in {"warn", "alert"}:
        moved = [one for one in drift["columns"] if one["state"] in {"warn", "alert"}]
        named = [words.drifted(one) for one in moved[:NAMES_SHOWN]]
        more = f" and {len(moved) - len(named)} more" if len(moved) > len(named) else ""
        strength = "a lot" if drift["state"] == "alert" else "noticeably"
        yield _one(
            drift["state"],
            "drift",
            f"The data differ {strength} from what the model knows: {', '.join(named)}{more}.",
        )
    elif drift["state"] == "unknown" and drift.get("reason"):
        yield _one(NOTE, "drift_unknown", f"Drift is not known: {drift['reason']}.")


def _from_model(numbers: dict[str, Any], context: Context) -> Iterator[Caution]:
    now = words.model(numbers["models"][0])
    if context.previous_model is not None and context.previous_model != now:
        before = words.before(numbers["unit"])
        yield _one(
            WARN,
            "model_changed",
            f"{now} made these predictions, {context.previous_model} those of {before}: a change may be the model's.",
        )
    if not context.has_profile:
        yield _one(
            WARN,
            "no_profile",
            "This run has no profile, because it is older than profiles or its model has none: there are no averages.",
        )


def _from_rows(numbers: dict[str, Any], context: Context) -> Iterator[Caution]:
    read, usual = numbers["rows"]["read"], context.usual_rows
    if usual and not FEW_ROWS <= read / usual <= MANY_ROWS:
        what = "may be incomplete" if read < usual else "may hold rows twice"
        yield _one(WARN, "row_count", f"{read:,} rows, where {usual:,.0f} are usual: the file {what}.")
    if 0 < numbers["rows"]["predicted"] < numbers["minimum_rows"]:
        yield _one(
            WARN, "low_n", f"Only {words.rows(numbers['rows']['predicted'])} predicted: not enough data for an average."
        )
    if not numbers["rows"]["predicted"]:
        yield _one(WARN, "low_n", "No row was predicted.")


def _from_rejects(numbers: dict[str, Any], context: Context) -> Iterator[Caution]:
    rejected, read = numbers["rows"]["rejected"], numbers["rows"]["read"]
    if not rejected:
        return
    share = rejected / read
    usual = context.usual_reject_share
    codes = words.codes(numbers["rejects"])
    grown = f", {usual:.1%} is usual".replace("%", " %") if usual is not None and share > 2 * usual else ""
    text = f"{rejected:,} of {read:,} rows ({words.share(share)}{grown}) were rejected and are in no average: {codes}."
    is_usual = usual is not None and share <= 2 * usual
    yield _one(WARN if share > REJECTS_WARN and not is_usual else NOTE, "rejects", text)


def _from_groups(numbers: dict[str, Any], context: Context) -> Iterator[Caution]:
    before, column = words.before(numbers["unit"]), numbers["group_by"]
    if context.too_many_groups:
        yield _one(
            WARN, "too_many_groups", f"'{column}' has too many values for a report by it: only the whole is shown."
        )
    if gone := numbers["gone"]:
        total = sum(one["previous_rows"] for one in gone)
        yield _one(WARN, "gone", f"No rows of {_names(gone, column)}, which had {total:,} {before}.")
    if new := [row for row in numbers["groups"] if row["verdict"] == "new"]:
        yield _one(NOTE, "new", f"New: {_names(new, column)}, without rows {before}.")
    if small := [row for row in numbers["groups"] if row["rows"] < numbers["minimum_rows"]]:
        limit = numbers["minimum_rows"]
        yield _one(NOTE, "low_n", f"Not enough data (fewer than {limit} rows) for {_names(small, column)}.")
    changes = numbers["changes"]
    if changes["clear"] and changes["compared"] >= 5:
        yield _one(
            NOTE,
            "multiple",
            f"{changes['compared']} groups were compared with {before}: if nothing had changed, "
            f"about {changes['by_chance']:.1g} would still look clearly changed.",
        )


def _names(rows: list[dict[str, Any]], column: str) -> str:
    named = [words.group(row["group"], column) for row in rows[:NAMES_SHOWN]]
    more = len(rows) - len(named)
    return words.joined([*named, *([f"{more} more"] if more else [])])


def _from_timing(numbers: dict[str, Any], context: Context) -> Iterator[Caution]:
    period = numbers["period"]
    if period is None:
        return
    start, end = (datetime.fromisoformat(period[key]) for key in ("start", "end"))
    began = datetime.fromisoformat(numbers["run"]["started_at"])
    unit = numbers["unit"] or "period"
    if began < end:
        yield _one(WARN, "early", f"This run began before the {unit} was over: rows may be missing.")
        return
    due = end
    if context.cron:
        due = parse_cron(context.cron, context.timezone).next((end - timedelta(minutes=1)).astimezone(UTC))
    late = began - due
    if late <= (end - start) * LATE_SHARE:
        return
    if numbers["run"]["trigger"] == "backfill":
        yield _one(NOTE, "late", f"Filled in afterwards, {words.span(began - end)} after the {unit} ended.")
    else:
        yield _one(NOTE, "late", f"Late: the run began {words.span(began - end)} after the {unit} ended.")


def _from_runs(numbers: dict[str, Any], context: Context) -> Iterator[Caution]:
    run, unit = numbers["run"], numbers["unit"]
    if run["retry_of"]:
        yield _one(
            NOTE, "retry", f"Rejected rows of run {run['retry_of']} were mended and scored later; they are included."
        )
    elif context.siblings:
        times = "once" if context.siblings == 1 else f"{context.siblings} times"
        yield _one(NOTE, "scored_again", f"This {unit} was scored {times} before; this is the run that stands.")
    if unit and numbers["previous"] is None:
        yield _one(NOTE, "no_previous", f"There is no completed run of {words.before(unit)}, so no change is told.")
    elif context.missing and (earlier := _gaps(numbers, context)):
        yield _one(NOTE, "gaps", f"No completed run of {words.joined(earlier)}: the lines have gaps there.")


def _gaps(numbers: dict[str, Any], context: Context) -> list[str]:
    """Missing periods that others come before: what lies before the first run is no gap."""
    known = [one["run_id"] is not None for one in numbers["history"]]
    first = known.index(True)
    inside = {one["name"] for one in numbers["history"][first:]}
    return [name for name in context.missing if name in inside]


def _from_variants(numbers: dict[str, Any]) -> Iterator[Caution]:
    kind = numbers["measure"]["kind"]
    for one in numbers["variants"]:
        if one["error"]:
            yield _one(WARN, "variant_error", f"Variant '{one['variant']}': {one['error']}.")
        elif one["variant"] != "champion":
            what = "on the side, not delivered" if one["mode"] == "shadow" else f"{words.rows(one['rows'])} of these"
            says = f", its average is {words.value(one['value'], kind)}" if one["value"] is not None else ""
            yield _one(NOTE, one["mode"], f"{one['model']} ('{one['variant']}') scored {what}{says}.")
