"""Attention over trees (packing.py) as plain matrix products: exact on any device, fast on a CPU.

Legend: H heads, K key heads, T positions of the row, D head size; Q and L a segment's queries and keys.

transformers hands every attention layer to the function registered under the config's `_attn_implementation`, with the arguments
of the model's call: `forest`, the row's layout, goes along that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from trainer.packing import Branch, Packed

DENSE = 12_000
"""Query-key products that one dense block may waste to save its tree's small ones (measured on one AVX-512 core: docs/log.md)."""


@dataclass(frozen=True)
class Segment:
    """Queries [begin, end) and their keys: [root, root_end), then [begin, end). `mask_QL` is 0 or -inf."""

    begin: int
    end: int
    root: int
    root_end: int
    mask_QL: Tensor

    def keys(self, x_HTD: Tensor) -> Tensor:
        """Keys or values that its queries may see. Shapes: -> (H, L, D)."""
        own = x_HTD[:, self.begin : self.end]
        return torch.cat([x_HTD[:, self.root : self.root_end], own], dim=1) if self.root_end > self.root else own

    def add_to_keys(self, sum_HTD: Tensor, part_HLD: Tensor) -> None:
        """Adds a gradient of `keys` to the row's."""
        n = self.root_end - self.root
        sum_HTD[:, self.begin : self.end] += part_HLD[:, n:]
        if n:
            sum_HTD[:, self.root : self.root_end] += part_HLD[:, :n]


@dataclass(frozen=True)
class Forest:
    """The row's trees as the layers need them; what a kernel prepares of them is kept for the other layers.

    `read_R` are the positions whose last hidden state is read, each once.
    """

    packed: Packed
    read_R: Tensor
    prepared: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave for this key the first time."""
        if key not in self.prepared:
            self.prepared[key] = make()
        return self.prepared[key]


def sees(branch: Branch, window: int | None) -> Tensor:
    """Which of a branch's keys (its prompt's, then its own) each of its queries sees. Shapes: -> (Q, L), bool."""
    position_Q = torch.arange(branch.n_before, branch.n_before + branch.size)
    key_L = torch.arange(branch.n_before + branch.size)
    behind_QL = position_Q[:, None] - key_L
    seen_QL = behind_QL >= 0
    return seen_QL if window is None else seen_QL & (behind_QL < window)


def dense(tree: Sequence[Branch], window: int | None) -> Tensor:
    """The same for a whole tree at once. Shapes: -> (Q, Q), bool."""
    root, *completions = tree
    n = completions[-1].end - root.begin
    seen_QQ = torch.zeros(n, n, dtype=torch.bool)
    for branch in tree:
        a, b = branch.begin - root.begin, branch.end - root.begin
        seen_QL = sees(branch, window)
        seen_QQ[a:b, : branch.n_before] = seen_QL[:, : branch.n_before]
        seen_QQ[a:b, a:b] = seen_QL[:, branch.n_before :]
    return seen_QQ


def by_tree(found: Sequence[Branch]) -> Iterator[list[Branch]]:
    """The branches of each tree."""
    tree: list[Branch] = []
    for branch in found:
        if tree and not branch.n_before:
            yield tree
            tree = []
        tree.append(branch)
    yield tree


def segments(found: Sequence[Branch], window: int | None, dtype: torch.dtype) -> list[Segment]:
    """Small trees as one dense block each, large ones branch by branch."""

    def additive(seen_QL: Tensor) -> Tensor:
        return torch.zeros(seen_QL.shape, dtype=dtype).masked_fill_(~seen_QL, float("-inf"))

    made = []
    for tree in by_tree(found):
        begin, end = tree[0].begin, tree[-1].end
        if (end - begin) ** 2 - sum(b.size * (b.size + b.n_before) for b in tree) <= DENSE:
            made.append(Segment(begin, end, begin, begin, additive(dense(tree, window))))
        else:
            made += [Segment(b.begin, b.end, b.root, b.root_end, additive(sees(b, window))) for b in tree]
    return made


class SegmentAttention(torch.autograd.Function):
    """softmax(scale q k^T + mask) v, segment by segment.

    By hand, because on CPU this backward pass takes a third of the time of torch's fused one (docs/log.md).
    """

    @staticmethod
    def forward(ctx: Any, q_HTD: Tensor, k_HTD: Tensor, v_HTD: Tensor, scale: float, found: list[Segment]) -> Tensor:
        out_HTD = torch.empty_like(q_HTD)
        kept = []
        for segment in found:
            q_HQD = q_HTD[:, segment.begin : segment.end]
            scores_HQL = torch.baddbmm(segment.mask_QL, q_HQD, segment.keys(k_HTD).transpose(1, 2), alpha=scale)
            kept.append(scores_HQL.softmax(-1))
            out_HTD[:, segment.begin : segment.end] = torch.bmm(kept[-1], segment.keys(v_HTD))
        ctx.save_for_backward(q_HTD, k_HTD, v_HTD, *kept)
        ctx.scale, ctx.found = scale, found
        return out_HTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_HTD: Tensor) -> tuple[Tensor | None, ...]:
        q_HTD, k_HTD, v_HTD, *kept = ctx.saved_tensors
        dq_HTD, dk_HTD, dv_HTD = torch.empty_like(q_HTD), torch.zeros_like(k_HTD), torch.zeros_like(v_HTD)
        for segment, weights_HQL in zip(ctx.found, kept, strict=True):
            own = slice(segment.begin, segment.end)
            segment.add_to_keys(dv_HTD, torch.bmm(weights_HQL.transpose(1, 2), grad_HTD[:, own]))
            dweights_HQL = torch.bmm(grad_HTD[:, own], segment.keys(v_HTD).transpose(1, 2))
            dscores_HQL = torch._softmax_backward_data(dweights_HQL, weights_HQL, -1, weights_HQL.dtype)
            dscores_HQL *= ctx.scale
            dq_HTD[:, own] = torch.bmm(dscores_HQL, segment.keys(k_HTD))
            segment.add_to_keys(dk_HTD, torch.bmm(dscores_HQL.transpose(1, 2), q_HTD[:, own]))
        return dq_HTD, dk_HTD, dv_HTD, None, None


def capped(q_HTD: Tensor, k_HTD: Tensor, v_HTD: Tensor, scale: float, found: list[Segment], cap: float) -> Tensor:
    """The same with scores bent to at most `cap` before the mask, as Gemma 2 has them."""
    parts = []
    for segment in found:
        scores_HQL = scale * q_HTD[:, segment.begin : segment.end] @ segment.keys(k_HTD).transpose(1, 2)
        scores_HQL = cap * torch.tanh(scores_HQL / cap) + segment.mask_QL
        parts.append(scores_HQL.softmax(-1) @ segment.keys(v_HTD))
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Layer:
    """How one layer of the model scores the row's queries against its keys."""

    forest: Forest
    scale: float
    window: int | None
    cap: float | None


Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, Layer], Tensor]
"""Queries (1, H, T, D), keys and values (1, K, T, D) -> what they see (1, T, H, D)."""


def register(name: str, kernel: Kernel) -> None:
    """Offers a kernel to transformers under a name; a compiled layer leaves it as it is."""

    def attend(
        module: Any,
        q_1HTD: Tensor,
        k_1KTD: Tensor,
        v_1KTD: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float,
        forest: Forest,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        return kernel(q_1HTD, k_1KTD, v_1KTD, Layer(forest, scaling, sliding_window, softcap)), None

    AttentionInterface.register(name, torch.compiler.disable(attend))


def on_segments(q_1HTD: Tensor, k_1KTD: Tensor, v_1KTD: Tensor, layer: Layer) -> Tensor:
    """The trees in segments. Shapes: (1, H, T, D) -> (1, T, H, D)."""
    branches, key = layer.forest.packed.branches, (layer.window, q_1HTD.dtype)
    found = layer.forest.once(key, lambda: segments(branches, layer.window, q_1HTD.dtype))
    repeats = q_1HTD.shape[1] // k_1KTD.shape[1]
    k_HTD, v_HTD = (x[0] if repeats == 1 else x[0].repeat_interleave(repeats, 0) for x in (k_1KTD, v_1KTD))
    if layer.cap is None:
        out_HTD: Tensor = SegmentAttention.apply(q_1HTD[0], k_HTD, v_HTD, layer.scale, found)
    else:
        out_HTD = capped(q_1HTD[0], k_HTD, v_HTD, layer.scale, found, layer.cap)
    return out_HTD.transpose(0, 1)[None]


register("tree_segments", on_segments)
