"""Progress on stderr: bars on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm

from pipeline.executors import Executor
from pipeline.plan import Plan
from pipeline.runner import Outcome
from pipeline.shards import read_receipt
from pipeline.work import Work, finished

QUIET_INTERVAL_S = 30


class Bars:
    """One bar for prompts sampled, one for shards labelled and paired."""

    def __init__(self, plan: Plan, works: Sequence[Work], executor: Executor) -> None:
        self._executor = executor
        sampled = {step.stage for step in plan.of_kind("completions")}
        to_sample = [w for w in works if w.stage in sampled and not finished(w)]
        prompts = sum(receipt.rows for w in to_sample if (receipt := read_receipt(w.inputs[0])))
        self._sampling = _bar("sampling", prompts, "prompt")
        self._shards = _bar("shards done", len(works), "shard")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sampling.close()
        self._shards.close()

    def update(self, outcome: Outcome) -> None:
        """Shows where things stand."""
        done = self._executor.progress()
        note = f"{done.tokens} tokens" if done.requests else "starting the engine"
        self._sampling.set_postfix_str(note, refresh=False)
        self._sampling.update(min(done.requests, self._sampling.total) - self._sampling.n)
        self._shards.update(len(outcome.receipts) - self._shards.n)


def _bar(name: str, total: int, unit: str) -> tqdm[None]:
    interval = 0.2 if sys.stderr.isatty() else QUIET_INTERVAL_S
    return tqdm(desc=name, total=total, unit=unit, file=sys.stderr, mininterval=interval, disable=total == 0)
