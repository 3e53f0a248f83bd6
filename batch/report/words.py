"""Numbers in words: the headline, how values, changes and times are spelled, and the summary for mail and chat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

SUMMARY_CHARACTERS = 2_900
"""Chats cut longer messages (Slack at 3,000 in a block)."""
_METRICS = {"roc_auc": "ROC AUC", "brier": "Brier score", "log_loss": "log loss", "mae": "MAE", "mse": "MSE", "rmse": "RMSE"}  # fmt: skip
_NAME_CHARACTERS = 80
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of the text around them: a name shall not rearrange a sentence."""
_GROUPS_TOLD = 15


def headline(numbers: dict[str, Any]) -> str:
    """One sentence: what was predicted, and whether that is news."""
    row, measure = numbers["overall"], numbers["measure"]
    if row["value"] is None:
        return f"Not enough data for an average: {rows(numbers['rows']['predicted'])} predicted"
    subject = _subject(row["value"], measure)
    return f"{subject}{_but(numbers)}" if is_off(numbers) else f"{subject}, {_news(row, numbers)}"


def _subject(number: float, measure: dict[str, Any]) -> str:
    if measure["kind"] == "mean":
        return f"{measure_name(measure)}: {value(number, 'mean')}" + (" on average" if measure["outcome"] else "")
    return f"{value(number, measure['kind'])} predicted {outcome(measure)}"


def is_off(numbers: dict[str, Any]) -> bool:
    """Whether labels of this very period say that the model predicts too much or too little: nothing is more worth knowing."""
    found = numbers["evaluation"]
    return bool(
        found
        and found["is_this_period"]
        and found["calibration"]
        and found["calibration"]["verdict"].startswith("predicts too")
    )


def _but(numbers: dict[str, Any]) -> str:
    observed, kind = numbers["evaluation"]["calibration"]["observed"], numbers["measure"]["kind"]
    return f", but {value(observed, kind)} {'came to pass' if kind == 'mean' else 'were'}"


def _news(row: dict[str, Any], numbers: dict[str, Any]) -> str:
    earlier, kind = before(numbers["unit"]), numbers["measure"]["kind"]
    if row["verdict"] in {"up", "down"}:
        return f"{row['verdict']} {points(abs(row['change']), kind)} on {earlier}"
    if row["verdict"] == "no clear change":
        return f"no clear change from {earlier} ({value(row['previous_value'], kind)})"
    if row["verdict"] == "not enough data":
        return f"not enough data {earlier} to compare with"
    return f"without a figure of {earlier} to compare with"


def lede(numbers: dict[str, Any]) -> str:
    """What the groups say, in a sentence or two; "" without groups. Begins with the change that a headline had no room for."""
    news = _news(numbers["overall"], numbers)
    told = _of_groups(numbers)
    return f"{news[:1].upper()}{news[1:]}. {told}".rstrip() if is_off(numbers) else told


def _of_groups(numbers: dict[str, Any]) -> str:
    changes, kind, column = numbers["changes"], numbers["measure"]["kind"], numbers["group_by"]
    known = [row for row in numbers["groups"] if row["value"] is not None]
    if len(known) < 2:
        return ""
    known.sort(key=lambda row: -row["value"])
    high, low = known[0], known[-1]
    first = (
        f"Highest is {group(high['group'], column)} with {value(high['value'], kind)}, "
        f"lowest {group(low['group'], column)} with {value(low['value'], kind)}."
    )
    if not changes["compared"]:
        return first
    clear = sorted((row for row in known if row["verdict"] in {"up", "down"}), key=lambda row: -abs(row["change"]))
    if not clear:
        return f"{first} None of {changes['compared']} groups changed clearly."
    told = [f"{group(row['group'], column)} {row['verdict']} {points(abs(row['change']), kind)}" for row in clear[:3]]
    more = f" and {len(clear) - 3} more" if len(clear) > 3 else ""
    return f"{first} Clearly changed: {changes['clear']} of {changes['compared']} groups ({', '.join(told)}{more})."


def outcome(measure: dict[str, Any]) -> str:
    """What a share is a share of: the job's word for it, else the class."""
    return str(measure["outcome"]) or (f"“{group(measure['label'], '')}”" if measure["label"] else "positive")


def measure_name(measure: dict[str, Any]) -> str:
    """What stands over a column of values."""
    if measure["kind"] == "mean":
        return f"Predicted {measure['outcome']}" if measure["outcome"] else "Mean prediction"
    if measure["kind"] == "none":
        return "Predicted"
    return f"Predicted {outcome(measure)}"


def title(numbers: dict[str, Any]) -> str:
    """Of the whole report."""
    return f"{job_title(numbers)}, {numbers['period']['name']}" if numbers["period"] else job_title(numbers)


def job_title(numbers: dict[str, Any]) -> str:
    """``weekly-satisfaction`` as people would write it."""
    text = str(numbers["job"]).replace("-", " ").replace("_", " ")
    return text[:1].upper() + text[1:]


def dates(numbers: dict[str, Any]) -> str:
    """The period in days, its time zone behind it: ``Mon 9 Nov to Sun 15 Nov 2026, Europe/Berlin``."""
    period = numbers["period"]
    if period is None:
        return moment(numbers["run"]["finished_at"])
    start, end = (datetime.fromisoformat(period[key]) for key in ("start", "end"))
    if numbers["unit"] == "hour":
        return f"{_day(start)} {start.year}, {start:%H:%M} to {end:%H:%M}, {period['timezone']}"
    last = end - timedelta(microseconds=1)
    if start.date() == last.date():
        return f"{_day(start)} {start.year}, {period['timezone']}"
    year = "" if start.year == last.year else f" {start.year}"
    return f"{_day(start)}{year} to {_day(last)} {last.year}, {period['timezone']}"


def _day(when: datetime) -> str:
    return f"{when:%a} {when.day} {when:%b}"


def moment(text: str) -> str:
    """A stored UTC time: ``26 Nov 2026, 14:50 UTC``."""
    when = datetime.fromisoformat(text)
    return f"{when.day} {when:%b %Y, %H:%M} UTC"


def value(number: float | None, kind: str) -> str:
    """A share as per cent with one decimal, anything else with four digits."""
    if number is None:
        return "not enough data"
    return decimal(number) if kind == "mean" else share(number)


def share(number: float) -> str:
    """``0.531`` as ``53.1 %``."""
    return f"{number * 100:.1f} %"


def decimal(number: float) -> str:
    """Four significant digits, thousands parted."""
    return signed(f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}")


def points(number: float, kind: str) -> str:
    """A difference: of shares in percentage points."""
    return decimal(number) if kind == "mean" else f"{number * 100:.1f} points"


def signed(text: str) -> str:
    """With a real minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


def between(interval: Sequence[float] | None, kind: str) -> str:
    """An interval of values or of changes, without unit: ``52.0 to 54.2``."""
    if not interval:
        return ""
    low, high = interval
    return f"{decimal(low)} to {decimal(high)}" if kind == "mean" else signed(f"{low * 100:.1f} to {high * 100:.1f}")


def changed(row: dict[str, Any], kind: str) -> str:
    """A change in words: ``up 2.3 points``, ``no clear change``, ``new``."""
    if row["verdict"] in {"up", "down"}:
        return f"{row['verdict']} {points(abs(row['change']), kind)}"
    return str(row["verdict"])


def group(name: str | None, column: str) -> str:
    """A group's name in a sentence; long ones are cut."""
    if name is None:
        return f"(no {column})"
    name = " ".join(_UNSEEN.sub(" ", name).split()) or "(blank)"
    return name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"


def model(one: dict[str, Any]) -> str:
    """Name and version, else what the job named."""
    return f"{one['name']} {one['version']}" if one["name"] else str(one["uri_given"])


def rows(count: int) -> str:
    """``1 row``, ``4,000 rows``."""
    return "1 row" if count == 1 else f"{count:,} rows"


def before(unit: str) -> str:
    """The period before, in words."""
    return f"the {unit or 'run'} before"


def period_words(numbers: dict[str, Any], found: dict[str, Any]) -> str:
    """The period that labels are for."""
    if found["is_this_period"]:
        return f"this {numbers['unit'] or 'run'}"
    return str(found["period"]) if numbers["unit"] else f"run {found['period']}"


def metric_name(name: str) -> str:
    """As it is written in a sentence."""
    return _METRICS.get(name, name)


def drifted(one: dict[str, Any]) -> str:
    """A column that drifted, and how much."""
    what = "the predictions" if one["role"] == "score" else one["column"]
    against = " against the period before" if one["against"] == "previous period" else ""
    return f"{what} (PSI {one['psi']:.2f}{against})"


def codes(rejects: Sequence[dict[str, Any]]) -> str:
    """Reject codes with their rows, most first."""
    counted: Counter[str] = Counter()
    for one in rejects:
        counted.update(one["by_code"])
    return ", ".join(f"{code} {count:,}" for code, count in counted.most_common())


def joined(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def span(duration: timedelta) -> str:
    """A stretch of time in the largest unit of which there are two."""
    hours = duration.total_seconds() / 3600
    for unit, size_hours in (("years", 24 * 365), ("weeks", 24 * 7), ("days", 24), ("hours", 1)):
        if hours >= 2 * size_hours:
            return f"{hours / size_hours:.0f} {unit}"
    return f"{hours * 60:.0f} minutes"


def summary(numbers: dict[str, Any], link: str = "", *, markdown: bool = True) -> str:
    """The report in a few lines, under 3,000 characters: Markdown for mail and files, or plain text for chats."""
    kind, column = numbers["measure"]["kind"], numbers["group_by"]
    safe = escape if markdown else str
    head = f"## {safe(title(numbers))}" if markdown else title(numbers)
    sentence = safe(numbers["headline"] + ".")
    lines = [
        head,
        "",
        f"**{sentence}**" if markdown else sentence,
        *([safe(numbers["lede"])] if numbers["lede"] else []),
    ]
    mark = "-" if markdown else "•"
    if any(one["level"] != "note" for one in numbers["cautions"]):
        lines += ["", "**Be careful**" if markdown else "Be careful:"]
        lines += [f"{mark} {safe(one['text'])}" for one in numbers["cautions"] if one["level"] != "note"][:6]
    lines += ["", *(f"{mark} {safe(_group_line(row, kind, column))}" for row in numbers["groups"][:_GROUPS_TOLD])]
    more = len(numbers["groups"]) - _GROUPS_TOLD
    lines += [f"{mark} {more} more in the report"] * (more > 0)
    notes = sum(one["level"] == "note" for one in numbers["cautions"])
    foot = ["", safe(f"{dates(numbers)}; model {model(numbers['models'][0])}; run {numbers['run']['run_id']}")]
    foot += [f"The report has {notes} {'note' if notes == 1 else 'notes'} more."] if notes else []
    foot += [f"Report: {link}"] if link else []
    return _cut(lines, foot)


def _group_line(row: dict[str, Any], kind: str, column: str) -> str:
    news = f", {changed(row, kind)}" if row["value"] is not None else ""
    return f"{group(row['group'], column)}: {value(row['value'], kind)}{news} ({rows(row['rows'])})"


def _cut(lines: list[str], foot: list[str]) -> str:
    """Whole lines as far as they fit, and always the foot."""
    room = SUMMARY_CHARACTERS - len("\n".join(foot)) - 2
    kept: list[str] = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            kept.append("…")
            break
        kept.append(line)
    return "\n".join([*kept, *foot]) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: names come from outside."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>#|~" else char for char in text)
