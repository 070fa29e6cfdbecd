"""Shards on disk: read with checksums, written so that a file exists only when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UnreadableShard

Counts = dict[str, dict[str, float]]
"""What a stage counted: family -> name -> number."""


@dataclass(frozen=True)
class Receipt:
    """Proof that a shard is complete; written after it.

    Args:
        rows: rows in the shard.
        n_bytes: size of the shard's file.
        sha256: of the shard's file.
        inputs: SHA-256 of each input shard, in order: a shard is current while these are its inputs' hashes.
        seconds: wall time of the stage on this shard.
        counts: what the stage counted, by family.
    """

    rows: int
    n_bytes: int
    sha256: str
    inputs: tuple[str, ...]
    seconds: float
    counts: Counts = field(default_factory=dict)

    @property
    def abstained(self) -> int:
        """Labels in the shard that are abstentions."""
        return int(sum(n for kinds in self.counts.values() for key, n in kinds.items() if key.startswith("abstained:")))


def receipt_path(shard: Path) -> Path:
    """Where the receipt of `shard` lies."""
    return shard.with_suffix(".json")


def read_receipt(shard: Path) -> Receipt | None:
    """The receipt of `shard`; None where the shard is not complete."""
    try:
        fields = json.loads(receipt_path(shard).read_text())
        receipt = Receipt(**{**fields, "inputs": tuple(fields["inputs"])})
        complete = shard.stat().st_size == receipt.n_bytes
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return receipt if complete else None


def read_shard(shard: Path, schema: pa.Schema | None = None) -> pa.Table:
    """The table in `shard`.

    Raises:
        UnreadableShard: the file is missing, damaged (its page checksums differ), or has other columns than `schema`.
    """
    try:
        # ParquetFile, not read_table: the latter goes through the dataset layer, which does not verify checksums.
        with pq.ParquetFile(shard, page_checksum_verification=True) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise UnreadableShard(
            f"{shard}: cannot be read ({str(error).splitlines()[0]}); "
            f"hint: delete it and {receipt_path(shard).name} beside it, and the next run makes it again"
        ) from error
    if schema is not None and not table.schema.equals(schema, check_metadata=False):
        raise UnreadableShard(
            f"{shard}: has other columns than this version writes; hint: delete its folder, the next run makes it again"
        )
    return table


def write_shard(
    shard: Path, table: pa.Table, inputs: tuple[str, ...] = (), seconds: float = 0.0, counts: Counts | None = None
) -> Receipt:
    """Writes `table` and then its receipt; a reader never sees half of either."""
    with replacing(shard) as beside:
        write_parquet(beside, table)
        n_bytes, sha256 = beside.stat().st_size, file_sha256(beside)
    receipt = Receipt(table.num_rows, n_bytes, sha256, inputs, round(seconds, 3), counts or {})
    write_json(receipt_path(shard), asdict(receipt))
    return receipt


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes `table` as this project writes every Parquet file: zstd, page checksums, page index, statistics."""
    pq.write_table(
        table, path, compression="zstd", use_dictionary=False,
        write_page_checksum=True, write_page_index=True, row_group_size=1000,
    )  # fmt: skip


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `value` so that a reader sees all of it or what stood there before."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on leaving it is synced and takes the name of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A number of its own: process ids repeat between machines, and a shard thought lost may still be written.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        yield beside
        sync(beside)
        os.replace(beside, path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
