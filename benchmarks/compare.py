"""Whether two programs predicted the same: ids and predictions equal, probabilities within a tolerance, in whatever order."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from batch.storage import storage_for

TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of an output by ascending id."""

    ids: np.ndarray
    yes: np.ndarray
    """Whether the prediction is the second class."""
    probability: np.ndarray
    in_order: bool
    """Whether they were written that way."""

    def save(self, path: Path) -> None:
        np.savez(path, ids=self.ids, yes=self.yes, probability=self.probability)


def saved(path: Path) -> Rows:
    """What `Rows.save` kept."""
    with np.load(path) as found:
        return Rows(found["ids"], found["yes"], found["probability"], in_order=True)


def read(uri: str) -> Rows:
    """Read one output, or all parts below a URI that ends in a slash."""
    storage = storage_for(uri)
    listed = [storage.head(uri)] if not uri.endswith("/") else list(storage.list(uri))
    parts = [storage.read(info, 0, info.size_bytes) for info in listed if info is not None and info.size_bytes]
    if not parts:
        raise ValueError(f"no output at {uri}")
    if parts[0].lstrip()[:1] == b"{":
        return _from_mlflow(parts[0])
    tables = [pa.csv.read_csv(io.BytesIO(part)) for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    ids = table["id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    yes = np.asarray(table["prediction"].to_pylist(), dtype=object) == "yes"
    return Rows(ids[order], yes[order], table["probability"].to_numpy()[order], bool((order[:-1] < order[1:]).all()))


def _from_mlflow(body: bytes) -> Rows:
    """Probabilities of both classes, without ids: the position stands for the id, the larger one for the prediction."""
    both = np.asarray(
        [tuple(one.values()) if isinstance(one, dict) else one for one in json.loads(body)["predictions"]]
    )
    return Rows(np.arange(len(both)), both[:, 1] > both[:, 0], both[:, 1], in_order=True)


def difference(ours: Rows, theirs: Rows) -> str:
    """What is different, in a few words; empty where nothing is."""
    if len(ours.ids) != len(theirs.ids):
        return f"{len(theirs.ids):,} rows instead of {len(ours.ids):,}"
    if (ours.ids != theirs.ids).any():
        return "other ids"
    apart = float(np.abs(ours.probability - theirs.probability).max(initial=0.0))
    if apart > TOLERANCE:
        return f"probabilities differ by up to {apart:.1e}"
    unlike = int((ours.yes != theirs.yes).sum())
    return f"{unlike:,} predictions differ" if unlike else ""
