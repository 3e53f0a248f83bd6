"""Text to the types of a signature, value by value: which ones do not parse, and what the others are.

Used only for a block that did not parse as a whole. It accepts exactly what pyarrow's CSV reader accepts, because the fate of
a value may not depend on its neighbours; a test compares the two. On top, a timestamp with a zone offset becomes UTC, and a hexadecimal
integer, which pyarrow takes for a number, is refused.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TRUE_VALUES = ("1", "true", "True", "TRUE")
FALSE_VALUES = ("0", "false", "False", "FALSE")

INTEGER = r"^-?[0-9]+$"
FLOAT = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity|nan(?:\([A-Za-z0-9_]*\))?))$"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_ZONE = r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
TIMESTAMP = rf"^{_DATE}(?:[ T](?:[01][0-9]|2[0-3])(?::?[0-5][0-9](?::?[0-5][0-9](?:\.[0-9]{{1,6}})?)?)?{_ZONE}?)?$"
ZONED = rf"[ T].*{_ZONE}$"


def cast(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray | None]:
    """`texts` (string, null where the field is null) as `kind`, and a mask of the values that do not parse.

    Those are null in the array; the mask is None where every value parses.
    """
    if kind in (pa.string(), pa.binary()):
        return texts.cast(kind), None
    if kind == pa.bool_():
        return _booleans(texts)
    if pa.types.is_integer(kind):
        return _integers(texts, kind)
    if pa.types.is_floating(kind):
        return _floats(texts, kind)
    return _timestamps(texts, kind)


def _mask(values: pa.Array) -> np.ndarray:
    mask: np.ndarray = pc.fill_null(values, fill_value=False).to_numpy(zero_copy_only=False)
    return mask


def _without(texts: pa.Array, bad: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(bad), pa.scalar(None, texts.type), texts) if bad.any() else texts


def _booleans(texts: pa.Array) -> tuple[pa.Array, np.ndarray | None]:
    true = pc.is_in(texts, pa.array(TRUE_VALUES))
    known = pc.or_(true, pc.is_in(texts, pa.array(FALSE_VALUES)))
    bad = _mask(pc.and_(pc.invert(known), texts.is_valid()))
    values = pc.if_else(known, true, pa.scalar(None, pa.bool_()))
    return values, bad if bad.any() else None


def _floats(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray | None]:
    try:
        return texts.cast(kind), None
    except pa.ArrowInvalid:
        return _strictly(_trimmed(texts), kind, FLOAT)


def _trimmed(texts: pa.Array) -> pa.Array:
    """Numbers may have blanks around them for the CSV reader, but not for a cast."""
    return pc.utf8_trim(texts, characters=" \t")


def _strictly(texts: pa.Array, kind: pa.DataType, pattern: str) -> tuple[pa.Array, np.ndarray | None]:
    """Cast what the pattern lets pass."""
    bad = _mask(pc.invert(pc.match_substring_regex(texts, pattern)))
    try:
        return _without(texts, bad).cast(kind), bad if bad.any() else None
    except pa.ArrowInvalid:
        return _one_by_one(texts, kind)


def _integers(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray | None]:
    if not pc.any(pc.match_substring(texts, "x", ignore_case=True)).as_py():
        try:
            return texts.cast(kind), None
        except pa.ArrowInvalid:
            pass
    texts = _trimmed(texts)
    bad = _mask(pc.invert(pc.match_substring_regex(texts, INTEGER)))
    try:
        return _without(texts, bad).cast(kind), bad if bad.any() else None
    except pa.ArrowInvalid:
        bad |= _overflows(_without(texts, bad), kind)
    return _without(texts, bad).cast(kind), bad


def _overflows(texts: pa.Array, kind: pa.DataType) -> np.ndarray:
    """Which integers, well-formed as they are, do not fit `kind`."""
    negative = pc.starts_with(texts, "-")
    digits = pc.utf8_ltrim(pc.utf8_ltrim(texts, characters="-"), characters="0")
    long = pc.greater(pc.utf8_length(digits), 19)
    magnitude = pc.if_else(pc.or_(long, pc.equal(digits, "")), "0", digits).cast(pa.uint64())
    largest = int(np.iinfo(kind.to_pandas_dtype()).max)
    limit = pc.if_else(negative, pa.scalar(largest + 1, pa.uint64()), pa.scalar(largest, pa.uint64()))
    return _mask(pc.or_(long, pc.greater(magnitude, limit)))


def _timestamps(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray | None]:
    try:
        return texts.cast(kind), None
    except pa.ArrowInvalid:
        zoned = _mask(pc.match_substring_regex(texts, ZONED))
    if not zoned.any():
        return _strictly(texts, kind, TIMESTAMP)
    naive, naive_bad = _strictly(_without(texts, zoned), kind, TIMESTAMP)
    utc, utc_bad = _strictly(_without(texts, ~zoned), pa.timestamp(kind.unit, "UTC"), TIMESTAMP)
    bad = np.zeros(len(texts), dtype=bool)
    for mask in (naive_bad, utc_bad):
        bad |= False if mask is None else mask
    return pc.if_else(pa.array(zoned), utc.cast(kind), naive), bad if bad.any() else None


def _one_by_one(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """The safety net behind the patterns: slow, and right whatever Arrow makes of a value."""
    bad = np.zeros(len(texts), dtype=bool)
    for row in range(len(texts)):
        try:
            texts.slice(row, 1).cast(kind)
        except pa.ArrowInvalid:
            bad[row] = True
    return _without(texts, bad).cast(kind), bad
