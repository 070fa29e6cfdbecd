"""One machine: threads share one engine, and a process pool does everything that needs none."""

from __future__ import annotations

import ctypes
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder

import pyarrow as pa

from pipeline.cycles import SELDOM
from pipeline.engines import Engine, EngineSpec, Progress
from pipeline.engines.kept import perform_on
from pipeline.executors import WorkerDied
from pipeline.freed import give_back, trim
from pipeline.storage.shards import Receipt
from pipeline.work import Stage, Transform, Work, perform

ENGINE_SLOTS = 8
"""Works on one engine: a shard lasts as long as its longest completion, and with 3 in flight the engine drained between them."""
AT_ONCE = {"replay": 1}
"""Works that really run at once, by kind of engine, where that is fewer: what reads a file answers at once, threads only make it
slower (8 take 1.2 times as long as 1), and a run that is killed loses what each of them had begun."""


class LocalExecutor:
    """Work on this machine's cores and its one engine."""

    def __init__(self, workers: int | None = None, engine_slots: int = ENGINE_SLOTS) -> None:
        workers = max(1, workers or (os.cpu_count() or 2) - 1)
        self.slots = 2 * workers
        self.engine_slots = engine_slots
        self._threads = ThreadPoolExecutor(self.engine_slots, thread_name_prefix="engine-shard")
        self._workers = workers
        self._pool = worker_pool(self._workers)
        self._flying: set[Future[Receipt]] = set()
        self._lock = threading.Lock()
        self._spec: EngineSpec | None = None
        self._engine: Engine | None = None
        self._turns = threading.Semaphore()
        self._before = Progress()
        self._warming: Future[object] | None = None

    def submit(self, work: Work) -> Future[Receipt]:
        """Starts the work on a thread when it needs an engine, else in a process."""
        if work.stage.engine is not None:
            flying = self._threads.submit(self._perform_with_engine, work, work.stage.engine)
        else:
            flying = self._submit_to_pool(work)
        self._flying.add(flying)
        flying.add_done_callback(self._flying.discard)
        return flying

    def warm(self, spec: EngineSpec) -> None:
        """Begins to load an engine that will be asked for."""
        self._warming = self._threads.submit(self._borrow, spec)

    def progress(self) -> Progress:
        """What this executor's engines have finished."""
        now = self._engine.progress() if self._engine else Progress()
        return Progress(self._before.requests + now.requests, self._before.tokens + now.tokens, now.note)

    def close(self, grace_s: float | None = None) -> None:
        """Waits for work in flight, drops what has not begun, and gives the engine's memory back."""
        wait_for_all = grace_s is None
        self._threads.shutdown(wait_for_all, cancel_futures=True)
        workers = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait_for_all, cancel_futures=True)
        if wait_for_all:
            self._close_engine()
            return
        wait(self._flying, timeout=grace_s)
        for worker in workers:  # an idle one has nothing to lose, and a busy one would write after the folder is let go
            worker.kill()
        closing = threading.Thread(target=self._close_engine, daemon=True)
        closing.start()  # what waits for the engine ends with it
        closing.join(grace_s)

    def _perform_with_engine(self, work: Work, spec: EngineSpec) -> Receipt:
        if self._warming is not None:
            self._warming.result()  # an engine that did not start is not tried again
        engine, turns = self._borrow(spec)
        with turns:
            return perform_on(engine, work)

    def _borrow(self, spec: EngineSpec) -> tuple[Engine, threading.Semaphore]:
        """The running engine of `spec`, and whose turn it is. The runner sends work for another only when this one is idle."""
        with self._lock:
            if self._engine is None or self._spec != spec:
                self._close_engine()
                self._engine, self._spec = spec.open(), spec
                self._turns = threading.Semaphore(AT_ONCE.get(spec.use, ENGINE_SLOTS))
            return self._engine, self._turns

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._before = self.progress()
            engine, self._engine, self._spec = self._engine, None, None
            engine.close()

    def _submit_to_pool(self, work: Work) -> Future[Receipt]:
        answer: Future[Receipt] = Future()
        answer.set_running_or_notify_cancel()  # work in a process cannot be taken back: who cancels waits for it
        with deaf():
            try:
                inner = self._pool.submit(perform_in_worker, work)
            except BrokenProcessPool:
                self._pool = worker_pool(self._workers)
                inner = self._pool.submit(perform_in_worker, work)
        inner.add_done_callback(lambda done: _pass_on(done, answer))
        return answer


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end with this one, however it ends, and leave a terminal's Ctrl-C to it."""
    # Spawned: a fork would copy an engine's threads and locks and this run's file lock, and a fork server outlives a killed
    # run (it waits for the workers, and they for it; tests/e2e/test_kill.py).
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker, (os.getpid(),))
    with deaf():
        pool.submit(os.getpid)  # its start and its imports fall into the time in which an engine loads
    return pool


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started meanwhile never hear a terminal's Ctrl-C, not even while they start: the parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_on(done: Future[Receipt], answer: Future[Receipt]) -> None:
    error = CancelledError("the executor was closed") if done.cancelled() else done.exception()
    if isinstance(error, BrokenProcessPool):
        answer.set_exception(WorkerDied("the worker process died"))
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


def perform_in_worker(work: Work) -> Receipt:
    """Does the work in a pool's process, where an opened stage stays open for the next shard."""
    receipt = perform(work, _opened(work.stage))
    trim()
    return receipt


_STAGES = ExitStack()


@functools.lru_cache(maxsize=64)
def _opened(stage: Stage) -> Transform:
    return _STAGES.enter_context(stage.open())


def _begin_worker(parent: int) -> None:
    _die_with_parent(parent)
    gc.set_threshold(*SELDOM)
    give_back()
    _keep_pandas_out()


def _keep_pandas_out() -> None:
    """pyarrow imports pandas to ask it whether a list is a series: a quarter of a second and 40 MB. It asks once, so now."""
    sys.meta_path.insert(0, _NoPandas())
    try:
        pa.array([])
    finally:
        del sys.meta_path[0]


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def _die_with_parent(parent: int) -> None:
    """Ends this worker when the run dies, however it dies: an orphan must not write into a folder that another run holds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt stops
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
