"""Data capture for the next training: a sample of the rows that were delivered, the same ones on every rerun.

A row is kept if the salted hash of its id is among the smallest of the run. So the sample is a function of the ids alone, whatever the
chunks, engines and the order of the file; a customer who was kept last week is likely to be kept this week as well.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from batch.execution.chunk import ChunkRecord, read_section
from batch.execution.plan import Plan
from batch.formats.id_text import id_texts
from batch.formats.types import arrow_type
from batch.storage import storage_for

HASH = "__hash__"
SECTION = "capture"


class Capture:
    """The sample of one chunk while it is scored."""

    def __init__(self, plan: Plan) -> None:
        """`plan.capture_rows` of the columns `plan.captured` are kept; the id, as text, in front unless it is denied."""
        self._plan = plan
        self._key = hashlib.sha256(f"capture\0{plan.salt}".encode()).hexdigest()[:16]
        self._kept: pa.Table | None = None

    def add(self, rows: pa.Table) -> None:
        """Take in delivered rows."""
        ids = id_texts(rows, self._plan.id_column)
        plain = ids.fill_null("").to_numpy(zero_copy_only=False)
        hashes = pd.util.hash_array(plain, hash_key=self._key, categorize=False)
        few = _smallest(hashes, self._plan.capture_rows)
        table = pa.table([hashes[few], *self._columns(rows, ids, few)], schema=_schema(self._plan))
        self._kept = table if self._kept is None else smallest([self._kept, table], self._plan.capture_rows)

    def _columns(self, rows: pa.Table, ids: pa.Array, few: np.ndarray) -> Iterable[pa.Array]:
        places = pa.array(few)
        for column in self._plan.captured:
            values = ids if column.name == self._plan.id_column else rows[column.name].combine_chunks()
            yield values.take(places).cast(arrow_type(column.type))

    def section(self) -> bytes:
        """An Arrow stream of at most so many rows with their hashes; b"" where no row was delivered."""
        if self._kept is None:
            return b""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._kept.schema) as writer:
            writer.write_table(self._kept)
        return bytes(sink.getvalue())


def _schema(plan: Plan) -> pa.Schema:
    return pa.schema([(HASH, pa.uint64()), *((one.name, arrow_type(one.type)) for one in plan.captured)])


def _smallest(hashes: np.ndarray, count: int) -> np.ndarray:
    """Positions of the smallest hashes in ascending order; of equal ones the first."""
    return np.argsort(hashes, kind="stable")[:count]


def smallest(tables: list[pa.Table], count: int) -> pa.Table:
    """The rows with the smallest hashes of samples that stand in the order of their rows."""
    both = pa.concat_tables(tables)
    return both.take(pa.array(_smallest(both[HASH].to_numpy(), count)))


def store_capture(uri: str, records: Iterable[ChunkRecord], count: int) -> int | None:
    """Merge the samples of all chunks, in order, into one Parquet file; its rows, or None where nothing was captured.

    Raises `ChunkDamaged`.
    """
    kept: pa.Table | None = None
    for record in records:
        if body := read_section(record, SECTION):
            table = pa.ipc.open_stream(body).read_all()
            kept = table if kept is None else smallest([kept, table], count)
    if kept is None:
        return None
    sink = io.BytesIO()
    pq.write_table(kept.drop_columns([HASH]), sink, compression="zstd")
    storage_for(uri).create(uri, sink.getvalue())
    return int(kept.num_rows)
