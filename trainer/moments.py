"""AdamW with its two moments in bfloat16: 4 bytes a parameter instead of 8.

The first moment changes by a tenth a step and is rounded to the nearest. The second changes by a thousandth, which is less than
bfloat16's last digit (1/256): rounded to the nearest it would stand still for ever, so it is rounded up or down at random, by
chances that make it right on average. The random bits come from (seed, step, place), so a resumed run draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.sharding import local

PIECE = 1 << 24  # elements worked on at a time: bounds the float32 copies to some 200 MiB (own)


def rounded_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """Finite float32 values as bfloat16: up or down with the chance that makes the mean right. Shapes: kept."""
    bits = values.view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, generator=generator, device=bits.device, dtype=torch.int32)
    return ((bits + noise) & -65536).view(torch.float32).to(torch.bfloat16)


class HalfMomentsAdamW(torch.optim.Optimizer):
    """AdamW (decoupled weight decay, eps 1e-8) whose state is bfloat16; the arithmetic is float32.

    Source: arXiv 1711.05101, algorithm 2.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float], seed: int, eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight."""
        place = 0
        for group in self.param_groups:
            for weight in group["params"]:
                self._update(weight, group, place)
                place += 1

    def _update(self, weight: Tensor, group: dict[str, Any], place: int) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(weight, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(weight, dtype=torch.bfloat16)
        state["step"] += 1
        step = int(state["step"])
        generator = torch.Generator(weight.device).manual_seed(noise_seed(self.seed, step, place))
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        tensors = local([weight.detach(), gradient, state["exp_avg"], state["exp_avg_sq"]])
        for pieces in zip(*(tensor.view(-1).split(PIECE) for tensor in tensors), strict=True):
            _update_piece(pieces, group, step, generator)


def noise_seed(seed: int, step: int, place: int) -> int:
    """The seed of one weight's random bits at one step."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:{place}".encode()).digest()[:7])


def _update_piece(pieces: tuple[Tensor, ...], group: dict[str, Any], step: int, noise: torch.Generator) -> None:
    """AdamW on flat pieces of weight, gradient and moments, in place.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  w = w - lr (wd w + (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps))
    """
    weight, grad, first, second = pieces
    beta1, beta2 = group["betas"]
    mean = first.float().lerp_(grad, 1 - beta1)
    square = second.float().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
    weight.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**step))
    first.copy_(mean)
    second.copy_(rounded_at_random(square, noise))
