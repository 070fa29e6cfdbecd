"""Where work runs. The same work and receipts everywhere."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from pipeline.engines import Progress
from pipeline.storage.shards import Receipt
from pipeline.work import Work


class WorkerDied(Exception):
    """The process that did the work ended without an answer: a labeler killed it, or the machine ran out of memory."""


class Executor(Protocol):
    """Runs work and owns the engines that stages borrow. One engine is loaded at a time: work that needs another waits
    until it is asked for, and then the loaded one is closed first."""

    @property
    def slots(self) -> int:
        """Works without an engine that are worth having in flight."""
        ...

    @property
    def engine_slots(self) -> int:
        """Works on one engine that are worth having in flight: while one shard drains, the next fill the engine."""
        ...

    def submit(self, work: Work) -> Future[Receipt]:
        """Starts the work. The future raises WorkerDied where the work may be tried again."""
        ...

    def progress(self) -> Progress:
        """What all engines together have finished."""
        ...

    def close(self, grace_s: float | None = None) -> None:
        """Ends what is in flight, drops what has not begun, and gives back what the engines hold.

        Args:
            grace_s: seconds that what is in flight has to end, and its engine to close; what takes longer is given up.
                None: as long as it takes.
        """
        ...
