"""The CSV grammar once more, byte by byte: slow, and written without a look at the product's, which is compared with it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Record:
    """One record: its place in the text, its fields (None for nothing between two delimiters) and whether a quote is astray."""

    start: int
    stop: int = 0
    end: int = 0
    fields: list[str | None] = field(default_factory=list)
    stray: bool = False
    open_at: int | None = None


def records_of(text: str) -> list[Record]:
    """All records in order, blank lines left out; the last one's `open_at` is the quote that is never closed, if any."""
    return [record for record in lines_of(text) if record.stop > record.start]


def lines_of(text: str) -> list[Record]:
    """All records in order, blank lines among them."""
    records, position = [], 0
    while position < len(text):
        records.append(one_record(text, position))
        position = records[-1].end
    return records


def one_record(text: str, start: int) -> Record:
    record = Record(start)
    position = start
    while True:
        value, position = one_field(text, position, record)
        record.fields.append(value)
        if position < len(text) and text[position] == ",":
            position += 1
            continue
        record.stop = position
        record.end = position + (2 if text[position : position + 2] == "\r\n" else 1)
        record.end = min(record.end, len(text))
        return record


def one_field(text: str, position: int, record: Record) -> tuple[str | None, int]:
    begin, value = position, ""
    if text[position : position + 1] == '"':
        value, position = quoted_part(text, position, record)
        record.stray |= text[position : position + 1] not in ("", ",", "\r", "\n")
    while position < len(text) and text[position] not in ",\r\n":
        record.stray |= text[position] == '"'
        value += text[position]
        position += 1
    return (value if position > begin else None), position


def quoted_part(text: str, begin: int, record: Record) -> tuple[str, int]:
    value, position = "", begin + 1
    while position < len(text):
        if text[position] == '"':
            if text[position + 1 : position + 2] != '"':
                return value, position + 1
            position += 1
        value += text[position]
        position += 1
    record.open_at = begin
    return value, position
