"""The run protocol in a simulated world: hundreds of seeds of crashes, pauses and lost, doubled and late requests.

`SIM_SEEDS` says how many seeds, `SIM_SEED` plays exactly one and shows its whole trace when it fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.simulation.mutants import MUTANTS, Plant
from tests.simulation.scenarios import (
    SCENARIOS,
    Scenario,
    late_outputs,
    play,
    strike,
    two_workers,
)
from tests.simulation.stage import Materials, Stage, prepared, staged

SEEDS = int(os.environ.get("SIM_SEEDS", "300"))
SEED = int(os.environ.get("SIM_SEED", "-1"))
MUTANT_SEEDS = 150
REQUESTS_MAX = 500

only_all = pytest.mark.skipif(SEED >= 0, reason="SIM_SEED plays one seed")


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    return prepared(tmp_path_factory.mktemp("simulation"))


@pytest.fixture
def stage(materials: Materials) -> Iterator[Stage]:
    with staged(materials) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_every_seed_ends_well(stage: Stage, scenario: Scenario) -> None:
    """Whatever happens to whom: whole files only, one commit per run, no stored chunk scored again, and the newest run rules."""
    mine = [seed for seed in (range(SEEDS) if SEED < 0 else [SEED]) if SCENARIOS[seed % len(SCENARIOS)] is scenario]
    for seed in mine:
        play(stage, seed, shown_lines=30 if SEED < 0 else 100_000)


@pytest.mark.slow
@only_all
@pytest.mark.parametrize("kind", ["kill before", "kill after", "pause before", "lost"])
def test_struck_at_every_request(stage: Stage, kind: str) -> None:
    """A worker is killed, stopped for two minutes or left without an answer at each of its requests in turn; others go on."""
    number = 1
    while strike(stage, number, kind):
        number += 1
        assert number < REQUESTS_MAX
    assert number > 50


@pytest.mark.slow
@only_all
@pytest.mark.parametrize("seed", range(12))
def test_a_seed_is_one_story(stage: Stage, seed: int) -> None:
    """The same seed gives the same trace, to the last line: a failure can be seen again."""
    play(stage, seed)
    once = stage.world.trace
    play(stage, seed)
    assert stage.world.trace == once


@pytest.mark.slow
@only_all
@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """The simulator is worth something: it finds each of these faults within a few seeds."""
    plant(monkeypatch, stage)
    for seed in range(MUTANT_SEEDS):
        try:
            play(stage, seed, MUTANTS[plant])
        except AssertionError:
            return
    pytest.fail(f"{plant.__name__} was not found in {MUTANT_SEEDS} seeds: {plant.__doc__}")


@pytest.mark.slow
@only_all
def test_late_outputs_are_put_right(stage: Stage, record_property: pytest.RecordProperty) -> None:
    """A write that lands after its sender was outrun shows an older file for a while; the newest run, asked again, mends it."""
    seen, stuck = zip(*(play(stage, seed, late_outputs) for seed in range(60)), strict=True)
    record_property("an older file over a newer one", sum(seen))
    record_property("an older file at the end", sum(stuck))
    assert sum(seen) >= sum(stuck) > 0


@only_all
def test_good_weather_is_not_all(stage: Stage) -> None:
    """The stories are not too tame: processes die, sleep, find each other busy and give the store up."""
    ends: set[str] = set()
    for seed in range(20):
        play(stage, seed, two_workers)
        ends.update(type(process.outcome).__name__ for process in stage.world.processes)
    assert ends >= {"Receipt", "Killed", "Busy", "StorageUnavailable"}
