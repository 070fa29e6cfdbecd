"""What people said, in one SQLite file: nothing is ever deleted, an undone verdict is marked."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.review.queue import Item

Choice = Literal["left", "right", "tie", "both_bad", "skip"]
CHOICES: tuple[Choice, ...] = ("left", "right", "tie", "both_bad", "skip")
CLAIM_S = 600.0
"""A reviewer who was shown an item holds it so long, so that two do not judge what needs one."""
LONGEST_NOTE, LONGEST_RESPONSE = 2_000, 100_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
  item_id TEXT PRIMARY KEY, prompt_id TEXT NOT NULL, a_id TEXT NOT NULL, b_id TEXT NOT NULL,
  rank REAL NOT NULL, why TEXT NOT NULL, said TEXT NOT NULL, is_open INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS verdicts (
  verdict_id INTEGER PRIMARY KEY, item_id TEXT NOT NULL REFERENCES items, reviewer TEXT NOT NULL, choice TEXT NOT NULL,
  left_id TEXT NOT NULL, right_id TEXT NOT NULL, seconds REAL, note TEXT NOT NULL, at TEXT NOT NULL,
  undone INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS one_verdict ON verdicts (item_id, reviewer) WHERE undone = 0;
CREATE TABLE IF NOT EXISTS claims (
  item_id TEXT NOT NULL, reviewer TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (item_id, reviewer));
CREATE TABLE IF NOT EXISTS responses (
  response_id INTEGER PRIMARY KEY, prompt_id TEXT NOT NULL, reviewer TEXT NOT NULL, text TEXT NOT NULL,
  based_on TEXT, at TEXT NOT NULL);
"""

NEXT = """
SELECT * FROM items AS i WHERE i.is_open = 1
  AND NOT EXISTS (SELECT 1 FROM verdicts v WHERE v.item_id = i.item_id AND v.reviewer = :me AND v.undone = 0)
  AND (SELECT COUNT(*) FROM verdicts v
       WHERE v.item_id = i.item_id AND v.reviewer <> :me AND v.undone = 0 AND v.choice <> 'skip')
    + (SELECT COUNT(*) FROM claims c WHERE c.item_id = i.item_id AND c.reviewer <> :me AND c.until > :now) < :k
ORDER BY EXISTS (SELECT 1 FROM claims c WHERE c.item_id = i.item_id AND c.reviewer = :me AND c.until > :now) DESC,
  i.rank DESC, i.item_id LIMIT 1
"""


@dataclass(frozen=True)
class Asked:
    """An item as one reviewer sees it: which completion stands left is drawn by hash, so that a reload shows the same."""

    item_id: str
    prompt_id: str
    left_id: str
    right_id: str


@dataclass(frozen=True)
class Given:
    """A verdict that stands."""

    item_id: str
    prompt_id: str
    reviewer: str
    choice: Choice
    left_id: str
    right_id: str
    seconds: float | None
    note: str
    at: str

    @property
    def preferred(self) -> str | None:
        """The id of the better completion; None for neither."""
        return {"left": self.left_id, "right": self.right_id}.get(self.choice)


class Store:
    """The reviewers' file. Safe to use from several threads.

    Args:
        path: the SQLite file; made where there is none.
        per_item: reviewers that each item goes to.
    """

    def __init__(self, path: Path, per_item: int = 1) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.per_item = per_item
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a verdict that was acknowledged survives a power cut
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    def offer(self, items: Sequence[Item]) -> None:
        """Makes these the open items; those of an earlier call stay only as far as they were judged."""
        rows = [(i.id, i.prompt_id, i.a_id, i.b_id, i.rank, i.why, json.dumps(i.said, sort_keys=True)) for i in items]
        with self._writing() as db:
            db.execute("UPDATE items SET is_open = 0")
            db.executemany(
                "INSERT INTO items (item_id, prompt_id, a_id, b_id, rank, why, said) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (item_id) DO UPDATE SET is_open = 1, rank = excluded.rank, why = excluded.why, said = excluded.said",
                rows,
            )

    def next(self, reviewer: str, now: float | None = None) -> Asked | None:
        """The item that this reviewer should judge now, held for ten minutes; None when nothing is left."""
        now = time.time() if now is None else now
        with self._writing() as db:
            row = db.execute(NEXT, {"me": reviewer, "now": now, "k": self.per_item}).fetchone()
            if row is None:
                return None
            db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (row["item_id"], reviewer, now + CLAIM_S))
        return _asked(row, reviewer)

    def asked(self, item_id: str, reviewer: str) -> Asked | None:
        """An item as this reviewer sees it; None where there is none."""
        with self._lock:
            row = self._db.execute("SELECT * FROM items WHERE item_id = ?", (item_id,)).fetchone()
        return _asked(row, reviewer) if row else None

    def judge(self, asked: Asked, reviewer: str, choice: Choice, seconds: float | None = None, note: str = "") -> None:
        """Keeps a verdict; a second one of the same reviewer on the same item takes the first one's place."""
        row = (asked.item_id, reviewer, choice, asked.left_id, asked.right_id, seconds, note[:LONGEST_NOTE], _now())
        with self._writing() as db:
            db.execute("UPDATE verdicts SET undone = 1 WHERE item_id = ? AND reviewer = ? AND undone = 0", row[:2])
            db.execute(
                "INSERT INTO verdicts (item_id, reviewer, choice, left_id, right_id, seconds, note, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            db.execute("DELETE FROM claims WHERE item_id = ? AND reviewer = ?", row[:2])

    def undo(self, reviewer: str) -> str | None:
        """Takes this reviewer's last verdict back. Returns its item; None where there is none."""
        with self._writing() as db:
            row = db.execute(
                "SELECT verdict_id, item_id FROM verdicts WHERE reviewer = ? AND undone = 0 ORDER BY verdict_id DESC LIMIT 1",
                (reviewer,),
            ).fetchone()
            if row is None:
                return None
            db.execute("UPDATE verdicts SET undone = 1 WHERE verdict_id = ?", (row["verdict_id"],))
            db.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (row["item_id"], reviewer, time.time() + CLAIM_S)
            )
            return str(row["item_id"])

    def respond(self, prompt_id: str, reviewer: str, text: str, based_on: str | None) -> None:
        """Keeps a response that a person wrote, or edited from the completion `based_on`."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO responses (prompt_id, reviewer, text, based_on, at) VALUES (?, ?, ?, ?, ?)",
                (prompt_id, reviewer, text[:LONGEST_RESPONSE], based_on, _now()),
            )

    def verdicts(self) -> list[Given]:
        """All verdicts that stand, in the order in which they were given, skipped ones left out."""
        with self._lock:
            rows = self._db.execute(
                "SELECT i.item_id, i.prompt_id, v.reviewer, v.choice, v.left_id, v.right_id, v.seconds, v.note, v.at "
                "FROM verdicts v JOIN items i USING (item_id) WHERE v.undone = 0 AND v.choice <> 'skip' ORDER BY v.verdict_id"
            ).fetchall()
        return [Given(**dict(row)) for row in rows]

    def responses(self) -> list[dict[str, Any]]:
        """All responses that people wrote."""
        with self._lock:
            return [dict(row) for row in self._db.execute("SELECT * FROM responses ORDER BY response_id")]

    def items(self) -> list[dict[str, Any]]:
        """All items, open or judged: their columns, `said` parsed."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM items ORDER BY rank DESC, item_id").fetchall()
        return [{**dict(row), "said": json.loads(row["said"])} for row in rows]

    def progress(self, reviewer: str) -> tuple[int, int]:
        """How many items this reviewer has judged or skipped, and how many still wait for him or her."""
        with self._lock:
            done = self._db.execute(
                "SELECT COUNT(*) FROM verdicts WHERE reviewer = ? AND undone = 0", (reviewer,)
            ).fetchone()[0]
            left = self._db.execute(
                "SELECT COUNT(*) FROM items i WHERE i.is_open = 1 AND NOT EXISTS (SELECT 1 FROM verdicts v "
                "WHERE v.item_id = i.item_id AND v.reviewer = :me AND v.undone = 0) AND (SELECT COUNT(*) FROM verdicts v "
                "WHERE v.item_id = i.item_id AND v.undone = 0 AND v.choice <> 'skip') < :k",
                {"me": reviewer, "k": self.per_item},
            ).fetchone()[0]
        return int(done), int(left)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _asked(row: sqlite3.Row, reviewer: str) -> Asked:
    drawn = hashlib.sha256(f"{reviewer}\0{row['item_id']}".encode()).digest()[0] & 1
    left, right = (row["a_id"], row["b_id"]) if drawn else (row["b_id"], row["a_id"])
    return Asked(row["item_id"], row["prompt_id"], left, right)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
