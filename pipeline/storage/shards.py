"""Shards on disk: read with checksums, written so that a file exists only when it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged, UnreadableShard
from pipeline.storage.stores import is_store, stamp
from pipeline.storage.storing import storing as storing

SEAL = "seal"
"""The key of a JSON file that holds the SHA-256 of the others: a torn or garbled file is told from a whole one."""
SEAL_DIGITS = 16

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
        receipt = receipt_of(shard)
        complete = shard.stat().st_size == receipt.n_bytes
    except (OSError, Damaged):
        return None
    return receipt if complete else None


def receipt_of(shard: Path) -> Receipt:
    """The receipt beside `shard`, whatever the shard is like.

    Raises:
        Damaged: there is none, or it is torn or garbled.
    """
    path = receipt_path(shard)
    try:
        fields = read_json(path)
        return Receipt(**{**fields, "inputs": tuple(fields["inputs"])})
    except FileNotFoundError:
        raise Damaged(f"{path}: is gone; hint: {NEXT}", path) from None
    except (TypeError, KeyError) as error:
        raise Damaged(f"{path}: is no receipt ({error}); hint: {NEXT}", path) from error


NEXT = "python -m pipeline run moves it aside and makes it again"


def read_shard(shard: Path, schema: pa.Schema | None = None, sha256: str = "") -> pa.Table:
    """The table in `shard`, from bytes whose hash was checked.

    Args:
        schema: the columns that it must have.
        sha256: the hash that it must have; empty takes its receipt's.

    Raises:
        Damaged: the file is missing or is not what was written.
        UnreadableShard: it has other columns than `schema`.
    """
    content = _content(shard)
    require_hash(shard, hashlib.sha256(content).hexdigest(), sha256 or receipt_of(shard).sha256)
    try:
        # ParquetFile, not read_table: the latter goes through the dataset layer, which does not verify checksums.
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise Damaged(f"{shard}: cannot be read ({str(error).splitlines()[0]}); hint: {NEXT}", shard) from error
    if schema is not None and not table.schema.equals(schema, check_metadata=False):
        raise UnreadableShard(
            f"{shard}: has other columns than this version writes; hint: delete its folder, the next run makes it again"
        )
    return table


def _content(path: Path) -> bytes:
    """The file's bytes. A file that cannot be read just now is not damaged: it stays where it is."""
    try:
        with storing(path.parent):
            return path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path}: is gone; hint: {NEXT}", path) from None


def require_hash(path: Path, found: str, expected: str) -> None:
    """Raises Damaged when a file's SHA-256 is not the one that was noted when it was written."""
    if found != expected:
        raise Damaged(f"{path}: has the SHA-256 {found[:12]} and was written with {expected[:12]}; hint: {NEXT}", path)


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


ROW_GROUP = 1000
"""Rows in a row group: what a reader that wants a few rows has to read."""


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes `table` as this project writes every Parquet file."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of Parquet as this project writes it: zstd, page checksums, page index, statistics."""
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=False, write_page_checksum=True, write_page_index=True
    )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `value`, sealed, so that a reader sees all of it or what stood there before."""
    plain = json.loads(json.dumps(value))  # as a reader gets it: lists for tuples, texts for keys
    sealed = {**plain, SEAL: _seal(plain)}
    with replacing(path) as beside:
        beside.write_text(json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


COPIES = "copies"
"""The folder in a run's folder that holds a second copy of the files that cannot be made again."""


def write_twice(run: Path, name: str, value: Mapping[str, Any]) -> None:
    """Writes what cannot be made again, and a copy.

    Args:
        name: the file below the run's folder.
    """
    write_json(run / name, value)
    write_json(run / COPIES / name, value)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Files of before there were seals are taken as they are.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is torn or garbled.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
        _require_seal(value)
    except ValueError as error:  # what is no JSON, and what is no UTF-8
        raise Damaged(f"{path}: is torn or garbled ({error}); hint: {NEXT}", path) from error
    return _without(value, SEAL)


def _require_seal(value: Mapping[str, Any]) -> None:
    """Raises ValueError when the seal is not the others' hash, or lies under a garbled name."""
    if SEAL in value:
        if value[SEAL] != _seal(_without(value, SEAL)):
            raise ValueError("its seal is broken")
        return
    for key, each in value.items():
        if isinstance(each, str) and len(each) == SEAL_DIGITS and each == _seal(_without(value, key)):
            raise ValueError("its seal's name is garbled")


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:SEAL_DIGITS]


def _without(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name != key}


def batches(file: pq.ParquetFile, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A Parquet file's rows, so many at a time. Group by group: asked for all, Arrow keeps each group until the last is read."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(rows, row_groups=[group], columns=columns)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on leaving it is synced and takes the name of `path`. In a store, where an object
    appears whole, it is written on this machine and uploaded.

    Raises:
        EnvironmentLacks: the store takes it not; what stood there stands, and nothing half-written is left.
    """
    if is_store(path):
        with storing(Path(gettempdir())), TemporaryDirectory() as folder:
            yield (beside := Path(folder, path.name))
            path.write(beside)
        return
    # A number of its own: process ids repeat between machines, and a shard thought lost may still be written.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
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


def input_sha256(path: Path) -> str:
    """SHA-256 of a file that a run reads, which this process reads again only once it was changed: they are large, and several
    ask."""
    return _sha256_at(path, stamp(path))


CARDS = ("README.md", ".huggingface.yaml")
"""What may say, in a dataset's folder, where its data lie: anywhere."""


def inputs_sha256(path: Path) -> list[str] | None:
    """The hash of an input file, or of each in a folder with its name, by which `datasets` goes; None where more is read than
    lies there, or it cannot be read."""
    try:
        if not path.is_dir():
            return [input_sha256(path)] if path.is_file() else None
        if any(
            re.search(rb"data_(files|dir)", (path / card).read_bytes()) for card in CARDS if (path / card).is_file()
        ):
            return None
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        return [f"{input_sha256(file)} {file.relative_to(path)}" for file in files]
    except OSError:  # who reads it says so, and what to do about it
        return None


@lru_cache(maxsize=1024)
def _sha256_at(path: Path, stamp: str) -> str:
    return file_sha256(path)
