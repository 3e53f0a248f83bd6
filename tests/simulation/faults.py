"""What may happen to a process and to its requests: one thing planned in advance, or weather that a seed makes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Protocol

WRITES = frozenset({"PUT-NEW", "PUT", "PART", "COMPLETE", "CREATE-UPLOAD", "DELETE", "ABORT"})

RATES = {
    "kill before": 0.012,
    "kill after": 0.012,
    "pause before": 0.008,
    "pause after": 0.008,
    "refused": 0.04,
    "lost": 0.06,
    "late": 0.05,
    "double": 0.05,
    "fail": 0.006,
    "fail applied": 0.006,
    "fail late": 0.006,
}
"""Kind of fault -> how often, per request, in weather that has it.

refused: an error instead of an effect. lost: the effect without its answer. late: the sender gives up waiting and asks
again, and the first request takes effect at some later time. double: it takes effect twice. fail: the sender's patience is
spent, with no effect, with one, or with one that is still to come.
"""

UNSETTLED = frozenset({"lost", "late", "double", "fail applied", "fail late"})
"""These mean something only for a request that changes the store."""

ZOMBIE_WRITES = frozenset({"late", "double", "fail late"})
"""A write that takes effect after its sender went on."""


class Faults(Protocol):
    """Decides about one request of one process."""

    output_may_land_late: bool

    def draw(self, number: int, verb: str, uri: str) -> str:
        """A kind out of `RATES`, or ""; `number` counts the process's requests from 1."""
        ...

    def pause_seconds(self) -> float:
        """How long a paused process sleeps."""
        ...


@dataclass
class Planned:
    """Faults at given requests: number -> kind."""

    at: dict[int, str]
    seconds: float = 90.0
    output_may_land_late: bool = False

    def draw(self, number: int, verb: str, uri: str) -> str:
        return self.at.get(number, "")

    def pause_seconds(self) -> float:
        return self.seconds


@dataclass
class Publishing:
    """A publisher is stopped once, after it asked to store its commit: at a request of a kind, or at the n-th."""

    output: str
    aim: int | str
    """The n-th request, "entry" (in the register) or "write" (of the output: between the last look and the effect)."""
    after: bool = False
    """When the request has taken effect, not before."""
    seconds: float = 90.0
    dies: bool = False
    """And is killed when the request has taken effect."""
    refusals: int = 0
    """So many attempts at the write are answered with an error before."""
    output_may_land_late: bool = False
    _committed: int = 0
    _over: bool = False

    def draw(self, number: int, verb: str, uri: str) -> str:
        if verb == "PUT-NEW" and uri.endswith("/commit.json"):
            self._committed = self._committed or number
        if self._over or not self._committed or not self._hits(number - self._committed, verb, uri):
            return ""
        if self.refusals:
            self.refusals -= 1
            return "refused"
        self._over = True
        return f"pause {'after' if self.after else 'before'}" + (", kill after" if self.dies else "")

    def _hits(self, nth: int, verb: str, uri: str) -> bool:
        if self.aim == "write":
            return verb in {"PUT", "COMPLETE"} and uri == self.output
        if self.aim == "entry":
            return verb == "PUT-NEW" and "/outputs/" in uri
        return nth == self.aim

    def pause_seconds(self) -> float:
        return self.seconds


@dataclass
class Weather:
    """Random faults; each seed has some kinds of them and not others, so that rare meetings of a few kinds are tried too."""

    random: random.Random
    without: frozenset[str] = frozenset()
    output_may_land_late: bool = False
    rates: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        kinds = [kind for kind in RATES if kind not in self.without]
        strength = self.random.choice([0.5, 1.0, 1.0, 2.0])
        self.rates = {kind: RATES[kind] * strength for kind in kinds if self.random.random() < 0.6}

    def draw(self, number: int, verb: str, uri: str) -> str:
        chance = self.random.random()
        for kind, rate in self.rates.items():
            chance -= rate
            if chance < 0:
                return "" if kind in UNSETTLED and verb not in WRITES and kind != "lost" else kind
        return ""

    def pause_seconds(self) -> float:
        return self.random.choice([3.0, 12.0, 35.0, 60.0, 200.0]) * self.random.uniform(0.8, 1.5)
