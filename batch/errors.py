"""Everything that can go wrong, as one tree; every class carries the exit code that the program ends with.

::

    BatchError                  1
    ├─ UsageError               2   the command line cannot be understood
    │  ├─ JobInvalid            2   the job file has problems; all of them are named at once
    │  └─ ExtraMissing          2   an optional dependency is not installed
    ├─ InputRefused             3   the input cannot be scored as it is
    │  ├─ InputMissing          3   there is no such object
    │  ├─ InputEmpty            3   the object holds no bytes
    │  ├─ InputTooLarge         3   a limit of the job is exceeded
    │  ├─ InputFormatError      3   the bytes are not what the format says
    │  ├─ SchemaMismatch        3   the columns do not fit the model
    │  ├─ InputChanged          3   the object was replaced or deleted while it was read
    │  └─ MemoryExceeded        3   one chunk does not fit the memory ceiling
    ├─ ModelRefused             4   the model cannot be used
    │  ├─ ModelMissing          4   there is no such model, version or alias
    │  ├─ ModelNotTrusted       4   the file names types that are not on the allow-list, or is an unpinned pickle
    │  ├─ ModelChanged          4   a file of the bundle does not have the digest it was registered with
    │  ├─ GoldenRowsDiffer      4   this environment does not reproduce the outputs recorded at registration
    │  └─ ModelFailed           4   the model raised, hung or gave the wrong number of rows
    ├─ RejectBudgetExceeded     5   more rows were rejected than the job allows
    ├─ OutputRefused            6   the output must not be written
    ├─ VerificationFailed       7   a stored object differs from what its receipt says
    ├─ StorageUnavailable      69   the store does not answer, or does not keep what it promised
    ├─ EngineUnavailable       69   the cluster that shall score does not answer, or has no workers
    ├─ Busy                    75   another run holds the lease
    ├─ PermissionDenied        77   credentials are missing, expired or not allowed to do this
    └─ Interrupted        130/143   a signal ended the run; its state is kept

A message is one sentence that says what and where, with both numbers of a comparison; ``hint`` is the next thing to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self


class BatchError(Exception):
    """A failure that the user can understand: one sentence, an exit code and, where one exists, a hint."""

    code: ClassVar[str] = "error"
    exit_code: int = 1
    receipt: dict[str, Any] | None = None
    """Of the run that failed, where one had begun."""
    one_line: ClassVar[bool] = True
    """Names and values come from outside: a line end in one of them must not begin a line of the log."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        message = _in_one_line(message) if self.one_line else message
        super().__init__(message)
        self.message = message
        self.hint = _in_one_line(hint)

    def as_dict(self) -> dict[str, str]:
        """The error as it stands in receipts and in ``--json`` output."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way back from a worker process with message and hint intact."""
        return (_rebuild, (type(self), self.message, self.hint))


def _in_one_line(text: str) -> str:
    return "".join(char if char >= " " and char != "\x7f" else repr(char)[1:-1] for char in text)


def _rebuild(kind: type[BatchError], message: str, hint: str) -> BatchError:
    return kind(message, hint=hint)


class UsageError(BatchError):
    """The command line cannot be understood."""

    code = "usage"
    exit_code = 2


class JobInvalid(UsageError):
    """The job file has problems; the message names all of them, each with its key."""

    one_line = False
    code = "job_invalid"
    problems: tuple[str, ...] = ()
    """Each as ``key: what is wrong``."""


class ExtraMissing(UsageError):
    """An optional dependency is not installed; the hint is the pip line."""

    code = "extra_missing"


class InputRefused(BatchError):
    """The input cannot be scored as it is."""

    code = "input_refused"
    exit_code = 3


class InputMissing(InputRefused):
    """There is no such object."""

    code = "input_missing"


class InputEmpty(InputRefused):
    """The object holds no bytes."""

    code = "input_empty"


class InputTooLarge(InputRefused):
    """A limit of the job is exceeded; the message has both numbers."""

    code = "input_too_large"


class InputFormatError(InputRefused):
    """The bytes are not what the format says; the message has the offset where one is known."""

    code = "input_format"


class SchemaMismatch(InputRefused):
    """The columns of the input do not fit the model or the job."""

    code = "schema_mismatch"


class InputChanged(InputRefused):
    """The object was replaced or deleted while it was read."""

    code = "input_changed"


class MemoryExceeded(InputRefused):
    """One chunk does not fit the memory ceiling; the message has both numbers."""

    code = "memory"


class ModelRefused(BatchError):
    """The model cannot be used."""

    code = "model_refused"
    exit_code = 4


class ModelMissing(ModelRefused):
    """There is no such model, version or alias."""

    code = "model_missing"


class ModelNotTrusted(ModelRefused):
    """The file names types that are not on the allow-list, or is a pickle whose digest is not pinned."""

    code = "model_not_trusted"


class ModelChanged(ModelRefused):
    """A file of the bundle does not have the digest it was registered with."""

    code = "model_changed"


class GoldenRowsDiffer(ModelRefused):
    """This environment does not reproduce the outputs recorded at registration."""

    code = "golden_rows"


class ModelFailed(ModelRefused):
    """The model raised, hung or gave the wrong number of rows."""

    code = "model_failed"
    is_about_rows = False
    """It may be the fault of single rows: the model raised, or gave no usable value for `rows`."""
    rows: tuple[int, ...] = ()
    """Of the batch, where the model's own output names them."""

    @classmethod
    def about_rows(cls, message: str, *, hint: str = "", rows: Iterable[int] = ()) -> Self:
        """A failure that other rows need not share."""
        error = cls(message, hint=hint)
        error.is_about_rows, error.rows = True, tuple(rows)
        return error


class RejectBudgetExceeded(BatchError):
    """More rows were rejected than the job allows; the output key was not touched."""

    code = "reject_budget"
    exit_code = 5


class OutputRefused(BatchError):
    """The output must not be written."""

    code = "output_refused"
    exit_code = 6


class VerificationFailed(BatchError):
    """A stored object differs from what its receipt says."""

    code = "verification"
    exit_code = 7


class StorageUnavailable(BatchError):
    """The store does not answer, or does not keep what it promised."""

    code = "storage_unavailable"
    exit_code = 69


class EngineUnavailable(BatchError):
    """The cluster that shall score cannot be reached, or has had no workers for a while."""

    code = "engine_unavailable"
    exit_code = 69


class Busy(BatchError):
    """Another run holds the lease."""

    code = "busy"
    exit_code = 75


class PermissionDenied(BatchError):
    """Credentials are missing, expired or not allowed to do this; the message names the action."""

    code = "permission_denied"
    exit_code = 77


class Interrupted(BatchError):
    """A signal ended the run; its state is kept and the same command resumes it."""

    code = "interrupted"
    exit_code = 130

    @classmethod
    def by(cls, signalled: KeyboardInterrupt) -> Interrupted:
        """The error that a signal becomes: 130 for Ctrl-C, 143 for SIGTERM."""
        terminated = isinstance(signalled, Terminated)
        error = cls("stopped by SIGTERM" if terminated else "interrupted", hint="run the same command again to resume")
        error.exit_code = 143 if terminated else cls.exit_code
        return error


class Terminated(KeyboardInterrupt):
    """SIGTERM; a KeyboardInterrupt, so that the library tidies up after either signal in the same way."""
