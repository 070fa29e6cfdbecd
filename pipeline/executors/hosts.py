"""What runs on each machine of a cluster: the process that holds an engine, and work that needs none."""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from pipeline.engines import Engine, EngineSpec, Progress
from pipeline.engines.kept import perform_on
from pipeline.errors import EnvironmentLacks
from pipeline.executors.local import perform_in_worker
from pipeline.storage.shards import Receipt, receipt_path
from pipeline.work import Work


class EngineHost:
    """An engine in a process of its own somewhere in the cluster: the actor."""

    def __init__(self, spec: EngineSpec) -> None:
        if os.environ.get("OMP_NUM_THREADS") == "1":
            del os.environ["OMP_NUM_THREADS"]  # Ray's, for actors that ask for no CPU; a model on a CPU wants them all
        self._spec = spec
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._life = uuid.uuid4().hex

    def perform(self, work: Work, shared_within_s: float) -> Receipt:
        """Does the work, with the engine that the first work loads: why it does not load then reaches the run."""
        require_inputs(work, shared_within_s)
        return perform_on(self._borrow(), work)

    def progress(self) -> tuple[str, Progress]:
        """What the engine has finished, and which life of this actor says so: a new one counts from zero."""
        return self._life, self._engine.progress() if self._engine else Progress()

    def close(self) -> tuple[str, Progress]:
        """Gives the engine's memory back; says what it finished."""
        with self._lock:
            last = self.progress()
            if self._engine:
                self._engine.close()
                self._engine = None
            return last

    def _borrow(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._spec.open()
            return self._engine


def perform_on_machine(work: Work, shared_within_s: float) -> Receipt:
    """Does the work on whichever machine this is: the task. Its process keeps opened stages for the next shard."""
    require_inputs(work, shared_within_s)
    return perform_in_worker(work)


def require_inputs(work: Work, within_s: float) -> None:
    """Waits until this machine sees what others have written.

    Raises:
        EnvironmentLacks: it does not, so the run's folder is not shared.
    """
    deadline = time.monotonic() + within_s
    while lacking := [path for path in work.inputs if not (path.exists() and receipt_path(path).exists())]:
        if time.monotonic() >= deadline:
            raise EnvironmentLacks(
                f"machine {platform.node()} does not see {lacking[0]}, which the machine that runs the pipeline does; "
                "hint: --root must name a folder that all machines share under one path, or one in a store, s3://BUCKET/PREFIX "
                "(docs/cluster.md)"
            )
        time.sleep(0.1)
        _refresh(lacking[0].parent)


def _refresh(folder: Path) -> None:
    """Lists the folder: a network file system then asks its server again which names there are."""
    with suppress(OSError):
        list(folder.iterdir())
