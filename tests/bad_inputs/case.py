"""One bad input: what it is, how it is made and what must become of it; and the real program run on it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import batch
from batch.errors import BatchError
from batch.formats import format_of
from batch.job import Job
from tests.run_cases import Bench, register, rows

ANY_NUMBER = 1_000_000
"""A budget of rejected rows that no case comes near."""


@dataclass(frozen=True, slots=True)
class Reject:
    """What the rejects file must say of one row."""

    row: int
    """1-based."""
    code: str
    column: str = ""
    says: str = ""
    """A part of the message."""


@dataclass(frozen=True, slots=True)
class Case:
    """A file and what must become of it."""

    row: int
    """Of the list of bad inputs that the product was built after."""
    name: str
    what: str
    """The input in the words of docs/bad-inputs.md."""
    body: Callable[[], bytes]
    file: str = "in.csv"
    settings: dict[str, Any] = field(default_factory=dict)
    """``{root}`` stands for the root."""
    beside: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    """Other objects that are there."""
    model: str = "tiny"
    """Or ``declared``: with a range, categories and a timestamp."""
    exit_code: int = 0
    """With the default budget, which is no reject at all."""
    code: str = ""
    says: tuple[str, ...] = ()
    """Parts of the message."""
    hint: str = ""
    """A part of the hint."""
    rejects: tuple[Reject, ...] = ()
    predicted: int = 0
    """Rows, where the input is not refused; of one with rejects, once the budget allows them."""
    cells: dict[str, list[Any]] = field(default_factory=dict)
    """Columns of the output that must hold exactly this."""

    @property
    def output(self) -> str:
        """The output has the input's format."""
        return f"out.{format_of(self.file)[0] or 'csv'}"


def refused(row: int, name: str, what: str, body: Callable[[], bytes], code: str, *says: str, **more: Any) -> Case:
    """A file that cannot be scored as it is: exit 3."""
    return Case(row, name, what, body, code=code, says=says, **{"exit_code": 3, **more})


def rejected(row: int, name: str, what: str, body: Callable[[], bytes], *faults: Reject, **more: Any) -> Case:
    """A file of which some rows are bad: exit 5, unless the budget allows them."""
    return Case(row, name, what, body, exit_code=5, code="reject_budget", rejects=faults, **more)


def accepted(row: int, name: str, what: str, body: Callable[[], bytes], predicted: int, **more: Any) -> Case:
    """A file that looks odd and is fine: exit 0."""
    return Case(row, name, what, body, predicted=predicted, **more)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended; places below the root are spelt without it."""

    exit_code: int
    code: str = ""
    message: str = ""
    hint: str = ""
    counts: tuple[int, int, int] | None = None
    """Rows read, predicted, rejected."""
    rejects: tuple[dict[str, Any], ...] = ()
    output: tuple[dict[str, Any], ...] | None = None
    """Its rows; None where there is no output."""


@dataclass(frozen=True, slots=True)
class Ends:
    """A case at the default budget, and where that had rejects, with a budget that allows them."""

    first: Ended
    allowed: Ended


class Benches:
    """Runs cases below a folder; each ends once and is remembered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends = cache(self._ends)
        self.model = cache(self._register)

    def bench(self, case: Case, name: str = "") -> Bench:
        """A root of its own with the input in it."""
        root = self.folder / (name or case.name)
        root.mkdir()
        bench = Bench(str(root), self.model(case.model), root)
        for file, body in {**case.beside, case.file: case.body}.items():
            bench.put(file, body())
        return bench

    def _ends(self, name: str) -> Ends:
        from tests.bad_inputs import CASES

        case = CASES[name]
        bench = self.bench(case)
        first = run(bench, case)
        return Ends(first, run(bench, case, rejects__max_rows=ANY_NUMBER) if case.rejects else first)

    def _register(self, name: str) -> str:
        root = str(self.folder / "models")
        return register(root) if name == "tiny" else register_declared(root)


def register_declared(root: str) -> str:
    """A model with a range, categories and a timestamp, which it ignores; its bundle's URI."""
    frame = rows(200)[["age", "spend", "product"]]
    frame["seen"] = pd.to_datetime("2026-01-01")
    encode = ColumnTransformer([("text", OneHotEncoder(), ["product"]), ("numbers", "passthrough", ["age", "spend"])])
    labels = np.where(frame["age"] / 50 + frame["spend"] > 1.2, "yes", "no")
    model = make_pipeline(encode, LogisticRegression(max_iter=1000)).fit(frame, labels)
    limits = {"ranges": {"age": (18, 120)}, "categories": {"product": ["basic", "plus", "pro"]}}
    version = batch.register(model, "declared", frame, root=root, **limits)
    return f"{root}/models/declared/{version.version}/"


def job_of(bench: Bench, case: Case, **settings: Any) -> Job:
    """The job over a case's input."""
    settings = {"input__uri": f"{{root}}/{case.file}", **case.settings, **settings}
    placed = {
        key: each.replace("{root}", bench.root) if isinstance(each, str) else each for key, each in settings.items()
    }
    return bench.job("unused", case.output, **placed)


def run(bench: Bench, case: Case, **settings: Any) -> Ended:
    """The real run, in this process. What is no `BatchError` comes through: it is a bug."""
    try:
        receipt = batch.run(job_of(bench, case, **settings)).as_dict()
    except BatchError as error:
        shown = [text.replace(f"{bench.root}/", "") for text in (error.message, error.hint)]
        return _ended(bench, case, error.exit_code, (error.code, *shown), error.receipt or {})
    return _ended(bench, case, 0, ("", "", ""), receipt)


def _ended(bench: Bench, case: Case, exit_code: int, said: tuple[str, str, str], receipt: dict[str, Any]) -> Ended:
    counts = receipt.get("rows") or {}
    stem, suffix = case.output.split(".")
    rejects = bench.get(f"{stem}.rejects.{suffix}") if receipt.get("rejects") else None
    output = bench.get(case.output)
    return Ended(
        exit_code,
        *said,
        counts=(counts["read"], counts["predicted"], counts["rejected"]) if counts else None,
        rejects=() if rejects is None else tuple(records_of(rejects, suffix)),
        output=None if output is None else tuple(records_of(output, suffix)),
    )


def records_of(body: bytes, format_name: str) -> list[dict[str, Any]]:
    """The records of an output or rejects file, read by other programs than ours; bytes that are no text survive."""
    if format_name == "parquet":
        return [_comparable(record) for record in _as_bytes(pq.read_table(io.BytesIO(body))).to_pylist()]
    text = body.decode("utf-8", "surrogateescape")
    if format_name == "jsonl":
        return [json.loads(line, parse_int=_integer) for line in text.split("\n") if line]
    csv.field_size_limit(1 << 30)
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _as_bytes(table: pa.Table) -> pa.Table:
    """Texts as bytes: a Parquet file may hold some that are no text, and so may the rejects of it."""
    texts = [pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in table.schema.types]
    return pa.table(
        [column.cast(pa.binary()) if text else column for text, column in zip(texts, table.columns, strict=True)],
        names=table.column_names,
    )


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Bytes as text, and NaN as something that equals itself."""
    found = {
        name: each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else each
        for name, each in record.items()
    }
    return {name: "NaN" if isinstance(each, float) and math.isnan(each) else each for name, each in found.items()}


def _integer(digits: str) -> int | str:
    """Python itself refuses to read the longest ones."""
    return int(digits) if len(digits) < 4000 else digits
