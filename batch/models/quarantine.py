"""A trial for models that nobody registered here: loaded and replayed in a process of its own first, with little memory and time.

A registered version was loaded and replayed when it was registered, under this root. A bundle from anywhere else may be damaged, or made
to be, so that reading it takes all memory or never ends; then that happens to a child process. What the child says of the model is
said by the parent. It is no sandbox: a pickle runs code in it, so pickles need their pin here as everywhere.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Collection
from typing import Any

from batch import errors
from batch.errors import BatchError, ModelRefused
from batch.models import card
from batch.models.bundle import ResolvedModel
from batch.storage import storage_for
from batch.units import format_bytes

SECONDS = 60.0
BASE_BYTES = 2 << 30
"""What the libraries and a small model may take."""
FACTOR = 8
"""What each byte of the bundle may take on top."""
SAYS_MAX = 1_000
"""Characters of a dying child's last words that are told."""

_proven: set[str] = set()
"""Digests of the cards, which hold those of all files, that this process has seen pass."""


def prove(resolved: ResolvedModel, pickle_sha256: Collection[str], *, record: bool = True) -> None:
    """Try a model in a child process, once: that it passed is recorded under the root, for these bytes and library versions.

    Raises what loading raises, and `ModelRefused` where the child dies. A pin counts anew at every load, whatever is recorded.
    """
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
    if resolved.proof_uri:
        body = json.dumps(_proof(), sort_keys=True).encode()
        storage_for(resolved.proof_uri).replace(resolved.proof_uri, [body], len(body))


def _proof() -> dict[str, Any]:
    return {"format": 1, "libraries": card.library_versions()}


def _try_apart(resolved: ResolvedModel, pickle_sha256: Collection[str]) -> None:
    """Load the model and replay its golden rows in a child.

    Its limits: `SECONDS`, and `BASE_BYTES` of memory plus `FACTOR` times the size of the bundle.
    """
    limit_bytes = BASE_BYTES + FACTOR * resolved.size_bytes
    asked = pickle.dumps((resolved, tuple(pickle_sha256), limit_bytes, SECONDS))
    answer, writer = os.pipe()
    # One thread each: the memory of idle ones counts as well.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    command = [sys.executable, "-m", "batch.models.quarantine", str(writer)]
    with os.fdopen(answer, "rb") as reader:
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[writer],
                env={**os.environ, **alone},
            ) as child:
                os.close(writer)
                said = _wait(child, asked, resolved)
        except OSError as error:
            raise ModelRefused(f"{resolved.uri} cannot be tried in a process of its own: {error}") from error
        verdict = reader.read()
    _judge(resolved, child.returncode, verdict, said, limit_bytes)


def _wait(child: subprocess.Popen[bytes], asked: bytes, resolved: ResolvedModel) -> bytes:
    try:
        _, said = child.communicate(asked, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise ModelRefused(
            f"{resolved.uri} was not loaded and replayed within {SECONDS:g} s",
            hint="it is damaged or does not come back; register a model that you trust under this root",
        ) from None
    return said


def _judge(resolved: ResolvedModel, code: int, verdict: bytes, said: bytes, limit_bytes: int) -> None:
    if code == 0 and verdict == b"{}":
        return
    if verdict.startswith(b'{"'):
        told: dict[str, Any] = json.loads(verdict)
        kind = getattr(errors, told["kind"], ModelRefused)
        raise kind(told["message"], hint=told["hint"])
    words = said.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {code}"]
    what = words[0][:SAYS_MAX] if code >= 0 else f"killed by signal {-code}"
    raise ModelRefused(
        f"{resolved.uri} ended the process that tried it, with a limit of {format_bytes(limit_bytes)} of memory: {what}",
        hint="it is damaged, or needs more memory than a model of its size should; register it under this root if you trust it",
    )


def _try(answer: int) -> None:
    """In the child: limit ourselves, load, and say how that went."""
    from batch.models.bundle import load

    resolved, pins, limit_bytes, seconds = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  from our own parent
    _limit(limit_bytes, seconds)
    verdict: dict[str, str] = {}
    try:
        load(resolved, pickle_sha256=pins, proven=True)
    except (BatchError, MemoryError) as error:
        verdict = _told(
            error, f"{resolved.uri} needs more than the {format_bytes(limit_bytes)} of memory it is tried with"
        )
    with os.fdopen(answer, "wb") as writer:
        writer.write(json.dumps(verdict).encode())


def _told(error: BaseException, exhausted: str) -> dict[str, str]:
    """A refusal for the parent; out of memory is told as such, whatever it was turned into on its way."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(one, MemoryError) for one in causes) or not isinstance(error, BatchError):
        return {"kind": "ModelRefused", "message": exhausted, "hint": "register it under this root if you trust it"}
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def _limit(limit_bytes: int, seconds: float) -> None:
    try:
        import resource
    except ImportError:  # not on this system: the parent's clock is all there is
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _try(int(sys.argv[1]))
