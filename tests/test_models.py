"""A model predicts through Arrow what it predicts by itself, and nothing that is not trusted, intact and reproducible loads."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import IsolationForest, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import batch
from batch.errors import (
    GoldenRowsDiffer,
    ModelChanged,
    ModelFailed,
    ModelNotTrusted,
    ModelRefused,
    UsageError,
)
from batch.models import bundle, golden, quarantine, registry, signature, trust
from batch.models.bundle import ResolvedModel
from batch.models.estimator import parts, use_one_thread
from batch.models.loaded import LoadedModel
from batch.models.outputs import Outputs
from batch.models.profile import column_profile
from batch.models.signature import SignatureColumn
from tests.model_cases import CASES, NUMBERS, WORDS, X, customers, fitted, simple

ROOT = Path(__file__).parents[1]

Registered = Callable[[str], tuple[Any, pd.DataFrame, ResolvedModel]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def registered(root: str) -> Registered:
    """A case of `CASES` by name: the fitted estimator, its frame, and its bundle; registered once."""

    @cache
    def register(case: str) -> tuple[Any, pd.DataFrame, ResolvedModel]:
        estimator, frame, target = fitted(case)
        return estimator, frame, bundle.resolve(batch.register(estimator, case, frame, target, root=root).uri, root)

    return register


@pytest.fixture(scope="module")
def model(root: str) -> LoadedModel:
    """A registered and loaded logistic regression on three numbers."""
    version = batch.register(simple(), "simple", X[NUMBERS], root=root)
    return bundle.load(bundle.resolve(version.uri, root))


@pytest.fixture
def stored(model: LoadedModel, root: str, tmp_path: Path) -> ResolvedModel:
    """A copy of that bundle, for tests that damage it."""
    source = bundle.resolve("models:/simple/1", root).uri
    return bundle.resolve(str(shutil.copytree(source, tmp_path / "stored")), "")


# --- predictions


@pytest.mark.parametrize("case", CASES)
def test_predictions_equal_the_estimators_own_to_the_bit(registered: Registered, case: str) -> None:
    """Saved, loaded and fed with Arrow, a model gives the bits that the fitted estimator gives for the same rows."""
    estimator, frame, resolved = registered(case)
    loaded = bundle.load(resolved)
    predicted = loaded.predict(signature.from_frame(frame, loaded.signature))
    features = frame.to_numpy() if case == "fitted-on-values" else frame
    assert predicted["prediction"].to_pylist() == estimator.predict(features).tolist()
    if scores := predicted.column_names[1:]:
        expected = estimator.predict_proba(features)[:, 1 if len(scores) == 1 else 0 :]
        assert np.array_equal(np.column_stack([predicted[name] for name in scores]), expected)
    assert loaded.warnings == []


@pytest.mark.parametrize(
    ("case", "columns"),
    [
        ("logistic", (("prediction", "string"), ("probability", "double"))),
        ("forest-integers", (("prediction", "long"), ("probability", "double"))),
        ("boosting-booleans", (("prediction", "boolean"), ("probability", "double"))),
        (
            "three-classes",
            (
                ("prediction", "string"),
                ("probability_high", "double"),
                ("probability_low", "double"),
                ("probability_middle", "double"),
            ),
        ),
        ("no-probabilities", (("prediction", "string"),)),
        ("float32", (("prediction", "float"),)),
    ],
)
def test_output_columns(registered: Registered, case: str, columns: tuple[tuple[str, str], ...]) -> None:
    """Two classes share one probability, more have one each, a regressor has its prediction; all keep the model's types."""
    _, _, resolved = registered(case)
    assert resolved.outputs.columns == columns


class Counting(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Answers from a logistic regression and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.classes_ = np.array(["no", "yes"])

    def predict_proba(self, frame: pd.DataFrame) -> Any:
        self.calls.append("predict_proba")
        return np.tile([0.25, 0.75], (len(frame), 1))

    def predict(self, frame: pd.DataFrame) -> Any:
        self.calls.append("predict")
        return np.repeat("no", len(frame))


TWO_COLUMNS = (("prediction", "string"), ("probability", "double"))
FEATURE = (SignatureColumn("a", "double", required=True, dtype="float64"),)


@pytest.mark.parametrize(
    ("decision", "calls", "label"),
    [("argmax", ["predict_proba"], "yes"), ("predict", ["predict_proba", "predict"], "no")],
)
def test_one_model_call_decides_and_scores(decision: Any, calls: list[str], label: str) -> None:
    """The class comes from the one probability call, unless the model is known to decide otherwise."""
    estimator = Counting()
    loaded = LoadedModel(estimator, FEATURE, Outputs("classifier", TWO_COLUMNS, ("no", "yes"), decision))
    predicted = loaded.predict(pa.table({"a": [1.0, 2.0]}))
    assert predicted.to_pydict() == {"prediction": [label, label], "probability": [0.75, 0.75]}
    assert estimator.calls == calls


@pytest.mark.parametrize(("case", "decision"), [("logistic", "argmax"), ("threshold", "predict")])
def test_decision_is_found_out_at_registration(registered: Registered, case: str, decision: str) -> None:
    """A model whose predict() is not the most probable class is asked for both."""
    _, _, resolved = registered(case)
    assert resolved.outputs.decision == decision


def test_no_rows_give_an_empty_table_without_calling_the_model() -> None:
    """An empty batch has the output's schema and costs nothing."""
    estimator = Counting()
    loaded = LoadedModel(estimator, FEATURE, Outputs("classifier", TWO_COLUMNS, ("no", "yes"), "argmax"))
    empty = loaded.predict(pa.table({"a": pa.array([], pa.float64())}))
    assert (empty.num_rows, empty.schema) == (
        0,
        pa.schema([("prediction", pa.string()), ("probability", pa.float64())]),
    )
    assert estimator.calls == []


class Answering(BaseEstimator):  # type: ignore[misc]
    """Returns, or raises, what it is given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(self, frame: pd.DataFrame) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    predict_proba = predict


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.array([1.0]), "returned 1 rows for 2"),
        (np.float64(1.0), "returned 1 rows for 2"),
        (np.array([1.0, np.nan]), "gave nan for row 1 of the batch"),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), "several values per row"),
        (ValueError("Found unknown categories ['x']\nin column 0"), "ValueError on 2 rows: Found unknown categories"),
    ],
)
def test_a_regressor_that_fails_is_refused_in_one_sentence(answer: Any, message: str) -> None:
    """Wrong length, no number, or an exception inside the model: the row or the model's own words are in the message."""
    loaded = LoadedModel(Answering(answer), FEATURE, Outputs("regressor", (("prediction", "double"),)))
    with pytest.raises(ModelFailed) as caught:
        loaded.predict(pa.table({"a": [1.0, 2.0]}))
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("answer", [np.array(["no", None], dtype=object), np.array(["no", np.nan], dtype=object)])
def test_a_missing_class_is_refused(answer: Any) -> None:
    """A classifier that names no class for a row is broken; its row is named."""
    loaded = LoadedModel(Answering(answer), FEATURE, Outputs("classifier", (("prediction", "string"),), ("no",)))
    with pytest.raises(ModelFailed, match=r"no class for row 1|not string"):
        loaded.predict(pa.table({"a": [1.0, 2.0]}))


def test_a_probability_that_is_not_a_number_is_refused() -> None:
    """NaN would otherwise decide for the first class."""
    answer = np.array([[0.5, 0.5], [np.nan, np.nan]])
    loaded = LoadedModel(Answering(answer), FEATURE, Outputs("classifier", TWO_COLUMNS, ("no", "yes"), "argmax"))
    with pytest.raises(ModelFailed, match="gave nan for row 1"):
        loaded.predict(pa.table({"a": [1.0, 2.0]}))


def test_threads_share_one_model(model: LoadedModel) -> None:
    """Many threads at once get what one gets alone."""
    tables = [signature.from_frame(customers(rows)[NUMBERS], model.signature) for rows in range(20, 60)]
    alone = [model.predict(table) for table in tables]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(model.predict, tables)) == alone


def test_seconds_per_row_is_a_small_number(model: LoadedModel) -> None:
    """The estimate is per row, not per call."""
    assert 0 < model.seconds_per_row() < 0.01


# --- golden rows and profile


@given(st.integers(1, 10_000), st.integers(2, 50))
def test_golden_rows_are_spread_over_the_frame(rows: int, limit: int) -> None:
    """At most the limit, in order, without repeats, from the first row to the last, in steps that differ by one at most."""
    chosen = golden.positions(rows, limit)
    assert len(chosen) == min(rows, limit)
    assert (chosen[0], chosen[-1]) == (0, rows - 1)
    steps = {b - a for a, b in pairwise(chosen)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


@pytest.mark.parametrize(
    ("values", "spread", "expected"),
    [
        (np.array([0.5, -2.0]), 0.0, 2e-9),
        (np.array([0.5, -2.0]), 1e-7, 1e-6),
        (np.array([0.5], dtype="float32"), 0.0, 1e-5),
        (np.array([1e6], dtype="float32"), 0.0, 10.0),
    ],
)
def test_tolerance_is_the_largest_of_its_bounds(values: Any, spread: float, expected: float) -> None:
    """1e-9 of the column's largest value, ten times the recorded spread, or float32's own precision."""
    assert golden.tolerance(values, spread) == pytest.approx(expected)


def change_golden(model: ResolvedModel, column: str, value: Any) -> None:
    """Overwrite the recorded output of the third golden row and sign it, as an environment that differs would look."""
    rows = golden.from_bytes(Path(model.uri, bundle.GOLDEN).read_bytes())
    name = golden.OUTPUT_PREFIX + column
    values = rows[name].to_pylist()
    values[2] = value(values[2])
    rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, rows[name].type))
    overwrite(model, bundle.GOLDEN, golden.to_bytes(rows))


@pytest.fixture(autouse=True)
def without_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of a model is the same in a process of its own; `tests/test_hostile.py` is about that."""
    monkeypatch.setattr(quarantine, "prove", lambda *_, **__: None)


def overwrite(model: ResolvedModel, name: str, body: bytes, **card: Any) -> ResolvedModel:
    """Put other bytes in a bundle, with the digest that belongs to them, and resolve it again."""
    Path(model.uri, name).write_bytes(body)
    files = {**model.card["files"], name: {"sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body)}}
    Path(model.uri, "model.json").write_text(json.dumps({**model.card, **card, "files": files}))
    return bundle.resolve(model.uri, "")


def test_a_golden_row_that_differs_refuses_the_model(stored: ResolvedModel) -> None:
    """The refusal names column, row and both values, and says that the libraries are the same."""
    change_golden(stored, "probability", lambda value: value + 1e-6)
    with pytest.raises(
        GoldenRowsDiffer, match=r"golden row 3 of 50 gives probability = 0\.\d+ here, but gave 0\.\d+ .*same"
    ):
        bundle.load(bundle.resolve(stored.uri, ""))


def test_a_golden_class_that_differs_refuses_the_model(stored: ResolvedModel) -> None:
    """Classes must be equal."""
    change_golden(stored, "prediction", lambda value: "yes" if value == "no" else "no")
    with pytest.raises(GoldenRowsDiffer, match="gives prediction = "):
        bundle.load(bundle.resolve(stored.uri, ""))


def test_last_bits_do_not_refuse_a_model(stored: ResolvedModel) -> None:
    """Another CPU kernel rounds differently; that is not another model."""
    change_golden(stored, "probability", lambda value: value * (1 + 1e-12))
    assert bundle.load(bundle.resolve(stored.uri, "")).warnings == []


def test_another_scikit_learn_is_a_warning_once_the_rows_agree(stored: ResolvedModel) -> None:
    """Saved by another minor version: told, not refused, and nothing is printed."""
    body = Path(stored.uri, bundle.SKOPS).read_bytes()
    libraries = {**stored.card["libraries"], "scikit-learn": "1.2.3"}
    loaded = bundle.load(overwrite(stored, bundle.SKOPS, body, libraries=libraries))
    assert [line.split(",")[0] for line in loaded.warnings] == ["saved with scikit-learn 1.2.3"]


def test_an_attribute_that_is_gone_names_both_versions(stored: ResolvedModel) -> None:
    """A model that an older scikit-learn saved and this one cannot run says what to install."""
    estimator = simple()
    del estimator.intercept_
    libraries = {**stored.card["libraries"], "scikit-learn": "1.2.3"}
    damaged = overwrite(stored, bundle.SKOPS, skops.io.dumps(estimator), libraries=libraries)
    with pytest.raises(ModelRefused, match=r"saved with scikit-learn 1\.2\.3, running") as caught:
        bundle.load(damaged)
    assert caught.value.hint == "register it again or install scikit-learn 1.2.3"


def test_an_old_loss_module_is_still_found() -> None:
    """Files saved before scikit-learn 1.9 name their loss classes in a top-level module `_loss`."""
    from sklearn._loss._loss import CyHalfBinomialLoss

    body = pickle.dumps(CyHalfBinomialLoss(), protocol=0).replace(b"csklearn._loss._loss\n", b"c_loss\n")
    assert b"sklearn" not in body
    sha256 = hashlib.sha256(body).hexdigest()
    assert isinstance(trust.load_pickle(body, sha256, [sha256]), CyHalfBinomialLoss)


def test_numeric_profile_counts_every_row_once() -> None:
    """Nine inner edges, ten bins, nulls apart: together every row."""
    found = column_profile(pa.chunked_array([[None, *map(float, range(1, 101))]]))
    assert (len(found["edges"]), found["counts"], found["nulls"]) == (9, [10] * 10, 1)
    assert (found["minimum"], found["maximum"], found["mean"]) == (1.0, 100.0, 50.5)


def test_categorical_profile_keeps_the_most_frequent() -> None:
    """Fifty values with their counts, most frequent first, ties by name, and one count for the rest."""
    values = [f"v{i:02d}" for i in range(60)] + ["v59", None]
    found = column_profile(pa.chunked_array([values]))
    assert found["values"][:2] == [["v59", 2], ["v00", 1]]
    assert (len(found["values"]), found["other"], found["distinct"], found["nulls"]) == (50, 10, 60, 1)


def test_a_column_of_nulls_has_a_profile() -> None:
    """There is nothing to cut, so there is one empty bin."""
    found = column_profile(pa.chunked_array([pa.array([None, None], pa.float64())]))
    assert (found["edges"], found["counts"], found["nulls"], found["mean"]) == ([], [0], 2, None)


def test_profile_covers_features_and_scores(model: LoadedModel) -> None:
    """Every feature and the model's first probability, over all training rows."""
    assert list(model.profile["columns"]) == NUMBERS
    scores = model.profile["scores"]
    assert (scores["column"], scores["rows"], sum(scores["counts"])) == ("probability", len(X), len(X))


# --- trust


class Canary:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_is_not_pinned_never_runs(stored: ResolvedModel, tmp_path: Path) -> None:
    """The digest to pin is in the hint; the code in the file has not run."""
    canary = tmp_path / "canary"
    body = pickle.dumps(Canary(canary))
    hostile = overwrite(stored, bundle.JOBLIB, body, model_file=bundle.JOBLIB)
    with pytest.raises(ModelNotTrusted) as caught:
        bundle.load(hostile, pickle_sha256=["0" * 64])
    assert hashlib.sha256(body).hexdigest() in caught.value.hint
    assert not canary.exists()
    with pytest.raises(ModelRefused):
        bundle.load(hostile, pickle_sha256=[hashlib.sha256(body).hexdigest()])
    assert canary.exists(), "the file was not hostile, so the test above shows nothing"


def test_a_foreign_type_in_a_skops_file_is_refused_by_name(stored: ResolvedModel, tmp_path: Path) -> None:
    """A partial of os.system passes for a function; the type it would call is not on the list."""
    canary = tmp_path / "canary"
    body = skops.io.dumps(FunctionTransformer(partial(os.system, f"touch {canary}")))
    with pytest.raises(ModelNotTrusted, match=r"posix\.system"):
        bundle.load(overwrite(stored, bundle.SKOPS, body))
    assert not canary.exists()


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_truncated_model_is_refused(stored: ResolvedModel, keep: int) -> None:
    """Cut short, with or without a digest that fits, a model does not load."""
    body = Path(stored.uri, bundle.SKOPS).read_bytes()[:keep]
    with pytest.raises(ModelRefused, match="cannot be read"):
        bundle.load(overwrite(stored, bundle.SKOPS, body))
    Path(stored.uri, bundle.SKOPS).write_bytes(body)
    with pytest.raises(ModelChanged, match=f"has {keep} bytes, but was registered with"):
        bundle.load(stored)


def test_a_bundle_over_the_limit_is_refused_unread(stored: ResolvedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes in model.json are enough to refuse it: the file itself is not even there."""
    Path(stored.uri, bundle.SKOPS).unlink()
    monkeypatch.setattr(bundle, "MAX_BUNDLE_BYTES", 100)
    with pytest.raises(ModelRefused, match=f"holds {stored.size_bytes} bytes, more than the limit of 100"):
        bundle.load(stored)


def test_a_small_file_that_unpacks_to_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds for the unpacked zip as well."""
    monkeypatch.setattr(trust, "MAX_MODEL_BYTES", 1 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"0" * (2 << 20))
    with pytest.raises(ModelRefused, match="unpacks to 2097152 bytes, more than the limit of 1048576"):
        trust.load_skops(packed.getvalue())


@pytest.mark.parametrize("name", ["model.skops", "golden.parquet", "profile.json", "MLmodel", "README.md"])
def test_a_changed_file_is_refused_before_it_is_parsed(stored: ResolvedModel, name: str) -> None:
    """One flipped byte in any file: the refusal names the file and both digests."""
    path = Path(stored.uri, name)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(
        ModelChanged, match=rf"{name} has sha256 [0-9a-f]{{64}}, but was registered with [0-9a-f]{{64}}"
    ):
        bundle.load(stored)


def test_a_missing_file_is_refused(stored: ResolvedModel) -> None:
    """A bundle is whole or not a bundle."""
    Path(stored.uri, bundle.GOLDEN).unlink()
    with pytest.raises(ModelChanged, match=r"golden\.parquet is missing"):
        bundle.load(stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99, this program reads format 1"),
        ({"files": {"../../etc/passwd": {"sha256": "0" * 64, "size_bytes": 1}}}, "file name"),
        ({"signature": [{"name": "a"}]}, "signature in model.json cannot be read"),
        ({"signature": [{"name": "a", "type": "tensor", "required": True, "dtype": "x"}]}, "unknown type 'tensor'"),
        ({"outputs": {"kind": "oracle", "decision": "argmax"}}, "outputs in model.json cannot be read"),
        (
            {"outputs": {"kind": "regressor", "decision": "predict", "columns": []}},
            "outputs in model.json cannot be read",
        ),
        ({"name": None}, "not a model card"),
        ({"libraries": None}, "not a model card"),
    ],
)
def test_a_card_that_cannot_be_relied_on_is_refused(
    stored: ResolvedModel, change: dict[str, Any], message: str
) -> None:
    """An unknown format names both numbers; everything else names what is wrong."""
    Path(stored.uri, "model.json").write_text(json.dumps({**stored.card, **change}))
    with pytest.raises(ModelRefused, match=message):
        bundle.resolve(stored.uri, "")


@pytest.mark.parametrize(
    ("name", "body", "change"),
    [
        ("profile.json", b"{", {}),
        ("golden.parquet", golden.to_bytes(pa.table({"age": [1]})), {}),
        ("golden.parquet", b"PAR1", {}),
        ("golden.parquet", golden.to_bytes(pa.table({"age": pa.array([], pa.int64())})), {}),
        ("profile.json", b"{}", {"golden": {}}),
        ("profile.json", b"{}", {"model_file": "README.md"}),
        ("profile.json", b"{}", {"signature": []}),
    ],
)
def test_a_bundle_that_does_not_fit_together_is_refused(
    stored: ResolvedModel, name: str, body: bytes, change: dict[str, Any]
) -> None:
    """Whoever writes a bundle writes its digests too; contents that make no sense are still no traceback."""
    with pytest.raises(ModelRefused):
        bundle.load(overwrite(stored, name, body, **change))


def test_every_refusal_has_exit_code_4() -> None:
    """Scripts tell a refused model from refused input by the code."""
    kinds = (GoldenRowsDiffer, ModelChanged, ModelFailed, ModelNotTrusted, ModelRefused)
    assert {kind("").exit_code for kind in kinds} == {4}


def test_fitted_parts_run_on_one_thread() -> None:
    """Also the clones inside a fitted ensemble or ColumnTransformer, which get_params() does not reach."""
    estimator = VotingClassifier([("forest", RandomForestClassifier(3, n_jobs=2))]).fit(X[NUMBERS], WORDS)
    use_one_thread(estimator)
    jobs = {vars(part)["n_jobs"] for part in parts(estimator) if "n_jobs" in vars(part)}
    assert jobs == {1}


def test_resolving_imports_nothing_heavy(model: LoadedModel, root: str) -> None:
    """A bad reference is refused before pandas, pyarrow or scikit-learn are paid for."""
    program = f"""
import sys
from batch.models import bundle, registry
bundle.resolve("models:/simple/1", {root!r}), registry.list_models({root!r}), registry.describe({root!r}, "simple")
print(*sorted(set(sys.modules) & {{"pandas", "pyarrow", "sklearn", "skops", "numpy", "scipy", "joblib"}}))
"""
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).strip() == ""


# --- registration


@pytest.mark.parametrize(
    ("estimator", "target", "message"),
    [
        (make_pipeline(FunctionTransformer(lambda frame: frame), Ridge()), X["spend"], "<lambda>"),
        (GridSearchCV(Ridge(), {"alpha": [1, 2]}, cv=2), X["spend"], "GridSearchCV is a search and not a model"),
        (LinearRegression(), X[["spend", "age"]], "predicts 2 values per row"),
        (RandomForestClassifier(2), np.column_stack([WORDS, WORDS]), "predicts several targets per row"),
        (IsolationForest(n_estimators=2), None, "IsolationForest detects outliers"),
        (StandardScaler(), None, "neither a classifier nor a regressor"),
        (Counting(), None, r"not on the allow-list: .*Counting"),
    ],
)
def test_what_cannot_be_used_later_is_not_registered(tmp_path: Path, estimator: Any, target: Any, message: str) -> None:
    """The refusal names the type or the reason, has exit code 4, and no version number is taken."""
    fitted_estimator = estimator.fit(X[NUMBERS], target) if hasattr(estimator, "fit") else estimator
    with pytest.raises(ModelRefused, match=message):
        batch.register(fitted_estimator, "refused", X[NUMBERS], root=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_search_is_refused_with_what_to_register_instead(tmp_path: Path) -> None:
    """The model a search found is its best_estimator_."""
    search = GridSearchCV(Ridge(), {"alpha": [1, 2]}, cv=2).fit(X[NUMBERS], X["spend"])
    with pytest.raises(ModelNotTrusted) as caught:
        batch.register(search, "search", X[NUMBERS], root=str(tmp_path))
    assert "best_estimator_" in caught.value.hint
    assert batch.register(search.best_estimator_, "search", X[NUMBERS], root=str(tmp_path)).version == 1


def test_an_estimator_that_was_not_fitted_is_refused(tmp_path: Path) -> None:
    """One sentence, not scikit-learn's traceback."""
    with pytest.raises(ModelRefused, match="LogisticRegression has no classes_: it is not fitted"):
        batch.register(LogisticRegression(), "unfitted", X[NUMBERS], root=str(tmp_path))


def test_metrics_are_stored_as_given_and_never_invented(root: str) -> None:
    """Without metrics there are none, also where y would allow some; a metric that is no number is refused."""
    register = partial(batch.register, simple(), "metrics", X[NUMBERS], WORDS, root=root)
    assert registry.describe(root, "metrics", register().version)["metrics"] == {}
    assert registry.describe(root, "metrics", register(metrics={"auc": np.float64(0.5)}).version)["metrics"] == {
        "auc": 0.5
    }
    with pytest.raises(UsageError, match="'auc' is nan"):
        register(metrics={"auc": float("nan")})
    with pytest.raises(UsageError, match="X has 200 rows and y has 3"):
        batch.register(simple(), "metrics", X[NUMBERS], [1, 2, 3], root=root)


def test_required_means_no_null_in_training(root: str) -> None:
    """A column with a null in X may be null later."""
    estimator, frame, target = fitted("hist-boosting-categories")
    holes = frame.assign(spend=frame["spend"].mask(frame["spend"] > 1))
    version = batch.register(estimator.fit(holes, target), "holes", holes, root=root)
    required = {column.name: column.required for column in bundle.resolve(version.uri, root).signature}
    assert required == {"age": True, "spend": False, "visits": True, "plan": True}


def test_a_bundle_tells_other_tools_what_it_is(stored: ResolvedModel) -> None:
    """MLmodel has MLflow's signature and the types skops needs, requirements.txt the pins, README.md the facts."""
    lines = dict(
        line.strip().split(": ", 1) for line in Path(stored.uri, "MLmodel").read_text().splitlines() if ": " in line
    )
    assert json.loads(json.loads(lines["inputs"]))[0] == {"type": "long", "name": "age", "required": True}
    assert json.loads(lines["serialization_format"]) == "skops"
    assert (
        f"scikit-learn=={stored.card['libraries']['scikit-learn']}\n"
        in Path(stored.uri, "requirements.txt").read_text()
    )
    assert "| age | long | yes | int64 |" in Path(stored.uri, "README.md").read_text()


def test_mlmodel_lists_the_types_of_a_tree(registered: Registered) -> None:
    """MLflow trusts only the types that the file names; they are those this one needs."""
    _, _, resolved = registered("one-feature")
    text = Path(resolved.uri, "MLmodel").read_text()
    assert 'skops_trusted_types: ["sklearn.tree._tree.Tree"]\n' in text


# --- files


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Training data with an id and the target beside the features."""
    path = str(tmp_path / "train.parquet")
    X.assign(id=range(len(X)), label=WORDS).to_parquet(path)
    return path


def test_a_saved_skops_model_is_registered_with_its_data(tmp_path: Path, data: str) -> None:
    """The features are what the model was fitted on, whatever else the file holds."""
    skops.io.dump(simple(), tmp_path / "m.skops")
    version = registry.register_file(
        str(tmp_path / "m.skops"), "file", data, root=str(tmp_path), target="label", alias="new"
    )
    resolved = bundle.resolve("models:/file@new", str(tmp_path))
    assert (resolved.version, [column.name for column in resolved.signature]) == (version.version, NUMBERS)


def test_csv_data_will_do(tmp_path: Path) -> None:
    """Numbers and text need no Parquet."""
    skops.io.dump(simple(), tmp_path / "m.skops")
    X.to_csv(tmp_path / "train.csv", index=False)
    assert (
        registry.register_file(
            str(tmp_path / "m.skops"), "csv", str(tmp_path / "train.csv"), root=str(tmp_path)
        ).version
        == 1
    )


def test_a_saved_joblib_model_needs_its_digest(tmp_path: Path, data: str) -> None:
    """Pinned it is read, and stored as skops, so that no job has to pin it again."""
    path = tmp_path / "m.joblib"
    joblib.dump(simple(), path)
    with pytest.raises(ModelNotTrusted) as caught:
        registry.register_file(str(path), "joblib", data, root=str(tmp_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in caught.value.hint
    version = registry.register_file(str(path), "joblib", data, root=str(tmp_path), pickle_sha256=[digest])
    assert bundle.load(bundle.resolve(version.uri, "")).card["model_file"] == bundle.SKOPS


class Doubling(Ridge):  # type: ignore[misc]
    """An estimator of somebody's own, which no allow-list can name."""

    def predict(self, frame: Any) -> Any:
        return 2 * super().predict(frame)


def test_a_custom_class_stays_a_pickle_that_every_load_pins(tmp_path: Path, data: str) -> None:
    """What skops cannot hold is kept as it came; the registrar's pin does not speak for later runs."""
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(Doubling().fit(X[NUMBERS], X["spend"])))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    version = registry.register_file(str(path), "custom", data, root=str(tmp_path), pickle_sha256=[f"sha256:{digest}"])
    resolved = bundle.resolve(version.uri, "")
    with pytest.raises(ModelNotTrusted):
        bundle.load(resolved)
    assert bundle.load(resolved, pickle_sha256=[digest]).card["model_file"] == bundle.JOBLIB


@pytest.mark.parametrize(
    ("model", "training", "kind", "message"),
    [
        ("none.skops", "train.parquet", ModelRefused, "there is no file"),
        ("m.skops", "none.csv", batch.errors.InputMissing, "there is no file"),
        ("m.onnx", "train.parquet", UsageError, "not a model file"),
        ("m.skops", "m.skops", UsageError, r"neither \.csv nor \.parquet"),
        ("m.skops", "broken.parquet", batch.errors.InputFormatError, "cannot be read as parquet"),
    ],
)
def test_files_that_will_not_do(tmp_path: Path, data: str, model: str, training: str, kind: Any, message: str) -> None:
    """Each has a sentence of its own."""
    skops.io.dump(simple(), tmp_path / "m.skops")
    (tmp_path / "m.onnx").touch()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(kind, match=message):
        registry.register_file(str(tmp_path / model), "wrong", str(tmp_path / training), root=str(tmp_path))


def test_concurrent_loads_do_not_disturb_each_other(stored: ResolvedModel) -> None:
    """Loading is safe from several threads; each gets a model of its own."""
    barrier = threading.Barrier(4)

    def load(_: int) -> LoadedModel:
        barrier.wait()
        return bundle.load(stored)

    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(load, range(4)))
    assert len({id(model.estimator) for model in models}) == 4
    assert replace(stored) == stored
