"""Who looks on while a run works: bars on a terminal, lines elsewhere, JSON for machines, and whoever asked to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from types import TracebackType
from typing import Self

from tqdm import tqdm

from pipeline import leaving
from pipeline.executors import Executor
from pipeline.observing.live import Beacon
from pipeline.observing.logs import is_json, log
from pipeline.observing.snapshot import Observer, Snapshot
from pipeline.plan import Plan
from pipeline.runner import Outcome
from pipeline.work import Work

QUIET_INTERVAL_S = 30
LOOK_EVERY_S = 0.5

Watcher = Callable[[Snapshot], None]
_WATCHERS: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


@contextmanager
def watched(*watchers: Watcher) -> Iterator[None]:
    """Each run inside is shown to these, twice a second and when it ends."""
    token = _WATCHERS.set((*_WATCHERS.get(), *watchers))
    try:
        yield
    finally:
        _WATCHERS.reset(token)


class Watching:
    """Looks at a run while it works and tells everybody who looks on."""

    def __init__(self, plan: Plan, works: Sequence[Work], executor: Executor) -> None:
        self._executor = executor
        self._observer = Observer(plan, works)
        self._show: Lines | Bars = Lines() if is_json() else Bars(self._observer)
        self._watchers: tuple[Watcher, ...] = (Beacon(self._observer.run), *_WATCHERS.get())
        self._looked_at = 0.0
        self._outcome = Outcome()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = "interrupted" if leaving.asked() or kind is KeyboardInterrupt else "failed" if error else "ended"
        snapshot = self._observer.look(self._outcome, self._executor.progress(), state)
        self._show.close(self._outcome, snapshot)
        for watcher in self._watchers:
            watcher(snapshot)

    def update(self, outcome: Outcome) -> None:
        """Shows where things stand, if it is time."""
        self._outcome = outcome
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        snapshot = self._observer.look(outcome, self._executor.progress())
        self._show.update(outcome, snapshot)
        for watcher in self._watchers:
            watcher(snapshot)


class Bars:
    """One bar for prompts sampled, one for shards done."""

    def __init__(self, observer: Observer) -> None:
        self._sampling = _bar("sampling", observer.n_prompts, "prompt")
        self._shards = _bar("shards done", observer.n_shards, "shard")

    def update(self, outcome: Outcome, snapshot: Snapshot) -> None:
        """Moves the bars on."""
        pace = f"{snapshot.tokens} tokens, {snapshot.tokens_per_s:.0f}/s"
        note = snapshot.engine or (pace if snapshot.prompts[0] or snapshot.tokens else "starting the engine")
        self._sampling.set_postfix_str(note, refresh=False)
        self._sampling.update(snapshot.prompts[0] - self._sampling.n)
        self._shards.update(len(outcome.receipts) - self._shards.n)

    def close(self, outcome: Outcome, snapshot: Snapshot) -> None:
        """Leaves the bars as they are."""
        self.update(outcome, snapshot)
        self._sampling.close()
        self._shards.close()


class Lines:
    """A line of JSON for each shard, and one for the whole every 30 seconds."""

    def __init__(self) -> None:
        self._told = 0
        self._failed: set[str] = set()
        self._next = 0.0

    def update(self, outcome: Outcome, snapshot: Snapshot) -> None:
        """Tells what is new."""
        for output, receipt in islice(outcome.receipts.items(), self._told, None):
            if output in outcome.made:
                name = f"{output.parent.name}/{output.name}"
                fields = {"rows": receipt.rows, "abstained": receipt.abstained, "seconds": receipt.seconds}
                log("shard", f"{name} is done", stage=output.parent.name, shard=output.name, **fields)
        self._told = len(outcome.receipts)
        for name in snapshot.failed.keys() - self._failed:
            log("shard failed", f"error: {name}: {snapshot.failed[name]}", shard=name)
        self._failed = set(snapshot.failed)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + QUIET_INTERVAL_S
            log("progress", "where things stand", **snapshot.as_json())

    def close(self, outcome: Outcome, snapshot: Snapshot) -> None:
        """Tells the rest."""
        self._next = 0.0
        self.update(outcome, snapshot)


def _bar(name: str, total: int, unit: str) -> tqdm[None]:
    interval = 0.2 if sys.stderr.isatty() else QUIET_INTERVAL_S
    return tqdm(desc=name, total=total, unit=unit, file=sys.stderr, mininterval=interval, disable=total == 0)
