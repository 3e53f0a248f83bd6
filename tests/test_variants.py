"""Variants: rows shared out by a hash of the id, and shadows that nobody notices."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import batch
from batch import routing
from batch.cli.text import summary
from batch.errors import JobInvalid, ModelMissing, ModelRefused, OutputRefused
from batch.execution.check import check
from batch.execution.retry import retry
from batch.execution.verify import verify
from batch.storage import storage_for
from tests.deadly import POISON_AGE, Picky, Sleeper, deadly_bench
from tests.run_cases import FEATURES, Bench, encode, estimator, register, rows

SPLIT = '[[variants]]\nname = "challenger"\nmodel = "{model}"\nweight = 0.3\n'
SHADOW = '[[variants]]\nname = "other"\nmodel = "{model}"\nmode = "shadow"\n'
ENGINES = ["inline", "threads", pytest.param("processes", marks=pytest.mark.slow)]
WAYS = [
    *((suffix, keep, "threads") for suffix in ("csv", "jsonl", "parquet") for keep in ("customer_id", "product", "*")),
    ("csv", "customer_id", "inline"),
    pytest.param("jsonl", "*", "processes", marks=pytest.mark.slow),
]
"""Format, what is kept, engine."""


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another model of the same shape."""
    root = str(tmp_path_factory.mktemp("challenger"))
    register(root)
    return register(root, 0.01)


def regressor() -> Any:
    """Of other features, one of them as another type: minutes from spend, and from ages as fractions."""
    table = rows(300)[["age", "spend", "note"]].astype({"age": float})
    encoder = ColumnTransformer([("text", OneHotEncoder(), ["note"]), ("numbers", "passthrough", ["age", "spend"])])
    return make_pipeline(encoder, LinearRegression()).fit(table, 3 * table["spend"] + table["age"]), table


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("minutes"))
    model, table = regressor()
    return batch.register(model, "minutes", table, root=root, ranges={"age": (0, 80)}).uri


# --- the hash


def test_the_hash_is_the_one_that_is_written_down() -> None:
    """The first 8 bytes of sha256 over salt, NUL and id, as a fraction of 2^64: anybody can compute it."""
    (found,) = routing.positions(pa.array(["C42"]), "weekly")
    assert found == int(hashlib.sha256(b"weekly\0C42").hexdigest()[:16], 16) / 2**64


def test_shares_are_the_weights() -> None:
    """Over 100,000 ids within three standard errors, whatever the salt, and independent between salts."""
    ids = pa.array([f"C{number:06d}" for number in range(100_000)])
    chosen = {salt: routing.assign(ids, salt, [0.1, 0.25]) for salt in ("a", "b", "c")}
    for each in chosen.values():
        for variant, weight in enumerate([0.1, 0.25, 0.65]):
            assert abs((each == variant).mean() - weight) < 3 * np.sqrt(weight * (1 - weight) / len(ids))
    both = ((chosen["a"] == 0) & (chosen["b"] == 0)).mean()
    assert abs(both - 0.01) < 3 * np.sqrt(0.01 * 0.99 / len(ids))


@given(ids=st.lists(st.text(max_size=8) | st.none(), max_size=30), more=st.floats(0, 0.5))
def test_a_customer_stays(ids: list[str | None], more: float) -> None:
    """Whoever stands beside it and in whatever order; and a larger share takes nobody away from the variant."""
    weights = [0.3]
    found = routing.assign(pa.array(ids, pa.string()), "s", weights).tolist()
    assert found == [int(routing.assign(pa.array([one], pa.string()), "s", weights)[0]) for one in ids]
    grown = routing.assign(pa.array(ids, pa.string()), "s", [0.3 + more]).tolist()
    assert all(after == 0 for before, after in zip(found, grown, strict=True) if before == 0)
    assert all(one == 1 for one, name in zip(found, ids, strict=True) if name is None)


# --- split


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "keep", "engine"), WAYS)
def test_each_row_is_scored_by_its_variant(bench: Bench, challenger: str, suffix: str, keep: str, engine: str) -> None:
    """In the order of the input, with who scored it; the receipt counts each variant's rows."""
    table = rows(300)
    bench.put(f"in.{suffix}", encode(table, suffix))
    settings = {"run__engine": engine, "run__chunk_bytes": 4000, "run__predict_rows": 50, "output__keep": [keep]}
    receipt = bench.run(f"in.{suffix}", f"out.{suffix}", SPLIT.format(model=challenger), **settings).as_dict()
    chosen = routing.assign(pa.array(table["customer_id"]), "weekly", [0.3])
    out = pd.DataFrame(bench.records(f"out.{suffix}"))
    names = {"*": [*table.columns]}.get(keep, [keep])
    assert [*out.columns] == [*names, "prediction", "probability", "variant", "model_version"]
    assert out["variant"].tolist() == np.where(chosen == 0, "challenger", "champion").tolist()
    assert out["model_version"].astype(int).tolist() == np.where(chosen == 0, 2, 1).tolist()
    expected = np.where(chosen == 0, *(estimator(c).predict_proba(table[FEATURES])[:, 1] for c in (0.01, 1.0)))
    assert out["probability"].astype(float).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    told = {one["variant"]: (one["mode"], one["weight"], one["version"], one["rows"]) for one in receipt["models"]}
    share = int((chosen == 0).sum())
    assert told == {"champion": ("split", 0.7, 1, 300 - share), "challenger": ("split", 0.3, 2, share)}
    assert not verify(bench.root, receipt["run_id"]).differences


def test_two_weeks_agree(bench: Bench, challenger: str) -> None:
    """The same customers in another order, other chunks, another format and another engine: the same variant each."""
    table = rows(2000)
    bench.put("one.csv", encode(table, "csv"))
    bench.put("two.jsonl", encode(table.sample(frac=1, random_state=3), "jsonl"))
    more = SPLIT.format(model=challenger)
    bench.run("one.csv", "one-out.csv", more, run__chunk_bytes=20_000, run__engine="threads")
    bench.run("two.jsonl", "two-out.jsonl", more, run__chunk_bytes=7_000, run__engine="inline")
    one, two = (
        {row["customer_id"]: (row["variant"], round(float(row["probability"]), 12)) for row in bench.records(name)}
        for name in ("one-out.csv", "two-out.jsonl")
    )
    assert one == two
    assert {variant for variant, _ in one.values()} == {"champion", "challenger"}


def test_another_weight_model_or_salt_is_another_run(bench: Bench, challenger: str) -> None:
    """And the order of asking does not matter: the same job again is done."""
    bench.put("in.csv", encode(rows(40), "csv"))
    more = SPLIT.format(model=challenger)
    runs = [
        bench.run("in.csv", "out.csv"),
        bench.run("in.csv", "out.csv", more),
        bench.run("in.csv", "out.csv", more.replace("0.3", "0.4")),
        bench.run("in.csv", "out.csv", more, salt="other"),
        bench.run("in.csv", "out.csv", more.replace(challenger, bench.model)),
    ]
    assert len({one.run_id for one in runs}) == 5
    assert bench.run("in.csv", "out.csv", more).run_id == runs[1].run_id


@pytest.mark.slow
def test_a_row_satisfies_every_delivering_signature(bench: Bench, challenger: str, tmp_path: Path) -> None:
    """The challenger was fitted on whole ages below 60: what it cannot score is rejected, also for the champion's customers."""
    table = rows(200)[FEATURES]
    root = str(tmp_path / "strict")
    strict = batch.register(estimator(0.5), "strict", table, root=root, ranges={"age": (0, 60)}).uri
    bench.put("in.csv", encode(rows(100), "csv"))
    receipt = bench.run("in.csv", "out.csv", SPLIT.format(model=strict), rejects__max_share=1.0).as_dict()
    assert receipt["rejects"][0]["by_code"] == {"range": int((rows(100)["age"] > 60).sum())}


@pytest.mark.slow
def test_number_types_that_differ_meet_in_the_narrower(bench: Bench, tmp_path: Path) -> None:
    """Ages were whole numbers to one and had gaps for the other: fractions are rejected, whole numbers scored by both."""
    table = rows(200)[FEATURES].astype({"age": float})
    other = batch.register(estimator(0.5), "floats", table, root=str(tmp_path / "floats")).uri
    frame = rows(100).astype({"age": object})
    frame.loc[5, "age"] = 30.5
    bench.put("in.csv", encode(frame, "csv"))
    receipt = bench.run("in.csv", "out.csv", SPLIT.format(model=other), rejects__max_rows=1).as_dict()
    assert receipt["rejects"][0]["by_code"] == {"type": 1}


def test_what_cannot_be_shared_out(bench: Bench, minutes: str, challenger: str, tmp_path: Path) -> None:
    """Other output columns, types that cannot meet, a variant that is not there: exit 4; and an id must be named."""
    bench.put("in.csv", encode(rows(10), "csv"))
    with pytest.raises(ModelRefused, match="variant 'challenger' gives the columns prediction double, the champion"):
        bench.run("in.csv", "out.csv", SPLIT.format(model=minutes))
    texts = rows(200)[FEATURES].astype({"age": str})
    encoder = ColumnTransformer([("text", OneHotEncoder(handle_unknown="ignore"), ["age", "product"])])
    from sklearn.linear_model import LogisticRegression

    labels = np.where(rows(200)["spend"] > 0, "yes", "no")
    odd = make_pipeline(encoder, LogisticRegression()).fit(texts, labels)
    uri = batch.register(odd, "odd", texts, root=str(tmp_path / "odd")).uri
    with pytest.raises(ModelRefused, match="column 'age' is long to the champion and string to variant 'challenger'"):
        bench.run("in.csv", "out.csv", SPLIT.format(model=uri))
    with pytest.raises(ModelMissing):
        bench.run("in.csv", "out.csv", SPLIT.format(model=f"{tmp_path}/nowhere/"))
    with pytest.raises(JobInvalid, match=r"input\.id: required, because variants"):
        bench.job("in.csv", "out.csv", SPLIT.format(model=challenger), input__id="")


# --- shadow


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "keep", "engine"), WAYS)
def test_a_shadow_scores_what_is_delivered(bench: Bench, minutes: str, suffix: str, keep: str, engine: str) -> None:
    """Into its own file, row beside row, null where it cannot; the delivered bytes are the same as without it."""
    table = rows(300).astype({"age": object})
    table.loc[7, "age"] = None
    bench.put(f"in.{suffix}", encode(table, suffix))
    settings = {
        "run__engine": engine, "run__chunk_bytes": 4000, "run__predict_rows": 50, "output__keep": [keep], "rejects__max_rows": 1,
    }  # fmt: skip
    bench.run(f"in.{suffix}", f"plain.{suffix}", **settings)
    receipt = bench.run(f"in.{suffix}", f"out.{suffix}", SHADOW.format(model=minutes), **settings).as_dict()
    assert bench.get(f"out.{suffix}") == bench.get(f"plain.{suffix}")
    found = bench.records(f"out.shadow-other.{suffix}")
    left = table.drop(7)
    assert len(found) == 299
    expected = regressor()[0].predict(left[["age", "spend", "note"]].astype({"age": float}))
    scored = np.array([float(row["prediction"]) if row["prediction"] not in {None, ""} else np.nan for row in found])
    assert np.isnan(scored).tolist() == (left["age"] > 80).tolist()
    assert scored[~np.isnan(scored)] == pytest.approx(expected[~np.isnan(scored)], rel=1e-9)
    names = {"*": [*table.columns]}.get(keep, [keep])
    assert [*found[0]] == [*names, "prediction"]
    (delivered, shadow) = receipt["output"]
    assert (delivered["role"], shadow["role"], shadow["variant"], shadow["rows"]) == (
        "predictions",
        "shadow",
        "other",
        299,
    )
    told = receipt["models"][1]
    assert (told["mode"], told["weight"], told["rows"]) == ("shadow", 0.0, int((left["age"] <= 80).sum()))
    assert not verify(bench.root, receipt["run_id"]).differences


def test_a_shadow_is_published_again(bench: Bench, minutes: str) -> None:
    """Its file is one of the run's: done again does nothing, and one that is gone is put back without scoring."""
    bench.put("in.csv", encode(rows(60), "csv"))
    more = SHADOW.format(model=minutes)
    bench.run("in.csv", "out.csv", more)
    before, uri = bench.get("out.shadow-other.csv"), f"{bench.root}/out.shadow-other.csv"
    assert bench.run("in.csv", "out.csv", more).already_done
    storage_for(uri).delete(uri)
    assert bench.run("in.csv", "out.csv", more).already_done
    assert bench.get("out.shadow-other.csv") == before


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_shadow_holds_nobody_up(bench: Bench, minutes: str, tmp_path: Path, engine: str) -> None:
    """Not found, changed after registration, without its columns, raising on rows: the receipt says so, the run is done."""
    table = rows(120)
    table.loc[3, "age"] = int(POISON_AGE)
    bench.put("in.csv", encode(table, "csv"))
    bench.put("narrow.csv", encode(table.drop(columns="note"), "csv"))
    bench.run("in.csv", "plain.csv")
    changed = tmp_path / "changed"
    made = batch.register(estimator(), "changed", rows(200)[FEATURES], root=str(changed))
    model = changed / "models" / "changed" / "1" / "model.skops"
    model.write_bytes(model.read_bytes() + b"x")
    (tmp_path / "picky").mkdir()
    picky, trusting = deadly_bench(tmp_path / "picky", Picky())
    cases = {
        f"{tmp_path}/nowhere/": ("in.csv", 0, "there is no model.json in"),
        made.uri: ("in.csv", 0, "model.skops has"),
        minutes: ("narrow.csv", 0, "the input has no column note"),
        f"{picky.root}/models/deadly/1/": ("in.csv", 119, "nobody is 200"),
    }
    for number, (uri, (source, count, said)) in enumerate(cases.items()):
        settings = trusting | {"run__engine": engine, "run__chunk_bytes": 2000}
        receipt = bench.run(source, f"out{number}.csv", SHADOW.format(model=uri), **settings).as_dict()
        assert (receipt["state"], receipt["models"][1]["rows"]) == ("completed", count)
        assert said in receipt["models"][1]["error"]
        assert bench.get(f"out{number}.csv") == bench.get("plain.csv")
        assert f"(other, shadow)  {count} rows; of others: {receipt['models'][1]['error']}" in summary(receipt)


def test_a_shadow_that_hangs_is_given_up_on(bench: Bench, tmp_path: Path) -> None:
    """After one call, not after one per batch; `check` tells of one that cannot be found, and `run` goes on without it."""
    slow, trusting = deadly_bench(tmp_path, Sleeper())
    table = rows(120)
    table["age"] = int(POISON_AGE)
    bench.put("in.csv", encode(table, "csv"))
    settings = trusting | {"run__engine": "inline", "run__chunk_bytes": 1000, "run__chunk_seconds": 0.5}
    began = time.monotonic()
    more = SHADOW.format(model=f"{slow.root}/models/deadly/1/")
    receipt = bench.run("in.csv", "out.csv", more, **settings).as_dict()
    assert (receipt["chunks"]["total"] > 3, time.monotonic() - began < 5) == (True, True)
    assert "did not come back within chunk_seconds" in receipt["models"][1]["error"]
    job = bench.job("in.csv", "two.csv", SHADOW.format(model="models:/nobody/1"), root=str(tmp_path))
    assert "there is no model 'nobody'" in check(job)["shadows"]["other"]
    said: list[str] = []
    batch.run(job, notice=said.append)
    assert said[0].startswith("shadow 'other' is left out: there is no model 'nobody'")


def test_a_shadow_eats_no_file(bench: Bench, minutes: str) -> None:
    """Somebody else's file under its name, or one of the run's own: exit 6 before anything is scored."""
    bench.put("in.csv", encode(rows(10), "csv"))
    bench.put("out.shadow-other.csv", b"precious\n")
    with pytest.raises(OutputRefused, match=r"out\.shadow-other\.csv"):
        bench.run("in.csv", "out.csv", SHADOW.format(model=minutes))
    bench.put("b.shadow-other.csv", encode(rows(10), "csv"))
    with pytest.raises(OutputRefused, match=r"the shadow's file .* is also another file of the run"):
        bench.run("b.shadow-other.csv", "b.csv", SHADOW.format(model=minutes))


@pytest.mark.slow
def test_mended_rows_go_to_their_variant_and_into_the_shadow(bench: Bench, challenger: str, minutes: str) -> None:
    """A retry gives the files that a run of the mended input gives."""
    table = rows(200).astype({"age": object})
    bad = [3, 50, 51, 199]
    table.loc[bad, "age"] = "old"
    bench.put("in.csv", encode(table, "csv"))
    more = SPLIT.format(model=challenger) + SHADOW.format(model=minutes)
    settings = {"run__chunk_bytes": 3000, "rejects__max_rows": 4}
    base = bench.run("in.csv", "out.csv", more, **settings).as_dict()
    table.loc[bad, "age"] = 40
    bench.put("mended.csv", encode(table, "csv"))
    bench.run("mended.csv", "whole.csv", more, **settings)
    fixed = bench.get("out.rejects.csv")
    assert fixed is not None
    receipt = retry(bench.root, base["run_id"], bench.put("fixed.csv", fixed.replace(b",old,", b",40,"))).as_dict()
    assert bench.records("out.csv") == bench.records("whole.csv")
    assert bench.records("out.shadow-other.csv") == bench.records("whole.shadow-other.csv")
    assert sum(one["rows"] for one in receipt["models"][:2]) == 200
    assert not verify(bench.root, receipt["run_id"]).differences
