"""Names and places: odd keys, inputs that are not there, and outputs that would eat their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.bad_inputs import csv_cases, jsonl_cases, packed_cases
from tests.bad_inputs.case import Case, accepted, refused

GOOD = csv_cases.text(*csv_cases.GOOD)


def odd(name: str, what: str, file: str) -> Case:
    """A name that is only unusual."""
    return accepted(54, f"name-{name}", what, GOOD, 3, file=file, cells={"customer_id": csv_cases.IDS})


def place(
    row: int,
    name: str,
    what: str,
    code: str,
    *says: str,
    beside: dict[str, Callable[[], bytes]] | None = None,
    **more: Any,
) -> Case:
    """An input or output that must not be where it is; `settings` in `more` say where."""
    return refused(row, name, what, GOOD, code, *says, beside=beside or {}, **more)


CASES = (
    odd("spaces", "blanks and quotes in the key", 'it\'s "mine" .csv'),
    odd("emoji", "an emoji in the key", "customers ☂️.csv"),
    odd("newline", "a newline in the key", "cust\nomers.csv"),
    odd("backslash", "a backslash in the key", "cust\\omers.csv"),
    odd("percent", "`%2F`, `#` and `+` in the key", "a%2Fb#c+d.csv"),
    odd("capitals", "capitals in the suffix", "IN.CSV"),
    place(
        54,
        "no-suffix",
        "a name without a suffix",
        "input_format",
        "the name of data does not tell its format",
        file="data",
    ),
    accepted(
        54,
        "skipped-names",
        "`_SUCCESS` and hidden files beside the input, under a prefix",
        GOOD,
        3,
        file="in/a.csv",
        settings={"input__uri": "{root}/in/"},
        beside={"in/_SUCCESS": lambda: b"", "in/.part.csv": lambda: b"x"},
    ),
    place(
        54,
        "two-formats",
        "CSV and JSONL under one prefix",
        "input_format",
        "the inputs have different formats: csv, jsonl",
        file="in/a.csv",
        settings={"input__uri": "{root}/in/"},
        beside={"in/b.jsonl": jsonl_cases.lines(*jsonl_cases.GOOD)},
    ),
    place(
        16,
        "second-header",
        "two files of which the second has other columns",
        "schema_mismatch",
        "in/b.csv has no column 'spend'",
        file="in/a.csv",
        settings={"input__uri": "{root}/in/"},
        beside={"in/b.csv": csv_cases.text("1,2,x", header="customer_id,age,product")},
    ),
    place(
        55,
        "missing",
        "no such object",
        "input_missing",
        "there is no input other.csv",
        hint="in  there are: in.csv",
        settings={"input__uri": "{root}/other.csv"},
    ),
    place(
        55,
        "no-match",
        "a glob without a match",
        "input_missing",
        "no object matches *.parquet",
        settings={"input__uri": "{root}/*.parquet"},
    ),
    place(
        55,
        "manifest-missing",
        "a manifest that names an object that is not there",
        "input_missing",
        "there is no input gone.csv",
        settings={"input__uri": "{root}/list.json"},
        beside={"list.json": lambda: b'{"files": [{"uri": "gone.csv"}]}'},
    ),
    place(
        55,
        "manifest-broken",
        "a manifest that is none",
        "input_format",
        "list.json is not a manifest",
        settings={"input__uri": "{root}/list.json"},
        beside={"list.json": lambda: b"[1]"},
    ),
    place(
        56,
        "same-output",
        "the output is the input",
        "output_refused",
        "the output in.csv is also an input",
        exit_code=6,
        settings={"output__uri": "{root}/in.csv"},
    ),
    place(
        56,
        "output-in-prefix",
        "an output under the input prefix",
        "output_refused",
        "the output in/out.csv lies inside the input prefix in/",
        exit_code=6,
        file="in/a.csv",
        settings={"input__uri": "{root}/in/", "output__uri": "{root}/in/out.csv"},
    ),
    place(
        56,
        "output-watched",
        "an output under the watched prefix",
        "output_refused",
        "lies inside the watched prefix drop/",
        exit_code=6,
        settings={"watch__prefix": "{root}/drop/", "output__uri": "{root}/drop/{stem}.out.csv"},
    ),
    place(
        56,
        "rejects-are-input",
        "the rejects file is the input",
        "output_refused",
        "the rejects file in.csv is also an input",
        exit_code=6,
        settings={"rejects__uri": "{root}/in.csv"},
    ),
    place(
        56,
        "one-output-for-two",
        "two inputs with one output",
        "output_refused",
        "two inputs map to one output, out/a.csv",
        exit_code=6,
        file="in/a.csv",
        settings={"input__uri": "{root}/in/", "output__uri": "{root}/out/"},
        beside={"in/a.csv.gz": lambda: packed_cases.gz(GOOD())},
    ),
)
