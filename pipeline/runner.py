"""The one loop: each shard moves on as soon as its own inputs exist."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from labelers.errors import LabelerError
from pipeline.engines import EngineSpec
from pipeline.errors import BrokenLabeler, BudgetSpent, ConfigError, EngineFailed, EnvironmentLacks
from pipeline.executors import Executor, WorkerDied
from pipeline.storage.shards import Receipt
from pipeline.storage.stores import came_back, sent_out
from pipeline.work import Work, finished

FATAL = (BrokenLabeler, BudgetSpent, LabelerError, EngineFailed, ConfigError, EnvironmentLacks)
"""What makes every other shard fail as well, or its labels worthless: the run stops."""

ATTEMPTS = 3
TICK_S = 0.2


@dataclass
class Outcome:
    """What came of the works.

    Args:
        receipts: of all finished work, by output.
        made: the outputs that this call made; the others were there.
        failed: what could not be made, and why.
    """

    receipts: dict[Path, Receipt] = field(default_factory=dict)
    made: set[Path] = field(default_factory=set)
    failed: dict[Path, BaseException] = field(default_factory=dict)


class Runner:
    """Performs works in the order that their inputs allow, a bounded number at a time."""

    def __init__(
        self, works: Sequence[Work], executor: Executor, on_tick: Callable[[Outcome], None],
        is_done: Callable[[Work], Receipt | None] = finished,
    ) -> None:  # fmt: skip
        self._is_done = is_done
        self._executor = executor
        self._on_tick = on_tick
        self._outcome = Outcome()
        self._ready: dict[EngineSpec | None, deque[Work]] = defaultdict(deque)
        self._readers: dict[Path, list[Work]] = defaultdict(list)
        self._missing: dict[Path, int] = {}
        self._in_flight: dict[Future[Receipt], Work] = {}
        self._attempts: Counter[Path] = Counter()
        self._engine: EngineSpec | None = None
        self._enter(works)

    def run(self) -> Outcome:
        """Performs everything that can be performed.

        Raises:
            PipelineError, LabelerError: one of `FATAL`, once what was in flight has ended.
        """
        self._submit()
        while self._in_flight:
            done, _ = wait(self._in_flight, timeout=TICK_S, return_when=FIRST_COMPLETED)
            for future in done:
                self._settle(self._in_flight.pop(future), future)
            self._submit()
            self._on_tick(self._outcome)
        return self._outcome

    def _enter(self, works: Sequence[Work]) -> None:
        outputs = {work.output for work in works}
        for work in works:
            unmade = [path for path in work.inputs if path in outputs]
            self._missing[work.output] = len(unmade)
            for path in unmade:
                self._readers[path].append(work)
        # Listed first: arriving releases others, and who arrived twice would release its readers before their inputs exist.
        for work in [work for work in works if self._missing[work.output] == 0]:
            self._arrive(work)

    def _arrive(self, work: Work) -> None:
        """Takes in work whose inputs all exist: it is done already, or ready."""
        todo = [work]
        while todo:  # a loop, not recursion: a finished run has chains of any length
            work = todo.pop()
            if receipt := self._is_done(work):
                self._outcome.receipts[work.output] = receipt
                todo += self._released_by(work.output)
            else:
                self._ready[work.stage.engine].append(work)

    def _released_by(self, output: Path) -> list[Work]:
        released = []
        for reader in self._readers[output]:
            self._missing[reader.output] -= 1
            if self._missing[reader.output] == 0:
                released.append(reader)
        return released

    def _settle(self, work: Work, future: Future[Receipt]) -> None:
        error = future.exception()
        if error is None:
            self._outcome.receipts[work.output] = future.result()
            self._outcome.made.add(work.output)
            came_back(work.output)
            for reader in self._released_by(work.output):
                self._arrive(reader)
        elif isinstance(error, FATAL):
            self._stop()
            raise error
        elif isinstance(error, WorkerDied) and self._attempts[work.output] < ATTEMPTS:
            self._ready[work.stage.engine].append(work)
        else:
            self._outcome.failed[work.output] = error

    def _stop(self) -> None:
        """Starts nothing more and waits for what has begun."""
        for future in self._in_flight:
            future.cancel()
        wait(self._in_flight)

    def _submit(self) -> None:
        self._choose_engine()
        if self._engine is not None:
            self._fill(self._engine, self._executor.engine_slots)
        self._fill(None, self._executor.slots)

    def _choose_engine(self) -> None:
        """The loaded engine keeps the device while it has work; then the next one with work gets it."""
        busy = any(work.stage.engine == self._engine for work in self._in_flight.values())
        if self._engine is not None and (busy or self._ready[self._engine]):
            return
        self._engine = next((spec for spec, queue in self._ready.items() if spec is not None and queue), self._engine)

    def _fill(self, engine: EngineSpec | None, limit: int) -> None:
        flying = [work for work in self._in_flight.values() if work.stage.engine == engine]
        queue = self._ready[engine]
        # A worker's death takes the innocent with it: whoever was there is tried again alone.
        suspect = any(self._attempts[work.output] > 1 for work in flying)
        while queue and len(flying) < limit and not suspect:
            alone = self._attempts[queue[0].output] >= 1
            if alone and flying:
                return
            work = queue.popleft()
            self._attempts[work.output] += 1
            sent_out(work.output)
            self._in_flight[self._executor.submit(work)] = work
            flying.append(work)
            suspect = alone
