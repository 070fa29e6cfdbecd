"""What a process knows of the shards in a store, so that it need not ask for each of them again and again.

A run looks at every shard's size and receipt a dozen times, which costs nothing on a disk and tens of milliseconds each in a
store: an unchanged rerun asked 68 times for each shard, and asks 12 times with this (benchmarks/stores.py). Who holds a run's
folder knows what lies there from one listing, since whatever changes there is written by this process or by works that it
sends out: those are asked about.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

SHARD = re.compile(r"[^/]+/\d+\.(parquet|json)")
"""What is remembered, below a run's folder: shards and receipts. All else is asked for."""
AT_A_TIME = 32
"""Receipts fetched at a time (own): 32 answers of 20 ms are 1600 a second."""


Tag = dict[str, str]
"""What a store calls one state of an object: another one for other bytes."""


@dataclass(frozen=True)
class Seen:
    """What a store says of an object: its size, and the tag of its state."""

    st_size: int
    tag: Tag


@dataclass
class Memory:
    """What lies below a folder, by key. Complete but for `away`.

    Args:
        prefix: the folder's key, with a slash at its end.
        seen: the shards and receipts there.
        away: what works that were sent out may write.
        contents: receipts that were read.
    """

    prefix: str
    seen: dict[str, Seen] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    _fetching: threading.Lock = field(default_factory=threading.Lock)

    def knows(self, key: str) -> bool:
        """Whether what is (or is not) in `seen` under this key is true."""
        return key not in self.away and key.startswith(self.prefix) and bool(SHARD.fullmatch(key, len(self.prefix)))

    def note(self, key: str, seen: Seen | None) -> None:
        """Takes in that this process wrote an object, or removed it."""
        self.contents.pop(key, None)
        if seen is None:
            self.seen.pop(key, None)
        elif SHARD.fullmatch(key, len(self.prefix)) and key.startswith(self.prefix):
            self.seen[key] = seen

    def content(self, key: str, fetch: Callable[[str], bytes]) -> bytes:
        """A receipt's content. The first of a folder brings all others of that folder along, many at a time."""
        with self._fetching:
            if key not in self.contents:
                folder = key.rpartition("/")[0] + "/"
                wanted = [k for k in self.seen if k.startswith(folder) and k.endswith(".json") and self.knows(k)]
                self._fetch([k for k in wanted if k not in self.contents], fetch)
            return self.contents[key]

    def _fetch(self, keys: Iterable[str], fetch: Callable[[str], bytes]) -> None:
        keys = list(keys)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            self.contents.update(zip(keys, pool.map(fetch, keys), strict=True))


MEMORIES: dict[str, Memory] = {}
"""By bucket and prefix: what this process remembers."""


def memory_of(bucket: str, key: str) -> Memory | None:
    """What is remembered of an object; None where it must be asked for."""
    for name, memory in MEMORIES.items():
        if name.startswith(bucket + "/") and memory.knows(key):
            return memory
    return None
