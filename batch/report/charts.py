"""Charts as inline SVG: positions in per cent and text in pixels, so that one drawing fits a sheet of paper and a telephone.

Shapes take their colours from the page's style sheet by class, and so follow its theme. Everything drawn is also told in words: rows of the
table carry their numbers, the line over time has a description for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

ROW_PX = 22
HISTORY_PX = 190
SPARK_PX = (104, 26)


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to per cent of a chart's width or height."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """0 to 100, cut off at the ends."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def scale(values: Sequence[float], *, from_zero: bool, ticks: int = 4) -> Scale:
    """Round ends and steps around all `values`."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(0.0, low) if from_zero else low
    if high <= low:
        low, high = low - abs(low) / 10 - 0.05 * (not from_zero), high + abs(high) / 10 + 0.05
    step = _round_step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, tuple(n * step for n in range(first, last + 1)))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= step * 0.999)


def bar(
    on: Scale,
    value: float | None,
    interval: Sequence[float] | None,
    *,
    whole: float | None,
    observed: float | None = None,
    filled: bool = True,
) -> Markup:
    """One group: a bar (or a dot) at its value, a whisker for the interval, a dashed line for the whole, a diamond for what happened."""
    middle = ROW_PX / 2
    parts = [f'<line class="grid" x1="{p}%" x2="{p}%" y1="0" y2="{ROW_PX}"/>' for p in map(_p, map(on.at, on.ticks))]
    if whole is not None:
        there = _p(on.at(whole))
        parts.append(f'<line class="whole" x1="{there}%" x2="{there}%" y1="0" y2="{ROW_PX}"/>')
    if value is not None:
        at, zero = on.at(value), on.at(0.0)
        if filled:
            start, width = min(at, zero), abs(at - zero)
            parts.append(
                f'<rect class="bar" x="{_p(start)}%" y="5" width="{_p(width)}%" height="{ROW_PX - 10}" rx="2"/>'
            )
        if interval is not None:
            low, high = _p(on.at(interval[0])), _p(on.at(interval[1]))
            parts.append(f'<line class="whisker" x1="{low}%" x2="{high}%" y1="{middle}" y2="{middle}"/>')
        if not filled:
            parts.append(f'<circle class="dot" cx="{_p(at)}%" cy="{middle}" r="4"/>')
    if observed is not None:
        parts.append(
            f'<svg x="{_p(on.at(observed))}%" y="{middle}" overflow="visible"><path class="seen" d="M0-6 6 0 0 6-6 0z"/></svg>'
        )
    return _svg("".join(parts), "100%", ROW_PX)


def axis(on: Scale, labels: Sequence[str]) -> Markup:
    """The numbers over a column of bars."""
    parts = []
    for number, (tick, label) in enumerate(zip(on.ticks, labels, strict=True)):
        anchor = "start" if number == 0 else "end" if number == len(labels) - 1 else "middle"
        odd = " odd" if number % 2 else ""
        parts.append(
            f'<text class="tick{odd}" x="{_p(on.at(tick))}%" y="11" text-anchor="{anchor}">{_text(label)}</text>'
        )
    return _svg("".join(parts), "100%", 14)


def spark(values: Sequence[float | None]) -> Markup:
    """A line without axes over the periods, with gaps, its last point marked. Its own scale: it shows the shape."""
    width, height = SPARK_PX
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return Markup("")
    low, high = min(known), max(known)
    span = high - low or 1.0
    x = [4 + (width - 8) * n / max(1, len(values) - 1) for n in range(len(values))]
    y = [None if v is None else height - 5 - (height - 10) * ((v - low) / span if high > low else 0.5) for v in values]
    parts = []
    for run in _runs(y):
        points = " ".join(f"{x[n]:.1f} {y[n]:.1f}" for n in run)
        parts.append(f'<path class="line" d="M{points}"/>' if len(run) > 1 else _dot(x[run[0]], y[run[0]], "lone", 1.5))
    if y[-1] is not None:
        parts.append(_dot(x[-1], y[-1], "dot", 3))
    return _svg("".join(parts), str(width), height)


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    """Indices of neighbours that are known, apart wherever one is missing."""
    found: list[list[int]] = []
    for number, value in enumerate(values):
        if value is None:
            continue
        if found and found[-1][-1] == number - 1:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _dot(x: float, y: float | None, name: str, radius: float) -> str:
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def history(
    on: Scale,
    values: Sequence[float | None],
    intervals: Sequence[Sequence[float] | None],
    labels: Sequence[str],
    ticks: Sequence[str],
    description: str,
) -> Markup:
    """The whole over the periods: a line, whiskers for the intervals, gaps where a period is missing; one label per period."""
    top, floor = 8.0, HISTORY_PX - 24.0

    def y(value: float) -> str:
        return f"{floor - (floor - top) * on.at(value) / 100:.1f}"

    x = [_p(9 + 89 * (n + 0.5) / len(values)) for n in range(len(values))]
    parts = []
    for tick, label in zip(on.ticks, ticks, strict=True):
        parts.append(f'<line class="grid" x1="9%" x2="98%" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="tick" x="8%" y="{y(tick)}" dy="4" text-anchor="end">{_text(label)}</text>')
    for number, value in enumerate(values):
        before = values[number - 1] if number else None
        if value is not None and before is not None:
            parts.append(
                f'<line class="line" x1="{x[number - 1]}%" y1="{y(before)}" x2="{x[number]}%" y2="{y(value)}"/>'
            )
    for number, (value, interval) in enumerate(zip(values, intervals, strict=True)):
        if value is not None and interval:
            parts.append(
                f'<line class="whisker" x1="{x[number]}%" x2="{x[number]}%" y1="{y(interval[0])}" y2="{y(interval[1])}"/>'
            )
        if value is not None:
            name = "dot" if number == len(values) - 1 else "past"
            parts.append(
                f'<circle class="{name}" cx="{x[number]}%" cy="{y(value)}" r="{4.5 if name == "dot" else 3}"/>'
            )
        odd = "" if (len(values) - 1 - number) % 2 == 0 else " odd"
        missing = " gone" if value is None else ""
        parts.append(
            f'<text class="tick{odd}{missing}" x="{x[number]}%" y="{HISTORY_PX - 6}" text-anchor="middle">{_text(labels[number])}</text>'
        )
    return _svg("".join(parts), "100%", HISTORY_PX, description)


def _svg(inside: str, width: str, height: int, description: str = "") -> Markup:
    """Decoration is hidden from those who listen to the page: the same numbers stand beside it."""
    told = f'role="img" aria-label="{_text(description)}"' if description else 'aria-hidden="true"'
    return Markup(f'<svg width="{width}" height="{height}" {told}>{inside}</svg>')  # noqa: S704 (texts are escaped above)


def _text(text: str) -> str:
    return str(Markup.escape(text))


def _p(value: float) -> str:
    """Two digits are a fifth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
