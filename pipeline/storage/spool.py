"""Keys and what belongs to them, on the disk: what one pass over a large set must remember without holding it in memory.

A temporary database without a name: it lies in memory up to a few megabytes, then in a file that no folder shows, and it goes
with its process, however that ends.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable

CACHE_KIB = 2 * 1024
"""What stays in memory; the rest is the operating system's to cache."""


def database() -> sqlite3.Connection:
    """A database without a name, a place or a promise to outlive anything."""
    opened = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF", "temp_store = FILE"):
        opened.execute(f"PRAGMA {setting}")
    opened.execute("BEGIN")  # one transaction for good: there is nothing to recover
    return opened


class Spool:
    """Many values for a key, in the order in which they came. All are added first; then any thread may ask."""

    def __init__(self) -> None:
        self._database, self._lock, self._is_open = database(), threading.Lock(), True
        self._database.execute("CREATE TABLE held (key TEXT NOT NULL, value BLOB NOT NULL)")

    def add(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Keeps these."""
        self._database.executemany("INSERT INTO held VALUES (?, ?)", rows)

    def find(self, key: str) -> list[bytes]:
        """The values of `key`."""
        with self._lock:
            if self._is_open:  # sorted once, after all are there: that is quicker than an index kept on the way
                self._database.execute("CREATE INDEX by_key ON held (key)")
                self._is_open = False
            found = self._database.execute("SELECT value FROM held WHERE key = ? ORDER BY rowid", (key,))
            return [value for (value,) in found]

    def close(self) -> None:
        """Gives the disk back."""
        self._database.close()


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
