"""What every program is given: seeded files in the bucket, and models, each as a registered version, a joblib file and an MLflow model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

import batch
from batch.storage.s3 import S3Storage
from benchmarks.environments import WORK, EnvironmentFailed, python_of
from benchmarks.measured import ROOT
from benchmarks.memory import DOUBLES, PIECE_ROWS, frame

BUCKET = "benchmark"
ROOT_URI = f"s3://{BUCKET}"
WIDE_COLUMNS = 199
WIDE_SHARE = 10
"""The wide input has one tenth of the rows of the others."""
TRAINING_ROWS = 20_000
TEXTS = ["plan", "region"]
NUMBERS = [*DOUBLES, "visits", "cents"]
MODELS = ("logistic", "boosting", "forest")


def wide_frame(first: int, rows: int) -> pd.DataFrame:
    """Rows `first` and on: an id and 199 doubles."""
    rng = np.random.default_rng([8, first])
    values = rng.normal(size=(rows, WIDE_COLUMNS)).round(5)
    wide = pd.DataFrame(values, columns=[f"w{number}" for number in range(WIDE_COLUMNS)])
    wide.insert(0, "id", np.arange(first, first + rows))
    return wide


def make_file(shape: str, rows: int) -> Path:
    """The file of a shape (``csv``, ``parquet``, ``wide``), written once and kept."""
    suffix = "parquet" if shape == "parquet" else "csv"
    make, count = (wide_frame, rows // WIDE_SHARE) if shape == "wide" else (frame, rows)
    path = WORK / "inputs" / f"{shape}-{count}.{suffix}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    schema = pa.Table.from_pandas(make(0, 1), preserve_index=False).schema
    with _writer(suffix, partial, schema) as writer:
        for first in range(0, count, PIECE_ROWS):
            piece = make(first, min(PIECE_ROWS, count - first))
            writer.write_table(pa.Table.from_pandas(piece, schema=schema, preserve_index=False))
    partial.rename(path)
    return path


def _writer(suffix: str, path: Path, schema: pa.Schema) -> Any:
    if suffix == "parquet":
        return pa.parquet.ParquetWriter(path, schema)
    return pa.csv.CSVWriter(path, schema, write_options=pa.csv.WriteOptions(quoting_style="none"))


def upload(path: Path) -> str:
    """Put a file into the bucket; its URI.

    With a type that is not text: SeaweedFS would compress it, and decompress it again for every program that reads it, which takes more of
    the two cores than the programs do.
    """
    key = f"in/{path.name}"
    client = S3Storage().connection.client()
    with path.open("rb") as body:  # as one object: the parts of an upload have no type
        client.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType="application/vnd.benchmark")
    return f"{ROOT_URI}/{key}"


def _pipeline(name: str) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if name == "wide":
        return make_pipeline(StandardScaler(), LogisticRegression())
    encode = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), TEXTS),
            ("numbers", StandardScaler(), NUMBERS),
        ]
    )
    makers: dict[str, Callable[[], Any]] = {
        "logistic": LogisticRegression,
        "boosting": lambda: HistGradientBoostingClassifier(max_iter=200, random_state=0),
        "forest": lambda: RandomForestClassifier(n_estimators=200, max_depth=10, random_state=0),
    }
    return make_pipeline(encode, makers[name]())


def train(name: str) -> tuple[Path, pd.DataFrame]:
    """Fit a model once and keep it as a joblib file; with it the rows it was fitted on."""
    path = WORK / "models" / f"{name}-{version('scikit-learn')}.joblib"
    rows = wide_frame(0, TRAINING_ROWS // 4) if name == "wide" else frame(0, TRAINING_ROWS)
    sample = rows.drop(columns="id")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(9).normal(size=len(sample))
        truth = sample.iloc[:, 0] + sample.iloc[:, 1] + noise
        joblib.dump(_pipeline(name).fit(sample, np.where(truth > 0, "yes", "no")), path)
        sample.head(1_000).to_parquet(path.with_suffix(".sample.parquet"))
    return path, sample


def register(name: str) -> Path:
    """Have a model in the registry of this server; its joblib file."""
    path, sample = train(name)
    batch.register(joblib.load(path), name, X=sample, root=ROOT_URI)
    return path


def save_for_mlflow(path: Path) -> None:
    """Have MLflow's own copy of a model, saved by MLflow in its environment. Raises `EnvironmentFailed`."""
    if Path(f"{path}.mlflow").exists():
        return
    script = str(ROOT / "benchmarks" / "peers" / "save_mlflow.py")
    command = [python_of("mlflow"), script, str(path), str(path.with_suffix(".sample.parquet"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailed(done.stderr.strip().splitlines()[-1])
