"""Memory that was freed goes back to the machine: tables come and go by the thousand, and what an allocator keeps of each for
later grows with a run's length (docs/log.md: 378 MB after a million completions, of which Arrow had 41 in use at its most)."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache

LARGE = 4 << 20
"""Bytes from which glibc asks the machine for memory, and gives it back at once; left alone it raises this as a program runs,
and a quarter of a megabyte costs a tenth of the time (benchmarks/scale.py)."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def give_back() -> None:
    """From now on what this process frees is given back, whoever frees it: the settings are the whole process's.

    Not for one that an engine runs in: its tensors come and go by the millisecond, and a run took a seventh longer.
    """
    for setting, value in ((_M_ARENA_MAX, 2), (_M_MMAP_THRESHOLD, LARGE), (_M_TRIM_THRESHOLD, LARGE)):
        _glibc("mallopt")(setting, value)


def trim() -> None:
    """What was freed so far and is held between what is not goes back to the machine, in a few milliseconds."""
    gc.collect(1)  # what was made lately and only points at itself: seldom looked for (pipeline/cycles.py), it adds up
    _glibc("malloc_trim")(0)


@cache  # each CDLL makes classes of its own, which point at themselves
def _glibc(name: str) -> Callable[..., object]:
    """A function of glibc's; one that does nothing where there is another C library."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            function: Callable[..., object] = getattr(ctypes.CDLL(None), name)
            return function
    return lambda *given: None
