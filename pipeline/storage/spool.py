"""Keys and what belongs to them, on the disk: what one pass over a large set must remember without holding it in memory.

A temporary database without a name: it lies in memory up to a few megabytes, then in a file that no folder shows, and it goes
with its process, however that ends.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pipeline.errors import EngineFailed

CACHE_KIB = 2 * 1024
"""What stays in memory; the rest is the operating system's to cache."""


def database(path: str = "") -> sqlite3.Connection:
    """A database without a name, a place or a promise to outlive anything; or one in a file."""
    opened = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF", "temp_store = FILE"):
        opened.execute(f"PRAGMA {setting}")
    opened.execute("BEGIN")  # one transaction for good: there is nothing to recover
    return opened


class Spool:
    """Many values for a key, in the order in which they came. All are added first; then any thread may ask."""

    def __init__(self, path: str = "") -> None:
        self._database, self._lock, self._is_open = database(path), threading.Lock(), True
        self._database.execute("CREATE TABLE IF NOT EXISTS held (key TEXT NOT NULL, value BLOB NOT NULL)")

    def add(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Keeps these."""
        self._database.executemany("INSERT INTO held VALUES (?, ?)", rows)

    def find(self, key: str) -> list[bytes]:
        """The values of `key`."""
        with self._lock:
            if self._is_open:
                self.sort()
            found = self._database.execute("SELECT value FROM held WHERE key = ? ORDER BY rowid", (key,))
            return [value for (value,) in found]

    def sort(self) -> None:
        """Makes finding quick: once, after all are there, which is quicker than an index kept on the way."""
        self._database.execute("CREATE INDEX IF NOT EXISTS by_key ON held (key)")
        self._is_open = False

    def share(self) -> None:
        """Lets whoever has opened the same file see, and add."""
        self._database.execute("COMMIT")
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Gives the disk back."""
        self._database.close()


def filled_elsewhere(fill: Callable[[Spool], None]) -> Spool:
    """A spool that another process fills and sorts, so that this one's Python goes on with other work.

    Args:
        fill: adds the rows; what it raises is raised here.

    Raises:
        EngineFailed: the process died.
    """
    from pipeline.executors.local import deaf, worker_pool

    descriptor, name = tempfile.mkstemp(prefix="spool-")
    os.close(descriptor)
    spool = Spool(name)
    spool.share()
    try:
        with worker_pool(1) as pool:
            with deaf():
                filled = pool.submit(_fill, name, fill)
            filled.result()
    except BrokenProcessPool:
        raise EngineFailed("the process that sorts the completions died; hint: is there memory for it?") from None
    finally:
        Path(name).unlink(missing_ok=True)
    return spool


def _fill(name: str, fill: Callable[[Spool], None]) -> None:
    spool = Spool(name)
    os.unlink(name)  # open here and there, it needs none: however both processes end, nothing is left
    fill(spool)
    spool.sort()
    spool.share()


class Table:
    """One text for a key, which may be asked for and changed at any time."""

    def __init__(self) -> None:
        self._database = database()
        self._database.execute("CREATE TABLE held (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")

    def enter(self, key: str, value: str = "") -> str | None:
        """Keeps `value` unless the key is there; then the value that it has."""
        done = self._database.execute("INSERT OR IGNORE INTO held VALUES (?, ?)", (key, value))
        return None if done.rowcount else self.get(key)

    def put(self, key: str, value: str) -> None:
        """Keeps `value`, whatever was there."""
        self._database.execute("INSERT OR REPLACE INTO held VALUES (?, ?)", (key, value))

    def get(self, key: str) -> str | None:
        """The value of `key`; None where there is none."""
        found = self._database.execute("SELECT value FROM held WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def close(self) -> None:
        """Gives the disk back."""
        self._database.close()
