"""A trial for models that nobody registered here: loaded and replayed in a process of its own first, with little memory and time.

A registered version was loaded and replayed when it was registered, under this root. A bundle from anywhere else may be damaged, or made
to be, so that reading it takes all memory or never ends; then that happens to a child process. What the child says of the model is
said by the parent. It is no sandbox: a pickle runs code in it, so pickles need their pin here as everywhere.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from batch import errors
from batch.errors import BatchError, ModelRefused
from batch.lifeline import end_with
from batch.models import card, trust
from batch.models.bundle import ResolvedModel
from batch.storage import storage_for
from batch.units import format_bytes

SECONDS = 60.0
BASE_BYTES = 2 << 30
"""What the libraries and a small model may take."""
FACTOR = 8
"""What each byte of the bundle may take on top."""
FILE_BYTES = 64 << 20
"""The largest file that the child may write; it needs none."""
ANSWER_BYTES = 64 << 10
SAYS_MAX = 1_000
"""Characters of a dying child's last words that are told."""
VOUCH = "if you trust it and it should need that much, register it under this root"

_proven: set[str] = set()
"""Digests of the cards, which hold those of all files, that this process has seen pass."""


def prove(resolved: ResolvedModel, pickle_sha256: Collection[str], *, record: bool = True) -> None:
    """Try a model in a child process, once: that it passed is recorded under the root, for these bytes and library versions.

    Raises what loading raises, and `ModelRefused` where the child dies. A pin counts anew at every load, whatever is recorded.
    """
    file = resolved.card["model_file"]
    if not resolved.card.get("is_skops", file.endswith(".skops")):
        trust.check_pinned(resolved.card["files"][file]["sha256"], pickle_sha256)  # no need of a process to refuse it
    if resolved.sha256 in _proven:
        return
    if not _is_recorded(resolved):
        _try_apart(resolved, pickle_sha256)
        if record:
            _record(resolved)
    _proven.add(resolved.sha256)


def _is_recorded(resolved: ResolvedModel) -> bool:
    body = storage_for(resolved.proof_uri).get(resolved.proof_uri) if resolved.proof_uri else None
    try:
        return body is not None and json.loads(body) == _proof()
    except ValueError:
        return False


def _record(resolved: ResolvedModel) -> None:
    if not resolved.proof_uri:
        return
    body = json.dumps(_proof(), sort_keys=True).encode()
    with suppress(BatchError):  # who may only read the root pays for the trial each time
        storage_for(resolved.proof_uri).replace(resolved.proof_uri, [body], len(body))


def _proof() -> dict[str, Any]:
    return {"format": 1, "libraries": card.library_versions()}


def _try_apart(resolved: ResolvedModel, pickle_sha256: Collection[str]) -> None:
    """Load the model and replay its golden rows in a child.

    Its limits: `SECONDS`, and `BASE_BYTES` of memory plus `FACTOR` times the size of the bundle.
    """
    limit_bytes = BASE_BYTES + FACTOR * resolved.size_bytes
    asked = pickle.dumps((resolved, tuple(pickle_sha256), limit_bytes, SECONDS, os.getpid()))
    # Files, not pipes: a process that a pickle has started may keep the end of a pipe for as long as it likes.
    with TemporaryFile() as answer, TemporaryFile() as words:
        try:
            code = _run(asked, answer, words)
        except OSError as error:
            raise ModelRefused(f"{resolved.uri} cannot be tried in a process of its own: {error}") from error
        answer.seek(0)
        words.seek(max(0, words.seek(0, os.SEEK_END) - 4 * SAYS_MAX))
        _judge(resolved, code, answer.read(ANSWER_BYTES), words.read(), limit_bytes)


_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from batch.models import quarantine; quarantine.attempt()"
)
"""The child finds modules where the parent does, and not in the working directory."""

# One thread each: the memory of idle ones counts as well.
_ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


def _run(asked: bytes, answer: IO[bytes], words: IO[bytes]) -> int | None:
    """The child's exit code, None where it took too long. Nothing that it has started is left behind."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path), str(answer.fileno())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=words,
        pass_fds=[answer.fileno()],
        env={**os.environ, **_ALONE},
        start_new_session=True,
    ) as child:
        try:
            child.communicate(asked, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also when a signal ends the run
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    return child.returncode


def _judge(resolved: ResolvedModel, code: int | None, verdict: bytes, words: bytes, limit_bytes: int) -> None:
    what = f"{resolved.uri} ({format_bytes(resolved.size_bytes)})"
    if code is None:
        raise ModelRefused(
            f"{what} was not loaded and replayed within {SECONDS:g} s", hint=f"it is damaged or does not end; {VOUCH}"
        )
    if code == 0 and verdict == b"{}":
        return
    if (refusal := _refusal(verdict)) is not None:
        raise refusal
    raise ModelRefused(
        f"{what} ended the process that tried it, with a limit of {format_bytes(limit_bytes)} of memory: {_end(code, words)}",
        hint=f"it is damaged, or needs more memory than a model of its size should; {VOUCH}",
    )


def _end(code: int, words: bytes) -> str:
    """How a child died that gave no answer."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        return f"killed by signal {-code} ({name})"
    lines = words.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:SAYS_MAX] if lines and code else f"exit code {code}"


def _refusal(verdict: bytes) -> BatchError | None:
    """What the child has said, if it makes sense: the code of a pickle may have written there as well."""
    try:
        told = json.loads(verdict)
        kind, message, hint = getattr(errors, told["kind"]), str(told["message"]), str(told["hint"])
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    return kind(message, hint=hint) if isinstance(kind, type) and issubclass(kind, BatchError) else None


def attempt() -> None:
    """In the child: limit ourselves, load, and say how that went."""
    resolved, pins, limit_bytes, seconds, parent = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  from our own parent
    end_with(parent)
    _limit(limit_bytes, seconds)
    from batch.models.bundle import load

    verdict: dict[str, str] = {}
    try:
        load(resolved, pickle_sha256=pins, proven=True)
    except (BatchError, MemoryError) as error:
        size, limit = format_bytes(resolved.size_bytes), format_bytes(limit_bytes)
        verdict = _told(
            error, f"{resolved.uri} ({size}) needs more than {limit} of memory, which is what it is tried with"
        )
    with os.fdopen(int(sys.argv[2]), "wb") as writer:
        writer.write(json.dumps(verdict).encode())


def _told(error: BaseException, exhausted: str) -> dict[str, str]:
    """A refusal for the parent; out of memory is told as such, whatever it was turned into on its way."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(one, MemoryError) for one in causes) or not isinstance(error, BatchError):
        return {"kind": "ModelRefused", "message": exhausted, "hint": VOUCH}
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def _limit(limit_bytes: int, seconds: float) -> None:
    """Of this process. The parent's clock is what ends it; the alarm is for when there is no parent any more."""
    signal.alarm(int(seconds) + 5)
    with suppress(
        OSError
    ):  # where the kernel runs out of memory before the limit is reached, this is the process to end
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    import resource

    # RLIMIT_DATA, not RLIMIT_AS: libraries reserve address space by the gigabyte that they never touch.
    for kind, limit in (
        (resource.RLIMIT_DATA, limit_bytes),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        most = resource.getrlimit(kind)[1]
        lowest = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (lowest, lowest))
