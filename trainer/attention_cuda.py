"""Attention over trees (packing.py) on a GPU: FlashAttention with variable lengths, or FlexAttention where that cannot.

Legend: H heads, K key heads, T positions of the row, L keys with each prompt once for every branch that sees it, D head size.

Not measured: no GPU was to be had while this was written. `attention_choice.py` compares either with the model's own attention
before a run takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from trainer.attention import Forest, Layer, by_tree, register


@dataclass(frozen=True)
class Spans:
    """Every branch's queries, and its keys gathered behind one another (its prompt's, then its own)."""

    key_L: Tensor
    q_ends: Tensor
    k_ends: Tensor
    longest_q: int
    longest_k: int


def spans(forest: Forest) -> Spans:
    """The packed row for a kernel that takes sequences with lengths of their own for queries and keys."""
    found, device = forest.packed.branches, forest.packed.device
    keys = [torch.cat([torch.arange(b.root, b.root_end), torch.arange(b.begin, b.end)]) for b in found]
    queries = [b.size for b in found]

    def ends(sizes: list[int]) -> Tensor:
        return torch.tensor(list(accumulate(sizes, initial=0)), dtype=torch.int32).to(device)

    sizes = [len(key) for key in keys]
    return Spans(torch.cat(keys).to(device), ends(queries), ends(sizes), max(queries), max(sizes))


def on_varlen(q_1HTD: Tensor, k_1KTD: Tensor, v_1KTD: Tensor, layer: Layer) -> Tensor:
    """FlashAttention: where there are more keys than queries it lets the last query see the last key, as a completion must.

    Shapes: (1, H, T, D) -> (1, T, H, D).

    Raises:
        NotImplementedError: the scores are capped.
    """
    if layer.cap is not None:
        raise NotImplementedError("FlashAttention does not cap scores")
    plan = layer.forest.once("spans", lambda: spans(layer.forest))
    q_THD, k_THD, v_THD = (x[0].transpose(0, 1) for x in (q_1HTD, k_1KTD, v_1KTD))
    out_THD = varlen_attn(
        q_THD, k_THD.index_select(0, plan.key_L), v_THD.index_select(0, plan.key_L),
        plan.q_ends, plan.k_ends, plan.longest_q, plan.longest_k,
        scale=layer.scale, window_size=(-1 if layer.window is None else layer.window - 1, 0),
        enable_gqa=q_1HTD.shape[1] != k_1KTD.shape[1],
    )  # fmt: skip
    assert isinstance(out_THD, Tensor)  # more is returned only where more is asked for
    return out_THD[None]


def block_mask(forest: Forest, window: int | None) -> BlockMask:
    """Which blocks of the row see which: a token sees its own branch and its tree's prompt, up to itself."""
    packed = forest.packed
    trees = list(by_tree(packed.branches))
    of_tree = [torch.full((sum(b.size for b in tree),), i) for i, tree in enumerate(trees)]
    of_branch = [torch.full((b.size,), i) for i, b in enumerate(packed.branches)]
    in_prompt = [torch.full((b.size,), not b.n_before) for b in packed.branches]
    tree_T, branch_T, prompt_T = (torch.cat(parts).to(packed.device) for parts in (of_tree, of_branch, in_prompt))
    position_T = packed.position_T

    def seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        near = (tree_T[q] == tree_T[k]) & ((branch_T[q] == branch_T[k]) | prompt_T[k])
        behind = position_T[q] - position_T[k]
        found: Tensor = near & (behind >= 0) & (q >= k)
        return found if window is None else found & (behind < window)

    n = len(position_T)
    return compiled(create_block_mask, packed.device.type)(seen, None, None, n, n, device=packed.device)


@cache
def compiled(function: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    """The function made into a kernel; as it is on a CPU, where only tests call it."""
    made: Callable[..., Any] = torch.compile(function, dynamic=True) if device_type == "cuda" else function
    return made


@cache
def capping(cap: float | None) -> Callable[..., Tensor] | None:
    """What bends scores to at most `cap`: one function for each cap, so that nothing is compiled twice."""
    if cap is None:
        return None

    def bent(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return bent


def on_flex(q_1HTD: Tensor, k_1KTD: Tensor, v_1KTD: Tensor, layer: Layer) -> Tensor:
    """FlexAttention with the trees as a block mask: any type, window and cap. Shapes: (1, H, T, D) -> (1, T, H, D)."""
    mask = layer.forest.once(("blocks", layer.window), lambda: block_mask(layer.forest, layer.window))
    out: Tensor = compiled(flex_attention, q_1HTD.device.type)(
        q_1HTD, k_1KTD, v_1KTD, score_mod=capping(layer.cap), block_mask=mask, scale=layer.scale,
        enable_gqa=q_1HTD.shape[1] != k_1KTD.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2)


register("tree_varlen", on_varlen)
register("tree_flex", on_flex)
