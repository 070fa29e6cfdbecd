"""What to do when an engine dies: read from what it said, and from which requests were there. Pure; nothing is started here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

MOST_FRUITLESS = 8
"""Deaths in a row without one request finished before something else must be wrong: with PARTS = 8 a request that kills is found
among 8 ** 5 by then (own)."""
MOST_GIVEN_UP = 10
"""Requests that may each kill the engine before it must be the engine (own)."""
PARTS = 8
"""Groups that suspects are sent again in: more find a killer in fewer deaths, fewer keep the engine fuller (own)."""
ALONE = 2
"""Times that a request must have killed the engine alone: the first may have been the machine's doing."""

Remedy = Literal["restart", "fewer", "none"]

_FEWER = re.compile(
    r"(?:CUDA|HIP|XPU|NPU) out of memory|OutOfMemoryError|CUDA error: out of memory|cudaErrorMemoryAllocation"
    r"|CUBLAS_STATUS_ALLOC_FAILED|No available memory for the cache blocks"
)
_NONE = {
    r"Failed to load model - not enough GPU memory": (
        "the weights alone do not fit: a smaller model, a quantised one, dtype, or tensor_parallel_size over more GPUs"
    ),
    r"Free memory on device .* is less than desired GPU memory utilization": (
        "another process holds the GPU's memory (nvidia-smi): end it, or lower gpu_memory_utilization"
    ),
    r"To serve at least one request with the model's max seq len": (
        "set max_model_len lower, or gpu_memory_utilization higher"
    ),
}


@dataclass(frozen=True)
class Cause:
    """Why an engine died, and what may help.

    Args:
        remedy: `restart` as it was, `fewer` sequences at a time, or `none`: it would die again.
        hint: what a person can do.
    """

    remedy: Remedy
    hint: str = ""


def cause_of(said: str) -> Cause:
    """What the words of a dying engine (its exception, its log) call for."""
    for pattern, hint in _NONE.items():
        if re.search(pattern, said):
            return Cause("none", hint)
    if _FEWER.search(said):
        return Cause("fewer", "lower max_num_seqs or max_model_len, or raise gpu_memory_utilization")
    return Cause("restart")


class Suspect(Protocol):
    """A request that was in an engine when it died.

    Attributes:
        deaths: how often that has happened to it.
        alone: how often no other request was there.
    """

    deaths: int
    alone: int


S = TypeVar("S", bound=Suspect)


def mark(there: Sequence[Suspect]) -> None:
    """Counts a death for everyone who was there."""
    for each in there:
        each.deaths += 1
        each.alone += len(there) == 1


def is_killer(there: Sequence[Suspect]) -> bool:
    """Whether the one request that was there has killed often enough to be given up."""
    return len(there) == 1 and there[0].alone >= ALONE


def groups(there: Sequence[S]) -> list[list[S]]:
    """How to send them again, one group after the other. Who was there for the first time goes with all the others of that
    kind, since most deaths are the machine's doing; who was there before goes in smaller groups, until the killer is alone."""
    new = [each for each in there if each.deaths < 2]
    old = [each for each in there if each.deaths >= 2]
    size = max(1, -(-len(old) // PARTS))
    parts = [old[i : i + size] for i in range(0, len(old), size)]
    return [*([new] if new else []), *parts]
