"""Labels that came with the data or later: read as text, and put into the terms of the predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from batch.errors import InputFormatError, InputMissing, SchemaMismatch
from batch.formats import FORMATS, ReadOptions, format_of
from batch.formats.compression import check_magic, spool
from batch.formats.csv_cast import cast
from batch.formats.id_text import id_texts
from batch.models.outputs import Outputs
from batch.monitor.codes import NO_CLASS, NO_LABEL, Codes, spelled
from batch.monitor.join import Joined
from batch.monitor.reading import blocks
from batch.storage import ObjectInfo, Source, join, normalise, storage_for


class LabelFile:
    """A CSV, JSONL or Parquet file with an id and a label per record, also compressed."""

    def __init__(self, uri: str, id_column: str, label_column: str, scratch: str) -> None:
        """Raises `InputMissing`, `InputFormatError` or `SchemaMismatch`."""
        place = normalise(uri)
        self._format, compression = format_of(place)
        pin = storage_for(place).head(place)
        if pin is None:
            raise InputMissing(f"there is no file {place}", hint="name the file with the labels")
        self.etag = pin.etag
        """Of the version that is read."""
        self._source = _opened(pin, self._format, compression, scratch)
        self._options = ReadOptions((), kept=(id_column, label_column))
        self._shape = FORMATS[self._format].inspect(self._source, self._options)
        if missing := [column for column in self._options.kept if column not in self._shape.columns]:
            raise SchemaMismatch(
                f"{place} has no column {missing[0]!r}", hint=f"its columns are: {', '.join(self._shape.columns[:20])}"
            )
        self.uri = place

    @property
    def about_rows(self) -> int:
        """How many there are; of text an estimate from the first records."""
        if self._shape.rows is not None:
            return self._shape.rows
        return int(self._shape.size_bytes / max(1.0, self._shape.sample_record_bytes))

    def __iter__(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """(ids, labels) as strings, block by block. Raises `InputFormatError` for a record that cannot be read."""
        for block in blocks(self._source, self._shape, self._format, self._options):
            if block.rejects is not None and block.rejects.num_rows:
                first = block.rejects.select(["_message"]).slice(0, 1).to_pylist()[0]
                raise InputFormatError(f"a record of {self.uri} cannot be read: {first['_message']}", hint="mend it")
            yield tuple(id_texts(block.table, name) for name in self._options.kept)


def _opened(pin: ObjectInfo, name: str, compression: str, scratch: str) -> Source:
    """The decompressed bytes of a file."""
    place = pin.uri
    if not name:
        raise InputFormatError(f"{place} is no .csv, .jsonl or .parquet file", hint="name it by its format")
    source = Source(storage_for(place), pin)
    check_magic(source.read(0, 64), name, compression, place)
    if not compression:
        return source
    path = join(scratch, f"labels.{name}")
    spool(source, compression, path, max_decompressed_bytes=50 << 30, max_ratio=200)
    unpacked = storage_for(path).head(path)
    assert unpacked is not None, "it was just written"
    return Source(storage_for(path), unpacked, place)


def truth_of(texts: pa.Array, outputs: Outputs, classes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Labels in the terms of the predictions: codes of the class and, as float64, what the score should have been.

    Of a classifier the codes are those of `classes`, which begin with the model's own (`codes_of_classes`), and the latter is 1.0 for the
    last class and 0.0 for all others; of a regressor it is the value itself, with code 0. A null label has code `NO_LABEL`, one that
    is no class (or of a regressor no number) `NO_CLASS`; both have NaN.
    """
    if outputs.kind == "regressor":
        values, _ = cast(texts, pa.float64())
        truth: np.ndarray = values.fill_null(np.nan).to_numpy(zero_copy_only=False)
        truth = np.where(np.isfinite(truth), truth, np.nan)
        is_null = texts.is_null().to_numpy(zero_copy_only=False)
        return np.where(is_null, NO_LABEL, np.where(np.isnan(truth), NO_CLASS, 0)), truth
    found = classes.known(spelled(texts, outputs))
    found = np.where(found < len(outputs.classes), found, NO_CLASS)
    return found, np.where(found < 0, np.nan, np.where(found == len(outputs.classes) - 1, 1.0, 0.0))


@dataclass(slots=True)
class Labelling:
    """What became of the labels of one comparison; every one of them is counted."""

    source: str
    judged: int = 0
    """Labels that some predictions were measured by."""
    empty: int = 0
    """Rows whose label is null."""
    foreign: int = 0
    """Labels that are none of the model's classes, or no number."""
    without_row: int = 0
    """Labels whose id has no row (that both sides scored)."""
    rows_without: int = 0
    """Rows whose id has no label."""
    repeated: int = 0
    """Labels and rows that were left out because their id is there more than once, or is empty."""

    def count(self, codes: np.ndarray) -> np.ndarray:
        """Take in labels; which of them can be used (bool)."""
        usable: np.ndarray = codes >= 0
        self.judged += int(usable.sum())
        self.empty += int((codes == NO_LABEL).sum())
        self.foreign += int((codes == NO_CLASS).sum())
        return usable

    def left_over(self, part: Joined) -> None:
        """Take in what one part of a join leaves; the labels are on its right side."""
        self.without_row += len(part.only_right)
        self.rows_without += len(part.only_left)
        self.repeated += part.repeated_left + part.repeated_right

    def as_dict(self, outputs: Outputs) -> dict[str, Any]:
        """JSON-ready. Raises `SchemaMismatch` where there are labels and none is what the model predicts."""
        if self.foreign and not self.judged:
            wanted = ", ".join(map(str, outputs.classes[:5])) if outputs.classes else "numbers"
            raise SchemaMismatch(
                f"none of the {self.foreign:,} labels in {self.source} is what the model predicts ({wanted})",
                hint="name the column with the true outcomes, spelled as the model's classes are",
            )
        return {name: value for name, value in asdict(self).items() if name != "source"}
