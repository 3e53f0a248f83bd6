"""A run with what follows it: metrics for those who watch, and on failure the job's hook.

Neither may change how the run ends. What goes wrong with them is one notice, and each has its time: then the run ends without.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeVar

from batch.clock import SYSTEM, Clock
from batch.errors import BatchError, Busy, Interrupted, StorageUnavailable
from batch.execution import hook, metrics, records, runner
from batch.execution.coordinate import Progress
from batch.execution.metrics import End, Kept
from batch.execution.receipt import Receipt, unstarted
from batch.job import Job
from batch.storage import ObjectInfo, join

T = TypeVar("T")
Notice = Callable[[str], None]

METRICS_SECONDS: float = 20.0
"""For each step: reading the file before, asking the receipts where it says nothing, replacing it."""
INTERRUPTED_SECONDS: Final = 1.5
"""The same after a signal: whoever sent it waits for the program to end."""


class Weight(Enum):
    """What a failure counts for."""

    NOTHING = "as if it had not been tried"
    METRICS = "a failed run"
    HOOK = "a failed run that somebody is called for"


def weigh(error: BatchError) -> Weight:
    """Busy is the business of the run that is at it, and whoever stopped a run knows of it."""
    if isinstance(error, Busy):
        return Weight.NOTHING
    return Weight.METRICS if isinstance(error, Interrupted) else Weight.HOOK


def never_call(error: BatchError) -> Weight:
    """For those who call the hook themselves."""
    return Weight.METRICS if weigh(error) is Weight.HOOK else weigh(error)


def run(
    job: Job,
    *,
    period: str | None = None,
    now: datetime | None = None,
    dropped: ObjectInfo | None = None,
    trigger: str = "cli",
    once: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    notice: Notice = lambda _: None,
    told: Callable[[dict[str, Any]], None] | None = None,
    clock: Clock = SYSTEM,
    weigh: Callable[[BatchError], Weight] = weigh,
) -> Receipt:
    """`batch.execution.runner.run`; however it ends, the job's metrics say so afterwards, and its hook is called where it failed.

    `weigh`: what a failure counts for.
    """
    try:
        receipt = runner.run(
            job, period=period, now=now, dropped=dropped, trigger=trigger, once=once, force=force,
            progress=progress, notice=notice, told=told, clock=clock,
        )  # fmt: skip
    except (Exception, KeyboardInterrupt) as error:
        _failed(job, error, trigger, notice, weigh)
        raise
    if receipt.state in metrics.STATES:  # a dropped file that was given up on is done as well
        _tell(job, End(receipt.document, 0, receipt.already_done), notice)
    return receipt


def retry(root: str, run_id: str, fixed: str, *, notice: Notice = lambda _: None, clock: Clock = SYSTEM) -> Receipt:
    """`batch.execution.retry.retry`; where it succeeds, the metrics of the job no longer say that it failed."""
    from batch.execution.retry import retry as mend

    receipt = mend(root, run_id, fixed, clock=clock)
    with _no_reason_to_fail(notice):
        document = receipt.document
        plan = records.load(join(root, "runs", document["job"], document["run_id"], "plan.json")) or {}
        job = Job.model_validate(plan["config"] | {"root": root})
        _tell(job, End(document, 0, receipt.already_done), notice)
    return receipt


@contextmanager
def _no_reason_to_fail(notice: Notice) -> Iterator[None]:
    """What goes wrong in the block is told, a bug of ours included; a signal passes through."""
    try:
        yield
    except BatchError as error:
        notice(f"nobody was told how the run ended: {error.message}")
    except Exception as error:
        notice(f"nobody was told how the run ended: a bug: {type(error).__name__}: {error}")


def end_of(job: Job, error: BaseException, trigger: str) -> End:
    """How a run ended that raised `error`; the receipt is one without numbers where no run began."""
    failure = _understood(error)
    is_bug = not isinstance(error, BatchError | KeyboardInterrupt)
    told = failure.as_dict() | ({"code": "bug"} if is_bug else {})
    receipt = getattr(error, "receipt", None)
    return End(receipt or unstarted(job.name, trigger, told), failure.exit_code)


def _failed(
    job: Job,
    error: BaseException,
    trigger: str,
    notice: Notice,
    weigh: Callable[[BatchError], Weight],
) -> None:
    """The metrics of a run that failed, and the call of the hook. A signal passes through, and ends both."""
    weight = weigh(_understood(error))
    if weight is Weight.NOTHING:
        return
    with _no_reason_to_fail(notice):
        end = end_of(job, error, trigger)
        _tell(job, end, notice)
        if weight is Weight.HOOK:
            hook.call(job, end, notice)


def _understood(error: BaseException) -> BatchError:
    if isinstance(error, BatchError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.by(error)
    return BatchError(f"a bug: {type(error).__name__}: {error}", hint="report it with the traceback")


def _tell(job: Job, end: End, notice: Notice) -> None:
    """Replace the job's metrics; what is in the way of that is told, and stops nothing."""
    if not (place := metrics.place_of(job)):
        return
    seconds = INTERRUPTED_SECONDS if end.state == "interrupted" else METRICS_SECONDS
    try:
        _replace(job, place, end, seconds)
    except BatchError as error:
        notice(f"the metrics were not written to {place}: {error.message}")
    except Exception as error:  # a bug of ours in here is no reason for a run to fail
        notice(f"the metrics were not written to {place}: a bug: {type(error).__name__}: {error}")


def _replace(job: Job, place: str, end: End, seconds: float) -> None:
    """Write what was before, carried on to this end. Raises what storage raises."""
    before = _within(seconds, lambda: metrics.load(place, job.name))
    if before is not None and before.knows_of(end):
        return
    kept = before.kept if before is not None else _by_receipts(job, seconds)
    body = metrics.text_of(job, end, kept.after(end))
    until = time.monotonic() + seconds

    def in_time() -> None:
        if time.monotonic() > until:  # nobody waits for it any more, and a later run may have written
            raise StorageUnavailable("too late")

    _within(seconds, lambda: metrics.store(place, body, in_time))


def _by_receipts(job: Job, seconds: float) -> Kept:
    try:
        return _within(seconds, lambda: metrics.kept_by_receipts(job.root, job.name))
    except BatchError:  # a failure must be told even where nobody can say what was before
        return Kept()


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, done beside us so that a store that hangs holds nobody up. Raises what it raises, and `StorageUnavailable`."""
    over = threading.Event()
    found: list[T] = []
    failed: list[Exception] = []

    def beside() -> None:
        try:
            found.append(work())
        except Exception as error:  # raised below, where somebody waits for it
            failed.append(error)
        finally:
            over.set()

    threading.Thread(target=beside, name="metrics", daemon=True).start()
    if not over.wait(seconds):
        raise StorageUnavailable(f"no answer within {seconds:g} s")
    if failed:
        raise failed[0]
    return found[0]
