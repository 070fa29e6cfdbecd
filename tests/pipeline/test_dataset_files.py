"""The files of a dataset version, whatever sizes its shards have and however the writing ends."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.publishing import dataset_files
from pipeline.publishing.dataset_files import CONFIGS, DatasetFiles
from pipeline.schema import PAIR_SHARD


def shard(ids: range) -> pa.Table:
    """Pairs of which only the ids differ."""
    text, number, listed = ["x"] * len(ids), [1.0] * len(ids), [[]] * len(ids)
    values: dict[Any, Any] = {pa.string(): text, pa.float64(): number}
    columns = {field.name: pa.array(values.get(field.type, listed), field.type) for field in PAIR_SHARD}
    columns["pair_id"] = pa.array(map(str, ids), pa.string())
    return pa.table(columns, PAIR_SHARD)


def ids_in(folder: Path) -> list[str]:
    return [i for file in sorted(folder.glob("*.parquet")) for i in pq.read_table(file)["pair_id"].to_pylist()]


@pytest.mark.parametrize("sizes", [(1000,), (400, 600), (1000, 3), (2000, 0, 1000), (999, 2, 999), (1, 49_999, 7), ()])
def test_every_row_is_written_once_and_in_order_also_where_shards_fill_row_groups(tmp_path, sizes):
    n = 0
    with DatasetFiles(tmp_path) as files:
        for size in sizes:
            files.add(shard(range(n, n := n + size)))
    assert files.n_rows == n
    assert all(ids_in(tmp_path / name) == [str(i) for i in range(n)] for name in CONFIGS)


def test_a_file_is_not_closed_while_it_is_still_written_to_since_that_ends_the_process(tmp_path, monkeypatch):
    both, was_open = threading.Barrier(2, timeout=10), []

    def fails_for_one(rows: pa.Table, writer: pq.ParquetWriter) -> None:
        both.wait()
        if writer.schema == CONFIGS["data"]:
            raise OSError(errno.ENOSPC, "full")
        time.sleep(0.2)  # what the error does, it has done by now
        was_open.append(writer.is_open)

    monkeypatch.setattr(dataset_files, "_append", fails_for_one)
    with pytest.raises(OSError, match="full"), DatasetFiles(tmp_path) as files:
        files.add(shard(range(1000)))
    assert was_open == [True]
