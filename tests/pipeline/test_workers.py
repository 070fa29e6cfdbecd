"""The processes of a pool: what they start without, and what they still can."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelers.types import Needs
from pipeline.engines import Engine, EngineSpec
from pipeline.executors.local import perform_in_worker, worker_pool
from pipeline.work import Made, Transform, Work


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with worker_pool(1) as pool:
        yield pool


def _after_an_array() -> bool:
    pa.array(["a", "b"])
    return "pandas" in sys.modules


def _as_frame() -> list[str]:
    return list(pa.table({"x": ["a", "b"]}).to_pandas()["x"])


def test_a_worker_that_makes_arrays_has_not_loaded_pandas(pool):
    assert not pool.submit(_after_an_array).result(timeout=60)


def test_a_worker_that_wants_pandas_has_it(pool):
    assert pool.submit(_as_frame).result(timeout=60) == ["a", "b"]


def test_a_command_and_its_workers_have_arrow_on_the_allocator_that_gives_back(pool):
    asked = "import pipeline, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    told = subprocess.run([sys.executable, "-c", asked], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "system"
    assert pool.submit(_kept_by_arrow).result(timeout=60) == 0


def _kept_by_arrow() -> int:
    """Bytes that the C++ of a Parquet writer took from Arrow's own pool."""
    pq.write_table(pa.table({"x": ["a" * 100] * 10_000}), pa.BufferOutputStream(), compression="zstd")
    return int(pa.mimalloc_memory_pool().max_memory())


@dataclass(frozen=True)
class Ones:
    """A stage that reads nothing and writes a number."""

    version: ClassVar[str] = "1"
    needs: ClassVar[Needs] = Needs()
    engine: ClassVar[EngineSpec | None] = None
    reads: ClassVar[tuple[pa.Schema, ...]] = ()
    writes: ClassVar[pa.Schema] = pa.schema([("x", pa.int64())])

    @contextmanager
    def open(self, engine: Engine | None = None) -> Iterator[Transform]:
        yield lambda: Made(pa.table({"x": [1]}, self.writes))


def test_a_worker_keeps_nothing_of_the_shards_that_it_has_done(pool, tmp_path):
    assert pool.submit(_objects_kept, tmp_path).result(timeout=60) < 50


def _objects_kept(folder: Path) -> int:
    """Containers that a hundred shards leave: a receipt and what gives memory back left 42 each, which point at themselves."""

    def perform(numbers: range) -> None:
        for number in numbers:
            perform_in_worker(Work(Ones(), (), folder / f"{number}.parquet"))

    perform(range(50))
    gc.collect()
    before = len(gc.get_objects())
    perform(range(50, 150))
    return len(gc.get_objects()) - before
