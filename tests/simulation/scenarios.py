"""Stories that a seed tells: who starts when, and what happens to whom."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from batch.errors import InputChanged
from tests.simulation import endings
from tests.simulation.faults import RATES, Planned, Publishing, Weather
from tests.simulation.stage import OUTPUT, Stage

Scenario = Callable[[Stage, random.Random], Any]
DEADLY = frozenset(kind for kind in RATES if kind.startswith(("kill", "pause", "fail")))
"""Faults that end a process or keep it from its heartbeat."""


def struck(stage: Stage, number: int, kind: str) -> bool:
    """A: one thing happens at one request of a worker, and others go on; False when the run has no such request."""
    stage.open(number)
    first = stage.worker("first", faults=Planned({number: kind}, seconds=120.0))
    if kind.startswith("pause"):
        stage.worker("second", at=50.0)
    stage.world.run()
    endings.everybody_ended_well(stage)
    reached = first.requests >= number
    _finish(stage, "old")
    return reached


def two_workers(stage: Stage, dice: random.Random) -> None:
    """B: several processes want the same run; some share a host, so that the dead are recognised at once."""
    stage.open(dice.randrange(1 << 30), fickle=dice.random() < 0.3)
    without = DEADLY if dice.random() < 0.2 else frozenset()
    weathers = [Weather(dice, without=without) for _ in range(dice.choice([2, 2, 3]))]
    for number, weather in enumerate(weathers):
        host = dice.choice(["", "shared"])
        stage.worker(f"worker{number}", at=_soon(dice), host=host, faults=weather)
    stage.world.run()
    endings.everybody_ended_well(stage)
    if without:
        _nothing_twice(stage)
    _finish(stage, "old")


def two_runs(stage: Stage, dice: random.Random) -> None:
    """C: runs over an old and a new input write to one key; the last entry of its register rules."""
    stage.open(dice.randrange(1 << 30))
    for number, source in enumerate(dice.choice([["old", "new"], ["old", "new", "old"], ["old", "new", "new"]])):
        stage.worker(f"{source}{number}", source, at=_soon(dice), faults=Weather(dice))
    stage.world.run()
    endings.everybody_ended_well(stage)
    ruling = _ruling(stage)
    _finish(stage, ruling)
    _finish(stage, "new" if ruling == "old" else "old")  # asked for again, the other one rules from now on


def forced(stage: Stage, dice: random.Random) -> None:
    """D: --force opens generations of a run while others ask for it as it is."""
    stage.open(dice.randrange(1 << 30))
    if dice.random() < 0.7:
        stage.worker("done")
        stage.world.run()
    for number in range(dice.choice([2, 3])):
        force = dice.random() < 0.6
        stage.worker(f"{'forced' if force else 'plain'}{number}", at=_soon(dice), faults=Weather(dice), force=force)
    stage.world.run()
    endings.everybody_ended_well(stage)
    _finish(stage, "old")


def zombie_publisher(stage: Stage, dice: random.Random) -> None:
    """E: a publisher is stopped somewhere between its commit and its end, and a newer run publishes meanwhile."""
    stage.open(dice.randrange(1 << 30))
    aim = dice.choice(["write", "entry", dice.randrange(42), dice.randrange(42)])
    refusals = dice.choice([0, 1, 2]) if aim == "write" else 0
    faults = Publishing(OUTPUT, aim, after=dice.random() < 0.4, seconds=dice.uniform(45.0, 120.0), refusals=refusals)
    stage.worker("zombie", faults=faults)
    for number in range(2):
        weather = Weather(dice, without=frozenset({"kill before", "kill after"})) if dice.random() < 0.2 else None
        stage.worker(f"newer{number}", "new", at=dice.uniform(0.0, 40.0), faults=weather)
    stage.world.run()
    endings.everybody_ended_well(stage)
    ruling = _ruling(stage)
    _finish(stage, ruling)
    _finish(stage, "new" if ruling == "old" else "old")


def cleaning(stage: Stage, dice: random.Random) -> None:
    """F: `clean` beside a worker that was stopped for long, or that died, and beside those who go on from it."""
    stage.open(dice.randrange(1 << 30))
    pause = Planned(
        {dice.randrange(10, 75): dice.choice(["pause before", "pause after"])}, seconds=dice.uniform(60, 900)
    )
    stage.worker("zombie", faults=pause if dice.random() < 0.6 else Weather(dice))
    for number in range(2):
        at = dice.choice([40.0, 100.0, 200.0, 500.0]) * dice.uniform(0.5, 1.5)
        stage.cleaner(
            f"clean{number}",
            at=at,
            older_seconds=dice.choice([1.0, 35.0, 80.0]),
            faults=dice.choice([None, Weather(dice)]),
        )
    stage.worker(
        "second",
        at=dice.choice([60.0, 200.0, 500.0]) * dice.uniform(0.3, 1.5),
        faults=dice.choice([None, Weather(dice)]),
    )
    stage.world.run()
    endings.everybody_ended_well(stage)
    _finish(stage, "old")


def replaced_input(stage: Stage, dice: random.Random) -> None:
    """G: the input is replaced while it is read: a run uses one version of it or none (I8)."""
    stage.open(dice.randrange(1 << 30))
    for number in range(2):
        stage.worker(f"worker{number}", at=_soon(dice), faults=Weather(dice))
    stage.world.spawn("writer", lambda: stage.put("old", stage.materials.inputs["new"]), at=dice.uniform(0.0, 6.0))
    stage.world.run()
    endings.everybody_ended_well(stage, also=(InputChanged,))
    receipt = endings.undisturbed(stage, "old")
    stage.world.settle()
    standing = stage.store.objects[stage.judge.output].body
    stage.judge.require(standing == stage.materials.references["new"], "I8: the file is not that of the replaced input")
    stage.judge.require(stage.judge.newest_run() == receipt.run_id, "I8: another run is the newest entry")


def late_outputs(stage: Stage, dice: random.Random) -> tuple[bool, bool]:
    """What no client can defend (decision 007): the output itself lands late, or its publisher dies between write and look.

    Tells whether an older file was ever put over a newer one, and whether it stood there when all was over. The next run of
    the newest entry puts it right, whatever happened.
    """
    stage.open(dice.randrange(1 << 30))
    if dice.random() < 0.5:
        faults = Publishing(OUTPUT, "write", seconds=dice.uniform(45.0, 120.0), dies=True)
        stage.worker("zombie", faults=faults)
        stage.worker("newer", "new", at=dice.uniform(5.0, 40.0))
    else:
        for number, source in enumerate(["old", "new"]):
            stage.worker(f"{source}{number}", source, at=_soon(dice), faults=Weather(dice, output_may_land_late=True))
    stage.world.run()
    endings.everybody_ended_well(stage)
    stage.world.settle()
    seen, stuck = bool(stage.judge.stale), stage.judge.standing_run() not in {"", stage.judge.newest_run()}
    _finish(stage, _ruling(stage))
    return seen, stuck


SCENARIOS: list[Scenario] = [
    two_workers,
    two_runs,
    forced,
    zombie_publisher,
    cleaning,
    replaced_input,
]


def play(stage: Stage, seed: int, scenario: Scenario | None = None, *, shown_lines: int = 30) -> Any:
    """The story of a seed; a failure names the seed, shows the last lines of the trace and says how to see it again."""
    chosen = scenario or SCENARIOS[seed % len(SCENARIOS)]
    with _told(stage, f"{chosen.__name__}, seed {seed}", f"SIM_SEED={seed}", shown_lines):
        return chosen(stage, random.Random(seed))


def strike(stage: Stage, number: int, kind: str) -> bool:
    """`struck`, told in the same way."""
    with _told(stage, f"{kind} request {number}", "", 30):
        return struck(stage, number, kind)


@contextmanager
def _told(stage: Stage, what: str, setting: str, shown_lines: int) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        lines = "\n".join(stage.world.trace[-shown_lines:])
        again = f"{setting} .venv/bin/python -m pytest tests/test_simulation.py".strip()
        raise AssertionError(f"{what}: {error}\n{lines}\nagain: {again}") from error


def _finish(stage: Stage, source: str) -> None:
    endings.key_holds_newest(stage)
    receipt = endings.undisturbed(stage, source)
    endings.rests(stage, source, receipt)


def _ruling(stage: Stage) -> str:
    """The input of the run that the register names last."""
    body = stage.judge.committed.get(stage.judge.newest_run())
    return next((name for name, reference in stage.materials.references.items() if reference == body), "new")


def _nothing_twice(stage: Stage) -> None:
    """I6: where nobody dies or sleeps, the lease lets each chunk be scored once."""
    done = [one[1:] for one in stage.judge.scores]
    stage.judge.require(len(done) == len(set(done)), "I6: a chunk was scored twice though nobody died or slept")


def _soon(dice: random.Random) -> float:
    return dice.choice([0.0, 1.0, 5.0, 20.0, 45.0]) * dice.uniform(0.5, 1.5)
