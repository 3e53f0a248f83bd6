"""The one mapping from the type names of a signature (MLflow's) to Arrow."""

from __future__ import annotations

import pyarrow as pa

ARROW_TYPES = {
    "boolean": pa.bool_(),
    "integer": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "datetime": pa.timestamp("us"),  # the unit pandas 3 parses to; nanoseconds would end in the year 2262
}


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a signature type. KeyError for a name that is not an MLflow type (the bundle loader checks)."""
    return ARROW_TYPES[name]
