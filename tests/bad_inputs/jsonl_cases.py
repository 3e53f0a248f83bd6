"""Bad JSONL, and JSONL that only looks bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.bad_inputs.case import Case, Reject, accepted, refused, rejected

GOOD = tuple(
    json.dumps({"customer_id": number, "age": 30, "spend": 0.5, "product": "basic"}) for number in ("00123", "4", "5")
)


def lines(*texts: str | bytes) -> Callable[[], bytes]:
    """A file of these lines."""
    return lambda: b"".join((text if isinstance(text, bytes) else text.encode()) + b"\n" for text in texts)


def between(line: str | bytes) -> Callable[[], bytes]:
    """One line between three good ones: it is record 2 of 4."""
    return lines(GOOD[0], line, *GOOD[1:])


def record(**tokens: str) -> str:
    """A line whose members are these JSON tokens, else those of a good one; ``None`` leaves one out."""
    members = {"customer_id": '"7"', "age": "30", "spend": "0.5", "product": '"basic"'} | tokens
    return "{" + ", ".join(f'"{name}": {token}' for name, token in members.items() if token) + "}"


def unreadable(row: int, name: str, what: str, line: str | bytes, says: str, **more: Any) -> Case:
    """Record 2 of 4 is no record."""
    return rejected(
        row, f"jsonl-{name}", what, between(line), Reject(2, "parse", "", says), file="in.jsonl", predicted=3, **more
    )


def misfit(row: int, name: str, what: str, line: str, code: str, column: str, says: str, **more: Any) -> Case:
    """A value of record 2 of 4 will not do."""
    fault = Reject(2, code, column, says)
    return rejected(row, f"jsonl-{name}", what, between(line), fault, file="in.jsonl", **{"predicted": 3, **more})


def deep(levels: int) -> str:
    """A record with an array of so many levels."""
    return record(more="[" * levels + "]" * levels)


PRETTY = json.dumps(json.loads(GOOD[0]), indent=1).split("\n")

CASES = (
    refused(1, "jsonl-empty", "0 bytes", lambda: b"", "input_empty", "in.jsonl is empty (0 bytes)", file="in.jsonl"),
    accepted(
        1,
        "jsonl-empty-allowed",
        "0 bytes, `allow_empty = true`",
        lambda: b"",
        0,
        file="in.jsonl",
        settings={"input__allow_empty": True},
    ),
    accepted(2, "jsonl-blank", "nothing but blank lines", lambda: b"\n \r\n\n", 0, file="in.jsonl"),
    accepted(3, "jsonl-no-final-newline", "no newline at the end", lambda: lines(*GOOD)().rstrip(), 3, file="in.jsonl"),
    accepted(
        4,
        "jsonl-crlf",
        "CRLF line ends, blank lines",
        lambda: lines(*GOOD)().replace(b"\n", b"\r\n\r\n"),
        3,
        file="in.jsonl",
    ),
    accepted(
        4,
        "jsonl-line-separator",
        "U+2028 and U+0085 inside a text",
        between(record(customer_id='"a\u2028b\u0085c"')),
        4,
        file="in.jsonl",
        cells={"customer_id": ["00123", "a\u2028b\u0085c", "4", "5"]},
    ),
    accepted(5, "jsonl-bom", "byte order mark in front", lambda: b"\xef\xbb\xbf" + lines(*GOOD)(), 3, file="in.jsonl"),
    refused(
        6,
        "jsonl-utf-16",
        "UTF-16",
        lambda: lines(*GOOD)().decode().encode("utf-16"),
        "input_format",
        "is UTF-16 text",
        file="in.jsonl",
    ),
    refused(
        16,
        "jsonl-missing-column",
        "a feature is missing in all records",
        lines(record(product="")),
        "schema_mismatch",
        "in.jsonl has no column 'product'",
        file="in.jsonl",
    ),
    misfit(
        19,
        "field-2m",
        "a text of 2 MB",
        record(product=json.dumps("x" * 2_000_000)),
        "too_long",
        "",
        "is 2000060 bytes long, more than the 1048576",
    ),
    accepted(
        18,
        "jsonl-long-blank",
        "2 MB of blanks as a line, and behind a record",
        between(" " * 2_000_000 + "\n" + record() + " " * 2_000_000),
        4,
        file="in.jsonl",
    ),
    unreadable(28, "nan", "`NaN`", record(spend="NaN"), "NaN is no JSON value"),
    unreadable(28, "infinity", "`-Infinity`", record(spend="-Infinity"), "-Infinity is no JSON value"),
    misfit(
        29,
        "repeated-name",
        "the same name twice",
        record(more='1, "age": 31'),
        "parse",
        "age",
        "the name 'age' stands more than once in the record",
    ),
    unreadable(30, "trailing-comma", "trailing comma", record()[:-1] + ",}", "not JSON at its character"),
    unreadable(30, "single-quotes", "single quotes", record().replace('"', "'"), "not JSON at its character 1"),
    unreadable(30, "cut-line", "a line that is cut off", record()[:-9], "not JSON at its character 56"),
    rejected(
        30,
        "jsonl-cut-file",
        "a file that is cut off",
        lambda: lines(*GOOD)()[:-12],
        Reject(3, "parse", "", "not JSON at its character"),
        file="in.jsonl",
        predicted=2,
    ),
    unreadable(31, "array", "an array among the lines", "[1, 2]", "is an array, not an object"),
    unreadable(31, "number", "a number", "7", "is a number, not an object"),
    unreadable(31, "text", "a text", '"x"', "is a string, not an object"),
    unreadable(31, "true", "true", "true", "is a boolean, not an object"),
    rejected(
        32,
        "jsonl-first-null",
        "`null` as the first line (ends pyarrow's reader with a segmentation fault)",
        lines("null", *GOOD),
        Reject(1, "parse", "", "is null, not an object"),
        file="in.jsonl",
        predicted=3,
    ),
    unreadable(32, "null", "`null` further down", "null", "is null, not an object"),
    unreadable(33, "two-objects", "two objects on a line", record() + record(), "not JSON at its character"),
    rejected(
        33,
        "jsonl-pretty",
        "an object over several lines",
        lines(*GOOD, *PRETTY),
        *(Reject(row, "parse", "", "not JSON") for row in range(4, 4 + len(PRETTY))),
        file="in.jsonl",
        predicted=3,
    ),
    refused(
        34,
        "jsonl-one-array",
        "one big array",
        ("[" + ",\n".join(GOOD) + "]").encode,
        "input_format",
        "is one JSON array; JSONL wants one object per line",
        hint="jq -c '.[]'",
        file="in.jsonl",
    ),
    accepted(35, "jsonl-depth-199", "arrays 199 levels deep", between(deep(199)), 4, file="in.jsonl"),
    unreadable(35, "depth-2000", "2,000 levels deep", deep(2_000), "nested more than 200 levels deep"),
    unreadable(35, "depth-100000", "100,000 levels deep", deep(100_000), "nested more than 200 levels deep"),
    unreadable(35, "depth-open", "100,000 open brackets", "[" * 100_000, "nested more than 200 levels deep"),
    misfit(
        36,
        "integer-5000",
        "an integer of 5,000 digits",
        record(age="9" * 5000),
        "type",
        "age",
        "age is 99999",
    ),
    misfit(
        36,
        "float-5000",
        "the same for a double",
        record(spend="9" * 5000),
        "range",
        "spend",
        "spend is inf, but only finite",
    ),
    accepted(
        36,
        "jsonl-kept-5000",
        "the same in a kept column",
        between(record(customer_id="9" * 5000)),
        4,
        file="in.jsonl",
    ),
    accepted(
        37,
        "jsonl-big-integers",
        "integers over 2^53 and 2^63 in a kept column",
        lines(*(record(customer_id=str(number)) for number in (2**53 + 1, 2**63 + 1, -(2**63) - 1))),
        3,
        file="in.jsonl",
        cells={"customer_id": [2**53 + 1, 2**63 + 1, -(2**63) - 1]},
    ),
    misfit(
        37,
        "over-2-63",
        "2^63 for a long",
        record(age=str(2**63)),
        "type",
        "age",
        "age is 9223372036854775808, which is not",
    ),
    unreadable(
        38, "half-pair", r"half of a surrogate pair: `\ud800`", record(product=r'"\ud800"'), "half of a surrogate pair"
    ),
    unreadable(
        39,
        "invalid-utf-8",
        "a byte that is not UTF-8",
        record(product='"caf?"').encode().replace(b"?", b"\xe9"),
        "the record is not UTF-8: byte 0xe9 at its offset",
    ),
    unreadable(39, "nul", "NUL byte", record(product='"ba\0sic"'), "not JSON at its character"),
    misfit(
        40, "missing", "a feature is missing in one record", record(age=""), "null", "age", "age is null, but the model"
    ),
    misfit(
        40, "null-value", "null in a required column", record(age="null"), "null", "age", "age is null, but the model"
    ),
    misfit(
        40,
        "text-for-number",
        "a text for a number",
        record(age='"30"'),
        "type",
        "age",
        "age is '30', which is not of type long",
    ),
    misfit(
        40,
        "half-number",
        "30.5 for a long",
        record(age="30.5"),
        "type",
        "age",
        "age is 30.5, which is not of type long",
    ),
)
