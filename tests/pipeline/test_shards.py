from __future__ import annotations

import contextlib
import json
import os

import pyarrow as pa
import pytest

from pipeline.errors import UnreadableShard
from pipeline.storage.shards import read_receipt, read_shard, receipt_path, replacing, write_shard

TABLE = pa.table({"x": pa.array(range(5000)), "text": pa.array([f"row {i}" * 20 for i in range(5000)])})


def test_a_shard_comes_back_as_it_was_written(tmp_path):
    receipt = write_shard(tmp_path / "00000.parquet", TABLE, ("abc",), 1.5, {"f": {"n": 1}})
    assert read_shard(tmp_path / "00000.parquet").equals(TABLE)
    assert read_receipt(tmp_path / "00000.parquet") == receipt
    assert receipt.rows == 5000


def test_the_same_table_gives_the_same_bytes(tmp_path):
    first = write_shard(tmp_path / "a.parquet", TABLE)
    second = write_shard(tmp_path / "b.parquet", TABLE)
    assert first.sha256 == second.sha256


def test_a_shard_without_receipt_does_not_exist(tmp_path):
    shard = tmp_path / "00000.parquet"
    write_shard(shard, TABLE)
    receipt_path(shard).unlink()
    assert read_receipt(shard) is None


@pytest.mark.parametrize("torn", ["", "{", '{"rows": 1}', "[]", "null"])
def test_a_torn_receipt_is_no_receipt(tmp_path, torn):
    shard = tmp_path / "00000.parquet"
    write_shard(shard, TABLE)
    receipt_path(shard).write_text(torn)
    assert read_receipt(shard) is None


def test_a_truncated_shard_has_no_valid_receipt(tmp_path):
    shard = tmp_path / "00000.parquet"
    write_shard(shard, TABLE)
    os.truncate(shard, shard.stat().st_size - 1)
    assert read_receipt(shard) is None
    with pytest.raises(UnreadableShard, match=r"00000.parquet.*hint: python -m pipeline run moves it aside"):
        read_shard(shard)


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    shard = tmp_path / "00000.parquet"
    write_shard(shard, TABLE)
    good = shard.read_bytes()
    wrong = 0
    for position in range(4, len(good) - 8, max(1, len(good) // 60)):
        shard.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        with contextlib.suppress(UnreadableShard):
            wrong += not read_shard(shard).equals(TABLE)
    assert wrong == 0


def test_other_columns_than_expected_are_an_error(tmp_path):
    write_shard(tmp_path / "00000.parquet", TABLE)
    with pytest.raises(UnreadableShard, match="other columns"):
        read_shard(tmp_path / "00000.parquet", pa.schema([("y", pa.int64())]))


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_receipt_names_rows_hashes_and_seconds(tmp_path):
    write_shard(tmp_path / "00000.parquet", TABLE, ("abc",), 0.25, {"f": {"abstained:crashed": 2}})
    stored = json.loads((tmp_path / "00000.json").read_text())
    assert {"rows", "sha256", "inputs", "seconds", "counts", "n_bytes", "seal"} == set(stored)
    receipt = read_receipt(tmp_path / "00000.parquet")
    assert receipt is not None
    assert receipt.abstained == 2
