"""The files of a dataset version: pairs, and beside them what the sampler said of their tokens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.freed import trim
from pipeline.schema import PAIRS, SAMPLER_LOGPS
from pipeline.storage.shards import ROW_GROUP, parquet_writer

ROWS_PER_FILE = 50_000
CONFIGS = {"data": PAIRS, "sampler_logps": SAMPLER_LOGPS}
"""Folder of a config of the dataset -> its columns."""


class DatasetFiles:
    """Writes both configs in files of a like number of rows; a file ends with the shard that fills it.

    Memory holds one shard and less than a row group of the one before.

    Args:
        folder: the version's; the files have their names once all are written.
    """

    def __init__(self, folder: Path) -> None:
        self.n_rows = 0
        self._folder = folder
        self._n_files = self._rows_in_file = 0
        self._held: pa.Table | None = None
        self._writers: list[pq.ParquetWriter] = []
        self._pool = ThreadPoolExecutor(len(CONFIGS))  # Arrow compresses both at a time
        for name in CONFIGS:
            (folder / name).mkdir(parents=True)

    def __enter__(self) -> DatasetFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._end()
                self._name()
        finally:
            self._pool.shutdown()  # first: a writer that is closed while a thread writes ends the process
            for writer in self._writers:  # only what an error left open, which will be thrown away
                with suppress(OSError, pa.ArrowException):
                    writer.close()

    def add(self, rows: pa.Table) -> None:
        """Takes a shard's rows, with the columns of both configs."""
        if not rows.num_rows:
            return
        if not self._writers:
            self._begin()
        whole = pa.concat_tables([self._held, rows]) if self._held else rows
        n_whole = whole.num_rows // ROW_GROUP * ROW_GROUP
        self._append(whole.slice(0, n_whole))
        left = pa.array(range(n_whole, whole.num_rows), pa.int64())
        self._held = whole.take(left)  # a slice would hold all of its shard
        self.n_rows += rows.num_rows
        self._rows_in_file += rows.num_rows
        if self._rows_in_file >= ROWS_PER_FILE:
            self._end()
        trim()

    def _begin(self) -> None:
        for name, schema in CONFIGS.items():
            self._writers.append(parquet_writer(self._folder / name / f"part-{self._n_files:05d}", schema))
        self._n_files += 1

    def _append(self, rows: pa.Table | None) -> None:
        if rows is not None and rows.num_rows:
            list(self._pool.map(partial(_append, rows), self._writers))

    def _end(self) -> None:
        """Closes the file that is open, with what was held back for it."""
        self._append(self._held)
        for writer in self._writers:
            writer.close()
        self._writers, self._held, self._rows_in_file = [], None, 0

    def _name(self) -> None:
        """Gives the files the names that `datasets` looks for: they say how many there are."""
        for name in CONFIGS:
            for number in range(self._n_files):
                part = self._folder / name / f"part-{number:05d}"
                part.rename(self._folder / name / f"train-{number:05d}-of-{self._n_files:05d}.parquet")


def _append(rows: pa.Table, writer: pq.ParquetWriter) -> None:
    writer.write_table(rows.select(writer.schema.names).cast(writer.schema), row_group_size=ROW_GROUP)
