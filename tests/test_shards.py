"""`run --shard i/n` and `run --finalize`: parts that know nothing of each other, and one run that ends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batch
from batch.errors import UsageError
from batch.execution.shards import Shard, run_shard
from tests.run_cases import Bench, encode, rows

TINY = {"run__chunk_bytes": 500, "run__predict_rows": 7}


def program(bench: Bench, *options: str, code: int = 0) -> dict[str, Any]:
    """What the program says in JSON."""
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
    command = [sys.executable, "-m", "batch", "run", str(bench.folder / "weekly.toml"), *settings, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout))


def calm_bytes(bench: Bench) -> bytes:
    calm = Bench(f"{bench.root}/calm", bench.model, bench.folder)
    calm.put("in.csv", encode(rows(200), "csv"))
    calm.run("in.csv", "out.csv", **TINY)
    body = calm.get("out.csv")
    assert body is not None
    return body


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "-1/2", "3/2", "0/0", "1/2/3", "a/b", "1/10001", "1.0/2"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="is not a part of a whole"):
        Shard.parse(text)


@given(st.integers(1, 60), st.integers(0, 130))
def test_shards_are_a_partition(count: int, chunks: int) -> None:
    """Each chunk is in one shard, counted from 0 or from 1; neighbours stay together."""

    class Plan:
        tasks = tuple(range(chunks))

    for first in (0, 1):
        parts = [Shard.parse(f"{number}/{count}").of(Plan) for number in range(first, first + count)]  # type: ignore[arg-type]
        assert sorted(number for part in parts for number in part) == list(range(chunks))
        assert all(part == tuple(range(part[0], part[-1] + 1)) for part in parts if part)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 200])
def test_any_number_of_shards_gives_the_same_bytes(bench: Bench, count: int) -> None:
    """At the same time, some of them twice; also more shards than chunks. Nothing is scored again at the end, but for starts that were guessed wrong."""
    bench.put("in.csv", encode(rows(200), "csv"))
    job = bench.job("in.csv", "out.csv", **TINY)
    numbers = [*range(count), 0]
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda number: run_shard(job, Shard(number, count)), numbers))
    assert {one["state"] for one in told} == {"staged"}
    assert bench.get("out.csv") is None
    receipt = batch.run(job).as_dict()
    assert receipt["run_id"] == told[0]["run_id"]
    chunks = receipt["chunks"]
    assert chunks["reused"] >= chunks["total"] * 2 // 3, "most guesses are right"
    assert (receipt["rows"]["predicted"], chunks["total"] > 10) == (200, True)
    assert bench.get("out.csv") == calm_bytes(bench)
    assert run_shard(job, Shard(0, count))["state"] == "done"


def test_shards_that_never_ran_are_made_up_for(bench: Bench) -> None:
    """The run that ends it scores what is missing: one of three shards was lost."""
    bench.put("in.csv", encode(rows(200), "csv"))
    job = bench.job("in.csv", "out.csv", **TINY)
    told = [run_shard(job, Shard(number, 3)) for number in (0, 2)]
    receipt = batch.run(job).as_dict()
    staged = sum(one["chunks"]["total"] for one in told)
    assert 0 < receipt["chunks"]["reused"] <= staged < receipt["chunks"]["total"]
    assert bench.get("out.csv") == calm_bytes(bench)


def test_a_shard_over_the_budget_says_nothing_of_it(bench: Bench) -> None:
    """How many rejects there may be is a question of the whole: the run that ends it asks it."""
    table = rows(200)
    table["age"] = table["age"].astype(object)
    table.loc[::10, "age"] = "old"
    bench.put("in.csv", encode(table, "csv"))
    job = bench.job("in.csv", "out.csv", **TINY, rejects__max_rows=20)
    told = [run_shard(job, Shard(number, 2)) for number in range(2)]
    assert 15 < sum(one["rows"]["rejected"] for one in told) <= 20, (
        "a chunk whose start was guessed wrong is left to the end"
    )
    assert batch.run(job).as_dict()["state"] == "completed_with_rejects"


@pytest.mark.slow
def test_the_commands(bench: Bench) -> None:
    """As the pods of an Indexed Job run them, in processes of their own."""
    bench.put("in.csv", encode(rows(200), "csv"))
    bench.job("in.csv", "out.csv")
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda number: program(bench, "--shard", f"{number}/2"), range(2)))
    assert [one["shard"] for one in told] == ["0/2", "1/2"]
    receipt = program(bench, "--finalize")
    assert (receipt["state"], receipt["rows"]["predicted"]) == ("completed", 200)
    assert bench.get("out.csv") == calm_bytes(bench)
    assert program(bench, "--shard", "1/2", "--finalize", code=2)["error"]["code"] == "usage"
    for nothing in ("3/2", ""):  # an empty variable of a shell must not become a run of the whole
        assert program(bench, "--shard", nothing, code=2)["state"] == "failed"
