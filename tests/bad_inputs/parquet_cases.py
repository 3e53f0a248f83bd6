"""Bad Parquet, and Parquet that only looks bad."""

from __future__ import annotations

import io
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_inputs.case import Case, Reject, accepted, refused, rejected

BOMB_ROWS = 3_000_000


def table(rows: int = 3, **columns: Any) -> pa.Table:
    """Good rows; `columns` replace or add some."""
    good: dict[str, Any] = {
        "customer_id": [f"{number:05d}" for number in range(rows)],
        "age": [30] * rows,
        "spend": [0.5] * rows,
        "product": ["basic"] * rows,
    }
    return pa.table(good | columns)


def stored(content: pa.Table, **settings: Any) -> bytes:
    """As a file, with checksums of its pages unless told otherwise."""
    sink = io.BytesIO()
    pq.write_table(content, sink, **{"write_page_checksum": True, **settings})
    return sink.getvalue()


def file(rows: int = 3, **columns: Any) -> Callable[[], bytes]:
    return lambda: stored(table(rows, **columns))


def lying(footer_bytes: int) -> Callable[[], bytes]:
    """A file that says its footer is so long."""
    return lambda: file()()[:-8] + footer_bytes.to_bytes(4, "little") + b"PAR1"


def flipped(*, checked: bool) -> bytes:
    """One bit of one value is another."""
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    body = bytearray(stored(table(), write_page_checksum=checked, **plain))
    body[body.index(b"basic")] ^= 1
    return bytes(body)


def forged() -> bytes:
    """A footer that tells of another number of rows than its row groups."""
    body = file()()
    footer = int.from_bytes(body[-8:-4], "little")
    for at in range(len(body) - 8 - footer, len(body) - 8):
        other = body[:at] + bytes([body[at] ^ 0x40]) + body[at + 1 :]
        try:
            metadata = pq.ParquetFile(io.BytesIO(other)).metadata
        except (pa.ArrowException, OSError):
            continue
        if metadata.num_rows not in {3, -3}:
            return other
    raise AssertionError("no byte of the footer holds the number of rows")


def bomb() -> bytes:
    """Whole columns as one run in one page."""
    columns = {
        "customer_id": pa.repeat("1", BOMB_ROWS),
        "age": np.zeros(BOMB_ROWS, "int64"),
        "spend": np.zeros(BOMB_ROWS),
        "product": pa.repeat("basic", BOMB_ROWS),
    }
    whole = {"compression": "zstd", "row_group_size": BOMB_ROWS, "max_rows_per_page": BOMB_ROWS}
    return stored(pa.table(columns), **whole)


def old_times() -> bytes:
    """An INT96 timestamp, a decimal, a dictionary and a large text beside the features."""
    content = table(
        age=pa.array([Decimal(30)] * 3, pa.decimal128(5, 0)),
        product=pa.array(["basic"] * 3).dictionary_encode(),
        customer_id=pa.array(["1", "2", "3"], pa.large_string()),
        seen=pa.array([0, 1, 2], pa.timestamp("us")),
    )
    return stored(content, use_deprecated_int96_timestamps=True)


def parquet(
    kind: Callable[..., Case], row: int, name: str, what: str, body: Callable[[], bytes], *more: Any, **settings: Any
) -> Case:
    return kind(row, f"parquet-{name}", what, body, *more, file="in.parquet", **settings)


NESTED = {"more": [{"a": 1}] * 3}

CASES = (
    parquet(refused, 41, "empty", "0 bytes", lambda: b"", "input_empty", "is empty (0 bytes)"),
    parquet(
        refused,
        41,
        "magic-only",
        "4 bytes",
        lambda: b"PAR1",
        "input_format",
        "is cut off: its 4 bytes are fewer than the 12",
    ),
    parquet(
        refused,
        41,
        "cut",
        "a file that is cut off",
        lambda: file()()[:1000],
        "input_format",
        "is cut off: its 1000 bytes",
    ),
    parquet(
        refused,
        41,
        "csv",
        "CSV that is named .parquet",
        lambda: b"age,spend\n1,2\n",
        "input_format",
        "is named .parquet but holds something that is not parquet",
    ),
    parquet(
        refused,
        42,
        "footer-0",
        "a footer of 0 bytes, says the file",
        lying(0),
        "input_format",
        "says its footer has 0 bytes",
    ),
    parquet(
        refused,
        42,
        "footer-2-31",
        "a footer of 2^31 bytes, says the file",
        lying(1 << 31),
        "input_format",
        "says its footer has 2147483648 bytes",
    ),
    parquet(
        refused,
        42,
        "footer-20",
        "a footer of 20 bytes, says the file",
        lying(20),
        "input_format",
        "the footer of in.parquet cannot be read",
    ),
    parquet(
        refused,
        46,
        "forged-rows",
        "a footer that tells of other rows than its row groups",
        forged,
        "input_format",
        "the footer of in.parquet c",
    ),
    parquet(
        refused,
        43,
        "encrypted",
        "Parquet's own encryption",
        lambda: file()()[:-4] + b"PARE",
        "input_format",
        "in.parquet is encrypted Parquet",
    ),
    parquet(
        refused,
        44,
        "bit-flip",
        "a flipped bit in a page with a checksum",
        lambda: flipped(checked=True),
        "input_format",
        "rows 1 to 3 of in.parquet cannot be read",
        "CRC checksum verification failed",
    ),
    parquet(
        accepted,
        44,
        "bit-flip-unseen",
        "the same in a page without one: nobody can tell",
        lambda: flipped(checked=False),
        3,
        cells={"product": ["casic", "basic", "basic"]},
    ),
    parquet(
        accepted,
        45,
        "no-rows",
        "no rows",
        file(
            0,
            customer_id=pa.array([], pa.string()),
            age=pa.array([], pa.int64()),
            spend=pa.array([], pa.float64()),
            product=pa.array([], pa.string()),
        ),
        0,
    ),
    parquet(
        refused,
        46,
        "bomb",
        f"{BOMB_ROWS:,} rows in some kilobytes",
        bomb,
        "input_too_large",
        "over the limit max_ratio = 1000",
        hint="raise [input] max_ratio",
    ),
    parquet(
        refused,
        46,
        "max-rows",
        "more rows than `max_rows = 2`",
        file(),
        "input_too_large",
        "in.parquet has 3 rows, over the limit max_rows = 2",
        settings={"input__max_rows": 2},
    ),
    parquet(
        refused,
        47,
        "list",
        "a list for a number",
        file(age=[[30]] * 3),
        "schema_mismatch",
        "column 'age' of in.parquet is of type list<",
        "the model needs long",
    ),
    parquet(
        refused,
        47,
        "text",
        "a text for a number",
        file(age=["30"] * 3),
        "schema_mismatch",
        "column 'age' of in.parquet is of type string, but the model needs long",
    ),
    parquet(
        refused,
        47,
        "nested-kept",
        "a nested column that a CSV shall keep",
        file(**NESTED),
        "schema_mismatch",
        "the kept column 'more' of in.parquet is nested",
        settings={"output__keep": ["more"], "output__format": "csv"},
    ),
    parquet(accepted, 47, "nested", "a nested column nobody asked for", file(**NESTED), 3),
    parquet(
        accepted,
        47,
        "other-types",
        "decimal, dictionary, large text, INT96",
        old_times,
        3,
        cells={"customer_id": ["1", "2", "3"]},
    ),
    parquet(
        accepted, 48, "tiny-groups", "500 row groups of one row", lambda: stored(table(500), row_group_size=1), 500
    ),
    parquet(
        refused,
        14,
        "repeated-name",
        "the same name twice",
        lambda: stored(pa.table([[1], [2]], names=["age", "age"])),
        "input_format",
        "in.parquet has the column 'age' twice",
    ),
    parquet(
        refused,
        16,
        "missing-column",
        "a feature is missing",
        lambda: stored(table().drop_columns("product")),
        "schema_mismatch",
        "in.parquet has no column 'product'",
    ),
    parquet(
        rejected,
        40,
        "null",
        "null in a required column",
        file(age=pa.array([30, None, 41])),
        Reject(2, "null", "age", "age is null, but the model requires a value"),
        predicted=2,
    ),
    parquet(
        rejected,
        22,
        "nan",
        "NaN and infinity in a required column",
        file(spend=[0.5, float("nan"), float("inf")]),
        Reject(2, "null", "spend", "spend is null"),
        Reject(3, "range", "spend", "spend is inf"),
        predicted=1,
    ),
    parquet(
        rejected,
        37,
        "over-2-63",
        "2^63 for a long",
        file(age=pa.array([30, 2**63, 41], pa.uint64())),
        Reject(2, "type", "age", "age is 9223372036854775808, which is no long"),
        predicted=2,
    ),
    parquet(
        rejected,
        39,
        "not-utf-8",
        "a text that is not UTF-8",
        lambda: stored(table(product=pa.array([b"basic", b"caf\xe9", b"pro"]).view(pa.string()))),
        Reject(2, "type", "product", "product is not UTF-8"),
        predicted=2,
    ),
)
