"""Other processes look at a large run's pairs, by columns, while this one reads on: hashing them is half of an audit's time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

from pipeline.auditing.evidence import Places, evidence_of
from pipeline.auditing.spotless import spotless
from pipeline.errors import Damaged
from pipeline.executors.local import deaf, worker_pool
from pipeline.storage.shards import read_receipt

PROCESSES = 2
"""That many keep up with the one that reads (benchmarks/scale.py)."""
WORTH_IT = 40_000
"""Pairs from which on they are started: starting takes as long as looking at so many."""
AHEAD = 4
"""Shards that are looked at before they are asked for."""


def looked_at(places: Places, signs: Mapping[str, float] | None) -> Iterator[bool | None]:
    """What `spotless` says of each shard of the build; None where nobody has looked, as in a small run."""
    receipts = (read_receipt(path) for shard in places.shards for path in places.paths("pairs", shard))
    if sum(receipt.rows for receipt in receipts if receipt) < WORTH_IT:
        yield from [None] * len(places.shards)
        return
    with worker_pool(PROCESSES) as pool:
        asked: deque[Future[bool | None]] = deque()
        for shard in places.shards:
            with deaf():
                asked.append(pool.submit(_look, places, shard, signs))
            if len(asked) > AHEAD:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()


def _look(places: Places, shard: str, signs: Mapping[str, float] | None) -> bool | None:
    try:
        return spotless(evidence_of(places, shard), signs)
    except Damaged:
        return None  # who reads it next says so, and knows what to do about it
