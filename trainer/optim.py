"""AdamW on float32 weights, whatever type the forward pass uses, and the learning rate's course."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trainer.config import TrainOptions
from trainer.model import cast_parameters
from trainer.ranks import Ranks


def rate_at(step: int, total: int, options: TrainOptions) -> float:
    """The learning rate of one step, 0-based: a linear rise, then linear, cosine or no fall to `min_lr` of the peak."""
    rise = round(options.warmup * total)
    if step < rise:
        return options.lr * (step + 1) / rise
    done = (step - rise) / max(1, total - rise)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[options.schedule]
    floor = 1.0 if options.schedule == "constant" else options.min_lr
    return options.lr * (floor + (1 - floor) * shape)


class MasterAdamW:
    """Fused AdamW whose weights and gradients are float32.

    With a float32 model they are the model's own. Otherwise they are copies: gradients are added up in float32 after every
    micro-batch, and the model gets the rounded weights after every step, so small updates are never lost in rounding.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, options: TrainOptions) -> None:
        self.names, self.weights = zip(*model.named_parameters(), strict=True)
        self.copied = dtype != torch.float32
        self.masters: list[Tensor] = [w.detach().clone() for w in self.weights] if self.copied else list(self.weights)
        cast_parameters(model, dtype)
        self.max_norm = options.max_grad_norm
        matrices = [w for w in self.masters if w.dim() >= 2]
        vectors = [w for w in self.masters if w.dim() < 2]
        self.adam = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=options.lr,
            betas=(options.adam_beta1, options.adam_beta2),
            fused=True,
        )

    def accumulate(self) -> None:
        """Moves the gradients of one backward pass to the float32 sum."""
        if not self.copied:
            return
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight.grad is not None:
                master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
                weight.grad = None

    def reduce(self, ranks: Ranks) -> Tensor:
        """Sums the gradients over ranks, scales them down to the largest norm. Returns the norm before."""
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self.masters if master.grad is not None]
        ranks.sum_in_place(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.masters, self.max_norm, norm)
        return norm

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

    @torch.no_grad()
    def to_model(self) -> None:
        """Makes the model's own weights the float32 ones: training is over."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.data = master.data

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {
            "weights": dict(zip(self.names, (m.detach() for m in self.masters), strict=True)),
            "adam": self.adam.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(state["weights"][name])
        self.adam.load_state_dict(state["adam"])
        self.publish()
