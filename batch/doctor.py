"""`doctor`: what of this machine, these credentials and this store stands in the way of a run, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from batch.errors import BatchError
from batch.storage.probe import Verdict, probe

SKEW_SECONDS_WARN = 60.0
SKEW_SECONDS_FAIL = 900.0
"""S3 refuses requests that are signed more than 15 minutes away from its own clock."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    """ok, warning or failed."""
    message: str
    hint: str = ""
    exit_code: int = 0
    """Of the program, where this failed."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def examine(root: str | None) -> list[Finding]:
    """Look at this machine, and at the store that holds `root` where one is given. Raises nothing that can be told."""
    return [*_machine(), *(_store(root) if root else [_no_root()])]


def _machine() -> Iterator[Finding]:
    from batch import __version__
    from batch.execution.receipt import environment

    facts = environment()
    versions = ", ".join(f"{name} {facts[name]}" for name in facts if name not in {"cpu", "batch-predict"})
    yield Finding("versions", "ok", f"batch-predict {__version__}, {versions}")
    cores = len(os.sched_getaffinity(0))
    yield Finding("machine", "ok", f"{cores} cores for this process, {facts['cpu']}")


def _no_root() -> Finding:
    return Finding("store", "warning", "no store was examined", hint="name one: batch-predict doctor s3://bucket/root")


def _store(root: str) -> Iterator[Finding]:
    try:
        verdict = probe(root)
    except BatchError as error:
        yield Finding("access", "failed", error.message, error.hint, error.exit_code)
        return
    yield Finding("access", "ok", f"{root} at {verdict.endpoint} can be listed, written and read")
    yield _clock(verdict)
    for promise in verdict.promises:
        if promise.is_kept:
            yield Finding(promise.name, "ok", f"the store {promise.found}")
        else:
            refusal = verdict.error(promise)
            yield Finding(promise.name, "failed", refusal.message, refusal.hint, refusal.exit_code)


def _clock(verdict: Verdict) -> Finding:
    skew = verdict.skew_seconds
    message = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the store's"
    if abs(skew) < SKEW_SECONDS_WARN:
        return Finding("clock", "ok", message)
    state, code = ("failed", 77) if abs(skew) >= SKEW_SECONDS_FAIL else ("warning", 0)
    return Finding(
        "clock", state, message, "set the clock (NTP): a store refuses requests that are 15 minutes off", code
    )
