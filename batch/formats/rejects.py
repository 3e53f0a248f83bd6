"""Rejected rows while they travel from a decoder to the rejects file.

A rejects table is Arrow, so that text that is not UTF-8 and typed Parquet values survive staging unchanged:

========== ======= ================================================================================
``_row``   int64   0-based record number inside the block, then the chunk, then (1-based) the file
``_column``string  the column that is at fault, "" for the whole record
``_code``  string  parse, columns, type, null, range, category, too_long, duplicate_id, model
``_message`` string one sentence
``_record``binary  text formats: the record's own bytes without its line end; null for Parquet
``_readable`` bool text formats: whether the record splits into the file's columns
========== ======= ================================================================================

Parquet rejects carry the input's own columns, typed, behind these six.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

FIELDS = (
    ("_row", pa.int64()),
    ("_column", pa.string()),
    ("_code", pa.string()),
    ("_message", pa.string()),
    ("_record", pa.binary()),
    ("_readable", pa.bool_()),
)
SCHEMA = pa.schema(FIELDS)
CODES = ("parse", "columns", "type", "null", "range", "category", "too_long", "duplicate_id", "model")


def build(
    rows: Sequence[int],
    columns: Sequence[str],
    codes: Sequence[str],
    messages: Sequence[str],
    records: Sequence[bytes | None],
    readable: Sequence[bool],
) -> pa.Table:
    """A rejects table from parallel lists, one entry per rejected row, in row order."""
    return pa.table(
        [list(rows), list(columns), list(codes), list(messages), list(records), list(readable)], schema=SCHEMA
    )


def shift(table: pa.Table, rows: int) -> pa.Table:
    """The same rejects with `rows` added to every record number."""
    import pyarrow.compute as pc

    return table.set_column(0, "_row", pc.add(table["_row"], rows))


def to_bytes(tables: Sequence[pa.Table]) -> bytes:
    """The staged form: one Arrow IPC stream, b"" when there is no reject."""
    tables = [table for table in tables if table.num_rows]
    if not tables:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(body: bytes) -> pa.Table | None:
    """What `to_bytes` stored, or None for an empty section."""
    return pa.ipc.open_stream(body).read_all() if body else None
