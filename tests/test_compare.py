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
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, mean_absolute_error, roc_auc_score

import batch
from batch import routing
from batch.cli import program
from batch.errors import ModelRefused, SchemaMismatch, UsageError
from batch.models import registry
from batch.models.outputs import Outputs
from batch.monitor import promote as gate
from batch.monitor import text
from batch.monitor.codes import NO_CLASS, NO_LABEL, codes_of_classes
from batch.monitor.compare import compare_models
from batch.monitor.intervals import Mean, chi_square_p, delong, paired_shares
from batch.monitor.join import Spill
from batch.monitor.labels import truth_of
from batch.monitor.metrics import HIGHER_IS_BETTER, MIN_ROWS, Scoreboard, unpaired, unpaired_areas
from batch.monitor.promote import promote_if_better
from batch.monitor.usage import used_by
from batch.monitor.variants import compare_run
from tests.run_cases import Bench, compress, encode

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


def shares_of(rng: np.random.Generator, rows: int, right: float, gained: float, lost: float) -> list[np.ndarray]:
    """Whether two sides are right about the same rows, with these chances."""
    drawn = rng.random(rows)
    both, up = drawn < right, (drawn >= right) & (drawn < right + gained)
    return [both | ((drawn >= right + gained) & (drawn < right + gained + lost)), both | up]


@pytest.mark.parametrize("gained", [0.002, 0.05])
def test_paired_shares_hold_what_they_promise(gained: float) -> None:
    """Also where the sides differ on a handful of rows, for which the normal interval is too narrow; at least 93 % hold the truth."""
    rng, reps, rows = np.random.default_rng(11), 1000, 1000
    inside = 0
    for _ in range(reps):
        one, other = shares_of(rng, rows, 0.9, gained, gained / 2)
        low, high = paired_shares(rows, int((other & ~one).sum()), int((one & ~other).sum()))
        inside += low <= gained / 2 <= high
    assert 0.93 * reps <= inside <= reps


def test_four_rows_are_no_evidence() -> None:
    """Four flips to one side have a chance of 1 in 8 (McNemar's exact test): no difference is seen. Eight have 1 in 128."""
    wrong, right = np.zeros(1000, bool), np.ones(1000, bool)
    for flips, verdict in ((4, "no difference seen"), (8, "better")):
        board, first = Scoreboard("classifier", has_score=False), right.copy()
        first[:flips] = False
        board.add((first, right), (wrong, wrong), right.astype(float))
        assert board.as_dict()["accuracy"]["verdict"] == verdict


def test_intervals_of_regressors_hold_what_they_promise() -> None:
    """Paired and unpaired, also of the root of a mean; the truth is known: errors of a normal with a known scale."""
    rng, reps, rows = np.random.default_rng(12), 200, 300
    scales = (1.0, 1.2)
    true = {
        "mae": (scales[1] - scales[0]) * math.sqrt(2 / math.pi),
        "mse": scales[1] ** 2 - scales[0] ** 2,
        "rmse": scales[1] - scales[0],
    }
    inside = dict.fromkeys([(name, form) for name in true for form in ("paired", "unpaired")], 0)
    seen: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in inside}
    for _ in range(reps):
        noise = rng.normal(size=(3, rows))
        errors = (noise[0] * scales[0], (0.6 * noise[0] + 0.8 * noise[1]) * scales[1])
        board, truth = Scoreboard("regressor", has_score=False), rng.normal(size=rows)
        board.add((None, None), (truth + errors[0], truth + errors[1]), truth)
        sides: list[dict[str, Mean]] = [{}, {}]
        for side, error in zip(sides, (errors[0], noise[2] * scales[1]), strict=True):
            for name, values in (("mae", abs(error)), ("mse", error**2)):
                side[name] = Mean()
                side[name].add(values)
        for form, found in (("paired", board.as_dict()), ("unpaired", unpaired(*sides))):
            for name, value in true.items():
                low, high = found[name]["interval"]
                inside[name, form] += low <= value <= high
                seen[name, form].append((found[name]["difference"], high - low))
    assert all(180 <= count <= 200 for count in inside.values()), inside
    for key, pairs in seen.items():  # nor are they wider than the differences scatter
        differences, widths = np.array(pairs).T
        assert widths.mean() == pytest.approx(2 * 1.96 * differences.std(), rel=0.15), key


def test_intervals_of_samples_hold_what_they_promise() -> None:
    """Shares and ROC curves of different rows; the area of two normals that lie d apart is Phi(d / sqrt 2)."""
    rng, reps, rows = np.random.default_rng(13), 200, 400
    apart = (1.0, 1.4)
    area = [0.5 * (1 + math.erf(d / 2)) for d in apart]
    inside = {"accuracy": 0, "roc_auc": 0}
    for _ in range(reps):
        shares, curves = [Mean(), Mean()], []
        for mean, chance, d in zip(shares, (0.97, 0.99), apart, strict=True):
            mean.add((rng.random(rows) < chance).astype(float))
            truth = (rng.random(rows) < 0.3).astype(float)
            curves.append(np.stack([truth, rng.normal(size=rows) + d * truth]))
        low, high = unpaired({"accuracy": shares[0]}, {"accuracy": shares[1]})["accuracy"]["interval"]
        inside["accuracy"] += low <= 0.02 <= high
        low, high = unpaired_areas(*curves)["interval"]
        inside["roc_auc"] += low <= area[1] - area[0] <= high
    assert all(180 <= count <= 200 for count in inside.values()), inside


@given(
    batches=st.lists(st.lists(st.floats(-10, 10), max_size=8), max_size=6),
    offset=st.sampled_from([0.0, -3.0, 1e6, 1e9]),
)
def test_running_moments_are_those_of_all_rows(batches: list[list[float]], offset: float) -> None:
    """However the rows are parted, and however far they are from 0: a lost scatter would make any difference certain."""
    found = Mean()
    for one in batches:
        found.add(np.array(one, float) + offset)
    every = np.array([value for one in batches for value in one]) + offset
    assert found.rows == len(every)
    if len(every) > 1:
        assert found.mean == pytest.approx(every.mean(), rel=1e-12, abs=1e-12)
        assert found.scatter == pytest.approx(every.var() * len(every), rel=1e-6, abs=1e-9 * max(1.0, abs(offset)))


def test_a_curve_needs_both_classes() -> None:
    """1,000 rows with 9 positives are not enough to compare curves, and enough for the rest."""
    board, truth = Scoreboard("classifier", has_score=True), np.r_[np.ones(9), np.zeros(991)]
    score = np.random.default_rng(1).random(1000)
    board.add((truth == 1, truth == 1), (score, score), truth)
    found = board.as_dict()
    assert found["roc_auc"]["verdict"] == "not enough data: 9 rows of one class, 10 are needed"
    assert found["brier"]["verdict"] == "no difference seen"


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
    assert (found["metrics"]["rmse"]["verdict"], found["agreement"]) == ("better", None)
    registry.promote(root, "r", 1, "champion")
    asked = {"data": str(tmp_path / "data.csv"), "target": "minutes"}
    assert promote_if_better(root, "r", 2, "champion", "rmse", **asked).version == 2


def three_classes(root: str, data: pd.DataFrame) -> list[Any]:
    """Two models of three classes, the first of which knows one feature only; adds the column `kind` to the data."""
    data["kind"] = np.select([data["b"] < -0.5, data["b"] < 0.5], ["x", "y"], "z")
    blind = data[FEATURES].assign(b=0.0)
    fitted = [LogisticRegression().fit(X, data["kind"]) for X in (blind, data[FEATURES])]
    for model in fitted:
        batch.register(model, "k", data[FEATURES], root=root)
    return fitted


def test_more_than_two_classes(root: str, tmp_path: Path) -> None:
    """Accuracy and log loss on a file, of a shadow, and of the arms of a split, against scikit-learn."""
    data = people(1500)
    fitted = three_classes(root, data)
    chances = [model.predict_proba(data[FEATURES]) for model in fitted]
    expected = [log_loss(data["kind"], one, labels=["x", "y", "z"]) for one in chances]
    found = compare_models(root, "k", "1", "2", data=put(tmp_path, data), target="kind")
    assert set(found["metrics"]) == {"accuracy", "log_loss"}
    assert [found["metrics"]["log_loss"][side] for side in ("first", "second")] == pytest.approx(expected)
    assert found["metrics"]["log_loss"]["verdict"] == "better"

    bench = Bench(root, "models:/k/1", tmp_path)
    bench.put("in.csv", encode(data, "csv"))
    variants = VARIANTS.replace("/m/", "/k/")
    run = bench.run("in.csv", "out.parquet", variants, input__id="id", output__keep=["id"]).run_id
    dark, split = compare_run(root, run, labels=str(tmp_path / "data.csv"), label_column="kind")
    to_split = routing.assign(pa.array(data["id"]), "weekly", [0.4]) == 0
    assert dark["metrics"]["log_loss"]["second"] == pytest.approx(expected[1])
    arms = [
        log_loss(data["kind"][mine], one[mine], labels=["x", "y", "z"])
        for mine, one in zip((~to_split, to_split), chances, strict=True)
    ]
    assert [split["metrics"]["log_loss"][side] for side in ("first", "second")] == pytest.approx(arms)


# --- labels that do not fit


def test_labels_that_are_no_class_are_counted_or_refused(root: str, tmp_path: Path) -> None:
    """Some are left out; where there are no others, a comparison by them would say that nothing differs."""
    models(root)
    data = people(400)
    data["label"] = data["label"].astype(object)
    data.loc[:9, "label"], data.loc[10:14, "label"] = "maybe", None
    found = compare_models(root, "m", "1", "2", data=put(tmp_path, data), target="label")
    assert [found["labels"][name] for name in ("judged", "foreign", "empty")] == [385, 10, 5]
    assert found["metrics"]["accuracy"]["rows"] == 385
    said = text.comparison_text(found)
    assert "385 labels used; 5 empty; 10 no class of the model or no number" in said
    with pytest.raises(SchemaMismatch, match=r"none of the 400 labels in .* is what the model predicts \(0, 1\)"):
        compare_models(root, "m", "1", "2", data=put(tmp_path, people(400)), target="team")


def test_rows_that_a_run_would_reject_are_left_out(root: str, tmp_path: Path) -> None:
    """A null or an infinite number where the model knows none: counted, and the others compared."""
    models(root)
    data = people(300)
    data.loc[3, "a"], data.loc[7, "b"] = np.nan, np.inf
    found = compare_models(root, "m", "1", "2", data=put(tmp_path, data), target="label")
    assert (found["pairs"], found["left_out"], found["metrics"]["brier"]["rows"]) == (298, 2, 298)
    assert "298 rows scored by both, " in text.comparison_text(found)
    assert "; 2 left out that one of them cannot score" in text.comparison_text(found)


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


@pytest.mark.parametrize("parts", [1, 3])
def test_every_label_is_accounted_for(
    scored: tuple[Bench, pd.DataFrame, str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Labels of nobody, labels twice, empty ones and rows without one; a compressed file, in any number of parts."""
    bench, data, run, _ = scored
    monkeypatch.setattr("batch.monitor.join.PART_ROWS", -(-4100 // parts))
    known = data[["id", "label"]].iloc[:3000].copy()
    known["label"] = known["label"].astype(object)
    known.loc[0, "label"] = None
    strangers = known.iloc[:100].assign(id=[f"X{number}" for number in range(100)])
    labels = pd.concat([known, strangers, known.iloc[5:6]])
    labels.to_csv(tmp_path / "labels.csv.gz", index=False)
    dark, split = compare_run(bench.root, run, labels=str(tmp_path / "labels.csv.gz"), label_column="label")
    counts = {"judged": 2998, "empty": 1, "foreign": 0, "without_row": 100, "rows_without": 1001, "repeated": 2}
    assert dark["labels"] == split["labels"] == counts
    assert dark["metrics"]["brier"]["rows"] == 2998
    assert split["metrics"]["roc_auc"]["verdict"] == "better"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet", "labels.csv.zst"])
def test_many_more_labels_than_rows(
    scored: tuple[Bench, pd.DataFrame, str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The larger side says in how many parts they are joined: labels of years do not come into memory for the run of a week."""
    bench, data, run, _ = scored
    monkeypatch.setattr("batch.monitor.join.PART_ROWS", 5000)
    largest, read = [0], Spill.part

    def watched(side: Spill, number: int) -> tuple[np.ndarray, int]:
        rows, repeated = read(side, number)
        largest.append(len(rows))
        return rows, repeated

    monkeypatch.setattr(Spill, "part", watched)
    labels = pd.DataFrame({"id": [f"P{number:05d}" for number in range(60_000)], "label": 0})
    labels.loc[: len(data) - 1, "label"] = data["label"].to_numpy()
    plain = name.removesuffix(".zst")
    (tmp_path / name).write_bytes(compress(encode(labels, plain.rsplit(".", 1)[-1]), name[len(plain) :]))
    dark, _ = compare_run(bench.root, run, labels=str(tmp_path / name), label_column="label")
    assert (dark["labels"]["judged"], dark["labels"]["without_row"]) == (4000, 56_000)
    assert max(largest) < 2 * 5000


def test_a_label_that_only_looks_like_a_prediction() -> None:
    """A class is one of the model's own; what else has a code has no probability to be looked up."""
    outputs = Outputs("classifier", (("prediction", "string"),), ("x", "y"))
    classes = codes_of_classes(outputs)
    classes.of(pa.array(["stranger"]))
    found, truth = truth_of(pa.array(["y", "x", "stranger", None, "other"]), outputs, classes)
    assert found.tolist() == [1, 0, NO_CLASS, NO_LABEL, NO_CLASS]
    assert [one for one in truth.tolist() if not math.isnan(one)] == [1.0, 0.0]


def test_a_group_that_is_not_there(scored: tuple[Bench, pd.DataFrame, str, list[Any]]) -> None:
    bench, _, run, _ = scored
    with pytest.raises(UsageError, match=f"the output of run {run} has no column 'colour'"):
        compare_run(bench.root, run, group_by="colour")


def test_what_a_shadow_could_not_score(root: str, tmp_path: Path) -> None:
    """Rows in which it is null are counted and left out; the report is about the others."""
    models(root)
    strict = people(3000, seed=1)[FEATURES].assign(c=1.0)
    label = people(3000, seed=1)["label"]
    batch.register(LogisticRegression().fit(strict, label), "m", strict, root=root)
    data = people(500).assign(c=[None] * 20 + [1.0] * 480)
    bench = Bench(root, "models:/m/2", tmp_path)
    bench.put("in.csv", encode(data.astype(object).where(data.notna(), ""), "csv"))
    shadow = '[[variants]]\nname = "dark"\nmodel = "models:/m/3"\nmode = "shadow"\n'
    run = bench.run("in.csv", "out.csv", shadow, input__id="id", output__keep=["id"]).run_id
    (dark,) = compare_run(root, run)
    assert (dark["pairs"], dark["left_out"], dark["agreement"]) == (480, 20, 1.0)


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


def test_where_a_version_is_used(root: str, tmp_path: Path) -> None:
    """By the newest completed run of each job; an older run of the job is history, and so is its model."""
    models(root)
    bench = Bench(root, "models:/m/1", tmp_path)
    bench.put("in.csv", encode(people(50), "csv"))
    settings = {"input__id": "id", "output__keep": ["id"]}
    bench.run("in.csv", "out.csv", **settings)
    assert [(one["job"], one["version"]) for one in used_by(root, "m")] == [("weekly", 1)]
    run = bench.run("in.csv", "out.csv", VARIANTS, **settings).run_id
    assert used_by(root, "m", 3) == used_by(root, "other") == []
    assert [(one["variant"], one["mode"], one["version"]) for one in used_by(root, "m")] == [
        ("champion", "split", 1),
        ("split", "split", 2),
        ("dark", "shadow", 2),
    ]
    said = CliRunner().invoke(program, ["models", "show", "m/2", "--root", root])
    assert said.exit_code == 0
    assert f"used by  weekly: version 2 (dark, shadow), run {run} of 2" in said.stdout
    card = json.loads(CliRunner().invoke(program, ["models", "show", "m/2", "--root", root, "--json"]).stdout)
    assert {one["run_id"] for one in card["used_by"]} == {run}
    assert {one["version"] for one in card["used_by"]} == {2}


@pytest.mark.parametrize("measured", [True, False])
def test_an_alias_that_moves_during_the_comparison_is_not_moved_back(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    """Somebody promotes after both versions were compared, and before the alias is set: what was compared is no longer true."""
    fitted = models(root, ({"brier": 0.2}, {"brier": 0.1}))
    batch.register(fitted[1], "m", people(500)[FEATURES], root=root)
    check = "_check_measured" if measured else "_check_recorded"
    compared = getattr(gate, check)

    def and_then_somebody_promotes(*arguments: Any) -> None:
        compared(*arguments)
        registry.promote(root, "m", 3, "champion")

    monkeypatch.setattr(gate, check, and_then_somebody_promotes)
    asked = {"data": put(tmp_path, people(2000)), "target": "label"} if measured else {}
    with pytest.raises(ModelRefused, match="alias 'champion' of model 'm' was moved to version 3 in the meantime"):
        promote_if_better(root, "m", 2, "champion", "brier", **asked)
    assert [one.version for one in registry.alias_history(root, "m", "champion")] == [1, 3]


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
    pointless = CliRunner().invoke(program, ["models", "promote", "m", "1", "--to", "champion", *asked])
    assert (pointless.exit_code, "add --if-better METRIC" in pointless.stderr) == (2, True)
    assert CliRunner().invoke(program, ["models", "compare", "m", "1", "--root", root]).exit_code == 2
    assert (
        CliRunner().invoke(program, ["models", "compare", "m", "1", "2", "--run", "x", "--root", root]).exit_code == 2
    )
