"""RESULTS.md and results.svg from results.json, and from nothing else: writing them again changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bars import bars
from benchmarks.cases import CEILINGS
from benchmarks.programs import NAMES, PEERS

Runs = Mapping[str, Any]
MODELS = {
    "logistic": "logistic regression behind scaling and one-hot encoding",
    "boosting": "HistGradientBoosting, 200 iterations, behind the same",
    "forest": "RandomForest, 200 trees of depth 10, behind the same",
    "wide": "logistic regression behind scaling",
}
PHASES = (
    "plan", "load_model", "score", "chunk_read", "chunk_decode", "chunk_predict", "chunk_encode", "chunk_profile", "chunk_store", "commit",
    "publish", "profile",
)  # fmt: skip
"""In the order in which they come; the chunks' within ``score``."""
SHAPES = {"csv": "CSV, 17 columns", "parquet": "Parquet, 17 columns", "wide": "CSV, 200 columns"}
INTRODUCTION = """# Results

Written by `python -m benchmarks.bench` from results.json; do not edit. Every figure is of a whole process, from its start to its end, on an
S3 server (SeaweedFS) of the same machine; input and output are on that server. Medians over the rounds; the programs ran in turn, and those that
failed or took over 40 s only once.

![Seconds by program](results.svg)

"Processor" is user and system time of the whole process tree: what the kernel counts for children that were waited for, or the sum of what was
sampled of each process, where that is more (Ray does not wait for its workers). Peak PSS counts a page that several processes share once in
all, peak RSS once in each; both are summed over the tree and sampled every 0.1 s, or less often where a sample takes longer.
"Same" compares ids and predictions exactly and probabilities within 1e-9 with those of batch-predict.

Each peer is a script in [peers/](peers), written as its own documentation shows, in an environment of its own. The peers call `predict` and
`predict_proba`, as people do; batch-predict derives the one from the other and calls the model once. The peers read the model from a local
file; batch-predict reads it from the registry on the server, checks it, and also keeps a receipt, a profile of the rows and the rejects.
"""


def write(raw: Path, folder: Path) -> None:
    """Write both files."""
    found = json.loads(raw.read_text())
    runs = found["runs"]
    parts = [INTRODUCTION, _setting(found), *_comparisons(runs), *_rooflines(runs), *_cases(runs), _versions(found)]
    (folder / "RESULTS.md").write_text("\n".join(part for part in parts if part))
    if (chart := _chart(runs)) is not None:
        (folder / "results.svg").write_text(chart)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; all columns but the first and the last are numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _setting(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    commands = "\n".join(f"    {command}" for command in found["commands"])
    return (
        f"Machine: {machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}. Commands, one after the other:\n\n{commands}\n"
    )


def groups(runs: Runs, part: str, depth: int) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """The runs of a part by the first names of their keys, rounds together."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key in sorted(runs):
        first, *names = key.split("/")
        if first == part:
            found.setdefault(tuple(names[:depth]), []).append(runs[key])
    return found


def middle(figures: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The median of a figure over the runs that ended well."""
    good = [one[name] for one in figures if not one.get("error") and name in one]
    return median(good) if good else None


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f}" if one and other else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _mebibytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:.0f}"


def comparisons(runs: Runs) -> list[tuple[str, str, str]]:
    """(shape, rows, model) that programs were compared on; those with most rows first."""
    found = {(names[0], names[1], names[2]) for names in groups(runs, "peers", 3)}
    order = list(MODELS)
    return sorted(found, key=lambda one: (-int(one[1]), list(SHAPES).index(one[0]), order.index(one[2])))


def _comparisons(runs: Runs) -> Iterable[str]:
    by_program = groups(runs, "peers", 4)
    for shape, rows, model in comparisons(runs):
        ours = by_program.get((shape, rows, model, "ours"), [])
        found = {name: by_program.get((shape, rows, model, name)) for name in NAMES}
        lines = [_line(name, figures, middle(ours, "wall")) for name, figures in found.items() if figures]
        yield f"## {int(rows):,} rows, {SHAPES[shape]}: {MODELS[model]}\n"
        head = ["Program", "Rounds", "Seconds", "Against ours", "Processor s", "Peak PSS MiB", "Peak RSS MiB", "Same"]
        yield table([*head, "In order", "How, or why not"], lines)


def _line(name: str, figures: list[dict[str, Any]], ours: float | None) -> list[str]:
    wall = middle(figures, "wall")
    note = PEERS[name].note if name in PEERS else "batch-predict run"
    good = [one for one in figures if not one.get("error")]
    if not good:
        return [name, str(len(figures)), "failed", *[""] * 6, _safe(figures[-1]["error"])]
    differences = {one["difference"] for one in good} - {""}
    return [
        name,
        str(len(good)),
        _seconds(wall),
        _ratio(wall, ours),
        _seconds(middle(figures, "cpu")),
        _mebibytes(middle(figures, "peak_pss")),
        _mebibytes(middle(figures, "peak_rss")),
        "reference" if name == "ours" else _safe("; ".join(sorted(differences))) or "yes",
        "yes" if all(one["in_order"] for one in good) else "no",
        note if len(good) == len(figures) else f"{note}; {len(figures) - len(good)} runs failed",
    ]


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _rooflines(runs: Runs) -> Iterable[str]:
    found = groups(runs, "roofline", 4)
    cases = sorted({names[:3] for names in found}, key=lambda one: (-int(one[1]), list(MODELS).index(one[2])))
    if not cases:
        return
    yield "## How far from the machine's best\n"
    yield (
        "Roofline: parse, predict and encode the same chunks on all cores, from memory to memory, without the start of the process. Bare: the same from "
        "the server and back in a process of its own, without lease, staging, commit, receipt and profile. Start: the bare script over 1,000 rows, of which "
        "nearly all is importing the libraries and loading the model.\n"
    )
    start = middle([run for key, run in runs.items() if key.startswith("cases/small/") and "/bare/" in key], "wall")
    lines = []
    for case in cases:
        ours = middle(found.get((*case, "ours"), []), "wall")
        bare = middle(found.get((*case, "bare"), []), "wall")
        best = middle(found.get((*case, "memory"), []), "seconds")
        whole = best + start if best and start else None
        figures = [*map(_seconds, (ours, bare, best)), _ratio(best, ours), _ratio(whole, ours), _ratio(ours, bare)]
        lines.append([f"{int(case[1]):,} rows, {case[2]}", *figures])
    ratios = ["Roofline / ours", "(Start + roofline) / ours", "Ours / bare"]
    yield table(["Input and model", "Ours s", "Bare s", "Roofline s", *ratios], lines)


def _cases(runs: Runs) -> Iterable[str]:
    found = groups(runs, "cases", 3)
    for make in (_phases, _workers, _ceilings, _long, _resumed, _small, _auto):
        yield from make(found)


Found = Mapping[tuple[str, ...], list[dict[str, Any]]]


def _sizes(found: Found, name: str) -> list[str]:
    return sorted({names[1] for names in found if names[0] == name}, key=int)


def _phases(found: Found) -> Iterable[str]:
    """Where the time of our own runs goes, by their receipts."""
    runs = {rows: found["long", rows][0] for rows in _sizes(found, "long") if "phases" in found["long", rows][0]}
    if not runs:
        return
    yield "## Where the time goes: `timing.phases` of the receipt\n"
    yield (
        "Seconds. Those named `chunk_` are sums over the threads and lie within `score`; reading overlaps with `load_model`. What is missing to the whole is the start of the "
        "process until the job, the input and the model's card are read.\n"
    )
    seen = {name for run in runs.values() for name in run["phases"]}
    names = [*(name for name in PHASES if name in seen), *sorted(seen.difference(PHASES))]
    lines = [
        [f"{int(rows):,}", _seconds(run["wall"]), *(f"{run['phases'].get(name, 0):.1f}" for name in names)]
        for rows, run in runs.items()
    ]
    yield table(["Rows", "Whole", *names], lines)


def _workers(found: Found) -> Iterable[str]:
    for rows in _sizes(found, "workers"):
        both = [found.get(("workers", rows, number), []) for number in ("1", "2")]
        yield f"## One worker and two: forest, {int(rows):,} rows\n"
        seconds = [middle(figures, "wall") for figures in both]
        scoring = [figures[0].get("phases", {}).get("score") if figures else None for figures in both]
        lines = [
            [number, _seconds(wall), _seconds(score), _mebibytes(middle(figures, "peak_pss"))]
            for number, wall, score, figures in zip((1, 2), seconds, scoring, both, strict=True)
        ]
        yield table(["Workers", "Seconds", "of which scoring", "Peak PSS MiB"], lines)
        yield f"Speed-up: {_ratio(*seconds)}, of scoring alone {_ratio(*scoring)}.\n"


def _ceilings(found: Found) -> Iterable[str]:
    for rows in _sizes(found, "ceiling"):
        runs = {name: found["ceiling", rows, name] for name in CEILINGS if ("ceiling", rows, name) in found}
        yield f"## Less memory: logistic regression, {int(rows):,} rows\n"
        lines = [
            [
                name,
                _seconds(middle(each, "wall")),
                _mebibytes(middle(each, "peak_pss")),
                _mebibytes(middle(each, "peak_rss")),
            ]
            for name, each in runs.items()
        ]
        yield table(["`[run] memory` and `chunk_bytes`", "Seconds", "Peak PSS MiB", "Peak RSS MiB"], lines)


def _long(found: Found) -> Iterable[str]:
    sizes = _sizes(found, "long")
    if not sizes:
        return
    first = found["long", sizes[0]]
    yield "## Ten times the rows\n"
    lines = []
    for rows in sizes:
        figures = found["long", rows]
        wall, peak = middle(figures, "wall"), middle(figures, "peak_pss")
        ratios = [_ratio(wall, middle(first, "wall")), _ratio(peak, middle(first, "peak_pss"))]
        lines.append([f"{int(rows):,}", _seconds(wall), ratios[0], _mebibytes(peak), ratios[1]])
    yield table(["Rows", "Seconds", "Ratio", "Peak PSS MiB", "Ratio"], lines)


def _resumed(found: Found) -> Iterable[str]:
    for rows in _sizes(found, "resumed"):
        full, rest = (found.get(("resumed", rows, which), []) for which in ("full", "rest"))
        if not rest or rest[0].get("error"):
            yield f"## Killed and run again, {int(rows):,} rows\n\nFailed: {_safe(rest[0]['error']) if rest else 'not run'}\n"
            continue
        share = _ratio(middle(rest, "wall"), middle(full, "wall"))
        yield f"## Killed and run again, {int(rows):,} rows\n"
        yield (
            f"Killed when about 90 % of its {rest[0]['chunks']['total']} chunks were stored. The run after it found {rest[0]['chunks']['reused']} of them and took "
            f"{_seconds(middle(rest, 'wall'))} s, a full one {_seconds(middle(full, 'wall'))} s: {share} of it.\n"
        )


def _small(found: Found) -> Iterable[str]:
    for rows in _sizes(found, "small"):
        texts = {"ours": "batch-predict run", "bare": "bare script with the same libraries", "help": "`--help`"}
        walls = {name: middle(found.get(("small", rows, name), []), "wall") for name in texts}
        yield f"## A small file: {int(rows):,} rows\n"
        lines = [
            [text, "" if (wall := walls[name]) is None else f"{wall:.2f}", _ratio(wall, walls["bare"])]
            for name, text in texts.items()
        ]
        yield table(["Program", "Seconds", "Against the bare script"], lines)


def _auto(found: Found) -> Iterable[str]:
    sizes = _sizes(found, "auto")
    names = sorted({names[2] for names in found if names[0] == "auto"}, key=lambda name: (name != "auto", name))
    if not sizes:
        return
    yield "## What `auto` chooses, and what else could be chosen\n"
    walls = {(rows, name): middle(found.get(("auto", rows, name), []), "wall") for rows in sizes for name in names}
    best = {rows: min((w for name in names if (w := walls[rows, name]) is not None), default=None) for rows in sizes}

    def cell(rows: str, name: str) -> str:
        wall = walls[rows, name]
        return "failed" if wall is None else f"{wall:.1f} s ({_ratio(wall, best[rows])})"

    lines = [[name, *(cell(rows, name) for rows in sizes)] for name in names]
    yield table(["Engine, workers, chunk", *(f"{int(rows):,} rows" for rows in sizes)], lines)
    yield "In brackets: against the fastest of the column.\n"


def _versions(found: Mapping[str, Any]) -> str:
    lines = [
        [name, ", ".join(f"{library} {number}" for library, number in sorted(found["versions"][name].items()))]
        for name in NAMES
        if name in found["versions"]
    ]
    return "## Versions\n\n" + table(["Program", "Libraries"], lines).replace("---:", "---")


def _chart(runs: Runs) -> str | None:
    """Seconds of all programs on the first comparison."""
    if not (cases := comparisons(runs)):
        return None
    shape, rows, model = cases[0]
    by_program = groups(runs, "peers", 4)
    found = {name: middle(by_program.get((shape, rows, model, name), []), "wall") for name in NAMES}
    values = sorted((value, name) for name, value in found.items() if value is not None)
    title = f"Seconds for {int(rows):,} rows ({SHAPES[shape]}, {model}), S3 to S3"
    return bars(title, [(name, value) for value, name in values], strong="ours")
