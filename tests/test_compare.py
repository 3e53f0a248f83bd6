"""`models compare` and the gate of `models promote`: two models on the same rows, and what may be concluded from it."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, mean_absolute_error, roc_auc_score

import batch
from batch import routing
from batch.cli import program
from batch.errors import ModelRefused, UsageError
from batch.models import registry
from batch.monitor.compare import compare_models
from batch.monitor.metrics import HIGHER_IS_BETTER, MIN_ROWS, Scoreboard, chi_square_p, delong
from batch.monitor.promote import promote_if_better
from batch.monitor.variants import compare_run
from tests.run_cases import Bench, encode

FEATURES = ["a", "b"]
VARIANTS = (
    '[[variants]]\nname = "split"\nmodel = "models:/m/2"\nweight = 0.4\n'
    '[[variants]]\nname = "dark"\nmodel = "models:/m/2"\nmode = "shadow"\n'
)


def people(count: int, seed: int = 0) -> pd.DataFrame:
    """Ids, two features, a group, and a label that depends on both features."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"id": [f"P{number:05d}" for number in range(count)], **{name: rng.normal(size=count) for name in FEATURES}}
    )
    frame["team"] = rng.choice(["red", "blue"], count)
    frame["label"] = (rng.random(count) < 1 / (1 + np.exp(-(frame["a"] + 2 * frame["b"])))).astype(int)
    return frame


def models(root: str, metrics: tuple[dict[str, float], dict[str, float]] = ({}, {})) -> list[Any]:
    """Version 1 was trained on noise for the better feature, version 2 properly."""
    train = people(3000, seed=1)
    blind = train[FEATURES].assign(b=np.random.default_rng(2).normal(size=len(train)))
    fitted = [LogisticRegression().fit(X, train["label"]) for X in (blind, train[FEATURES])]
    for model, numbers in zip(fitted, metrics, strict=True):
        batch.register(model, "m", train[FEATURES], root=root, metrics=numbers)
    registry.promote(root, "m", 1, "champion")
    return fitted


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root")


def put(folder: Path, frame: pd.DataFrame, name: str = "data.csv") -> str:
    frame.to_csv(folder / name, index=False)
    return str(folder / name)


# --- metrics


def test_chi_square_is_scipys() -> None:
    from scipy.stats import chi2

    for freedom in range(1, 9):
        for value in (0.01, 1.0, 4.5, 30.0):
            assert chi_square_p(value, freedom) == pytest.approx(chi2.sf(value, freedom), rel=1e-9)


def test_intervals_hold_what_they_promise() -> None:
    """In 300 repetitions the true difference lies in the 95 % interval about 285 times, for each metric."""
    rng = np.random.default_rng(3)
    truth, reps, rows = {}, 300, 400
    every = [noisy(rng, rows) for _ in range(reps)]
    pooled = Scoreboard("classifier", has_score=True)
    for correct, scores, label in every:
        pooled.add(correct, scores, label)
    truth = {name: one["difference"] for name, one in pooled.as_dict().items()}
    inside = dict.fromkeys(truth, 0)
    for correct, scores, label in every:
        board = Scoreboard("classifier", has_score=True)
        board.add(correct, scores, label)
        for name, one in board.as_dict().items():
            inside[name] += one["interval"][0] <= truth[name] <= one["interval"][1]
    assert set(truth) == {"accuracy", "log_loss", "brier", "roc_auc"}
    assert all(0.91 * reps <= count <= 0.99 * reps for count in inside.values()), inside


def noisy(rng: np.random.Generator, rows: int) -> tuple[Any, Any, np.ndarray]:
    signal = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-2 * signal))).astype(float)
    scores = tuple(1 / (1 + np.exp(-(2 * signal + rng.normal(scale=noise, size=rows)))) for noise in (1.0, 0.5))
    return tuple((score >= 0.5) == (label == 1) for score in scores), scores, label


def test_one_class_alone_has_no_curve() -> None:
    areas, _ = delong(np.ones(5), np.arange(5.0)[None])
    assert math.isnan(areas[0])


# --- two versions on a file


def test_metrics_are_scikit_learns(root: str, tmp_path: Path) -> None:
    """Of both versions, and what they say differently, also per group."""
    fitted, data = models(root), people(2000)
    found = compare_models(root, "m", "champion", "2", data=put(tmp_path, data), target="label", group_by="team")
    chances = [model.predict_proba(data[FEATURES])[:, 1] for model in fitted]
    expected = {
        "accuracy": [accuracy_score(data["label"], one >= 0.5) for one in chances],
        "log_loss": [log_loss(data["label"], one) for one in chances],
        "brier": [brier_score_loss(data["label"], one) for one in chances],
        "roc_auc": [roc_auc_score(data["label"], one) for one in chances],
    }
    for name, values in expected.items():
        one = found["metrics"][name]
        assert [one["first"], one["second"]] == pytest.approx(values, rel=1e-9)
        assert (one["rows"], one["verdict"]) == (2000, "better")
        assert one["interval"][0] < one["difference"] < one["interval"][1]
    assert (found["first"], found["second"]) == ("m/1", "m/2")
    flips = (chances[0] >= 0.5) != (chances[1] >= 0.5)
    assert found["agreement"] == pytest.approx(1 - flips.mean())
    assert {one["group"]: one["flips"] for one in found["groups"]} == {
        team: int(flips[data["team"] == team].sum()) for team in ("red", "blue")
    }


def test_a_model_against_itself(root: str, tmp_path: Path) -> None:
    models(root)
    found = compare_models(root, "m", "1", "1", data=put(tmp_path, people(500)), target="label")
    assert {one["verdict"] for one in found["metrics"].values()} == {"no difference seen"}
    assert (found["changed"], found["agreement"]) == (0, 1.0)


def test_few_rows_give_no_verdict(root: str, tmp_path: Path) -> None:
    models(root)
    found = compare_models(root, "m", "1", "2", data=put(tmp_path, people(MIN_ROWS - 1)), target="label")
    for one in found["metrics"].values():
        assert (one["interval"], one["verdict"]) == (
            None,
            f"not enough data: {MIN_ROWS - 1} rows, {MIN_ROWS} are needed",
        )


def test_regressors_have_errors(root: str, tmp_path: Path) -> None:
    data = people(600)
    data["minutes"] = 3 * data["a"] + data["b"] + np.random.default_rng(4).normal(size=len(data))
    fitted = [
        LinearRegression().fit(data[FEATURES], data["a"]),
        LinearRegression().fit(data[FEATURES], data["minutes"]),
    ]
    for model in fitted:
        batch.register(model, "r", data[FEATURES], root=root)
    found = compare_models(root, "r", "1", "2", data=put(tmp_path, data), target="minutes")
    expected = [mean_absolute_error(data["minutes"], model.predict(data[FEATURES])) for model in fitted]
    assert [found["metrics"]["mae"][side] for side in ("first", "second")] == pytest.approx(expected)
    assert found["metrics"]["rmse"]["second"] == pytest.approx(found["metrics"]["mse"]["second"] ** 0.5)
    assert (found["metrics"]["mae"]["verdict"], found["flips"]) == ("better", [])


# --- the variants of a run


@pytest.fixture
def scored(root: str, tmp_path: Path) -> tuple[Bench, pd.DataFrame, str, list[Any]]:
    """4,000 people scored by a champion, a split and a shadow."""
    fitted, data = models(root), people(4000)
    bench = Bench(root, "models:/m/1", tmp_path)
    bench.put("in.csv", encode(data, "csv"))
    settings = {
        "input__id": "id",
        "output__keep": ["id", "team"],
        "run__chunk_bytes": 30_000,
        "report__group_by": "team",
    }
    return bench, data, bench.run("in.csv", "out.csv", VARIANTS, **settings).run_id, fitted


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_variants_of_a_run(scored: tuple[Bench, pd.DataFrame, str, list[Any]], tmp_path: Path, kind: str) -> None:
    """The shadow is compared row by row with what was delivered, the split arm by arm; labels are joined by id."""
    bench, data, run, fitted = scored
    labels = data[["id", "label"]].sample(frac=0.75, random_state=3)
    uri = str(tmp_path / f"labels.{kind}")
    labels.to_csv(uri, index=False) if kind == "csv" else labels.to_parquet(uri)
    dark, split = compare_run(bench.root, run, labels=uri, label_column="label")
    first, second = (model.predict_proba(data[FEATURES])[:, 1] for model in fitted)
    to_split = routing.assign(pa.array(data["id"]), "weekly", [0.4]) == 0
    delivered = np.where(to_split, second, first)
    known = data["id"].isin(labels["id"]).to_numpy()
    assert (dark["mode"], dark["pairs"], dark["metrics"]["brier"]["rows"]) == ("shadow", 4000, 3000)
    briers = [brier_score_loss(data["label"][known], one[known]) for one in (delivered, second)]
    assert [dark["metrics"]["brier"][side] for side in ("first", "second")] == pytest.approx(briers)
    assert dark["agreement"] == pytest.approx(((delivered >= 0.5) == (second >= 0.5)).mean())
    assert (split["mode"], split["rows"]) == ("split", {"first": int((~to_split).sum()), "second": int(to_split.sum())})
    arms = [
        brier_score_loss(data["label"][known & mine], one[known & mine])
        for mine, one in ((~to_split, first), (to_split, second))
    ]
    assert [split["metrics"]["brier"][side] for side in ("first", "second")] == pytest.approx(arms)
    assert split["metrics"]["brier"]["verdict"] == "better"
    assert split["score"]["second"] == pytest.approx(second[to_split].mean())
    assert sum(one["rows"][1] for one in split["groups"]) == to_split.sum()
    assert not split["sample_ratio"]["mismatch"]


def test_shares_that_are_not_the_weights_are_told_first(scored: tuple[Bench, pd.DataFrame, str, list[Any]]) -> None:
    """Somebody filtered the file after the split was made: the ratio says so before any other number."""
    bench, data, _, _ = scored
    to_split = routing.assign(pa.array(data["id"]), "weekly", [0.4]) == 0
    bench.put("some.csv", encode(data[~to_split | (data["a"] > 0)], "csv"))
    run = bench.run("some.csv", "some-out.csv", VARIANTS, input__id="id", output__keep=["id", "team"]).run_id
    (_, split) = compare_run(bench.root, run)
    assert split["sample_ratio"]["mismatch"]
    said = CliRunner().invoke(program, ["models", "compare", "--run", run, "--root", bench.root])
    assert said.exit_code == 0
    arms = said.stdout.split("# champion (first) and split (second)")[1]
    assert arms.strip().startswith("**The shares are not what the weights say (chi-square p = ")


def test_a_run_without_variants(root: str, tmp_path: Path) -> None:
    models(root)
    bench = Bench(root, "models:/m/1", tmp_path)
    bench.put("in.csv", encode(people(20), "csv"))
    run = bench.run("in.csv", "out.csv", input__id="id", output__keep=["id"]).run_id
    with pytest.raises(UsageError, match="has no variant besides its champion"):
        compare_run(root, run)


# --- the gate


def test_only_a_better_version_is_promoted(root: str, tmp_path: Path) -> None:
    """By a labelled file: the difference must be more than chance. Refused, nothing moves."""
    models(root)
    data = put(tmp_path, people(2000))
    entry = promote_if_better(root, "m", 2, "champion", "roc_auc", data=data, target="label")
    assert (entry.version, entry.n) == (2, 2)
    with pytest.raises(
        ModelRefused, match=r"m/1 is not better than m/2: roc_auc 0\.\d+ against 0\.\d+ on 2000 rows; worse"
    ) as caught:
        promote_if_better(root, "m", 1, "champion", "roc_auc", data=data, target="label")
    assert caught.value.exit_code == 4
    few = put(tmp_path, people(50), "few.csv")
    with pytest.raises(ModelRefused, match="not enough data: 50 rows"):
        promote_if_better(root, "m", 1, "champion", "brier", data=few, target="label")
    assert [one.version for one in registry.alias_history(root, "m", "champion")] == [1, 2]


def test_recorded_metrics_will_do(root: str) -> None:
    """Strictly better, in the metric's own direction; a version that was registered without it cannot be judged."""
    models(root, ({"brier": 0.2, "accuracy": 0.7}, {"brier": 0.19, "accuracy": 0.7}))
    with pytest.raises(ModelRefused, match=r"accuracy 0\.7 against 0\.7, as they were registered"):
        promote_if_better(root, "m", 2, "champion", "accuracy")
    with pytest.raises(ModelRefused, match="m/1 was registered without the metric 'roc_auc'"):
        promote_if_better(root, "m", 2, "champion", "roc_auc")
    with pytest.raises(UsageError, match="not known whether a higher 'niceness' is better"):
        promote_if_better(root, "m", 2, "champion", "niceness")
    assert promote_if_better(root, "m", 2, "champion", "brier").version == 2
    assert promote_if_better(root, "m", 1, "fresh", "brier").n == 1  # an alias that means nothing yet is set
    assert set(HIGHER_IS_BETTER) >= {"accuracy", "roc_auc", "brier", "log_loss", "mae", "rmse"}


def test_an_alias_that_moved_meanwhile_is_left_alone(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two who promote at once after the same comparison one wins, and the other is told."""
    models(root, ({"brier": 0.2}, {"brier": 0.1}))

    def attempt(_: int) -> str:
        try:
            return f"version {promote_if_better(root, 'm', 2, 'champion', 'brier').version}"
        except ModelRefused as error:
            return error.message

    with ThreadPoolExecutor(8) as pool:
        said = [*pool.map(attempt, range(8))]
    assert said.count("version 2") == 1
    refused = [one for one in said if one != "version 2"]
    assert all(
        "was moved to version 2 in the meantime" in one or "m/2 is not better than m/2" in one for one in refused
    )
    assert [one.version for one in registry.alias_history(root, "m", "champion")] == [1, 2]


def test_the_commands(root: str, tmp_path: Path) -> None:
    """Markdown or JSON, and the exit code of a refusal."""
    models(root)
    data = put(tmp_path, people(1500))
    asked = ["--data", data, "--target", "label", "--root", root]
    said = CliRunner().invoke(program, ["models", "compare", "m", "1", "2", *asked, "--group-by", "team"])
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith("# m/1 (first) and m/2 (second)\n\n1,500 rows scored by both, ")
    assert "| brier " in said.stdout
    found = json.loads(CliRunner().invoke(program, ["models", "compare", "m", "1", "2", *asked, "--json"]).stdout)
    assert found["metrics"]["brier"]["verdict"] == "better"
    gate = ["models", "promote", "m", "1", "--to", "champion", "--if-better", "brier"]
    assert CliRunner().invoke(program, [*gate, *asked]).exit_code == 4
    assert CliRunner().invoke(program, ["models", "compare", "m", "1", "--root", root]).exit_code == 2
    assert (
        CliRunner().invoke(program, ["models", "compare", "m", "1", "2", "--run", "x", "--root", root]).exit_code == 2
    )
