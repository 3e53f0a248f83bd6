"""A time limit on model calls: a call that does not come back is left behind, and the run goes on without it.

Foreign code cannot be stopped from outside, so each worker thread has its model calls made by a thread of their own, and only
waits for it. That also keeps the main thread free to take signals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from batch.errors import ModelFailed

if TYPE_CHECKING:
    import pyarrow as pa

    from batch.models.loaded import LoadedModel

Call = tuple[Callable[[], Any], "Future[Any]"]


@dataclass(frozen=True, slots=True)
class Limited:
    """A model whose calls are given up after `seconds`; may be shared by any number of threads."""

    model: LoadedModel
    seconds: float
    prepare: Callable[[], None] = lambda: None
    """Called once in each thread that calls the model: limits of BLAS and OpenMP are a thread's own."""
    _local: threading.local = field(default_factory=threading.local)

    def predict(self, table: pa.Table) -> pa.Table:
        """As `LoadedModel.predict`. Raises `ModelFailed` also when the time is up."""
        caller: _Caller | None = getattr(self._local, "caller", None)
        if caller is None:
            caller = self._local.caller = _Caller(self.prepare)
        done = caller.call(lambda: self.model.predict(table))
        try:
            return done.result(self.seconds)
        except TimeoutError:
            if done.done():  # at the last moment, or the error is the model's own
                return done.result()
        self._local.caller = None
        raise ModelFailed(
            f"a model call on {table.num_rows} rows did not come back within chunk_seconds = {self.seconds:g}",
            hint="raise [run] chunk_seconds, or lower [run] predict_rows; what is scored stays scored",
        )


class _Caller:
    """A thread that makes one call after the other, and ends when nobody holds this any more."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        threading.Thread(target=_serve, args=(self._calls, prepare), name="model", daemon=True).start()

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        self._calls.put((work, done))
        return done

    def __del__(self) -> None:
        self._calls.put(None)


def _serve(calls: SimpleQueue[Call | None], prepare: Callable[[], None]) -> None:
    prepare()
    while (call := calls.get()) is not None:
        work, done = call
        try:
            done.set_result(work())
        except BaseException as error:  # whatever it is, it belongs to whoever waits
            done.set_exception(error)
        del call, work, done  # a batch of rows, which is not needed while waiting for the next one
