"""What a file format must be able to do: show its shape, be cut into chunks, be decoded to Arrow and be encoded from it.

A format is a named bundle of functions (`Format`); `FORMATS` is the only registry. The vocabulary:

shape
    What the first bytes (or the Parquet footer) tell: column names, where the data begins, row count if it is known.
cut
    One chunk's nominal range, a function of the input and the job alone. Text is cut at byte targets and each chunk proves its
    true end while it is decoded; Parquet is cut at exact row numbers.
block
    A few MiB of decoded rows. A chunk is decoded block by block so that memory stays flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import pyarrow as pa

    from batch.storage import Source

Policy = Literal["reject", "null", "allow"]
Fault = tuple[int, str, str, str]
"""What is wrong with one row: (row, column or "", code, message)."""

LINE_COLUMN = "__line__"
"""Binary column with the validated JSON line itself; present when a JSONL input is kept whole (``keep = ["*"]``)."""

OUTPUT_FORMATS = ("csv", "jsonl", "parquet")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the model's signature, as a decoder needs it."""

    name: str
    type: str
    """MLflow type name: boolean, integer, long, float, double, string, binary, datetime."""
    required: bool = True
    """A null is handled by ``on_null``; without it nulls pass."""
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str | int | float | bool, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Everything besides the bytes that decides how rows are read; small and picklable."""

    columns: tuple[Column, ...]
    """Signature columns, in the signature's order."""
    kept: tuple[str, ...] = ()
    """Columns outside the signature that pass through to the output, in the order of the output."""
    keep_line: bool = False
    """JSONL only: also give `LINE_COLUMN`."""
    delimiter: str = ","
    header: bool = True
    null_values: tuple[str, ...] = ()
    max_record_bytes: int = 1 << 20
    on_null: Policy = "reject"
    on_range: Policy = "reject"
    on_category: Policy = "reject"
    output_columns: tuple[str, ...] = ()
    """Names of the columns the model adds; a JSONL record kept whole may not have them itself."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What can be known of one input file without reading it through."""

    columns: tuple[str, ...]
    """Names in file order. JSONL: the keys of the records in the first 64 KiB, in order of appearance."""
    size_bytes: int
    """Of the decoded text, or of the Parquet file as stored."""
    data_start: int = 0
    """Text: byte offset of the first record (after BOM and header). Parquet: 0."""
    rows: int | None = None
    """Number of rows where the file says so (Parquet), else None."""
    decoded_bytes: int | None = None
    """Parquet: estimated Arrow bytes of the columns that exist, from rows x width and the footer; text: None."""
    sample_record_bytes: float = 0.0
    """Text: mean bytes of the records in the first 64 KiB (0 where there is none): the basis of row estimates."""
    row_groups: tuple[tuple[int, int], ...] = ()
    """Parquet: (rows, uncompressed bytes) of each row group."""
    arrow_schema: bytes = b""
    """Parquet: the serialised Arrow schema."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The nominal range of one chunk inside one file: ``[start, end)`` in bytes (text) or rows (Parquet).

    For text the true start is the first record end at or after `start` and the true end the first one at or after `end`;
    the first cut of a file starts exactly at `Shape.data_start` and the last one ends exactly at the end of the file.
    """

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Block:
    """Some decoded rows of one chunk, in order.

    `table`: the valid rows; the signature columns with their signature types, in signature order and free of nulls where the
    policy is reject, then the kept columns (and `LINE_COLUMN`).
    `rejects`: None, or a table with the columns of `batch.formats.rejects`.
    """

    table: pa.Table
    rows_read: int
    rejects: pa.Table | None = None


class ChunkReader:
    """Iterates over the blocks of one chunk; afterwards it knows the range that the chunk really covered.

    `start` and `end`: first byte (row) and the one after the last; `end` is final once the iteration is over.
    `decoded_bytes`: Arrow bytes handed out so far.
    """

    start: int
    end: int
    decoded_bytes: int

    def __iter__(self) -> Iterator[Block]:
        raise NotImplementedError

    def refused(self, faults: Sequence[Fault]) -> pa.Table:
        """A rejects table of some rows of the blocks handed out so far (0-based in the chunk, ascending), read again from storage."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How output rows are encoded; small and picklable."""

    columns: tuple[str, ...]
    """Names of all output columns, in order: kept ones first, then the model's."""
    delimiter: str = ","
    compression: Literal["", "gz", "zst"] = ""
    excel_safe: bool = False
    arrow_schema: bytes = b""
    """Parquet: the serialised output schema that every chunk is cast to."""
    splice: bool = False
    """JSONL: the table has `LINE_COLUMN`; the other columns (those the model adds) are spliced into the line."""
    joined: bool = False
    """Parquet: the file has the sections' own row groups, byte for byte. Not so in commits of earlier versions, which must give the
    bytes they always gave."""


@dataclass(frozen=True, slots=True)
class Format:
    """One file format as a bundle of functions."""

    name: str
    inspect: Callable[[Source, ReadOptions], Shape]
    """Read the first bytes or the footer. Raises `InputFormatError` or `InputEmpty`."""
    cut: Callable[[Shape, int], list[Cut]]
    """Cut a file into chunks of about so many bytes; never empty unless the file has no record."""
    read: Callable[[Source, Shape, Cut, int | None, ReadOptions], ChunkReader]
    """Decode one chunk. The int is its proven start (text), or None to guess it from the cut."""
    encoder: Callable[[WriteOptions], Encoder]
    """A fresh encoder for one chunk's rows."""
    header: Callable[[WriteOptions], bytes]
    """The bytes in front of the first chunk of an output file (a CSV header line, compressed if need be), or b""."""
    assemble: Callable[[WriteOptions, Iterable[bytes]], Iterator[bytes]]
    """One whole output file from the ordered chunk sections: header and concatenation, or one valid Parquet file."""
    encode_rejects: Callable[[ReadOptions, Shape, Iterable[pa.Table], bool], Iterator[bytes]]
    """The rejects file, in this (the input's) format, from tables whose ``_row`` is final; the bool asks for ``_file``."""
    splice: Callable[[WriteOptions, bytes, Sequence[int], bytes], bytes]
    """A chunk's section with the rows of another one put in: each of them before the so many-th row of the first (ascending)."""
    own_record: Callable[[bytes, Shape, Sequence[str], str], bytes]
    """A record of a mended rejects file (of that shape) as the input would have it: only the columns named, in that order. The text
    is the delimiter. Parquet has no records."""


class Encoder:
    """Turns output tables into the bytes of one chunk's ``rows`` section."""

    def add(self, table: pa.Table) -> None:
        """Append rows; columns are taken by the names in `WriteOptions.columns`."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """The section's bytes; b"" when no row was added."""
        raise NotImplementedError


class _Formats(dict[str, Format]):
    """`FORMATS["csv"]` imports the module on first use, so that nobody pays for a format that is not used."""

    _modules: ClassVar = {
        "csv": "batch.formats.csv",
        "jsonl": "batch.formats.jsonl",
        "parquet": "batch.formats.parquet",
    }

    def __missing__(self, name: str) -> Format:
        module: Any = import_module(self._modules[name])
        self[name] = module.FORMAT
        return self[name]


FORMATS = _Formats()

SUFFIXES = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet"}
COMPRESSIONS = ("gz", "zst")


def format_of(uri: str) -> tuple[str, str]:
    """(format, compression) that the name's suffixes tell, each "" where they do not: ``a.csv.gz`` -> ("csv", "gz")."""
    name = uri.rstrip("/").rsplit("/", 1)[-1].lower()
    compression = ""
    for suffix in COMPRESSIONS:
        if name.endswith("." + suffix):
            compression, name = suffix, name[: -len(suffix) - 1]
    known = {"csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
    return known.get(name.rsplit(".", 1)[-1] if "." in name else "", ""), compression


def strip_suffixes(name: str) -> str:
    """A key without its format suffixes: ``eu/a.csv.gz`` -> ``eu/a``."""
    format_name, compression = format_of(name)
    if compression:
        name = name[: -len(compression) - 1]
    return name.rsplit(".", 1)[0] if format_name else name
