"""AdamW on float32 weights, whatever type the forward pass uses, and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint import Checkpoint, load_state
from trainer.model import cast_parameters
from trainer.moments import HalfMomentsAdamW
from trainer.options import TrainOptions
from trainer.ranks import Ranks
from trainer.sharding import is_sharded, whole


def rate_at(step: int, total: int, options: TrainOptions) -> float:
    """The learning rate of one step, 0-based: a linear rise, then linear, cosine or no fall to `min_lr` of the peak."""
    rise = round(options.warmup * total)
    if step < rise:
        return options.lr * (step + 1) / rise
    done = (step - rise) / max(1, total - rise)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[options.schedule]
    floor = 1.0 if options.schedule == "constant" else options.min_lr
    return options.lr * (floor + (1 - floor) * shape)


def adam_of(masters: list[Tensor], options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW over float32 weights, its moments in the type asked for; weight decay on matrices only."""
    matrices = [w for w in masters if w.dim() >= 2]
    vectors = [w for w in masters if w.dim() < 2]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = (options.adam_beta1, options.adam_beta2)
    if options.moments == "bfloat16":
        return HalfMomentsAdamW(groups, lr=options.lr, betas=betas, seed=options.seed)
    return torch.optim.AdamW(groups, lr=options.lr, betas=betas, fused=True)


def _move_gradient(master: Tensor, weight: Tensor) -> None:
    """Adds a weight's new gradient to its float32 copy's."""
    gradient = weight.grad
    if gradient is not None:
        master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)
        weight.grad = None


class MasterAdamW:
    """AdamW whose weights and gradients are float32; weights that need no gradient are left as they are.

    With a float32 model, and with one that is cut over ranks, they are the model's own. Otherwise they are copies: every gradient
    is added up in float32 as soon as the backward pass has made it (and then forgotten, so the model's own type never holds a
    second set), and the model gets the rounded weights after every step, so small updates are never lost in rounding.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, options: TrainOptions) -> None:
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self.names, self.weights = zip(*trained, strict=True)
        self.sharded = is_sharded(model)
        self.copied = dtype != torch.float32 and not self.sharded
        self.masters: list[Tensor] = [w.detach().clone() for w in self.weights] if self.copied else list(self.weights)
        if self.copied:
            cast_parameters(model, dtype)
            for weight, master in zip(self.weights, self.masters, strict=True):
                weight.register_post_accumulate_grad_hook(partial(_move_gradient, master))
        self.max_norm = options.max_grad_norm
        self.adam = adam_of(self.masters, options)

    def reduce(self, ranks: Ranks) -> Tensor:
        """Sums the gradients over ranks, scales them down to the largest norm. Returns the norm before."""
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self.masters if master.grad is not None]
        if not self.sharded:
            ranks.sum_in_place(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.masters, self.max_norm, norm)
        return whole(norm)

    def step(self, rate: float) -> None:
        """One update; gradients are forgotten."""
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Gives the model the current weights, rounded to its type."""
        if self.copied:
            for weight, master in zip(self.weights, self.masters, strict=True):
                weight.copy_(master)

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each trained weight's name and float32 values, one after the other, in one piece. Every rank must go through them."""
        return ((name, whole(master.detach())) for name, master in zip(self.names, self.masters, strict=True))

    @torch.no_grad()
    def unhealthy(self) -> list[str]:
        """The weights that are not finite, or whose moments are not: no checkpoint may hold them. Every rank must ask."""
        found = []
        for name, master in zip(self.names, self.masters, strict=True):
            kept = [master.detach(), *(v for v in self.adam.state.get(master, {}).values() if v.dim())]
            norms = [whole(torch.linalg.vector_norm(tensor, dtype=torch.float32)) for tensor in kept]
            if not all(bool(norm.isfinite()) for norm in norms):
                found.append(name)
        return found

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs, by the weights' names."""
        moments = [self._moments(master) for master in self.masters]
        return {
            "weights": dict(zip(self.names, (m.detach() for m in self.masters), strict=True)),
            "adam": dict(zip(self.names, moments, strict=True)),
        }

    def _moments(self, master: Tensor) -> dict[str, Tensor]:
        """AdamW's state of one weight, made up as zeros where there was no step yet (a run that goes on fills it)."""
        state: dict[str, Tensor] = self.adam.state[master]
        if not state:
            like = torch.bfloat16 if isinstance(self.adam, HalfMomentsAdamW) else None
            state["step"] = torch.tensor(0.0, device=None if like else master.device)
            state["exp_avg"] = torch.zeros_like(master.detach(), dtype=like)
            state["exp_avg_sq"] = torch.zeros_like(master.detach(), dtype=like)
        return dict(state)

    @torch.no_grad()
    def restore(self, found: Checkpoint, ranks: Ranks) -> None:
        """Takes weights and moments from a checkpoint, in place. Every rank must call it."""
        load_state(found, self.state(), ranks)
        self.publish()
