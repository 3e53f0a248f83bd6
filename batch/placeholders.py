"""Placeholders in a job's URIs: ``{period}``, ``{period_start:%Y-%m-%d}``, ``{period_end:…}``, ``{period_last:…}``, ``{run_id}``, ``{stem}``."""

from __future__ import annotations

import difflib
import re

from batch.period import Period

NAMES = ("period", "period_start", "period_end", "period_last", "run_id", "stem")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NEEDS_FORMAT = ("period_start", "period_end", "period_last")


def names_in(text: str) -> set[str]:
    """The placeholder names that `text` uses, known or not."""
    return {inner.split(":", 1)[0] for inner in _PLACEHOLDER.findall(text)}


def uses_period(text: str) -> bool:
    """Whether `text` can only be rendered for a period."""
    return any(name.startswith("period") for name in names_in(text))


def check(text: str, allowed: tuple[str, ...]) -> str:
    """Give `text` back, or raise ValueError naming the placeholder that is not allowed and the nearest one that is."""
    for inner in _PLACEHOLDER.findall(text):
        name, _, form = inner.partition(":")
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1, cutoff=0.5)
            known = (
                f"did you mean {{{near[0]}}}?" if near else "known here: " + ", ".join(f"{{{one}}}" for one in allowed)
            )
            raise ValueError(f"unknown placeholder {{{name}}}; {known}")
        if name in _NEEDS_FORMAT and not form:
            raise ValueError(f"{{{name}}} needs a format, for example {{{name}:%Y-%m-%d}}")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", text)):
        raise ValueError("a brace is not closed")
    return text


def render(text: str, *, period: Period | None = None, **values: str) -> str:
    """`text` with the placeholders for which a value is given filled in; the others stay as they are."""

    def fill(match: re.Match[str]) -> str:
        name, _, form = match[1].partition(":")
        if period is not None and name == "period":
            return period.name
        if period is not None and name in _NEEDS_FORMAT:
            moment = {"period_start": period.start, "period_end": period.end, "period_last": period.last}[name]
            return moment.strftime(form)
        return values.get(name, match[0])

    return _PLACEHOLDER.sub(fill, text)
