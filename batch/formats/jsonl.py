"""JSONL: what its first bytes tell, and the bundle of functions that makes it a format.

UTF-8 (a byte order mark is skipped), one JSON object per line, lines end in LF (a CR in front of it is dropped), blank lines are no records.
"""

from __future__ import annotations

from batch.errors import InputEmpty, InputFormatError
from batch.formats import Format, ReadOptions, Shape, jsonl_write
from batch.formats.compression import check_magic
from batch.formats.jsonl_lines import split_lines
from batch.formats.jsonl_read import JsonlReader
from batch.formats.jsonl_records import Unreadable, parse
from batch.formats.text import cut
from batch.storage import Source

SAMPLE_BYTES = 64 << 10
_BOM = b"\xef\xbb\xbf"


def inspect(source: Source, options: ReadOptions) -> Shape:
    """Names and the mean record length, from the first 64 KiB.

    Nothing but blank lines is a file of no rows. Raises `InputEmpty` for a file without a byte, `InputFormatError` for other
    kinds of files, other encodings and for one JSON array.
    """
    if not source.size_bytes:
        raise InputEmpty(f"{source.uri} is empty: it holds 0 bytes", hint="set input.allow_empty if that may happen")
    head = source.read(0, SAMPLE_BYTES)
    check_magic(head, "jsonl", "", source.uri)
    start = len(_BOM) if head.startswith(_BOM) else 0
    text = head[start:]
    final = len(head) >= source.size_bytes
    if text.lstrip()[:1] == b"[":
        raise InputFormatError(
            f"{source.uri} is one JSON array; JSONL wants one object per line",
            hint="convert it, for example: jq -c '.[]' < old > new",
        )
    whole = text if final else text[: text.rfind(b"\n") + 1]
    lines = split_lines(whole)
    mean = len(whole) / len(lines) if lines else 0.0
    return Shape(_names(lines), source.size_bytes, start, sample_record_bytes=mean)


def _names(lines: list[bytes]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for line in lines:
        try:
            names |= dict.fromkeys(parse(line))
        except Unreadable:
            continue
    return tuple(names)


FORMAT = Format(
    name="jsonl",
    inspect=inspect,
    cut=cut,
    read=JsonlReader,
    encoder=jsonl_write.JsonlEncoder,
    header=jsonl_write.header,
    assemble=jsonl_write.assemble,
    encode_rejects=jsonl_write.encode_rejects,
    splice=jsonl_write.splice,
    own_record=jsonl_write.own_record,
)
