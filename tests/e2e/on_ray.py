"""Stages and engines that Ray's workers load from here: they write down where and how often they ran."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from labelers.types import Needs
from pipeline.engines import Engine, EngineInfo, EngineSpec, Generation, Progress, Request, Sampled
from pipeline.schema import PROMPTS
from pipeline.work import Made, Transform


@dataclass(frozen=True)
class SlowCopy:
    """Copies a prompt shard slowly, and leaves a file named by machine and moment in `visits` when it begins."""

    visits: Path
    seconds: float = 0.5
    needs: Needs = Needs(memory_gb=0.1)

    version: ClassVar[str] = "1"
    engine: ClassVar[EngineSpec | None] = None
    reads: ClassVar[tuple[pa.Schema, ...]] = (PROMPTS,)
    writes: ClassVar[pa.Schema] = PROMPTS

    @contextmanager
    def open(self, engine: Engine | None = None) -> Iterator[Transform]:
        yield self._copy

    def _copy(self, prompts: pa.Table) -> Made:
        import ray

        machine = ray.get_runtime_context().get_node_id()
        (self.visits / f"{machine}-{prompts['prompt_id'][0]}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        return Made(prompts)


@dataclass(frozen=True)
class SlowEcho:
    """An engine that says each prompt back slowly, and leaves a file named by its process in `lives` when it loads."""

    lives: Path
    use: str = "echo"
    seconds: float = 0.2

    def check(self) -> None: ...

    def identity(self) -> Mapping[str, Any]:
        return {"use": self.use}

    def open(self) -> RunningEcho:
        (self.lives / str(os.getpid())).touch()
        return RunningEcho(self)


class RunningEcho:
    info = EngineInfo("echo")

    def __init__(self, spec: SlowEcho) -> None:
        self._spec = spec
        self._n_requests = 0

    def generate(self, requests: Sequence[Request]) -> Iterator[Generation]:
        for request in requests:
            time.sleep(self._spec.seconds)
            self._n_requests += 1
            yield Generation(request.id, (Sampled(request.messages[-1].content, "stop"),))

    def progress(self) -> Progress:
        return Progress(self._n_requests)

    def close(self) -> None: ...
