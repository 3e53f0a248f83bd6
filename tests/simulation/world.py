"""Processes, their threads and their time. Many real threads, but only one ever runs, and the seed says which.

Control is handed over at every request to the store (before and after it takes effect) and at every wait on the clock, so one
seed is one interleaving. Time is virtual: it jumps to the next moment at which anybody can go on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STEPS_MAX = 30_000
"""More than any sound simulation takes: one that does not end is a failure, not a hung test."""


class Killed(BaseException):
    """The process is gone (kill -9): its threads unwind, and nothing they still ask for reaches the store."""


class Endless(AssertionError):
    """A simulation that takes more steps than any sound one does."""


@dataclass(eq=False)
class Process:
    """One worker process on one (simulated) host; its threads share its fate."""

    name: str
    host: str
    pid: int
    alive: bool = True
    paused_until: float = 0.0
    """SIGSTOP: none of its threads runs before this moment."""
    faults: Any = None
    """What may happen to it and to its requests; None in good weather."""
    requests: int = 0
    outcome: Any = None
    """What its work returned, the exception that ended it, or `Killed`."""
    gave_up: bool = False
    """The store did not answer one of its requests for longer than its patience."""


class Actor:
    """One thread of a process, and when it can go on."""

    def __init__(self, process: Process, name: str, work: Callable[[], None]) -> None:
        self.process = process
        self.name = name
        self.work = work
        self.baton = threading.Semaphore(0)
        self.wake_at = 0.0
        self.event: threading.Event | None = None
        self.over = False

    def can_go_at(self) -> float:
        """The moment from which this thread can run."""
        if not self.process.alive:
            return 0.0
        woken = self.event is not None and self.event.is_set()
        return max(self.process.paused_until, 0.0 if woken else self.wake_at)


@dataclass(frozen=True)
class Landing:
    """A request that its sender has given up and that the store carries out all the same, later."""

    at: float
    what: str
    effect: Callable[[], Any]


class World:
    """All processes, what is on the wire, and the one random number generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.trace: list[str] = []
        self.actors: list[Actor] = []
        self.processes: list[Process] = []
        self.wire: list[Landing] = []
        self.steps = 0
        self.endless = False
        self.failures: list[str] = []
        """Exceptions that ended a background thread."""
        self._main = threading.Semaphore(0)
        self._threads: dict[int, Actor] = {}

    def spawn(
        self, name: str, work: Callable[[], Any], *, at: float = 0.0, host: str = "", faults: Any = None
    ) -> Process:
        """Have a process start at a moment; `work` is its main thread, and its end is the end of the process."""
        process = Process(name, host or name, 1000 + len(self.processes), faults=faults)
        self.processes.append(process)

        def main() -> None:
            try:
                process.outcome = work()
            except (Exception, Killed) as error:
                process.outcome = error
                self.log(process, f"ends with {type(error).__name__}: {str(error)[:100]}")
            else:
                self.log(process, "ends well")
            process.alive = False

        self.actors.append(Actor(process, "main", main))
        self.actors[-1].wake_at = self.now + at
        return process

    def run(self) -> None:
        """Let everything happen until every thread is over; what is on the wire then stays there."""
        for actor in self.actors:
            self._start(actor)
        self._hand_over(None)
        self._main.acquire()
        self.actors.clear()
        if self.endless:
            raise Endless(f"no end after {STEPS_MAX} steps")

    def settle(self, counts: Callable[[str, Any], bool] = lambda *_: False) -> bool:
        """Let the last request on the wire land; whether one of them (what it was, what came of it) counts."""
        found = False
        while self.wire:
            landing = min(self.wire, key=lambda one: one.at)
            found |= counts(landing.what, self._land(landing))
        return found

    def current(self) -> Actor | None:
        """Whose thread this is; None for the test itself, which looks without being simulated."""
        return self._threads.get(threading.get_ident())

    def pause(self, seconds: float = 0.0, event: threading.Event | None = None) -> None:
        """Hand control over; this thread goes on once the time has passed or the event is set."""
        actor = self.current()
        assert actor is not None, "only a simulated thread waits"
        self._require_life(actor)
        actor.wake_at, actor.event = self.now + seconds, event
        self._hand_over(actor)
        actor.event = None
        self._require_life(actor)

    def attach(self, name: str, work: Callable[[], None]) -> None:
        """A further thread of the running process."""
        mine = self.current()
        assert mine is not None, "only a simulated process starts threads"
        actor = Actor(mine.process, name, work)
        actor.wake_at = self.now
        self.actors.append(actor)
        self._start(actor)

    def later(self, seconds: float, what: str, effect: Callable[[], Any]) -> None:
        """Put a request on the wire that lands after its sender has stopped waiting for it."""
        self.wire.append(Landing(self.now + seconds, what, effect))

    def log(self, process: Process | None, what: str) -> None:
        self.trace.append(f"{self.now:8.2f} {process.name if process else 'the wire':10} {what}")

    def kill(self, process: Process) -> None:
        """Kill -9; raises in the calling thread where that is one of its own."""
        self.log(process, "is killed")
        process.alive = False
        mine = self.current()
        if mine is not None and mine.process is process:
            raise Killed

    def _require_life(self, actor: Actor) -> None:
        if self.endless or not actor.process.alive:
            raise Killed

    def _start(self, actor: Actor) -> None:
        def body() -> None:
            actor.baton.acquire()
            self._threads[threading.get_ident()] = actor
            try:
                self._require_life(actor)
                actor.work()
            except Killed:
                pass
            except Exception as error:  # of a heartbeat: it is told of in the end
                self.failures.append(f"{actor.process.name}/{actor.name} failed: {error!r}")
            finally:
                actor.over = True
                del self._threads[threading.get_ident()]
                self._hand_over(actor)

        threading.Thread(target=body, name=f"{actor.process.name}/{actor.name}", daemon=True).start()

    def _hand_over(self, giver: Actor | None) -> None:
        """Wake the next thread, and sleep until it is our turn again."""
        following = self._next()
        if following is giver and giver is not None:
            return
        (following.baton if following is not None else self._main).release()
        if giver is not None and not giver.over:
            giver.baton.acquire()

    def _next(self) -> Actor | None:
        """The thread that runs next, after whatever lands before it; None when all are over."""
        while living := [actor for actor in self.actors if not actor.over]:
            self.steps += 1
            self.endless |= self.steps > STEPS_MAX
            if self.endless:
                return living[0]
            moments = [actor.can_go_at() for actor in living]
            landings = [landing.at for landing in self.wire]
            self.now = max(self.now, min((*moments, *landings)))
            ready: list[Actor | Landing] = [one for one, at in zip(living, moments, strict=True) if at <= self.now]
            ready += [landing for landing in self.wire if landing.at <= self.now]
            chosen = ready[0] if len(ready) == 1 else self.random.choice(ready)
            if isinstance(chosen, Actor):
                return chosen
            self._land(chosen)
        return None

    def _land(self, landing: Landing) -> Any:
        self.wire.remove(landing)
        self.now = max(self.now, landing.at)
        try:
            effect = landing.effect()
        except AssertionError as error:  # an invariant: the judge has noted it, and whoever's thread this is must go on
            self.failures.append(f"{landing.what} failed: {error!r}")
            effect = "broken"
        self.log(None, f"{landing.what} -> {effect}")
        return effect


class SimClock:
    """`batch.clock.Clock` of one process: it counts from a moment of its own, so that nobody can compare two of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._origin = world.random.uniform(0.0, 1e6)

    def monotonic(self) -> float:
        return self._world.now + self._origin

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self._world.pause(seconds, event)
        return event.is_set()

    def start(self, name: str, work: Callable[[], None]) -> None:
        self._world.attach(name, work)
