"""Which rows make a step, and which rows share a forward pass: pure arithmetic on lengths, equal on every rank.

A *step* is one optimizer step. It is cut into *micro-batches* of similar length under a token budget, which are dealt to
the ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence


def shuffled(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    """The indices in an order that depends on seed, epoch and each row's own id: never on rank, file or position."""
    keys = [hashlib.sha256(f"{seed}:{epoch}:{name}".encode()).digest() for name in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def steps_by_count(order: Sequence[int], count: int) -> Iterator[list[int]]:
    """As few steps of at most `count` rows as possible, all of the same size up to one: no last step of two or three."""
    n_steps = -(-len(order) // count)
    for step in range(n_steps):
        yield list(order[step * len(order) // n_steps : (step + 1) * len(order) // n_steps])


def steps_by_tokens(order: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Steps of about `budget` tokens: rows are added until the budget is reached."""
    step: list[int] = []
    tokens = 0
    for index in order:
        step.append(index)
        tokens += lengths[index]
        if tokens >= budget:
            yield step
            step, tokens = [], 0
    if step:
        yield step


def micro_batches(step: Sequence[int], widths: Sequence[int], rows_each: int, budget: int) -> list[list[int]]:
    """Cuts a step into forward passes of similar width, each within `budget` padded tokens (one row group may exceed it alone).

    Args:
        widths: the longest row of each item. rows_each: rows an item brings (a pair brings 2).
    """
    parts: list[list[int]] = []
    widest = 0
    for index in sorted(step, key=lambda i: (-widths[i], i)):
        if parts and (len(parts[-1]) + 1) * rows_each * widest <= budget:
            parts[-1].append(index)
        else:
            parts.append([index])
            widest = widths[index]
    return parts


def deal(parts: Sequence[Sequence[int]], widths: Sequence[int], world: int, rank: int) -> list[list[int]]:
    """This rank's micro-batches: the heaviest first, each to the rank with the least work so far."""
    load = [0] * world
    mine: list[list[int]] = []
    for part in sorted(parts, key=lambda p: (-len(p) * max(widths[i] for i in p), list(p))):
        target = load.index(min(load))
        load[target] += len(part) * max(widths[i] for i in part)
        if target == rank:
            mine.append(list(part))
    return mine
