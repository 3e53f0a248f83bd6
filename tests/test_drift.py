"""Drift: real shifts are found, small samples do not cry wolf, and the state reaches receipt, exit code and `monitor check`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner

import batch
from batch.cli import program
from batch.errors import InputMissing
from batch.models.outputs import Outputs
from batch.models.profile import profile as reference_of
from batch.monitor.check import check
from batch.monitor.drift import MIN_ROWS, Thresholds, chance_psi, chi_square_quantile, measure, psi
from batch.monitor.profile import Profile
from batch.monitor.profiler import Profiler
from batch.monitor.summary import summarise
from tests.run_cases import Bench, encode, rows

OUTPUTS = Outputs("regressor", (("prediction", "double"),))
THRESHOLDS = Thresholds(0.1, 0.25)
COLUMNS = 8
"""Numeric ones; as many again are categories."""


def drawn(count: int, rng: np.random.Generator, shift: float = 0.0) -> tuple[pa.Table, pa.Table]:
    """Rows and their scores; `shift` moves the first column by so many standard deviations."""
    columns: dict[str, Any] = {f"n{number}": rng.gamma(2.0, size=count) for number in range(COLUMNS)}
    columns["n0"] = columns["n0"] + shift * 2**0.5
    columns |= {
        f"c{number}": rng.choice(["a", "b", "c", "d"], count, p=[0.7, 0.2, 0.09, 0.01]) for number in range(COLUMNS)
    }
    return pa.table(columns), pa.table({"prediction": rng.normal(size=count)})


def drift(reference: dict[str, Any], table: pa.Table, outputs: pa.Table, previous: Any = None) -> dict[str, Any]:
    return measure(summary(reference, table, outputs), {"champion": reference}, THRESHOLDS, previous)


def summary(reference: dict[str, Any], table: pa.Table, outputs: pa.Table) -> dict[str, Any]:
    profiler = Profiler({"champion": reference}, OUTPUTS, "champion")
    profiler.add(table, outputs)
    return summarise(Profile.from_bytes(profiler.section()), {"champion": reference}, OUTPUTS, "champion")


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    table, outputs = drawn(20_000, np.random.default_rng(1))
    return reference_of(table, outputs["prediction"], "prediction")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "runs"), [(30, 500), (100, 500), (1_000, 300), (100_000, 10)])
def test_no_false_alarms(reference: dict[str, Any], count: int, runs: int) -> None:
    """Of runs without drift fewer than one in a hundred is over any limit, at any size: 17 columns are looked at in each."""
    rng = np.random.default_rng(count)
    states = [drift(reference, *drawn(count, rng))["state"] for _ in range(runs)]
    assert "unknown" not in states
    assert sum(state != "ok" for state in states) / runs < 0.01


@pytest.mark.parametrize(
    ("count", "shift", "state"),
    [(100, 1.5, "alert"), (10_000, 0.22, "warn"), (1_000, 1.0, "alert"), (50_000, 0.05, "ok")],
)
def test_a_shift_is_found_by_its_size(reference: dict[str, Any], count: int, shift: float, state: str) -> None:
    """A shift that matters is found with few rows, and one that does not matter is none with many."""
    rng = np.random.default_rng(5)
    found = [drift(reference, *drawn(count, rng, shift)) for _ in range(10)]
    assert sum(one["state"] == state for one in found) == 10
    if state != "ok":
        assert {one["columns"][0]["column"] for one in found} == {"n0"}


def test_few_rows_say_nothing(reference: dict[str, Any]) -> None:
    table, outputs = drawn(MIN_ROWS - 1, np.random.default_rng(1), shift=9)
    found = drift(reference, table, outputs)
    assert (found["state"], found["columns"], found["reason"]) == ("unknown", [], f"fewer than {MIN_ROWS} rows")
    assert measure(None, {}, THRESHOLDS)["state"] == "unknown"


def test_nulls_unknown_values_and_range_are_told(reference: dict[str, Any]) -> None:
    """They are part of the index, and named."""
    table, outputs = drawn(1_000, np.random.default_rng(2))
    half = np.arange(1_000) % 2 == 0
    table = table.set_column(0, "n0", pa.array(table["n0"].to_numpy(), mask=half))
    place = table.column_names.index("c0")
    table = table.set_column(place, "c0", pa.array(np.where(half, "zebra", table["c0"].to_pylist())))
    found = {one["column"]: one for one in drift(reference, table, outputs)["columns"]}
    assert (found["n0"]["state"], found["n0"]["nulls"], found["n0"]["reference_nulls"]) == ("alert", 0.5, 0)
    told = found["c0"]
    assert (told["state"], told["unseen"], told["examples"], told["reference_unseen"]) == ("alert", 0.5, ["zebra"], 0)
    assert told["total_variation"] == pytest.approx(0.5, abs=0.01)
    assert found["n1"]["outside"] < 0.01


def test_the_period_before(reference: dict[str, Any]) -> None:
    """Against the last one as well, where it was counted in the same bins; of another model only what fits."""
    rng = np.random.default_rng(3)
    before = json.loads(json.dumps(summary(reference, *drawn(5_000, rng, shift=1.0))))
    found = drift(reference, *drawn(5_000, rng, shift=1.0), previous=before)
    states = {(one["column"], one["against"]): one["state"] for one in found["columns"] if one["column"] == "n0"}
    assert states == {("n0", "training"): "alert", ("n0", "previous period"): "ok"}
    table, outputs = drawn(900, rng)
    other = reference_of(table, outputs["prediction"], "prediction")
    found = drift(other, *drawn(5_000, rng), previous=before)
    assert {one["kind"] for one in found["columns"] if one["against"] == "previous period"} == {"categorical"}


def test_psi_is_what_the_definition_says() -> None:
    now, then = np.array([10.0, 30.0, 0.0, 60.0]), np.array([25.0, 25.0, 0.0, 50.0])
    p, q = (np.array([10.5, 30.5, 60.5]) / 101.5, np.array([25.5, 25.5, 50.5]) / 101.5)
    assert psi(now, then) == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert psi(np.array([5.0, 0.0]), np.array([9.0, 0.0])) == 0.0
    # Abramowitz and Stegun, table 26.8.
    assert [round(chi_square_quantile(freedom, 0.01), 3) for freedom in (1, 9, 10)] == [6.635, 21.666, 23.209]
    assert chance_psi(10, 100, 50_000, 0.01) == pytest.approx(0.217, abs=0.001)


@pytest.mark.parametrize("name", ["n0", "c0", "flag", "at"])
@pytest.mark.parametrize("other", ["n0", "c0", "flag", "at"])
def test_a_reference_of_another_column_counts_nothing(name: str, other: str) -> None:
    """A forged profile may say of a column what is true of one of another type: then it is left out, and nothing breaks."""
    count = 50
    columns = {
        "n0": pa.array(range(count)),
        "c0": pa.array(["a", "b"] * (count // 2)),
        "flag": pa.array([True, False] * (count // 2)),
        "at": pa.array(range(count), pa.timestamp("us")),
    }
    scores = pa.table({"prediction": np.arange(count, dtype=float)})
    honest = reference_of(pa.table(columns), scores["prediction"], "prediction")
    forged = {**honest, "columns": {name: honest["columns"][other]}}
    counted = summary(forged, pa.table(columns), scores)["columns"]
    assert counted.keys() == ({name} if name == other else set())


def test_a_summary_that_somebody_changed_stops_no_run(bench: Bench) -> None:
    """The predictions are out: the drift is unknown, with the reason, and the receipt is written."""
    first = weeks(bench)[1]["previous"]["run_id"]
    bench.put(f"runs/weekly/{first}/summary.json", b'{"profile": {"reference": 3}}')
    job = bench.job("in-{period}.csv", "out-{period}.csv", WEEKLY)
    receipt = batch.run(job, period="2026-W46", force=True).as_dict()
    assert (receipt["state"], receipt["drift"]["state"]) == ("completed", "unknown")
    assert "cannot be compared" in receipt["drift"]["reason"]


WEEKLY = '[schedule]\nperiod = "week"\n'


def weeks(bench: Bench, shift: int = 0) -> list[dict[str, Any]]:
    """Two weeks of one job; in the second one customers are older by `shift` years."""
    found = []
    for week, years in (("2026-W45", 0), ("2026-W46", shift)):
        table = rows(400)
        table["age"] += years
        bench.put(f"in-{week}.csv", encode(table, "csv"))
        job = bench.job("in-{period}.csv", "out-{period}.csv", WEEKLY)
        found.append(batch.run(job, period=week).as_dict()["drift"])
    return found


def test_a_run_tells_its_drift(bench: Bench) -> None:
    """In the receipt: against training and the week before, with the columns of the largest shift first."""
    first, second = weeks(bench, shift=40)
    assert (first["state"], first["previous"]) == ("ok", None)
    assert {one["against"] for one in first["columns"]} == {"training"}
    assert second["state"] == "alert"
    assert second["previous"]["period"] == "2026-W45"
    assert second["columns"][0]["column"] == "age"
    assert {one["against"] for one in second["columns"] if one["state"] == "alert"} == {"training", "previous period"}
    assert [one["psi"] for one in second["columns"]] == sorted((one["psi"] for one in second["columns"]), reverse=True)


@pytest.mark.parametrize(("shift", "code"), [(0, 0), (40, 20)])
def test_exit_codes(bench: Bench, shift: int, code: int) -> None:
    """`run --fail-on-drift` after a run that is new or done, and `monitor check`, exit by the state; a plain run does not."""
    weeks(bench, shift)
    path = str(bench.folder / "weekly.toml")
    command = CliRunner()
    asked = [path, "--period", "2026-W46"]
    assert command.invoke(program, ["run", *asked]).exit_code == 0
    done = command.invoke(program, ["run", *asked, "--fail-on-drift", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["drift"]["state"]) == (code, "alert" if code else "ok")
    assert command.invoke(program, ["run", *asked, "--fail-on-drift", "--force"]).exit_code == code
    found = command.invoke(program, ["monitor", "check", *asked])
    assert found.exit_code == code
    assert ("alert: age against training: PSI" in found.stdout) == bool(code)
    told = command.invoke(program, ["monitor", "check", path, "--now", "2026-11-18T00:00", "--json"])
    assert (told.exit_code, json.loads(told.stdout)["subject"]) == (code, "2026-W46")


def test_thresholds_of_today_decide(bench: Bench) -> None:
    """What is over the old thresholds and under the new ones is fine, and the other way round."""
    weeks(bench, shift=40)
    job = bench.job("in-{period}.csv", "out-{period}.csv", WEEKLY, monitor__psi_warn=50, monitor__psi_alert=90)
    assert check(job, period="2026-W46")["state"] == "ok"
    job = bench.job("in-{period}.csv", "out-{period}.csv", WEEKLY, monitor__psi_warn=0, monitor__psi_alert=90)
    assert check(job, period="2026-W46")["state"] == "warn"
    job = bench.job("in-{period}.csv", "out-{period}.csv", WEEKLY, monitor__drift_ignore=["age"])
    ignoring = check(job, period="2026-W46")
    told = batch.run(job, period="2026-W46", force=True).as_dict()["drift"]
    for one in (ignoring["drift"], told):
        assert {column["column"] for column in one["columns"]} == {"spend", "product", "probability"}
    with pytest.raises(InputMissing, match="no completed run for 2026-W40") as refused:
        check(job, period="2026-W40")
    assert "2026-W45, 2026-W46" in refused.value.hint


@pytest.mark.slow
def test_a_model_without_a_profile_runs(bench: Bench, tmp_path: Path) -> None:
    """One whose profile makes no sense: nothing is compared, everything else is counted."""
    folder = Path(bench.model.replace("models/tiny/1/", "copy/"))
    folder.mkdir(parents=True)
    for name in Path(bench.model).iterdir():
        (folder / name.name).write_bytes(name.read_bytes())
    body = b'{"format": 1, "columns": {"age": {"kind": "numeric"}}}'
    (folder / "profile.json").write_bytes(body)
    card = json.loads((folder / "model.json").read_text())
    card["files"]["profile.json"] = {"sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body)}
    (folder / "model.json").write_text(json.dumps(card))
    bench.put("in.csv", encode(rows(50), "csv"))
    receipt = bench.run("in.csv", "out.csv", model=f"{folder}/", report__group_by="product").as_dict()
    assert receipt["drift"]["state"] == "unknown"
    assert receipt["drift"]["reason"] == "the model was registered without a profile"
    found = json.loads(bench.get(f"runs/weekly/{receipt['run_id']}/summary.json") or b"")["profile"]
    assert (found["columns"], len(found["groups"]["groups"])) == ({}, 3)
    assert pd.DataFrame(found["groups"]["groups"])["rows"].sum() == 50
