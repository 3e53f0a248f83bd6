"""Engines: who carries out `score_chunk`. Each is ``submit(task) -> concurrent.futures.Future`` and nothing more."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from threading import Lock, Semaphore
from types import TracebackType
from typing import Any

from batch.errors import BatchError, ExtraMissing
from batch.execution.chunk import ChunkRecord
from batch.execution.cluster import make_work
from batch.execution.loading import Loaded, limited
from batch.execution.memory import keep_freed_memory
from batch.execution.plan import Plan, Task
from batch.execution.process import collect_as_usual, collect_rarely, prepare_process
from batch.execution.route import Models
from batch.execution.score import Context, open_context, score_chunk
from batch.execution.sizing import Sizing
from batch.lifeline import end_with
from batch.models.bundle import ResolvedModel

Resolved = Mapping[str, ResolvedModel]
"""By variant."""
GetLoaded = Callable[[], Loaded]
"""Gives the models, or raises why there are none; waits for them."""

STOP_SECONDS = 4.0
"""How long a chunk under way may take to finish after a signal."""


class Engine(AbstractContextManager["Engine"]):
    """An executor of tasks with a limit of tasks in flight; `make` gives a fresh one, and without it tasks run at once."""

    breaks_together = True
    """Whether the death of one worker breaks the futures of all others too."""

    def __init__(
        self, name: str, make: Callable[[], Executor] | None, call: Callable[[Task], ChunkRecord], sizing: Sizing
    ) -> None:
        self.name = name
        self.workers = sizing.workers
        self.in_flight = sizing.in_flight
        self._make = make
        self._executor = make() if make is not None else None
        self._call = call
        self._futures: set[Future[ChunkRecord]] = set()

    def submit(self, task: Task) -> Future[ChunkRecord]:
        """Start a task; a broken executor gives a future that says so."""
        future: Future[ChunkRecord] = Future()
        try:
            if self._executor is None:
                future.set_result(self._call(task))
                return future
            future = self._executor.submit(self._call, task)
        except Exception as error:
            future.set_exception(error)
            return future
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def check(self) -> None:
        """Called about once a second. Raises `EngineUnavailable` where there is no hope that anything is scored any more."""

    def restart(self) -> None:
        """Go on with a fresh executor after a worker's death."""
        assert self._make is not None, "a thread cannot die alone"
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._make()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is None:
            return
        if isinstance(error, KeyboardInterrupt):
            self._drop()
        self._executor.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)

    def _drop(self) -> None:
        """Give what is under way a moment; then its processes are ended, and its threads left behind."""
        for future in list(self._futures):
            future.cancel()
        wait(list(self._futures), timeout=STOP_SECONDS)
        for process in list((getattr(self._executor, "_processes", None) or {}).values()):
            process.kill()


def open_engine(
    name: str, plan: Plan, resolved: Resolved, loaded: GetLoaded, sizing: Sizing, pickles: Collection[str]
) -> Engine:
    """The engine called `name`, ready for work. `loaded` gives the models, and may be waited for while it works."""
    return ENGINES[name](plan, resolved, loaded, sizing, pickles)


def choose(name: str, plan: Plan) -> str:
    """Turn ``auto`` into an engine: one chunk needs no pool, and threads share one model."""
    if name == "auto":
        return "inline" if len(plan.tasks) <= 1 else "threads"
    return name


def _inline(plan: Plan, resolved: Resolved, loaded: GetLoaded, sizing: Sizing, pickles: Collection[str]) -> Engine:
    models = limited(plan, loaded())
    context = Context(plan, lambda: models)
    return Engine("inline", None, lambda task: score_chunk(context, task), sizing)


def _threads(plan: Plan, resolved: Resolved, loaded: GetLoaded, sizing: Sizing, pickles: Collection[str]) -> Engine:
    """More threads than cores, a gate for the cores: some wait for storage while the others compute."""
    gate = Semaphore(sizing.workers)
    models = Once(lambda: limited(plan, loaded(), one_thread_each))
    context = Context(plan, models, lambda: gate)

    def pool() -> Executor:
        return ThreadPoolExecutor(sizing.in_flight, thread_name_prefix="score")

    return Engine("threads", pool, lambda task: score_chunk(context, task), sizing)


def _processes(plan: Plan, resolved: Resolved, loaded: GetLoaded, sizing: Sizing, pickles: Collection[str]) -> Engine:
    """Fresh processes (never a fork: clients and thread pools do not survive one), each with its own model and client."""

    def pool() -> Executor:
        return ProcessPoolExecutor(
            sizing.workers,
            mp_context=get_context("spawn"),
            initializer=_start_worker,
            initargs=(plan, resolved, tuple(pickles), os.getpid(), sizing.keeps_freed),
        )

    return Engine("processes", pool, _score_in_worker, sizing)


class Once:
    """Calls a function once for all threads, and gives each of them what it returned."""

    def __init__(self, make: Callable[[], Models]) -> None:
        self._make, self._lock = make, Lock()
        self._made: Models | None = None

    def __call__(self) -> Models:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


def one_thread_each() -> None:
    """Limit BLAS and OpenMP inside a thread that calls the model, once; a limit set elsewhere would not reach it."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


_worker: list[Any] = []


def _start_worker(
    plan: Plan, resolved: Resolved, pickles: Collection[str], coordinator: int, keeps_freed: bool
) -> None:
    end_with(coordinator)
    prepare_process()
    if keeps_freed:
        keep_freed_memory()
    collect_rarely()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the coordinator decides what it means
    try:
        _worker[:] = [open_context(plan, resolved, pickles, one_thread_each)]
    except BatchError as error:  # an initialiser that raises would look like a worker that died
        _worker[:] = [error]
    collect_as_usual()


def _score_in_worker(task: Task) -> ChunkRecord:
    if isinstance(_worker[0], BatchError):
        raise _worker[0]
    return score_chunk(_worker[0], task)


def _dask(plan: Plan, resolved: Resolved, loaded: GetLoaded, sizing: Sizing, pickles: Collection[str]) -> Engine:
    with _extra("dask"):
        from batch.execution.on_dask import DaskEngine
    return DaskEngine(make_work(plan, resolved, pickles), sizing)


def _ray(plan: Plan, resolved: Resolved, loaded: GetLoaded, sizing: Sizing, pickles: Collection[str]) -> Engine:
    with _extra("ray"):
        from batch.execution.on_ray import RayEngine
    return RayEngine(make_work(plan, resolved, pickles), sizing)


@contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExtraMissing(
            f"engine '{name}' needs {error.name}, which is not installed",
            hint=f"pip install 'batch-predict[{name}]'",
        ) from error


ENGINES = {"inline": _inline, "threads": _threads, "processes": _processes, "dask": _dask, "ray": _ray}
