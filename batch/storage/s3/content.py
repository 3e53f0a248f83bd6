"""The media type that an object is stored with, by its name."""

from __future__ import annotations

import re

CHUNK = "application/vnd.batch-predict.chunk"
"""Of staged chunks. Stores that compress whatever they take for text (SeaweedFS does) leave it alone: staging costs half there."""
_CHUNK_KEY = re.compile(r"/chunks/\d{8}\.\d+-\d+[^/]*$")
_TYPES = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
    "gz": "application/gzip",
    "zst": "application/zstd",
    "html": "text/html; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def content_type(key: str) -> str:
    """Of a key: browsers, query engines and gateways go by it. Unknown suffixes are bytes."""
    if _CHUNK_KEY.search(key):
        return CHUNK
    _, dot, suffix = key.rpartition("/")[2].rpartition(".")
    return _TYPES.get(suffix.lower() if dot else "", "application/octet-stream")
