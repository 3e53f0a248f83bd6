"""Models that take their process with them, or never come back: what an out-of-memory kill and a hang look like."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from batch.models import registry
from tests.run_cases import FEATURES, Bench, encode, rows

POISON_AGE = 200.0
SILENT_AGE = 201.0


class Deadly(ClassifierMixin, BaseEstimator):
    """Predicts "no", and kills its process on a row of age `POISON_AGE`: always, or once where `flag` names a file."""

    def __init__(self, flag: str = "") -> None:
        self.flag = flag

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.feature_names_in_ = np.array(list(X.columns), dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def predict_proba(self, X):
        ages = np.asarray(X)[:, 0].astype(float)
        if (ages >= POISON_AGE).any() and not (self.flag and Path(self.flag).exists()):
            if self.flag:
                Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.column_stack([np.full(len(ages), 0.75), np.full(len(ages), 0.25)])

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class Stuck(Deadly):
    """Does not come back to Python for minutes on a row of age `POISON_AGE`, so that no signal handler can run."""

    def predict_proba(self, X):
        if (np.asarray(X)[:, 0].astype(float) >= POISON_AGE).any():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
        return np.column_stack([np.full(len(X), 0.75), np.full(len(X), 0.25)])


class Picky(Deadly):
    """Raises on a row of age `POISON_AGE`, and has no probability for one of `SILENT_AGE`."""

    def predict_proba(self, X):
        ages = np.asarray(X)[:, 0].astype(float)
        if (ages == POISON_AGE).any():
            raise ValueError(f"nobody is {POISON_AGE:g}")
        score = np.where(ages == SILENT_AGE, np.nan, 0.25)
        return np.column_stack([1 - score, score])


class Slow(Deadly):
    """Takes a fifth of a second for each call with more rows than one."""

    def predict_proba(self, X):
        time.sleep(0.2 if len(X) > 1 else 0)  # the golden rows are replayed one by one
        return np.column_stack([np.full(len(X), 0.75), np.full(len(X), 0.25)])


class Sleeper(Deadly):
    """Thinks for a long while about a row of age `POISON_AGE`."""

    def predict_proba(self, X):
        if (np.asarray(X)[:, 0].astype(float) == POISON_AGE).any():
            time.sleep(30)
        return np.column_stack([np.full(len(X), 0.75), np.full(len(X), 0.25)])


def deadly_bench(tmp_path, estimator):
    """400 customers, one of whom is poison to `estimator`, which is a pinned pickle; and the settings of a job for them."""
    tmp_path.mkdir(exist_ok=True)
    table = rows(400)
    estimator.fit(table[FEATURES], np.where(table["age"] > 50, "yes", "no"))
    sink = io.BytesIO()
    joblib.dump(estimator, sink)
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    (tmp_path / "m.joblib").write_bytes(sink.getvalue())
    table[FEATURES].to_parquet(tmp_path / "data.parquet")
    registry.register_file(
        str(tmp_path / "m.joblib"), "deadly", str(tmp_path / "data.parquet"), root=str(tmp_path), pickle_sha256=[digest]
    )
    made = Bench(str(tmp_path), "models:/deadly/1", tmp_path)
    table.loc[150, "age"] = POISON_AGE
    made.put("in.csv", encode(table, "csv"))
    settings = {
        "run__chunk_bytes": 2048,
        "run__engine": "processes",
        "run__workers": 2,
        "trust__pickle_sha256": [digest],
    }
    return made, settings
