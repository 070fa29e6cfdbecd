"""Which rows make a step, and which rows share a forward pass: pure arithmetic on lengths, equal on every rank.

A *step* is one optimizer step. It is cut into *micro-batches* of similar length under a token budget, which are dealt to
the ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """An item in numbers: its prompt (equal for equal prompts) and that prompt's tokens, and the tokens of each completion."""

    prompt: Hashable
    n_prompt: int
    sizes: tuple[int, ...]

    @property
    def width(self) -> int:
        """Its longest plain row."""
        return self.n_prompt + max(self.sizes)

    @property
    def n_plain(self) -> int:
        """Its tokens in plain rows, where every completion brings its own copy of the prompt."""
        return len(self.sizes) * self.n_prompt + sum(self.sizes)


def padded(shapes: Sequence[Shape]) -> list[Shape]:
    """The items as rows that share no prompt and are as wide as the item's longest: for models that cannot take trees."""
    return [Shape(i, 0, (shape.width,) * len(shape.sizes)) for i, shape in enumerate(shapes)]


def n_tokens(part: Sequence[int], shapes: Sequence[Shape]) -> int:
    """Tokens of some items in one packed row: every prompt once, all completions."""
    prompts = {shapes[i].prompt: shapes[i].n_prompt for i in part}
    return sum(prompts.values()) + sum(sum(shapes[i].sizes) for i in part)


def shuffled(ids: Sequence[str], seed: int, epoch: int) -> list[int]:
    """The indices in an order that depends on seed, epoch and each row's own id: never on rank, file or position."""
    keys = [hashlib.sha256(f"{seed}:{epoch}:{name}".encode()).digest() for name in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def steps_by_count(order: Sequence[int], count: int) -> Iterator[list[int]]:
    """As few steps of at most `count` rows as possible, all of the same size up to one: no last step of two or three."""
    n_steps = -(-len(order) // count)
    for step in range(n_steps):
        yield list(order[step * len(order) // n_steps : (step + 1) * len(order) // n_steps])


def steps_by_prompt(
    ids: Sequence[str], shapes: Sequence[Shape], seed: int, epoch: int, count: int
) -> Iterator[list[int]]:
    """Steps of at most `count` prompts, each with all of its items: what shares a prompt shares its forward pass."""
    whole: dict[Hashable, list[int]] = {}
    for index in sorted(range(len(ids)), key=ids.__getitem__):
        whole.setdefault(shapes[index].prompt, []).append(index)
    members = list(whole.values())
    order = shuffled([ids[items[0]] for items in members], seed, epoch)
    for step in steps_by_count(order, count):
        yield [index for place in step for index in members[place]]


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


def families(step: Sequence[int], shapes: Sequence[Shape]) -> list[list[int]]:
    """The items of each prompt, the widest first: what shares a forward pass is of similar length."""
    found: dict[Hashable, list[int]] = {}
    for index in sorted(step, key=lambda i: (-shapes[i].width, i)):
        found.setdefault(shapes[index].prompt, []).append(index)
    return list(found.values())


def micro_batches(step: Sequence[int], shapes: Sequence[Shape], budget: int) -> list[list[int]]:
    """Cuts a step into forward passes, each within `budget` tokens (one item may exceed it alone).

    Items of one prompt stay together where they fit, so that the prompt is computed once.
    """
    parts: list[list[int]] = []
    filled = budget
    for family in families(step, shapes):
        n_prompt = shapes[family[0]].n_prompt
        fresh = filled + n_tokens(family, shapes) > budget
        inside = False
        for index in family:
            more = sum(shapes[index].sizes) + (0 if inside else n_prompt)
            if fresh or filled + more > budget:
                parts.append([])
                filled, more, fresh = 0, n_prompt + sum(shapes[index].sizes), False
            parts[-1].append(index)
            filled += more
            inside = True
    return parts


def deal(parts: Sequence[Sequence[int]], shapes: Sequence[Shape], world: int, rank: int) -> list[list[int]]:
    """This rank's micro-batches: the heaviest first, each to the rank with the least work so far."""
    load = [0] * world
    mine: list[list[int]] = []
    for part in sorted(parts, key=lambda p: (-n_tokens(p, shapes), list(p))):
        target = load.index(min(load))
        load[target] += n_tokens(part, shapes)
        if target == rank:
            mine.append(list(part))
    return mine
