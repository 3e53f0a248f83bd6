"""A tiny model, its rows in every format, and jobs as TOML text: what the tests of whole runs share."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import batch
from batch.job import Job
from batch.storage import storage_for

FEATURES = ["age", "spend", "product"]
NOTES = ["plain", 'said "no", then\nleft', "è, ü", "=1+1"]


def rows(count: int = 60) -> pd.DataFrame:
    """Customers with ids that only text keeps whole, and notes that need quoting."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "customer_id": [f"{number:05d}" for number in range(123, 123 + count)],
            "age": rng.integers(18, 90, count),
            "spend": rng.normal(size=count),
            "product": rng.choice(["basic", "plus", "pro"], count),
            "note": [NOTES[number % len(NOTES)] for number in range(count)],
        }
    )


def estimator(strength: float = 1.0) -> Pipeline:
    """A fitted pipeline over `FEATURES`; another `strength` is another model."""
    table = rows(200)[FEATURES]
    encode = ColumnTransformer(
        [("text", OneHotEncoder(handle_unknown="ignore"), ["product"]), ("numbers", StandardScaler(), ["age", "spend"])]
    )
    labels = np.where(table["age"] / 50 + table["spend"] > 1.2, "yes", "no")
    return make_pipeline(encode, LogisticRegression(C=strength)).fit(table, labels)


def register(root: str, strength: float = 1.0) -> str:
    """The next version of model `tiny` under `root`, its alias `champion`; gives the URI of the bundle."""
    version = batch.register(estimator(strength), "tiny", rows(200)[FEATURES], root=root, alias="champion")
    return f"{root}/models/tiny/{version.version}/"


def predicted(frame: pd.DataFrame, size: int = 50_000) -> list[tuple[str, float]]:
    """Prediction and probability of each row, from the estimator itself in batches of `size`."""
    model, found = estimator(), []
    for start in range(0, len(frame), size):
        part = frame[FEATURES].iloc[start : start + size]
        scores = model.predict_proba(part)
        found += [(str(model.classes_[row.argmax()]), float(row[1])) for row in scores]
    return found


def encode(frame: pd.DataFrame, format_name: str) -> bytes:
    """The rows as a file of another program."""
    if format_name == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)
        return sink.getvalue()
    records = frame.to_dict("records")
    if format_name == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(frame.columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def compress(body: bytes, suffix: str) -> bytes:
    """`body` as a file that ends in `suffix`."""
    if suffix == ".gz":
        return gzip.compress(body)
    return pa.Codec("zstd").compress(body).to_pybytes() if suffix == ".zst" else body


def decode(body: bytes, name: str) -> list[dict[str, Any]]:
    """The records of an output file; CSV cells stay text."""
    if name.endswith(".gz"):
        body, name = gzip.decompress(body), name.removesuffix(".gz")
    if name.endswith(".zst"):
        stream = pa.CompressedInputStream(pa.BufferReader(body), "zstd")
        body, name = stream.read(), name.removesuffix(".zst")
    if name.endswith(".parquet"):
        return pq.read_table(io.BytesIO(body)).to_pylist()
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in body.decode().splitlines()]
    return list(csv.DictReader(io.StringIO(body.decode(), newline="")))


class Bench:
    """One root with its inputs, outputs and jobs."""

    def __init__(self, root: str, model: str, folder: Path) -> None:
        self.root, self.model, self.folder = root, model, folder

    def put(self, name: str, body: bytes) -> str:
        uri = f"{self.root}/{name}"
        storage_for(uri).replace(uri, iter([body]), -1)
        return uri

    def get(self, name: str) -> bytes | None:
        uri = f"{self.root}/{name}"
        return storage_for(uri).get(uri)

    def records(self, name: str) -> list[dict[str, Any]]:
        body = self.get(name)
        assert body is not None, name
        return decode(body, name)

    def names(self) -> dict[str, str]:
        """Every object under the root, except job files, with its ETag."""
        found = storage_for(self.root).list(f"{self.root}/")
        return {info.uri: info.etag for info in found if not info.uri.endswith(".toml")}

    def job(self, source: str, output: str, more: str = "", **settings: Any) -> Job:
        """A job over `source` to `output`, both below the root; `settings` use `__` for the dot of a key."""
        path = self.folder / "weekly.toml"
        path.write_text(
            f'name = "weekly"\nroot = "{self.root}"\nmodel = "{self.model}"\n'
            f'[input]\nuri = "{self.root}/{source}"\nid = "customer_id"\n'
            f'[output]\nuri = "{self.root}/{output}"\nkeep = ["customer_id", "product"]\n{more}'
        )
        return batch.load_job(str(path), set={key.replace("__", "."): value for key, value in settings.items()})

    def run(self, source: str, output: str, more: str = "", **settings: Any) -> Any:
        return batch.run(self.job(source, output, more, **settings))

    def delete(self, *uris: str) -> None:
        for uri in uris:
            os.remove(uri)
