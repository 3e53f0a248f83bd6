"""Differences and comparisons as Markdown, for people and for the ticket they paste it into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from batch.monitor.markdown import table

FLIPS_SHOWN = 20


def diff_text(found: dict[str, Any]) -> str:
    """What `batch.monitor.diff.diff` found."""
    one, other = found["runs"]
    rows = found["rows"]
    lines = [
        f"# {one['job']} {one['run_id']} → {other['job']} {other['run_id']}",
        "",
        f"{', '.join(one['models'])} ({one['subject']}) → {', '.join(other['models'])} ({other['subject']})",
        "",
        *table(
            ("rows", "count"),
            [
                ("in both", _count(rows["both"])),
                ("of these changed", _count(rows["changed"])),
                ("added", _count(rows["added"])),
                ("gone", _count(rows["gone"])),
                *([("left out, their id is there again", _count(rows["repeated"]))] if rows["repeated"] else []),
                *([("left out, without an id", _count(rows["without_id"]))] if rows["without_id"] else []),
            ],
        ),
        *_shift(found),
        *([f"\nNot compared: {found['not_compared']}."] if found["not_compared"] else []),
        *_groups(found, ("added", "gone")),
    ]
    return "\n".join(lines)


def comparison_text(found: dict[str, Any]) -> str:
    """What `compare_models` found, or one entry of `compare_run`."""
    lines = [f"# {found['first']} (first) and {found['second']} (second)", ""]
    if "refused" in found:
        return "\n".join([*lines, f"{found['refused']}."])
    if found["mode"] == "split":
        lines += [*_arms(found)]
    else:
        lines += [_scored_by_both(found), *_shift(found), *_groups(found)]
    return "\n".join([*lines, *_labels(found["labels"]), *_metrics(found["metrics"])])


def _scored_by_both(found: dict[str, Any]) -> str:
    agreement, left_out = found["agreement"], found["left_out"]
    return (
        f"{_count(found['pairs'])} rows scored by both"
        + (f", {agreement:.2%} agree" if agreement is not None else "")
        + (f"; {_count(left_out)} left out that one of them cannot score" if left_out else "")
    )


def _groups(found: dict[str, Any], more: Sequence[str] = ()) -> Iterator[str]:
    """One line per group; `more`: further counts of each."""
    if not found["groups"]:
        return
    has_flips = found["agreement"] is not None
    head = (
        found["group_by"],
        "rows",
        "changed",
        *(["flips"] if has_flips else []),
        "mean shift",
        "mean size",
        "largest",
    )
    cells = [
        (
            "(null)" if group["group"] is None else str(group["group"]),
            *(_count(group[key]) for key in ("pairs", "changed", *(["flips"] if has_flips else []))),
            *(_number(group[key]) for key in ("mean_shift", "mean_absolute_shift", "largest_shift")),
            *(_count(group[key]) for key in more),
        )
        for group in found["groups"]
    ]
    yield from ("", *table((*head, *more), cells))


def _labels(counts: dict[str, Any] | None) -> Iterator[str]:
    """How many labels were used, and what became of the others."""
    if counts is None:
        return
    others = {
        "empty": "empty",
        "foreign": "no class of the model or no number",
        "without_row": "without a row",
        "repeated": "or rows left out for a repeated or empty id",
    }
    parts = [f"{_count(counts[name])} {what}" for name, what in others.items() if counts[name]]
    parts += [f"{_count(counts['rows_without'])} rows have no label"] if counts["rows_without"] else []
    yield from ("", "; ".join([f"{_count(counts['judged'])} labels used", *parts]))


def _shift(found: dict[str, Any]) -> Iterator[str]:
    if found["flips"]:
        shown = found["flips"][:FLIPS_SHOWN]
        cells = [(str(one["from"]), str(one["to"]), _count(one["rows"])) for one in shown]
        yield from ("", *table(("from", "to", "rows"), cells))
        if len(found["flips"]) > FLIPS_SHOWN:
            yield from ("", f"and {len(found['flips']) - FLIPS_SHOWN} more kinds of flip")
    if (shift := found["score_shift"]) is not None:
        quantiles = ", ".join(f"{float(name):.0%} {_number(value)}" for name, value in shift["quantiles"].items())
        sizes = f"mean size {_number(shift['mean_absolute'])}, largest {_number(shift['largest'])}"
        yield from (
            "",
            f"Score shift ({found['score']}): mean {_number(shift['mean'])}, {sizes}; quantiles {quantiles}",
        )


def _arms(found: dict[str, Any]) -> Iterator[str]:
    ratio = found["sample_ratio"]
    if ratio["mismatch"]:
        yield f"**The shares are not what the weights say (chi-square p = {ratio['p']:.2g}).**"
        arms = [f"{one['variant']} {_count(one['rows'])} of {one['expected']:,.0f} expected" for one in ratio["arms"]]
        yield f"Rows: {', '.join(arms)}. Something parts the customers in another way, so do not trust what follows."
        yield ""
    yield f"{_count(found['rows']['first'])} and {_count(found['rows']['second'])} rows"
    if (score := found["score"]) is not None:
        yield from ("", f"Mean score: {_difference(score)}")
    if found["predicted"]:
        labels = [(one["label"], _share(one["first"]), _share(one["second"])) for one in found["predicted"]]
        yield from ("", *table(("predicted", "first", "second"), labels))
    if found["groups"]:
        cells = [
            (
                "(null)" if one["group"] is None else one["group"],
                _count(one["rows"][0]),
                _count(one["rows"][1]),
                _difference(one["score"]),
            )
            for one in found["groups"]
        ]
        yield from ("", *table((found["group_by"], "first", "second", "mean score"), cells))


def _difference(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    interval = f" (95 %: {_number(one['interval'][0])} to {_number(one['interval'][1])})" if one["interval"] else ""
    return f"{_number(one['first'])} and {_number(one['second'])}, difference {_number(one['difference'])}{interval}"


def _metrics(metrics: dict[str, Any]) -> Iterator[str]:
    if not metrics:
        return
    cells = []
    for name, one in metrics.items():
        interval = one.get("interval")
        between = f"{_number(interval[0])} to {_number(interval[1])}" if interval else ""
        values = (_number(one["first"]), _number(one["second"]), _number(one.get("difference")))
        cells.append((name, _count(one["rows"]), *values, between, one.get("verdict", "")))
    head = ("metric", "rows", "first", "second", "difference", "95 % interval", "the second is")
    yield from ("", *table(head, cells))


def _count(value: int) -> str:
    return f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
