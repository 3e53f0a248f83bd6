"""The id of a row as text: the same in every format, so that one customer is one customer in CSV, JSONL and Parquet.

CSV gives the unquoted text. A JSON string is its text and any other JSON value its spelling. A typed Parquet value is written in
its shortest form.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from batch.formats.json_text import is_marked, texts_of_tokens


def id_texts(table: pa.Table, name: str) -> pa.Array:
    """The ids of a table's rows as one string array, null where a row has none."""
    field, column = table.schema.field(name), table[name]
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_marked(field):
        return texts_of_tokens(values)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string())
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return pa.array([None if value is None else value.hex() for value in values.to_pylist()], pa.string())
    return pc.cast(values, pa.string())
