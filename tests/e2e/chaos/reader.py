"""Reads a run's `dataset/` over and over, as a trainer would, while versions are published and publishers killed.

    python -m tests.e2e.chaos.reader DATASET

Ends when its input does, and says as JSON how often it read it, which sets of rows it saw, and what failed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EVERY = 20
"""`datasets` opens one reading in so many: it takes a hundred times as long as pyarrow."""


@dataclass
class Read:
    """What a reader saw.

    Args:
        readings: with pyarrow.
        loadings: with `datasets.load_dataset`.
        sets: the fingerprint of every set of rows that it saw -> how often.
        failed: readings that failed, and why.
    """

    readings: int = 0
    loadings: int = 0
    sets: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


@contextmanager
def reading(dataset: Path) -> Iterator[Read]:
    """What a reader in another process sees of `dataset` meanwhile; complete when the context is left."""
    command = [sys.executable, "-m", "tests.e2e.chaos.reader", str(dataset)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    read = Read()
    try:
        yield read
    finally:
        said, _ = process.communicate()
        read.__dict__.update(json.loads(said))


def main() -> None:
    """Reads until the input ends."""
    import datasets

    datasets.disable_progress_bars()
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    read, dataset = Read(), Path(sys.argv[1])
    print("ready", flush=True)
    while not done.is_set():
        try:
            if read.readings % EVERY == 0:
                ids = loaded(dataset)
                read.loadings += 1
            else:
                ids = opened(dataset)
        except Exception as error:  # whatever a reader meets is what this is here to find
            read.failed.append(f"{type(error).__name__}: {error}")
            ids = []
        read.readings += 1
        read.sets[of(ids)] = read.sets.get(of(ids), 0) + 1
    print(json.dumps(read.__dict__))


def opened(dataset: Path) -> list[str]:
    """The pairs' ids, read with pyarrow."""
    import pyarrow.dataset as ds

    ids: list[str] = ds.dataset(dataset / "data", format="parquet").to_table(columns=["pair_id"])["pair_id"].to_pylist()
    return ids


def loaded(dataset: Path) -> list[str]:
    """The pairs' ids, read with `datasets` and an empty cache."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset(str(dataset), split="train", cache_dir=cache)
        return list(rows["pair_id"])


def of(ids: Iterable[str]) -> str:
    """The fingerprint of a set of rows."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
