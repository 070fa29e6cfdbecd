"""The processes of a pool: what they start without, and what they still can."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.executors.local import worker_pool


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
