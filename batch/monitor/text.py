"""Differences and comparisons as Markdown, for people and for the ticket they paste it into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
        *_table(
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
    ]
    if found["groups"]:
        head = (found["group_by"], "in both", "flips", "mean shift", "mean size", "added", "gone")
        cells = [
            (
                str(group["group"]),
                *(_count(group[key]) for key in ("pairs", "flips")),
                *(_number(group[key]) for key in ("mean_shift", "mean_absolute_shift")),
                *(_count(group[key]) for key in ("added", "gone")),
            )
            for group in found["groups"]
        ]
        lines += ["", *_table(head, cells)]
    return "\n".join(lines)


def comparison_text(found: dict[str, Any]) -> str:
    """What `compare_models` found, or one entry of `compare_run`."""
    lines = [f"# {found['first']} (first) and {found['second']} (second)", ""]
    if "refused" in found:
        return "\n".join([*lines, found["refused"]])
    if found.get("mode") == "split":
        lines += [*_arms(found)]
    else:
        agreement = found["agreement"]
        lines += [
            f"{_count(found['pairs'])} rows scored by both"
            + (f", {agreement:.2%} agree" if agreement is not None else "")
        ]
        lines += [*_shift(found)]
        if found["groups"]:
            head = (found["group_by"], "rows", "flips", "mean shift", "mean size")
            cells = [
                (
                    str(one["group"]),
                    _count(one["pairs"]),
                    _count(one["flips"]),
                    _number(one["mean_shift"]),
                    _number(one["mean_absolute_shift"]),
                )
                for one in found["groups"]
            ]
            lines += ["", *_table(head, cells)]
    return "\n".join([*lines, *_metrics(found["metrics"])])


def _shift(found: dict[str, Any]) -> Iterator[str]:
    if found["flips"]:
        shown = found["flips"][:FLIPS_SHOWN]
        cells = [(str(one["from"]), str(one["to"]), _count(one["rows"])) for one in shown]
        yield from ("", *_table(("from", "to", "rows"), cells))
        if len(found["flips"]) > FLIPS_SHOWN:
            yield from ("", f"and {len(found['flips']) - FLIPS_SHOWN} more kinds of flip")
    if (shift := found["score_shift"]) is not None:
        quantiles = ", ".join(f"{float(name):.0%} {_number(value)}" for name, value in shift["quantiles"].items())
        sizes = f"mean size {_number(shift['mean_absolute'])}, largest {_number(shift['largest'])}"
        yield from ("", f"Score shift: mean {_number(shift['mean'])}, {sizes}; quantiles {quantiles}")


def _arms(found: dict[str, Any]) -> Iterator[str]:
    ratio = found["sample_ratio"]
    if ratio["mismatch"]:
        yield f"**The shares are not what the weights say (chi-square p = {ratio['p']:.2g}).**"
        yield from ("Something parts the customers in another way, so do not trust what follows.", "")
    yield f"{_count(found['rows']['first'])} and {_count(found['rows']['second'])} rows"
    if (score := found["score"]) is not None:
        yield from ("", f"Mean score: {_difference(score)}")
    if found["labels"]:
        labels = [(one["label"], _share(one["first"]), _share(one["second"])) for one in found["labels"]]
        yield from ("", *_table(("predicted", "first", "second"), labels))
    if found["groups"]:
        cells = [
            (str(one["group"]), _count(one["rows"][0]), _count(one["rows"][1]), _difference(one["score"]))
            for one in found["groups"]
        ]
        yield from ("", *_table((found["group_by"], "first", "second", "mean score"), cells))


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
    yield from ("", *_table(head, cells))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table that is aligned for those who read it as it is."""
    every = [head, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*every, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    yield line(every[0])
    yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    yield from map(line, every[1:])


def _count(value: int) -> str:
    return f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
