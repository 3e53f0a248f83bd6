"""Labels that came with the data or later: read as text, and put into the terms of the predictions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from batch.errors import InputFormatError, InputMissing, SchemaMismatch
from batch.formats import FORMATS, Cut, ReadOptions, format_of
from batch.formats.compression import check_magic, spool
from batch.formats.csv_cast import cast
from batch.formats.id_text import id_texts
from batch.formats.types import arrow_type
from batch.models.outputs import Outputs
from batch.monitor.delivered import Codes
from batch.storage import Source, join, normalise, storage_for


def read_labels(uri: str, id_column: str, label_column: str, scratch: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """(ids, labels) of a CSV, JSONL or Parquet file, as strings, block by block.

    Raises `InputMissing`, `InputFormatError` or `SchemaMismatch`; a record that cannot be read is an `InputFormatError` as well.
    """
    place = normalise(uri)
    pin = storage_for(place).head(place)
    if pin is None:
        raise InputMissing(f"there is no file {place}", hint="name the file with the labels")
    name, compression = format_of(place)
    if not name:
        raise InputFormatError(f"{place} is no .csv, .jsonl or .parquet file", hint="name it by its format")
    source = Source(storage_for(place), pin)
    check_magic(source.read(0, 64), name, compression, place)
    if compression:
        path = join(scratch, f"labels.{name}")
        spool(source, compression, path, max_decompressed_bytes=50 << 30, max_ratio=200)
        unpacked = storage_for(path).head(path)
        assert unpacked is not None, "it was just written"
        source = Source(storage_for(path), unpacked, place)
    options, form = ReadOptions((), kept=(id_column, label_column)), FORMATS[name]
    shape = form.inspect(source, options)
    if missing := [column for column in options.kept if column not in shape.columns]:
        raise SchemaMismatch(
            f"{place} has no column {missing[0]!r}", hint=f"its columns are: {', '.join(shape.columns[:20])}"
        )
    end = shape.rows if name == "parquet" else shape.size_bytes
    for block in form.read(source, shape, Cut(shape.data_start, end or 0), shape.data_start, options):
        if block.rejects is not None and block.rejects.num_rows:
            first = block.rejects.select(["_message"]).slice(0, 1).to_pylist()[0]
            raise InputFormatError(f"a record of {place} cannot be read: {first['_message']}", hint="mend it")
        yield id_texts(block.table, id_column), id_texts(block.table, label_column)


def truth_of(texts: pa.Array, outputs: Outputs, codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Labels in the terms of the predictions: codes of the class and, as float64, what the score should have been.

    Of a classifier with the probability of one class the latter is 1.0 for that class and 0.0 for all others; of a regressor the
    value itself (NaN where it is no number) with codes that mean nothing. A null or unusable label has code -1 and NaN.
    """
    if outputs.kind == "regressor":
        values, _ = cast(texts, pa.float64())
        truth = values.fill_null(np.nan).to_numpy(zero_copy_only=False)
        return np.where(np.isnan(truth), -1, 0), truth
    found = class_codes(texts, outputs, codes)
    (positive,) = codes.of(_spelled(pa.array([str(outputs.classes[-1])]), outputs))
    truth = np.where(found == positive, 1.0, 0.0)
    return found, np.where(found < 0, np.nan, truth)


def class_codes(texts: pa.Array, outputs: Outputs, codes: Codes) -> np.ndarray:
    """Codes of class labels, however they are spelled: ``1``, ``1.0`` and ``01`` are one whole number."""
    return codes.of(_spelled(texts, outputs))


def _spelled(texts: pa.Array, outputs: Outputs) -> pa.Array:
    kind = arrow_type(outputs.columns[0][1])
    if pa.types.is_integer(kind):
        numbers, _ = cast(texts, pa.float64())
        return numbers.cast(kind, safe=False).cast(pa.string())
    values, _ = cast(texts, kind)
    return values.cast(pa.string())
