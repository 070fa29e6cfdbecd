"""Python's search for cycles among objects, made rare: a shard makes a hundred thousand objects and drops them together."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = (200_000, 20, 50)
"""New objects after which Python looks through them, and so on for the older ones. Its own numbers (700, 10, 10) take a tenth of
the time of a shard, and a seventh of an import's (docs/log.md)."""


@contextmanager
def seldom_searched() -> Iterator[None]:
    """Cycles are looked for seldom meanwhile."""
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
