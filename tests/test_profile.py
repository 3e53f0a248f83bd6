"""Profiles: counted in the scoring pass, merged without a trace of the cuts, the same whoever counted."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batch
from batch.execution.retry import retry
from batch.models.outputs import Outputs
from batch.models.profile import profile as reference_of
from batch.models.profile import usable
from batch.monitor.exact import as_fraction, exact_sums, packed, unpacked
from batch.monitor.profile import EXAMPLES_MAX, GROUPS_MAX, Profile
from batch.monitor.profiler import Profiler
from batch.monitor.summary import summarise
from tests.run_cases import FEATURES, Bench, encode, estimator, rows

OUTPUTS = Outputs("classifier", (("prediction", "string"), ("probability", "double")), ("no", "yes"), "argmax")
SCHEMA = pa.schema(
    [
        ("age", pa.int64()),
        ("spend", pa.float64()),
        ("since", pa.timestamp("us")),
        ("product", pa.string()),
        ("vip", pa.bool_()),
    ]
)
floats = st.floats(allow_nan=False, allow_infinity=False)


def features(count: int, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "age": rng.integers(18, 90, count),
            "spend": rng.normal(size=count),
            "since": pa.array(rng.integers(0, 10**15, count), pa.timestamp("us")),
            "product": rng.choice(["basic", "plus", "pro"], count),
            "vip": rng.random(count) < 0.3,
        },
        schema=SCHEMA,
    )


REFERENCE = usable(
    json.loads(
        json.dumps(reference_of(features(400), pa.chunked_array([np.random.default_rng(2).random(400)]), "probability"))
    )
)

customers = st.fixed_dictionaries(
    {
        "age": st.none() | st.integers(-(2**53), 2**53),
        "spend": st.none() | floats,
        "since": st.none() | st.integers(-(10**15), 10**16),
        "product": st.none() | st.sampled_from(["basic", "plus", "pro", "new", "ünknown"]) | st.text(max_size=3),
        "vip": st.none() | st.booleans(),
        "score": st.floats(0, 1),
        "variant": st.sampled_from(["champion", "challenger"]),
    }
)


def counted(found: list[dict[str, Any]]) -> Profile:
    """The profile of some rows, through the bytes in which a chunk holds it."""
    table = pa.Table.from_pylist(found, schema=SCHEMA)
    scores = [one["score"] for one in found]
    outputs = pa.table(
        {
            "prediction": pa.array(["yes" if score > 0.5 else "no" for score in scores], pa.string()),
            "probability": pa.array(scores, pa.float64()),
            "variant": pa.array([one["variant"] for one in found], pa.string()),
        }
    )
    profiler = Profiler({"champion": REFERENCE, "challenger": {}}, OUTPUTS, "champion", "variant", "product")
    profiler.add(table, outputs)
    return Profile.from_bytes(profiler.section())


@given(st.lists(customers, max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_profiles_of_any_cut_are_the_profile_of_the_whole(found: list[dict[str, Any]], cuts: list[int]) -> None:
    """To the last byte, also of the sums, and in any order of the parts."""
    ends = [0, *sorted(min(cut, len(found)) for cut in cuts), len(found)]
    parts = [counted(found[start:end]) for start, end in pairwise(ends)]
    for order in (parts, parts[::-1]):
        merged = Profile()
        for part in order:
            merged.merge(Profile.from_bytes(part.to_bytes()))
        assert merged.to_bytes() == counted(found).to_bytes()


@given(st.lists(floats, max_size=40), st.randoms(use_true_random=False))
def test_sums_are_exact(values: list[float], random: Any) -> None:
    """Whatever cancels, over- or underflows in floats."""
    codes = [random.randrange(3) for _ in values]
    found = exact_sums(np.array(values, np.float64), np.array(codes, np.int64), 3)
    wanted = [
        sum((Fraction(value) for value, of in zip(values, codes, strict=True) if of == code), Fraction(0))
        for code in range(3)
    ]
    assert [as_fraction(total) for total in found] == wanted
    assert [unpacked(packed(total)) for total in found] == found


@given(st.lists(customers, min_size=1, max_size=40))
def test_counts_are_those_of_the_reference(found: list[dict[str, Any]]) -> None:
    """Bins, nulls, values out of range and unknown ones, as the definition says, row by row."""
    summary = summarise(counted(found), {"champion": REFERENCE, "challenger": {}}, OUTPUTS, "champion")
    reference, column = REFERENCE["columns"]["spend"], summary["columns"]["spend"]
    values = [one["spend"] for one in found if one["spend"] is not None]
    edges = [-math.inf, *reference["edges"], math.inf]
    assert column["counts"] == [sum(low < one <= high for one in values) for low, high in pairwise(edges)]
    assert column["below"] == sum(one < reference["minimum"] for one in values)
    assert column["above"] == sum(one > reference["maximum"] for one in values)
    assert column["nulls"] == len(found) - len(values)
    product = [one["product"] for one in found if one["product"] is not None]
    strange = [one for one in product if one not in {"basic", "plus", "pro"}]
    assert dict(summary["columns"]["product"]["values"]) == {
        name: product.count(name) for name in ("basic", "plus", "pro")
    }
    assert summary["columns"]["product"]["other"] == len(strange)
    assert summary["columns"]["product"]["unseen"] == [
        [text, strange.count(text)] for text in sorted(set(strange))[:EXAMPLES_MAX]
    ]
    for variant in {one["variant"] for one in found}:
        scores = [one["score"] for one in found if one["variant"] == variant]
        told = summary["scores"][variant]
        assert (told["rows"], sum(told["counts"])) == (len(scores), len(scores))
        assert math.isclose(told["mean"], math.fsum(scores) / len(scores), rel_tol=1e-12, abs_tol=1e-10)
        if len(scores) > 1:
            assert math.isclose(
                told["sd"], np.std(scores, ddof=1), rel_tol=1e-9, abs_tol=1e-5
            )  # squares are rounded once
    for group in summary["groups"]["groups"]:
        mine = [one for one in found if one["product"] == group["group"]]
        assert (group["rows"], sum(group["labels"].values()), sum(group["counts"])) == (len(mine),) * 3


def test_too_many_groups_are_none() -> None:
    """Whether they come in one chunk or in several."""

    def of(numbers: range) -> Profile:
        return counted([{"product": f"p{number}", "score": 0.5, "variant": "champion"} for number in numbers])

    whole, merged = of(range(GROUPS_MAX + 1)), of(range(GROUPS_MAX))
    assert (whole.too_many, whole.groups) == (True, {})
    assert (merged.too_many, len(merged.groups)) == (False, GROUPS_MAX)
    merged.merge(of(range(GROUPS_MAX, GROUPS_MAX + 1)))
    assert (merged.too_many, merged.groups) == (True, {})


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [2.0, 1.0]},
        {"edges": [0.0, math.inf]},
        {"counts": [1]},
        {"counts": [-1] * 10},
        {"nulls": 1.5},
        {"kind": "other"},
        {"edges": ["a"] * 9},
        {"minimum": "x"},
        {"edges": list(range(2_000)), "counts": [0] * 2_001},
    ],
    ids=str,
)
def test_a_profile_that_makes_no_sense_is_left_out(change: dict[str, Any]) -> None:
    """A bundle may come from anywhere: what cannot be counted against is not, and the rest is."""
    bad = {**REFERENCE, "columns": {**REFERENCE["columns"], "spend": {**REFERENCE["columns"]["spend"], **change}}}
    assert usable(bad)["columns"].keys() == REFERENCE["columns"].keys() - {"spend"}
    assert usable(REFERENCE) == REFERENCE
    for nothing in (None, [], {}, {"format": 99}, {"format": 1, "columns": 3}):
        assert not usable(nothing).get("columns")


def summary_of(bench: Bench, receipt: dict[str, Any]) -> dict[str, Any]:
    body = bench.get(f"runs/weekly/{receipt['run_id']}/summary.json")
    assert body is not None
    document: dict[str, Any] = json.loads(body)
    assert document["rows"] == receipt["rows"]
    profile: dict[str, Any] = document["profile"]
    return profile


def test_every_format_chunk_size_and_engine_counts_the_same(bench: Bench) -> None:
    """The summary of a run is a function of its rows; and its groups are what pandas makes of them."""
    table = rows(500)
    found = []
    for name, chunk_bytes, engine in [
        ("a.csv", 2_000, "threads"),
        ("b.jsonl", 9_000, "inline"),
        ("c.parquet", 10**6, "inline"),
    ]:
        bench.put(name, encode(table.sample(frac=1, random_state=3), name.rsplit(".", 1)[-1]))
        settings = {"run__chunk_bytes": chunk_bytes, "run__engine": engine, "report__group_by": "product"}
        found.append(summary_of(bench, bench.run(name, f"out-{name}", **settings).as_dict()))
    assert found[0] == found[1] == found[2]
    scores = pd.Series(estimator().predict_proba(table[FEATURES])[:, 1]).groupby(table["product"])
    groups = {one["group"]: one for one in found[0]["groups"]["groups"]}
    assert groups.keys() == set(table["product"])
    for name, mean in scores.mean().items():
        assert groups[name]["mean"] == pytest.approx(mean, rel=1e-9)
        assert groups[name]["sd"] == pytest.approx(scores.std()[name], rel=1e-9)
        assert groups[name]["rows"] == scores.size()[name]


def test_a_group_column_that_nobody_else_reads(bench: Bench) -> None:
    """It is read for the report, and the output does not change by that; one that is not there makes no groups."""
    bench.put("in.csv", encode(rows(80), "csv"))
    plain = bench.run("in.csv", "out.csv", output__keep=["customer_id"]).as_dict()
    body = bench.get("out.csv")
    for column, groups in [("note", 4), ("nowhere", None)]:
        settings = {"output__keep": ["customer_id"], "report__group_by": column}
        receipt = batch.run(bench.job("in.csv", "out.csv", **settings), force=True).as_dict()
        assert receipt["run_id"] != plain["run_id"]
        assert bench.get("out.csv") == body
        found = summary_of(bench, receipt)["groups"]
        assert (len(found["groups"]) if found else None) == groups


def test_mended_rows_are_counted(bench: Bench) -> None:
    """The profile after a retry is that of a file that was right from the start."""
    table = rows(120)
    broken = table.astype({"age": object})
    broken.loc[[5, 77], "age"] = "many"
    bench.put("in.csv", encode(broken, "csv"))
    settings: dict[str, Any] = {"run__chunk_bytes": 1_000, "report__group_by": "product", "rejects__max_rows": 5}
    first = bench.run("in.csv", "out.csv", **settings).as_dict()
    before = summary_of(bench, first)
    mended = pd.DataFrame(bench.records("out.rejects.csv"))
    mended["age"] = table["age"][[5, 77]].to_list()
    fixed = bench.put("fixed.csv", encode(mended, "csv"))
    after = summary_of(bench, retry(bench.root, first["run_id"], fixed).as_dict())
    bench.put("right.csv", encode(table, "csv"))
    whole = summary_of(bench, bench.run("right.csv", "other.csv", **settings).as_dict())
    assert after == whole != before
