"""The on-failure hook: a command of the job's owner that is told of a failed run, and cannot get in the way of anything.

It has a minute, a process group that is killed when it ends or its time is up, and no terminal. What it says is only told where it
fails itself, and then without what looks like a secret.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO, Final

from batch.execution.metrics import End
from batch.job import Job

SECONDS: float = 60.0
VALUE_MAX: Final = 8_000
"""Characters of one variable; the kernel refuses a process with far longer ones."""
TAIL_BYTES: Final = 4_000
"""Of its output, kept while it runs."""
SAYS_MAX: Final = 300
"""Characters of its output that are told."""
_PIPE_BYTES: Final = 65_536
_LOOK_SECONDS: Final = 0.1

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|WEBHOOK|AUTH|DSN", re.IGNORECASE)
_SECRET_WORDS = re.compile(
    r"(?im)\b(authorization *[:=] *)(?:bearer +|basic +)?\S+|\b((?:bearer|token|password|passwd|secret|api[-_]?key)[ =:]+)\S+"
)
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s/?#]*)[^\s]*")
"""Scheme and host stay: user information, path and query of a webhook are its secret."""


def call(job: Job, end: End, notice: Callable[[str], None]) -> None:
    """Run the job's hook for a failed run, if it has one; `notice` is told where that does not work. Raises nothing of its own."""
    command = job.monitor.on_failure
    if not command:
        return
    try:
        why = _run(command, _environment(job, end), json.dumps(end.receipt).encode())
    except (OSError, ValueError) as error:  # not there, not executable, a zero byte in an argument
        why = f"cannot be run: {getattr(error, 'strerror', None) or error}"
    if why:
        notice(f"the on_failure hook {command[0]} {why}")


def _environment(job: Job, end: End) -> dict[str, str]:
    receipt = end.receipt
    error = receipt.get("error") or {}
    told = {
        "JOB": job.name,
        "RUN_ID": receipt["run_id"] or "",
        "PERIOD": (receipt["period"] or {}).get("name") or receipt["subject"] or "",
        "EXIT_CODE": str(end.exit_code),
        "ERROR_CODE": error.get("code", ""),
        "ERROR": error.get("message", ""),
        "HINT": error.get("hint", ""),
        "ROOT": job.root,
    }
    return {**os.environ, **{f"BATCH_{name}": _plain(value) for name, value in told.items()}}


def _plain(value: str) -> str:
    """What an environment can hold: no lone surrogate, no zero byte, not endless."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:VALUE_MAX]


def _run(command: Sequence[str], environment: Mapping[str, str], said: bytes) -> str:
    """Why the hook did not do its work, "" where it did."""
    # A file, not a pipe: a hook need not read what it is given.
    with TemporaryFile() as given:
        given.write(said)
        given.seek(0)
        with subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        ) as child:  # fmt: skip
            assert child.stdout is not None, "it was asked for"
            os.set_blocking(child.stdout.fileno(), False)
            try:
                tail = _listen(child, child.stdout, time.monotonic() + SECONDS)
                code = child.poll()
            finally:  # also when a signal ends us: nothing that it has started is left behind
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
            tail += _read(child.stdout, _PIPE_BYTES)
    if code == 0:
        return ""
    how = f"was stopped after {SECONDS:g} s" if code is None else f"ended with exit code {code}"
    words = _masked(tail.decode("utf-8", "replace"), environment)
    return f"{how}: {words}" if words else how


def _listen(child: subprocess.Popen[bytes], pipe: IO[bytes], until: float) -> bytes:
    """The end of what the hook says until it has ended, or `until` (monotonic) has passed.

    The pipe alone tells nothing of that: a process that the hook has left behind may keep it open for as long as it likes.
    """
    tail = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while child.poll() is None and (left := until - time.monotonic()) > 0:
            if not selector.select(min(_LOOK_SECONDS, left)):
                continue
            if not (piece := _read(pipe, _PIPE_BYTES)):  # closed: the hook says no more
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, until - time.monotonic()))
                break
            tail = (tail + piece)[-TAIL_BYTES:]
    return tail


def _read(pipe: IO[bytes], size_bytes: int) -> bytes:
    """What is in the pipe right now."""
    try:
        return os.read(pipe.fileno(), size_bytes)
    except BlockingIOError:
        return b""


def _masked(text: str, environment: Mapping[str, str]) -> str:
    """The end of an output in one line, without the values of variables whose name says secret, and without what looks like one."""
    for name, value in environment.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = _ADDRESS.sub(r"\1\2/***", text)
    text = _SECRET_WORDS.sub(r"\1\2***", text)  # one of the two is empty
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[-SAYS_MAX:]
