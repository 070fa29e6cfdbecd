"""An engine that loads while the run still reads its prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.engines import EngineSpec
from pipeline.executors import Executor
from pipeline.executors.local import LocalExecutor
from pipeline.plan import Plan

SLOW_TO_START = ("vllm", "replay")
"""Kinds of engine that may take long to start: seconds to minutes. Replay sorts all completions first, on another core."""


@contextmanager
def ahead(start: Callable[[], Executor], plan: Plan) -> Iterator[Callable[[], Executor]]:
    """What starts the executor; where the plan is sure to need an engine, it has been started and is loading it already."""
    running = start() if (spec := sure_to_be_needed(plan)) else None
    if spec is None or running is None:
        yield start
        return
    if isinstance(running, LocalExecutor):
        running.warm(spec)
    lent = False

    def lend() -> Executor:
        nonlocal lent
        lent = True  # who takes it closes it
        return running

    try:
        yield lend
    finally:
        if not lent:
            running.close(0)


def sure_to_be_needed(plan: Plan) -> EngineSpec | None:
    """The first engine that has sampled nothing of this plan yet. One that has may have nothing left to do."""
    for step in plan.of_kind("completions"):
        spec = step.stage.engine
        if spec is not None and spec.use in SLOW_TO_START and not step.folder.exists():
            return spec
    return None
