"""What an evaluation comes to: its state, and the sentences a person reads first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batch.monitor.calibration import LACKING, TOO_LITTLE, TOO_MUCH
from batch.monitor.performance import BELOW, MEETS

OK, DEGRADED, UNKNOWN = "ok", "degraded", "unknown"
COVERAGE = 0.8
"""With a smaller share of labelled rows it is said that these may not be like the others."""


def state_of(models: list[dict[str, Any]]) -> str:
    """``degraded`` if any model is below a metric it was registered with, or predicts too much or too little; ``unknown`` if none was judged."""
    verdicts = {verdict for model in models for verdict in _verdicts(model)}
    if verdicts & {BELOW, TOO_MUCH, TOO_LITTLE}:
        return DEGRADED
    return OK if verdicts else UNKNOWN


def sentences(found: dict[str, Any]) -> list[str]:
    """The headline first, then what it rests on, then why to be careful. `found`: the evaluation but for these."""
    where = f"in {found['period']['name']}" if found["period"] else f"in run {found['run_id']}"
    return [*_headline(found, where), *_cautions(found)]


def _verdicts(model: dict[str, Any]) -> Iterator[str]:
    """Those that say something."""
    yield from (one["verdict"] for one in model["metrics"].values() if one["verdict"] in {MEETS, BELOW})
    if model["calibration"] is not None and model["calibration"]["verdict"] != LACKING:
        yield str(model["calibration"]["verdict"])


def _headline(found: dict[str, Any], where: str) -> Iterator[str]:
    bad = [sentence for model in found["models"] for sentence in _degraded(model, where, found["positive"])]
    if bad:
        yield from bad
    elif found["state"] == OK:
        yield from (_well(model, where) for model in found["models"] if [*_verdicts(model)])
    elif found["coverage"]["labelled"]:
        yield f"Nothing can be said yet about {', '.join(map(name_of, found['models']))} {where}."
    elif found["coverage"]["without_row"]:
        yield f"No label belongs to a row {where}: the ids of {found['coverage']['without_row']:,} labels are not among its rows."
    else:
        yield f"No row has a label yet {where}."


def name_of(model: dict[str, Any]) -> str:
    """``flights/1 (champion)``."""
    version = f"/{model['version']}" if model["version"] is not None else ""
    return f"{model['name']}{version} ({model['variant']})"


def _degraded(model: dict[str, Any], where: str, positive: str | None) -> Iterator[str]:
    on = f"on {model['rows']:,} labelled rows"
    calibration = model["calibration"] or {"verdict": LACKING}
    if calibration["verdict"] in {TOO_MUCH, TOO_LITTLE}:
        yield f"{name_of(model)} {calibration['verdict']} {where}: {_apart(calibration, positive)}, {on}."
    for name, one in model["metrics"].items():
        if one["verdict"] == BELOW:
            low, high = one["interval"]
            yield (
                f"{name_of(model)} no longer meets its registered {name} {where}: {one['value']:.4g} (95 %: {low:.4g} to {high:.4g}) "
                f"against {one['registered']:.4g} at registration, {on}."
            )


def _apart(calibration: dict[str, Any], positive: str | None) -> str:
    predicted, observed, (low, high) = (calibration[key] for key in ("predicted", "observed", "interval"))
    if positive is None:
        return (
            f"{predicted:.4g} on average, and {observed:.4g} came to pass (difference, 95 %: {low:+.4g} to {high:+.4g})"
        )
    return (
        f"a mean probability of {predicted:.1%} for {positive!r}, and {observed:.1%} came to pass "
        f"(difference, 95 %: {100 * low:+.1f} to {100 * high:+.1f} points)"
    )


def _well(model: dict[str, Any], where: str) -> str:
    met = [name for name, one in model["metrics"].items() if one["verdict"] == MEETS]
    what = [f"meets its registered {', '.join(met)}"] if met else []
    if model["calibration"] is not None and model["calibration"]["verdict"] != LACKING:
        what.append("predicts neither too much nor too little")
    return f"{name_of(model)} {' and '.join(what)} {where}, on {model['rows']:,} labelled rows."


def _cautions(found: dict[str, Any]) -> Iterator[str]:
    coverage, minimum = found["coverage"], found["minimum"]
    if coverage["labelled"] and coverage["share"] < COVERAGE:
        means = coverage["mean_score"], coverage["mean_score_labelled"]
        scores = f": their mean score is {means[1]:.4g}, that of all rows {means[0]:.4g}" if None not in means else ""
        yield f"Only {coverage['share']:.1%} of the rows have a label, and they may not be like the others{scores}."
    if coverage["foreign"]:
        what = "no number" if found["kind"] == "regressor" else "no class of the model"
        yield f"{coverage['foreign']:,} labels are {what} and were left out."
    if coverage["repeated"]:
        yield f"{coverage['repeated']:,} labels and rows were left out because their id is there again, or is empty."
    for model in found["models"]:
        if model["rows"] < minimum:
            yield f"{name_of(model)} has {model['rows']:,} labelled rows: a verdict needs {minimum:,}."
        elif not any(one["registered"] is not None for one in model["metrics"].values()):
            yield f"{name_of(model)} was registered without metrics: there is nothing to hold its values against."
