"""Which prompts a run's folder holds, and which of them its files still name: on the disk, for any number of prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from pipeline.spool import database


@dataclass(frozen=True)
class Active:
    """The prompts that a run has now: all in its shards but those that are gone.

    Args:
        n: how many they are.
        gone: prompts in the run's shards that its files do not name any more, or that an evaluation set holds too.
    """

    n: int
    gone: frozenset[str] = field(default_factory=frozenset)

    def __len__(self) -> int:
        return self.n

    def __contains__(self, prompt_id: object) -> bool:
        """Whether a prompt in one of the run's shards is meant."""
        return prompt_id not in self.gone


class State(IntEnum):
    """Where a prompt has been met."""

    STORED = 0
    """In a shard, and in no file so far."""
    ACTIVE = 1
    """In a file."""
    BARRED = 2
    """In a file, and in an evaluation set."""


class Known:
    """The prompts that were met so far, by id."""

    def __init__(self) -> None:
        self._database = database()
        self._database.execute(
            "CREATE TABLE prompt (id TEXT PRIMARY KEY, shard INTEGER, state INTEGER NOT NULL) WITHOUT ROWID"
        )

    def lie_in(self, shard: int, ids: Iterable[str]) -> None:
        """These are in a shard already."""
        rows = ((prompt_id, shard, State.STORED) for prompt_id in ids)
        self._database.executemany("INSERT OR IGNORE INTO prompt VALUES (?, ?, ?)", rows)

    def meet(self, prompt_id: str) -> bool:
        """Marks a prompt of a file as active. Whether an earlier row was the same prompt."""
        new = self._database.execute("INSERT OR IGNORE INTO prompt VALUES (?, NULL, ?)", (prompt_id, State.ACTIVE))
        if new.rowcount:
            return False
        first = "UPDATE prompt SET state = ? WHERE id = ? AND state = ?"
        return not self._database.execute(first, (State.ACTIVE, prompt_id, State.STORED)).rowcount

    def bar(self, prompt_id: str) -> None:
        """The prompt is not to be used."""
        self._database.execute("UPDATE prompt SET state = ? WHERE id = ?", (State.BARRED, prompt_id))

    def is_stored(self, prompt_id: str) -> bool:
        """Whether it is in a shard."""
        return bool(
            self._database.execute("SELECT 1 FROM prompt WHERE id = ? AND shard IS NOT NULL", (prompt_id,)).fetchone()
        )

    def written_to(self, shard: int, ids: Iterable[str]) -> None:
        """These are in a shard now."""
        self._database.executemany("UPDATE prompt SET shard = ? WHERE id = ?", ((shard, i) for i in ids))

    def used(self) -> set[int]:
        """The shards with an active prompt."""
        found = self._database.execute("SELECT DISTINCT shard FROM prompt WHERE state = ?", (State.ACTIVE,))
        return {shard for (shard,) in found}

    def active(self) -> Active:
        """The active prompts of those shards."""
        (n,) = self._database.execute("SELECT count(*) FROM prompt WHERE state = ?", (State.ACTIVE,)).fetchone()
        others = self._database.execute("SELECT id, shard FROM prompt WHERE state != ?", (State.ACTIVE,))
        used = self.used()
        return Active(n, frozenset(prompt_id for prompt_id, shard in others if shard in used))

    def close(self) -> None:
        """Gives the disk back."""
        self._database.close()
