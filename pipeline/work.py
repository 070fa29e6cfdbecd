"""What a stage is, and the one way to perform a unit of its work."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from labelers.types import Needs
from pipeline.engines import Engine, EngineSpec
from pipeline.storage.shards import Counts, Receipt, read_receipt, read_shard, receipt_of, receipt_path, write_shard


@dataclass(frozen=True)
class Made:
    """What a stage makes of its inputs: a table, and what it counted on the way (by family)."""

    table: pa.Table
    counts: Counts = field(default_factory=dict)


Transform = Callable[..., Made]


class Stage(Protocol):
    """A frozen dataclass that turns tables into a table. Its fields are its options and its fingerprint.

    `engine` names the engine that it borrows; the executor owns engines and hands the running one to `open`.
    """

    @property
    def version(self) -> str: ...
    @property
    def needs(self) -> Needs: ...
    @property
    def engine(self) -> EngineSpec | None: ...
    @property
    def reads(self) -> tuple[pa.Schema, ...]: ...
    @property
    def writes(self) -> pa.Schema: ...
    def open(self, engine: Engine | None = None) -> AbstractContextManager[Transform]: ...
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Work:
    """One stage on one shard: paths only, so that it runs in any process."""

    stage: Stage
    inputs: tuple[Path, ...]
    output: Path


def input_hashes(work: Work) -> tuple[str, ...] | None:
    """The hashes of the inputs by their receipts; None while one of them does not exist."""
    receipts = [read_receipt(path) for path in work.inputs]
    return None if None in receipts else tuple(receipt.sha256 for receipt in receipts if receipt)


def finished(work: Work) -> Receipt | None:
    """The receipt of work that was done on these very inputs; None when it is still to do."""
    receipt = read_receipt(work.output)
    return receipt if receipt and receipt.inputs == input_hashes(work) else None


def perform(work: Work, transform: Transform) -> Receipt:
    """Does the work unless it is done: read, transform, check, write beside, rename, and the receipt last.

    What is read is checked against the hashes that the receipt will name: bytes that nobody vouches for enter nothing.

    Raises:
        Damaged: an input is missing, or is not what was written.
        TypeError: the stage made other columns than it declares.
    """
    if done := finished(work):
        return done
    hashes = tuple(receipt_of(path).sha256 for path in work.inputs)
    tables = [_read(*each) for each in zip(work.inputs, work.stage.reads, hashes, strict=True)]
    started = time.monotonic()
    made = transform(*tables)
    seconds = time.monotonic() - started
    if not made.table.schema.equals(work.stage.writes):
        raise TypeError(f"{type(work.stage).__name__} made other columns than it declares: {made.table.schema}")
    receipt_path(work.output).unlink(missing_ok=True)  # a stale one must not vouch for the new file
    return write_shard(work.output, made.table, hashes, seconds, made.counts)


@lru_cache(maxsize=2)
def _read(shard: Path, schema: pa.Schema, sha256: str) -> pa.Table:
    """The table, kept for who asks next: the labelers of a shard follow one another, and all read its completions."""
    return read_shard(shard, schema, sha256)
