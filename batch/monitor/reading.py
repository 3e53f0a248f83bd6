"""A whole file, block by block: it is cut as the input of a run is, for a reader holds all the text of what it is given."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from batch.formats import FORMATS, Block, ReadOptions, Shape
from batch.storage import Source

CHUNK_BYTES = 32 << 20
"""Of text, or of Parquet as it is in memory: what is held of a file at a time."""


def blocks(source: Source, shape: Shape, format_name: str, options: ReadOptions) -> Iterator[Block]:
    """The rows of a file in order; `shape` is what the format's `inspect` found with the same options.

    Raises what the format raises for a file that is not what it seems.
    """
    form, start = FORMATS[format_name], shape.data_start
    for cut in form.cut(shape, CHUNK_BYTES):
        if cut.end <= start:  # a record that began before this cut ends behind it
            continue
        reader = form.read(source, shape, cut, start, options)
        yield from reader
        start = reader.end
        if format_name == "parquet":
            del reader
            gc.collect()  # the reader and the iterator in it hold each other, and with them the buffers of the file
