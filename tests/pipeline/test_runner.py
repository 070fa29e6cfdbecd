"""The order in which works are handed out, on graphs of which any part is done already."""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.engines import EngineSpec, Progress
from pipeline.runner import Runner
from pipeline.storage.shards import Receipt
from pipeline.work import Stage, Work

STAGE = cast(Stage, SimpleNamespace(engine=None))
SHAPE = {
    "completions": (),
    "a": ("completions",),
    "b": ("completions",),
    "c": ("completions",),
    "pairs": ("a", "b", "c"),
}
"""Output -> its inputs: what a run does to one shard."""


@dataclass
class Bench:
    """An executor that does a work at once, and remembers whether its inputs were there."""

    done: set[str]
    performed: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    slots: int = 2
    engine_slots: int = 1

    def submit(self, work: Work) -> Future[Receipt]:
        if not all(path.name in self.done for path in work.inputs):
            self.early.append(work.output.name)
        self.performed.append(work.output.name)
        self.done.add(work.output.name)
        answer: Future[Receipt] = Future()
        answer.set_result(_receipt())
        return answer

    def warm(self, spec: EngineSpec) -> None: ...
    def progress(self) -> Progress:
        return Progress()

    def close(self, grace_s: float | None = None) -> None: ...


def _receipt() -> Receipt:
    return Receipt(1, 1, "x", (), 0.0)


def _run(done: set[str]) -> tuple[Bench, Any]:
    bench = Bench(set(done))
    works = [Work(STAGE, tuple(map(Path, inputs)), Path(output)) for output, inputs in SHAPE.items()]
    is_done = lambda work: _receipt() if work.output.name in done else None  # noqa: E731  shorter than a def
    return bench, Runner(works, bench, lambda _: None, is_done).run()


@pytest.mark.parametrize(
    "done", [set(part) for n in range(len(SHAPE) + 1) for part in itertools.combinations(SHAPE, n)], ids=sorted
)
def test_whatever_is_done_the_rest_is_made_once_and_never_before_its_inputs(done):
    bench, outcome = _run(done)
    assert bench.early == []
    assert sorted(bench.performed) == sorted(SHAPE.keys() - done)
    assert {path.name for path in outcome.receipts} == SHAPE.keys()
    assert {path.name for path in outcome.made} == SHAPE.keys() - done
