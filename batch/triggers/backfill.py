"""Backfill: the same job over past periods, oldest first, each one a run of its own that is done once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from batch import placeholders
from batch.errors import BatchError, UsageError
from batch.execution import history
from batch.job import Job
from batch.period import Period, parse_period, period_at


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one period."""

    period: str
    state: str
    """done before, completed, completed_with_rejects, failed, or not run."""
    exit_code: int = 0
    run_id: str | None = None
    rows: dict[str, int] | None = None
    seconds: float | None = None
    error: dict[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def periods_between(job: Job, first: str, last: str) -> list[Period]:
    """The periods from `first` to `last`, both included, oldest first. Raises `UsageError`."""
    unit, zone = job.schedule.period, job.schedule.timezone
    if not unit:
        raise UsageError(f"job '{job.name}' has no periods to fill", hint='add [schedule] period = "week"')
    if not placeholders.uses_period(job.output.uri) and "run_id" not in placeholders.names_in(job.output.uri):
        raise UsageError(
            f"every period would be written to {job.output.uri}, and the last one to finish would stay there",
            hint="use {period} in [output] uri",
        )
    one, end = parse_period(first, unit, zone), parse_period(last, unit, zone)
    if one.start > end.start:
        raise UsageError(f"--from {first} is later than --to {last}", hint="write the older one behind --from")
    found = [one]
    while found[-1].start < end.start:
        found.append(period_at(found[-1].end, unit, zone))
    return found


def backfill(
    job: Job,
    periods: list[Period],
    run: Callable[[str], dict[str, Any]],
    *,
    parallel: int = 1,
    keep_going: bool = False,
    stop: Callable[[], None] = lambda: None,
    tell: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run each period that is not done yet; the outcomes in the order of the periods.

    `run`: given the name of a period, does it and gives its receipt, or raises `BatchError`. `parallel`: how many at a time,
    each in a thread of its own; alone it is the calling one. `stop`: called when this is interrupted; ends what is under way.
    `keep_going`: go on after a failure; without it, what is under way is finished and no other period is begun.

    What is done already costs one LIST for all periods together.
    """
    known = history.done_subjects(job.root, job.name)
    found = {one.name: Outcome(one.name, "done before" if one.name in known else "not run") for one in periods}
    waiting = iter([one.name for one in periods if one.name not in known])
    outcomes = _one_by_one(waiting, run) if parallel == 1 else _at_once(waiting, run, parallel, stop)
    for outcome in outcomes:
        found[outcome.period] = outcome
        tell(outcome)
        if outcome.exit_code and not keep_going:
            deque(waiting, maxlen=0)  # nobody finds another one in it
    return list(found.values())


def _one_by_one(waiting: Iterator[str], run: Callable[[str], dict[str, Any]]) -> Iterator[Outcome]:
    for name in waiting:
        yield _one(name, run)


def _at_once(
    waiting: Iterator[str], run: Callable[[str], dict[str, Any]], parallel: int, stop: Callable[[], None]
) -> Iterator[Outcome]:
    """Outcomes as they come, never more than `parallel` periods at a time, begun in order."""
    running: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(parallel, thread_name_prefix="backfill") as pool:
        try:
            while True:
                running |= {pool.submit(_one, name, run) for name in islice(waiting, parallel - len(running))}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            stop()
            raise


def _one(name: str, run: Callable[[str], dict[str, Any]]) -> Outcome:
    try:
        receipt = run(name)
    except BatchError as error:
        rows = (error.receipt or {}).get("rows")
        return Outcome(
            name, "failed", error.exit_code, (error.receipt or {}).get("run_id"), rows, error=error.as_dict()
        )
    return Outcome(
        name,
        receipt["state"],
        0,
        receipt["run_id"],
        receipt["rows"],
        receipt["timing"]["seconds"],
        receipt.get("error"),
    )
