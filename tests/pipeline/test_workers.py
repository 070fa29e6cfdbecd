"""The processes of a pool: what they start without, and what they still can."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pyarrow as pa
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
