"""Whatever a file holds, however it is cut and wherever it is damaged: a documented end, and every row accounted for.

``FUZZ_SEED=17`` runs one damaged file again, ``FUZZ_FILES=10000`` so many.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bad_inputs.case import records_of
from tests.bad_inputs.parquet_cases import stored, table
from tests.fuzz import EXIT_CODES
from tests.run_cases import Bench, register

pytestmark = pytest.mark.slow

# --- rows and cuts

Row = tuple[str, int, float, str]
IDS = st.text("ab ,\"'\n\r\\\u2028\x85ö☂", max_size=8)
ROWS = st.tuples(IDS, st.integers(0, 99), st.floats(-5, 5), st.sampled_from(["basic", "plus", "gold", "a,b"]))
FAULTS = st.sampled_from(["", "", "", "", "null", "type", "range", "broken"])
TABLES = st.lists(st.tuples(ROWS, FAULTS), max_size=40)
EXAMPLES = max(20, settings().max_examples // 5)
"""Each is a whole run."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Bench]:
    """Fresh roots with one model."""
    folder = tmp_path_factory.mktemp("fuzz")
    model = register(str(folder))

    def fresh() -> Iterable[Bench]:
        for number in count():
            place = folder / str(number)
            place.mkdir()
            yield Bench(str(place), model, place)

    return fresh()


def as_csv(found: list[tuple[Row, str]]) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow(["customer_id", "age", "spend", "product"])
    for (name, age, spend, product), fault in found:
        cells: list[Any] = [name, age, spend, product]
        cells = {
            "null": [name, "", spend, product],
            "type": [name, "x", *cells[2:]],
            "range": [name, age, "inf", product],
        }.get(fault, cells)
        if fault == "broken":
            sink.write('5" pipe,1\r\n')
        else:
            writer.writerow(cells)
    return sink.getvalue().encode()


def as_jsonl(found: list[tuple[Row, str]]) -> bytes:
    lines = []
    for (name, age, spend, product), fault in found:
        record: dict[str, Any] = {"customer_id": name, "age": age, "spend": spend, "product": product}
        record |= {"null": {"age": None}, "type": {"age": "x"}}.get(fault, {})
        line = json.dumps(record, ensure_ascii=False)
        line = line.replace(f'"spend": {spend}', '"spend": 1e999') if fault == "range" else line
        lines.append("null" if fault == "broken" else line)
    return "".join(line + "\n" for line in lines).encode()


def as_parquet(found: list[tuple[Row, str]]) -> bytes:
    ages = [None if fault in {"null", "type", "broken"} else row[1] for row, fault in found]
    spends = [float("inf") if fault == "range" else row[2] for row, fault in found]
    columns = {"customer_id": [row[0] for row, _ in found], "product": [row[3] for row, _ in found]}
    types = {"age": "int64", "spend": "float64", "customer_id": "string", "product": "string"}
    whole = {**columns, "age": ages, "spend": spends}
    import pyarrow as pa

    return stored(
        table(len(found), **{name: pa.array(whole[name], kind) for name, kind in types.items()}), row_group_size=7
    )


WRITERS = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}


@pytest.mark.parametrize("format_name", WRITERS)
@settings(max_examples=EXAMPLES)
@given(found=TABLES, chunk_bytes=st.integers(1, 400), predict_rows=st.sampled_from([1, 3, 50_000]))
def test_predicted_and_rejected_are_the_input_in_order(
    roots: Iterable[Bench], format_name: str, found: list[tuple[Row, str]], chunk_bytes: int, predict_rows: int
) -> None:
    """Through whole runs, however small the chunks: each row is in one of the two files, at its place."""
    bench = next(iter(roots))
    body = WRITERS[format_name](found)
    bench.put(f"in.{format_name}", body)
    options = {
        "run__chunk_bytes": max(chunk_bytes, len(body) // 15),
        "run__predict_rows": predict_rows,
        "rejects__max_rows": 99,
        "input__allow_empty": True,
    }
    receipt = bench.run(f"in.{format_name}", f"out.{format_name}", **options)
    bad = [number for number, (_, fault) in enumerate(found, 1) if fault]
    assert (receipt.rows.read, receipt.rows.rejected) == (len(found), len(bad))
    output = records_of(bench.get(f"out.{format_name}") or b"", format_name)
    assert [record["customer_id"] for record in output] == [row[0] for row, fault in found if not fault]
    rejects = records_of(bench.get(f"out.rejects.{format_name}") or b"", format_name) if bad else []
    assert [int(record["_row"]) for record in rejects] == bad
    kept = [record["customer_id"] for record in rejects if not record.get("_raw")]
    broken = "" if format_name == "parquet" else "broken"
    assert kept == [row[0] for row, fault in found if fault and fault != broken]


# --- damaged files


@dataclass(frozen=True)
class End:
    """How a damaged file ended."""

    seed: int
    exit_code: int
    complaint: str


def run_seeds(folder: Path, first: int, stop: int) -> list[End]:
    """All seeds in children; one that takes its child with it is told, and the next child goes on behind it."""
    ends: list[End] = []
    while first < stop:
        command = [sys.executable, "-m", "tests.fuzz", str(folder), str(first), str(stop)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
        lines = [line.split(" ", 3) for line in done.stdout.splitlines() if line[:2] in {"> ", "< "}]
        ends += [
            End(int(seed), int(code), json.loads(said))
            for _, seed, code, said in (line for line in lines if line[0] == "<")
        ]
        assert lines, done.stderr
        last = int(lines[-1][1])
        if lines[-1][0] == ">":
            ends.append(End(last, done.returncode, f"the process ended: {done.stderr[:3000]}"))
        first = last + 1
    return ends


def seeds() -> range:
    if one := os.environ.get("FUZZ_SEED"):
        return range(int(one), int(one) + 1)
    is_nightly = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
    files = int(os.environ.get("FUZZ_FILES") or (10_000 if is_nightly else 200))
    first = random.randrange(10**9) if is_nightly else 0
    return range(first, first + files)


@pytest.mark.timeout(4 * 3600)
def test_a_damaged_file_has_a_documented_end(tmp_path: Path) -> None:
    """Exit 0, 3 or 4 within seconds, one sentence, no traceback, no dead process, and all rows where they belong."""
    wanted, size = seeds(), 250
    parts = [(start, min(start + size, wanted.stop)) for start in range(wanted.start, wanted.stop, size)]
    folders = [tmp_path / str(start) for start, _ in parts]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        ends = [
            end
            for found in pool.map(lambda each: run_seeds(each[0], *each[1]), zip(folders, parts, strict=True))
            for end in found
        ]
    undocumented = [end for end in ends if end.complaint or end.exit_code not in EXIT_CODES]
    tally = {code: sum(end.exit_code == code for end in ends) for code in sorted({end.exit_code for end in ends})}
    print(f"{len(ends)} mutated files: {len(undocumented)} undocumented ends; by exit code: {tally}")
    assert [end.seed for end in ends] == list(wanted)
    assert not undocumented, "\n".join(
        f"FUZZ_SEED={end.seed}: exit {end.exit_code}: {end.complaint}" for end in undocumented
    )
