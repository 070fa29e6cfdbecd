"""Many machines: engines are Ray actors that load once, everything else is a Ray task. All of them share one folder."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.engines import EngineSpec, Progress
from pipeline.errors import EnvironmentLacks
from pipeline.executors import WorkerDied
from pipeline.executors.hosts import EngineHost, perform_on_machine
from pipeline.executors.local import ENGINE_SLOTS
from pipeline.executors.machines import Machines, Resources, engine_gpus, resources
from pipeline.observing.logs import say
from pipeline.storage.shards import Receipt
from pipeline.work import Work

LOOK_EVERY_S = 1.0
"""Between two looks at the cluster's machines and at what its engines have done."""
CLOSE_WITHIN_S = 60.0
"""For an engine to give its memory back by itself; then its process is ended."""


@dataclass(frozen=True, kw_only=True)
class Ray:
    """The cluster of a run with `executor = "ray"`.

    Args:
        address: `auto` on a machine of a running cluster, or its host:port; empty starts one on this machine alone.
        replicas: copies of the engine in use; 0 takes as many as the GPUs hold, and one for engines that need none.
        engine_gpus: GPUs of one copy; -1 takes the engine's own (tensor_parallel_size), or none where the cluster has none.
        engine_cpus: CPUs that one copy keeps from other work. Never all: what waits for them would wait for ever.
        shared_within_s: how long a file may take to show up on another machine; a network folder's caches delay it.
        wait_for_machines_s: how long work that no machine can hold waits for one to join; more where machines are started
            on demand.
    """

    address: str = ""
    replicas: int = 0
    engine_gpus: int = -1
    engine_cpus: float = 0.0
    shared_within_s: float = 30.0
    wait_for_machines_s: float = 60.0

    def __post_init__(self) -> None:
        if self.replicas < 0 or self.engine_cpus < 0 or self.engine_gpus < -1:
            raise ValueError("replicas and engine_cpus are 0 or more, engine_gpus is -1 or more")


class RayExecutor:
    """Work on a cluster. Ray itself tries work again once when its machine or process is lost; what is lost twice is the
    runner's, which tries it alone.
    """

    def __init__(self, settings: Ray | None = None) -> None:
        self._settings = settings or Ray()
        self._ray, self._is_ours = connected(self._settings.address)
        self._machines = Machines(self._ray)
        self._task = self._ray.remote(max_retries=1, scheduling_strategy="SPREAD")(perform_on_machine)
        self._spec: EngineSpec | None = None
        self._replicas: list[_Replica] = []
        self._pending: dict[Future[Receipt], _Pending] = {}
        self._done: dict[str, Progress] = {}
        self._looked = 0.0

    @property
    def slots(self) -> int:
        """Two works for each CPU of the cluster, as it is now."""
        return 2 * max(1, int(self._machines.total("CPU")))

    @property
    def engine_slots(self) -> int:
        """As many works for each copy of the engine as one engine has on one machine."""
        return ENGINE_SLOTS * max(1, len(self._replicas))

    def submit(self, work: Work) -> Future[Receipt]:
        """Starts the work on the copy of its engine that has the least to do, or wherever there is room."""
        answer: Future[Receipt] = Future()
        answer.set_running_or_notify_cancel()  # who cancels waits for it, as for a local process
        replica = None
        if work.stage.engine is not None:
            replica = min(self._borrow(work.stage.engine), key=lambda each: len(each.works))
            replica.works.add(answer)
            reference = replica.actor.perform.remote(work, self._settings.shared_within_s)
            needs = replica.needs
        else:
            needs = resources(work.stage.needs)
            placed = self._task.options(num_cpus=needs["CPU"], num_gpus=needs["GPU"], memory=int(needs["memory"]))
            reference = placed.remote(work, self._settings.shared_within_s)
        self._pending[answer] = _Pending(reference, needs, replica)
        reference.future().add_done_callback(lambda done: self._settle(done, answer))
        return answer

    def progress(self) -> Progress:
        """What the engines had finished when last asked, at most a second or two ago."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._machines.look()
            self._give_up()
            self._take_turns()
            for replica in self._replicas:
                replica.ask(self._hear)
        done = list(self._done.values())
        return Progress(sum(each.requests for each in done), sum(each.tokens for each in done))

    def close(self, grace_s: float | None = None) -> None:
        """Ends what engines have begun, drops other work, and leaves the cluster; one started here ends with it."""
        if self._is_ours:
            self._drop(force=False)
        wait(list(self._pending), timeout=grace_s)
        hurried = bool(self._pending)
        if hurried:
            self._drop(force=True)
        self._close_engine(0.0 if hurried else CLOSE_WITHIN_S)
        if self._is_ours:
            self._ray.shutdown()

    def _drop(self, *, force: bool) -> None:
        for pending in list(self._pending.values()):
            if pending.replica is None:
                self._ray.cancel(pending.reference, force=force)

    def _borrow(self, spec: EngineSpec) -> list[_Replica]:
        """The running copies of `spec`. The runner sends work for another engine only when this one is idle."""
        if self._spec != spec:
            self._close_engine()
            gpus = engine_gpus(spec, self._settings.engine_gpus, has_gpus=self._machines.total("GPU") > 0)
            needs = {"CPU": self._settings.engine_cpus, "GPU": float(gpus)}
            copies = self._settings.replicas or (self._machines.room({"GPU": gpus}) if gpus else 1)
            self._replicas = [_Replica(self._host(spec, needs), needs) for _ in range(max(1, copies))]
            self._spec = spec
        return self._replicas

    def _host(self, spec: EngineSpec, needs: Resources) -> Any:
        host = self._ray.remote(max_restarts=-1, max_task_retries=1, max_concurrency=ENGINE_SLOTS + 1)(EngineHost)
        placed = host.options(num_cpus=needs["CPU"], num_gpus=needs["GPU"], scheduling_strategy="SPREAD")
        return placed.remote(spec)

    def _close_engine(self, within_s: float = CLOSE_WITHIN_S) -> None:
        replicas, self._replicas, self._spec = self._replicas, [], None
        closing = [replica.actor.close.options(max_task_retries=0).remote().future() for replica in replicas]
        wait(closing, timeout=within_s)
        for replica, closed in zip(replicas, closing, strict=True):
            if closed.done():
                self._hear(closed)
            self._ray.kill(replica.actor)

    def _settle(self, done: Future[Any], answer: Future[Receipt]) -> None:
        pending = self._pending.pop(answer, None)
        if pending and pending.replica:
            pending.replica.works.discard(answer)
        error = done.exception()
        with suppress(InvalidStateError):  # given up already
            if error is None:
                answer.set_result(done.result())
            else:
                answer.set_exception(as_ours(error))

    def _hear(self, asked: Future[tuple[str, Progress]]) -> None:
        if asked.exception() is None:
            life, progress = asked.result()
            self._done[life] = progress

    def _give_up(self) -> None:
        """Fails the work that no machine has been able to hold for too long; Ray itself would wait for ever."""
        for answer, pending in list(self._pending.items()):
            if self._machines.room(pending.needs):
                pending.homeless_since = None
                continue
            pending.homeless_since = pending.homeless_since or time.monotonic()
            if time.monotonic() - pending.homeless_since >= self._settings.wait_for_machines_s:
                with suppress(InvalidStateError):
                    answer.set_exception(EnvironmentLacks(self._machines.lacking(pending.needs)))

    def _take_turns(self) -> None:
        """Closes an engine that has nothing to do while other work waits for its GPUs. It is loaded again when it is needed."""
        holds = any(replica.needs["GPU"] for replica in self._replicas)
        waiting = [p.needs["GPU"] for p in self._pending.values() if p.replica is None and p.needs["GPU"]]
        if not holds or not waiting or any(replica.works for replica in self._replicas):
            return
        if self._ray.available_resources().get("GPU", 0.0) < min(waiting):
            say(f"{len(waiting)} shards wait for a GPU: the engine, which has nothing to do, gives its own back")
            self._close_engine()


@dataclass(eq=False)
class _Replica:
    """One copy of the engine in use: its actor, and the works that it has."""

    actor: Any
    needs: Resources
    works: set[Future[Receipt]] = field(default_factory=set)
    asked: Future[Any] | None = None

    def ask(self, hear: Any) -> None:
        """Asks what it has done, unless it has not answered yet: a loading engine is silent."""
        if self.asked is None or self.asked.done():
            self.asked = self.actor.progress.options(max_task_retries=0).remote().future()
            self.asked.add_done_callback(hear)


@dataclass(eq=False)
class _Pending:
    """Work that has not been answered."""

    reference: Any
    needs: Resources
    replica: _Replica | None
    homeless_since: float | None = None


def as_ours(error: BaseException) -> BaseException:
    """What the runner knows for what Ray says: the work's own exception, or WorkerDied."""
    from ray import exceptions

    match error:
        case exceptions.TaskCancelledError():
            return CancelledError("the executor was closed")
        case exceptions.RayTaskError(cause=BaseException() as cause):
            return cause
        case (
            exceptions.RayActorError()
            | exceptions.WorkerCrashedError()
            | exceptions.NodeDiedError()
            | exceptions.OutOfMemoryError()
        ):
            return WorkerDied(str(error).strip().splitlines()[0])
        case _:
            return error


def connected(address: str) -> tuple[Any, bool]:
    """Ray, joined to the cluster at `address`, and whether this call did it: a connection that was there stays.

    Raises:
        EnvironmentLacks: Ray is not installed, or nobody answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; it warns about the old one
    if not address:
        _keep_to_ourselves()
    try:
        import ray
    except ImportError as error:
        raise EnvironmentLacks(
            f"ray is not installed ({error}); hint: pip install 'preference-pipeline[ray]'"
        ) from None
    if ray.is_initialized():
        return ray, False
    require_answer(address)
    start: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        with _kept_sigterm():
            ray.init(**start, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise EnvironmentLacks(
            f"no Ray cluster at {address or 'this machine'}: {error}; "
            "hint: `ray status` there, with the same RAY_AUTH_TOKEN, or ray start --head"
        ) from error
    _talk_on_stderr()
    return ray, True


def _keep_to_ourselves() -> None:
    """A cluster for this machine alone listens on the loopback address, under Ray's own name for that, and answers only who
    has this run's token: other users of the machine reach the ports as well, and a token file would outlive the run.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def require_answer(address: str) -> None:
    """Raises EnvironmentLacks when nobody listens at host:port: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise EnvironmentLacks(
            f"no Ray cluster at {address}: {error}; hint: `ray status` on its head machine says where it listens"
        ) from error


def _talk_on_stderr() -> None:
    """Sends what Ray says about the cluster to stderr; it has no setting for that, and stdout is for data."""
    from ray._private import worker

    say = getattr(worker, "print_to_stdstream", None)
    if say and not hasattr(say, "func"):
        worker.print_to_stdstream = partial(_say_on_stderr, say)


def _say_on_stderr(say: Any, data: dict[str, Any], *rest: Any, **named: Any) -> None:
    say({**data, "is_err": True}, *rest, **named)


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Keeps this process's answer to SIGTERM, which Ray replaces by its own."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
