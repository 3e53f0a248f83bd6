"""How a program starts: what it does not do twice, nor for longer than it must."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import batch
from batch.errors import ModelRefused
from batch.execution.engine import Once
from batch.execution.preflight import _highest
from tests.run_cases import Bench

COLLECTOR = """
import gc
from batch.execution.process import collect_as_usual, collect_rarely
usual = gc.get_threshold()
collect_as_usual()
assert gc.get_freeze_count() == 0, "not without collect_rarely: the process is somebody else's"
collect_rarely()
assert gc.get_threshold()[0] > usual[0]
collect_as_usual()
assert gc.get_threshold() == usual and gc.get_freeze_count() > 0
gc.set_threshold(9, 9, 9)
collect_rarely()
assert gc.get_threshold() == (9, 9, 9), "what somebody has set stays"
"""


@pytest.mark.parametrize("count", [*range(1, 40), 1000, 1023, 1024, 1025])
def test_the_highest_generation_is_found_in_few_steps(count: int) -> None:
    """A job that is forced every night for three years is not asked a thousand times."""
    asked: list[int] = []

    def is_there(number: int) -> bool:
        asked.append(number)
        return number <= count

    assert _highest(is_there) == count
    assert len(asked) <= 2 * count.bit_length() + 1


def test_the_garbage_collector_is_slowed_down_only_while_a_program_starts() -> None:
    """In a process of its own: the settings are those of the whole process."""
    done = subprocess.run([sys.executable, "-c", COLLECTOR], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_models_are_made_once_for_all_threads() -> None:
    """Threads that come while they are being made wait for the same ones."""
    made: list[dict[str, str]] = []
    together = threading.Barrier(4)

    def make() -> dict[str, str]:
        time.sleep(0.05)
        made.append({"champion": "refused"})
        return made[-1]

    once = Once(make)

    def ask(_: int) -> dict[str, str]:
        together.wait(10)
        return once()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(made) == 1
    assert all(one is made[0] for one in found)


def test_a_bad_model_ends_a_run_that_has_begun_to_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are read while the model is loaded: its refusal is the run's, and nothing was scored or written."""

    def refuse(*_: object, **__: object) -> None:
        raise ModelRefused("the golden rows differ")

    monkeypatch.setattr("batch.models.loading.assemble", refuse)
    job = bench.job("in.csv", "out.csv", run__engine="threads", run__workers=2, run__chunk_bytes=512)
    with pytest.raises(ModelRefused, match="golden rows differ") as caught:
        batch.run(job)
    assert caught.value.receipt["rows"]["predicted"] == 0
    assert not [name for name in bench.names() if "/chunks/" in name or name.endswith("out.csv")]


def test_a_run_whose_chunks_are_all_there_does_not_wait_for_its_model(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only publishes: a model that takes long, or has gone bad since, is in nobody's way."""
    job = bench.job("in.csv", "out.csv", run__engine="threads", run__workers=2, run__chunk_bytes=512)
    first = batch.run(job)
    body = bench.get("out.csv")
    bench.delete(
        *[
            name
            for name in bench.names()
            if "/done/" in name or name.endswith(("/commit.json", ".end.json", "/out.csv"))
        ]
    )
    bench.delete(*[name for name in bench.names() if "/outputs/" in name and name.endswith(".json")])
    ended = threading.Event()

    def stuck(*_: object, **__: object) -> None:
        ended.wait(60)
        raise ModelRefused("too late")

    monkeypatch.setattr("batch.models.loading.assemble", stuck)
    again = batch.run(job)
    ended.set()
    assert (again.run_id, again.as_dict()["chunks"]["scored"]) == (first.run_id, 0)
    assert bench.get("out.csv") == body
