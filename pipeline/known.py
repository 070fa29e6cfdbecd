"""Which prompts a run's folder holds, and which of them its files still name: on the disk, for any number of prompts."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import PurePath

from pipeline.storage.spool import database


@dataclass(frozen=True)
class Active:
    """The prompts that a run has now: all in its shards but those that are gone.

    Args:
        n: how many they are.
        gone: prompts in the run's shards that its files do not name any more, or that an evaluation set holds too.
        elsewhere: shard's number -> its prompts that have got other metadata since, and lie in a later shard with it.
    """

    n: int
    gone: frozenset[str] = field(default_factory=frozenset)
    elsewhere: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n

    def __contains__(self, prompt_id: object) -> bool:
        """Whether a prompt in one of the run's shards is meant."""
        return prompt_id not in self.gone

    def left_out(self, shard: str) -> frozenset[str]:
        """The prompts of a shard, given by its file's name, whose rows there are not the run's."""
        return self.gone | self.elsewhere.get(int(PurePath(shard).stem), frozenset())


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
        self._any_stored = False
        self._database.execute(
            "CREATE TABLE prompt (id TEXT PRIMARY KEY, shard INTEGER, state INTEGER NOT NULL, metadata BLOB) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE moved (id TEXT, shard INTEGER)")
        self._database.execute(
            "CREATE TRIGGER moves AFTER UPDATE OF shard ON prompt WHEN old.shard != new.shard "
            "BEGIN INSERT INTO moved VALUES (old.id, old.shard); END"
        )

    def lie_in(self, shard: int, prompts: Iterable[tuple[str, str]]) -> None:
        """These, each an id and its metadata as text, are in a shard already. Of one in several the last counts."""
        self._any_stored = True
        rows = ((prompt_id, shard, State.STORED, digest(metadata)) for prompt_id, metadata in prompts)
        self._database.executemany(
            "INSERT INTO prompt VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET shard = excluded.shard, "
            "metadata = excluded.metadata",
            rows,
        )

    def meet(self, prompt_id: str) -> bool:
        """Marks a prompt of a file as active. Whether an earlier row was the same prompt."""
        new = self._database.execute(
            "INSERT OR IGNORE INTO prompt VALUES (?, NULL, ?, NULL)", (prompt_id, State.ACTIVE)
        )
        if new.rowcount:
            return False
        first = "UPDATE prompt SET state = ? WHERE id = ? AND state = ?"
        return not self._database.execute(first, (State.ACTIVE, prompt_id, State.STORED)).rowcount

    def bar(self, prompt_id: str) -> None:
        """The prompt is not to be used."""
        self._database.execute("UPDATE prompt SET state = ? WHERE id = ?", (State.BARRED, prompt_id))

    def stored(self, prompt_id: str) -> bytes | None:
        """The digest of the metadata that it has in a shard of an earlier run; None where it is in none."""
        if not self._any_stored:
            return None
        found = self._database.execute("SELECT metadata FROM prompt WHERE id = ?", (prompt_id,)).fetchone()
        return found[0] if found else None

    def written_to(self, shard: int, prompts: Iterable[tuple[str, str]]) -> None:
        """These, each an id and its metadata as text, are in a shard now."""
        rows = ((shard, digest(metadata), prompt_id) for prompt_id, metadata in prompts)
        self._database.executemany("UPDATE prompt SET shard = ?, metadata = ? WHERE id = ?", rows)

    def used(self) -> set[int]:
        """The shards with an active prompt."""
        found = self._database.execute("SELECT DISTINCT shard FROM prompt WHERE state = ?", (State.ACTIVE,))
        return {shard for (shard,) in found}

    def active(self) -> Active:
        """The active prompts of those shards."""
        (n,) = self._database.execute("SELECT count(*) FROM prompt WHERE state = ?", (State.ACTIVE,)).fetchone()
        others = self._database.execute("SELECT id, shard FROM prompt WHERE state != ?", (State.ACTIVE,))
        used = self.used()
        gone = frozenset(prompt_id for prompt_id, shard in others if shard in used)
        elsewhere: defaultdict[int, set[str]] = defaultdict(set)
        for prompt_id, shard in self._database.execute("SELECT id, shard FROM moved"):
            elsewhere[shard].add(prompt_id)
        return Active(n, gone, {shard: frozenset(ids) for shard, ids in elsewhere.items()})

    def close(self) -> None:
        """Gives the disk back."""
        self._database.close()


def digest(metadata: str) -> bytes:
    """Tells one metadata from another."""
    return hashlib.blake2b(metadata.encode(), digest_size=8).digest()
