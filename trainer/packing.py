"""Completions of one prompt as a tree, and trees as one row without padding: every prompt is computed once.

Legend: B completions of all trees together, T tokens of the row, N completion tokens, W the widest plain row.

A tree of prompt p and completions a, b lies in the row as  p a b.  Attention lets a completion see its prompt and itself, and its
positions go on from its prompt's end: each token has exactly the neighbours and the position that it has in plain rows  p a, p b.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from trainer.batches import Shape

Ids: TypeAlias = "array[int]"  # of 4 bytes a token


@dataclass(frozen=True)
class Tree:
    """One prompt and some completions of it, as token ids. Neither is empty."""

    prompt: Ids
    completions: tuple[Ids, ...]

    @property
    def shape(self) -> Shape:
        """The tree in numbers."""
        key = hashlib.blake2b(self.prompt, digest_size=16).digest()
        return Shape(key, len(self.prompt), tuple(map(len, self.completions)))


def tree_of(ids: Ids, n_given: int) -> Tree:
    """One sequence, of which the first `n_given` tokens are not scored: at least one, as nothing predicts the first."""
    n = max(n_given, 1)
    return Tree(ids[:n], (ids[n:],))


def merged(trees: Sequence[Tree]) -> tuple[list[Tree], list[int]]:
    """Trees of equal prompts as one, with each completion once; and where the completions went, in their old order."""
    found: dict[bytes, dict[bytes, Ids]] = {}
    for tree in trees:
        own = found.setdefault(tree.prompt.tobytes(), {})
        own.update((completion.tobytes(), completion) for completion in tree.completions)
    place = {key: i for i, key in enumerate((prompt, c) for prompt, own in found.items() for c in own)}
    where = [place[tree.prompt.tobytes(), c.tobytes()] for tree in trees for c in tree.completions]
    return [Tree(array("i", prompt), tuple(own.values())) for prompt, own in found.items()], where


@dataclass(frozen=True)
class Branch:
    """A prompt or a completion at [begin, end) of the row, and its own prompt at [root, root_end): none for a prompt."""

    begin: int
    end: int
    root: int
    root_end: int

    @property
    def size(self) -> int:
        """Its own tokens."""
        return self.end - self.begin

    @property
    def n_before(self) -> int:
        """The tokens of the prompt before it: its first position."""
        return self.root_end - self.root


def branches(trees: Sequence[Tree]) -> Iterator[Branch]:
    """Each tree's prompt, then its completions."""
    at = 0
    for tree in trees:
        ends = list(accumulate(map(len, tree.completions), initial=at + len(tree.prompt)))
        yield Branch(at, ends[0], at, at)
        yield from (Branch(begin, end, at, ends[0]) for begin, end in pairwise(ends))
        at = ends[-1]


@dataclass(frozen=True)
class Packed:
    """Trees as one row on a device. Position `place_N` of the row predicts token `target_N`.

    Completions are numbered tree by tree, in order, and so are their tokens. `sizes` are the completions' tokens (B of them).
    """

    trees: tuple[Tree, ...]
    branches: tuple[Branch, ...]
    sizes: tuple[int, ...]
    ids_T: Tensor
    position_T: Tensor
    place_N: Tensor
    target_N: Tensor

    @property
    def device(self) -> torch.device:
        return self.ids_T.device

    @cached_property
    def end_B(self) -> Tensor:
        """The place in the row of every completion's last token."""
        return torch.tensor([branch.end - 1 for branch in self.branches if branch.n_before]).to(self.device)

    def sums(self, values_N: Tensor) -> Tensor:
        """Each completion's sum. Shapes: (N,) -> (B,). In a fixed order, so that a run can be repeated bit by bit."""
        width = max(self.sizes)
        slots = torch.cat([torch.arange(i * width, i * width + size) for i, size in enumerate(self.sizes)])
        values_BW = values_N.new_zeros(len(self.sizes) * width).index_copy(0, slots.to(self.device), values_N)
        return values_BW.view(-1, width).sum(1)


def as_tensor(rows: Sequence[Ids]) -> Tensor:
    """Token ids one after another, int32."""
    flat = array("i")
    for row in rows:
        flat.extend(row)
    return torch.frombuffer(flat, dtype=torch.int32)


def places(found: Sequence[Branch]) -> Tensor:
    """The position before each completion token; the first one's is its prompt's last."""
    parts = []
    for branch in found:
        if branch.n_before:
            parts.append(torch.arange(branch.begin - 1, branch.end - 1))
            parts[-1][0] = branch.root_end - 1
    return torch.cat(parts)


def lay(trees: Sequence[Tree], device: torch.device) -> Packed:
    """The trees as one row."""
    found = tuple(branches(trees))
    position_T = torch.cat([torch.arange(b.n_before, b.n_before + b.size) for b in found])
    completions = [completion for tree in trees for completion in tree.completions]
    return Packed(
        trees=tuple(trees),
        branches=found,
        sizes=tuple(map(len, completions)),
        ids_T=as_tensor([ids for tree in trees for ids in (tree.prompt, *tree.completions)]).to(device),
        position_T=position_T.to(device),
        place_N=places(found).to(device),
        target_N=as_tensor(completions).to(device, torch.int64),
    )


@dataclass(frozen=True)
class Plain:
    """The same completions as padded rows, each behind its own copy of the prompt, for models that cannot take trees.

    `place_N` are flat positions in (B, W). Padding is on the right and attention is causal, so no real token sees it.
    """

    ids_BW: Tensor
    place_N: Tensor
    end_B: Tensor


def plain(packed: Packed) -> Plain:
    """Padded rows of the packed completions, in the same order."""
    prompts = [tree.prompt for tree in packed.trees for _ in tree.completions]
    rows = [tree.prompt + completion for tree in packed.trees for completion in tree.completions]
    width = max(map(len, rows))
    ids_BW = torch.zeros(len(rows), width, dtype=torch.int32)
    parts, ends = [], []
    for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        ids_BW[index, : len(row)] = torch.frombuffer(row, dtype=torch.int32)
        ends.append(index * width + len(row) - 1)
        parts.append(torch.arange(index * width + len(prompt) - 1, ends[-1]))
    device = packed.device
    return Plain(ids_BW.to(device), torch.cat(parts).to(device), torch.tensor(ends).to(device))
