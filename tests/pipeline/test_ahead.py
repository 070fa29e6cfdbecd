"""An engine that is sure to be needed loads while prompts are read."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines import EngineInfo, Progress, Sampling
from pipeline.errors import EngineFailed
from pipeline.executors.ahead import ahead, sure_to_be_needed
from pipeline.executors.local import LocalExecutor
from pipeline.plan import Plan, Step
from pipeline.sample import Sample
from pipeline.work import Work


@dataclass(frozen=True)
class Slow:
    """Settings of an engine that says when it was opened and closed."""

    fails: bool = False
    opened: threading.Event = field(default_factory=threading.Event, compare=False)
    closed: threading.Event = field(default_factory=threading.Event, compare=False)
    use: str = "vllm"

    def check(self) -> None: ...
    def identity(self) -> dict[str, Any]:
        return {}

    def open(self) -> Running:
        self.opened.set()
        if self.fails:
            raise EngineFailed("it does not start")
        return Running(self)


@dataclass
class Running:
    spec: Slow
    info: EngineInfo = field(default_factory=lambda: EngineInfo("slow"))

    def generate(self, requests: Any) -> Any:
        return iter(())

    def progress(self) -> Progress:
        return Progress()

    def close(self) -> None:
        self.spec.closed.set()


def plan(spec: Any, folder: Path) -> Plan:
    return Plan((Step("completions", "s", Sample("s", spec, Sampling()), folder / "completions-s", ()),))


def test_the_engine_is_opened_before_anybody_asks_for_it_and_by_nobody_twice(tmp_path):
    spec = Slow()
    with ahead(lambda: LocalExecutor(1), plan(spec, tmp_path)) as start:
        assert spec.opened.wait(10)
        spec.opened.clear()
        running = start()
        assert isinstance(running, LocalExecutor)
        assert running._borrow(spec)[0].info.model == "slow"
        assert not spec.opened.is_set()
        running.close()
    assert spec.closed.is_set()


def test_what_has_sampled_before_may_have_nothing_to_do_and_is_not_started(tmp_path):
    assert sure_to_be_needed(plan(Slow(), tmp_path)) is not None
    (tmp_path / "completions-s").mkdir()
    assert sure_to_be_needed(plan(Slow(), tmp_path)) is None


def test_what_is_started_at_once_is_not_started_ahead(tmp_path):
    assert sure_to_be_needed(plan(Slow(use="http"), tmp_path)) is None


def test_prompts_that_cannot_be_read_do_not_leave_an_executor_behind(tmp_path):
    spec, before = Slow(), set(threading.enumerate())

    def read_prompts() -> None:
        assert spec.opened.wait(10)
        raise OSError("no prompts")

    with pytest.raises(OSError, match="no prompts"), ahead(lambda: LocalExecutor(1), plan(spec, tmp_path)):
        read_prompts()
    assert spec.closed.wait(10)
    deadline = time.monotonic() + 120
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, set(threading.enumerate()) - before
        time.sleep(0.02)


def test_an_engine_that_does_not_start_is_not_tried_again(tmp_path):
    spec = Slow(fails=True)
    executor = LocalExecutor(1)
    executor.warm(spec)
    work = Work(plan(spec, tmp_path).steps[0].stage, (), tmp_path / "x.parquet")
    assert spec.opened.wait(10)
    spec.opened.clear()
    with pytest.raises(EngineFailed, match="does not start"):
        executor.submit(work).result(timeout=10)
    assert not spec.opened.is_set()
    executor.close()
