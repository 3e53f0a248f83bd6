"""Texts as small numbers: predicted classes, labels, groups and variants."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.errors import UsageError
from batch.formats.csv_cast import cast
from batch.formats.types import arrow_type
from batch.models.outputs import Outputs

NO_LABEL = -1
"""Code of a text that is null."""
NO_CLASS = -2
"""Code of a label that is none of the model's classes."""
GROUPS_MAX = 1_000
"""What is kept of a group stays in memory, so there is a limit to them."""


class Codes:
    """Texts as numbers from 0, the same ones for everything that is compared."""

    def __init__(self, column: str = "") -> None:
        """`column`: where the texts are groups, the column they come from."""
        self._codes: dict[str, int] = {}
        self._column = column

    def of(self, texts: pa.Array) -> np.ndarray:
        """int64 codes, a new one for each new text; `NO_LABEL` for null. Raises `UsageError` beyond `GROUPS_MAX` groups."""
        encoded = texts.dictionary_encode()
        known = [self._codes.setdefault(text, len(self._codes)) for text in encoded.dictionary.to_pylist()]
        if self._column and len(self._codes) > GROUPS_MAX:
            raise UsageError(
                f"column {self._column!r} has more than {GROUPS_MAX:,} different values, too many for groups",
                hint="choose a column with fewer values: --group-by COLUMN",
            )
        return _placed(known, encoded)

    def known(self, texts: pa.Array) -> np.ndarray:
        """The same, but a text without a code gets none: it is `NO_CLASS`."""
        encoded = texts.dictionary_encode()
        return _placed([self._codes.get(text, NO_CLASS) for text in encoded.dictionary.to_pylist()], encoded)

    @property
    def texts(self) -> list[str]:
        """By code."""
        return [*self._codes]


def _placed(known: list[int], encoded: pa.DictionaryArray) -> np.ndarray:
    codes = np.array([*known, NO_LABEL], np.int64)
    found: np.ndarray = codes[encoded.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)]
    return found


def codes_of_classes(*models: Outputs) -> Codes:
    """The classes of some models as codes: those of the first one are numbered as it orders them."""
    found = Codes()
    for outputs in models:
        if outputs.kind == "classifier":
            kind = arrow_type(outputs.columns[0][1])
            found.of(pa.array(list(outputs.classes), kind).cast(pa.string()))
    return found


def spelled(texts: pa.Array, outputs: Outputs) -> pa.Array:
    """Class labels in one spelling: of a model whose classes are whole numbers ``1``, ``1.0`` and ``01`` are one.

    A text that cannot be a class of the model at all stays as it is.
    """
    kind = arrow_type(outputs.columns[0][1])
    if pa.types.is_integer(kind):
        numbers, _ = cast(texts, pa.float64())
        values = _whole(numbers).cast(kind, safe=False).cast(pa.string())
    else:
        values = cast(texts, kind)[0].cast(pa.string())
    return pc.coalesce(values, texts)


def _whole(numbers: pa.Array) -> pa.Array:
    """Null in the place of what has decimals: 1.5 is not class 1."""
    return pc.if_else(pc.equal(numbers, pc.floor(numbers)), numbers, pa.scalar(None, pa.float64()))
