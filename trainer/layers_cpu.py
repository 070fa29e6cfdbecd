"""The layers of a float32 model as a CPU computes them fastest, in place of transformers' own: the same formulas.

Legend: ... any leading sizes, D a layer's inputs, O its outputs.

Four things make up most of a step beside attention: matrix products, RMSNorm, the gated SiLU between an MLP's matrices, and
rotary positions. torch multiplies float32 on a CPU by MKL, of which oneDNN is a little faster on AMD's AVX-512 (docs/log.md), and
differentiates the other three operation by operation, each of them one more way through memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SILU = ("SiLU", "SiLUActivation")
ROTATE = "apply_rotary_pos_emb"  # the name that transformers' attention layers call


@cache
def has_onednn() -> bool:
    """Whether this torch has oneDNN's linear layer, which it keeps for its own compiler."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def transposed_product(x: Tensor, w_OD: Tensor) -> Tensor:
    """x w^T, by the faster library. Shapes: (..., D) -> (..., O)."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and has_onednn():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, w_OD, None, "none", [], "")
        return found
    return x @ w_OD.t()


class Linear(torch.autograd.Function):
    """x w^T. The weight's own gradient stays with MKL, which is faster where the sum is over the longest side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_OD: Tensor) -> Tensor:
        ctx.save_for_backward(x, w_OD)
        return transposed_product(x, w_OD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w_OD = ctx.saved_tensors
        dx = transposed_product(grad, w_OD.t()) if ctx.needs_input_grad[0] else None
        dw_OD = grad.flatten(0, -2).t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return dx, dw_OD


class RmsNorm(torch.autograd.Function):
    """n w with n = x / sqrt(mean x^2 + eps);  dx = (g w - n mean(g w n)) / sqrt(mean x^2 + eps),  dw = sum g n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_D: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        n = x * scale
        ctx.save_for_backward(n, w_D, scale)
        return n * w_D

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        n, w_D, scale = ctx.saved_tensors
        along = grad * n
        mean = (along @ w_D).div_(n.shape[-1]).unsqueeze(-1)
        dx = (grad * w_D).addcmul_(n, mean, value=-1).mul_(scale)
        return dx, along.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None


class GatedSilu(torch.autograd.Function):
    """silu(a) b with silu(a) = a s(a), s the logistic function;  silu'(a) = s + silu(a) (1 - s)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return F.silu(a).mul_(b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        s = torch.sigmoid(a)
        silu = a * s
        db = grad * silu
        return s.addcmul_(s, silu, value=-1).add_(silu).mul_(b).mul_(grad), db


def turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """The two halves of each head, as one complex number, turned by an angle or back. Shapes: (1, H, T, D) -> the same."""
    n = x.shape[-1] // 2
    out = x * cos
    out[..., :n].addcmul_(x[..., n:], sin[..., :n], value=-sign)
    out[..., n:].addcmul_(x[..., :n], sin[..., n:], value=sign)
    return out


class Rotary(torch.autograd.Function):
    """Queries and keys turned by their positions' angles; gradients are turned back."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return turned(q, cos, sin, 1), turned(k, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return turned(dq, cos, sin, -1), turned(dk, cos, sin, -1), None, None


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """What transformers' function of the name ROTATE gives in Llama and its kin."""
    found: tuple[Tensor, Tensor] = Rotary.apply(q, k, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim))
    return found


def is_rotated_so(theirs: Callable[..., Any]) -> bool:
    """Whether a model's own function of that name gives these numbers: some turn a part of each head, or neighbours."""
    draw = torch.Generator().manual_seed(0)
    q, k, angle = (torch.randn(1, *size, generator=draw) for size in ((2, 3, 8), (1, 3, 8), (3, 4)))
    cos, sin = (torch.cat([x, x], dim=-1) for x in (angle.cos(), angle.sin()))
    try:
        answer = theirs(q, k, cos, sin)
    except Exception:  # it has another signature: then it is another function
        return False
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(answer, rotated(q, k, cos, sin), strict=True))


def attention_with(forward: Callable[..., Any], rotate: Callable[..., Any]) -> Callable[..., Any]:
    """A layer's forward as it is, but for the function that it calls by the name ROTATE."""
    code = getattr(forward, "__code__")  # noqa: B009 - a Callable has none, a function does
    names = {**getattr(forward, "__globals__"), ROTATE: rotate}  # noqa: B009
    made = FunctionType(code, names, code.co_name, forward.__defaults__, forward.__closure__)
    made.__kwdefaults__ = forward.__kwdefaults__
    return made


def _linear(self: Any, x: Tensor) -> Tensor:
    found: Tensor = Linear.apply(x, self.weight)
    return found


def _rms_norm(self: Any, x: Tensor) -> Tensor:
    found: Tensor = RmsNorm.apply(x, self.weight, self.variance_epsilon)
    return found


def _gated_mlp(self: Any, x: Tensor) -> Tensor:
    found: Tensor = self.down_proj(GatedSilu.apply(self.gate_proj(x), self.up_proj(x)))
    return found


def faster(module: torch.nn.Module) -> Any:
    """What computes this layer here; None where transformers' own stays.

    Known by what they hold: a norm with a `variance_epsilon` is Llama's (Qwen's and Mistral's are copies of it; Gemma's has
    another formula and another name for it).
    """
    if type(module) is torch.nn.Linear:
        return _linear if getattr(module, "bias", None) is None and has_onednn() else None
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return _rms_norm
    own: Any = type(module).forward
    if isinstance(own, FunctionType) and ROTATE in own.__code__.co_names:
        return attention_with(own, rotated) if is_rotated_so(own.__globals__[ROTATE]) else None
    gated = all(isinstance(getattr(module, f"{name}_proj", None), torch.nn.Module) for name in ("gate", "up", "down"))
    return _gated_mlp if gated and type(getattr(module, "act_fn", None)).__name__ in SILU else None


def use_faster_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Replaces the forward of every layer of a float32 model that `faster` knows. Returns these layers."""
    changed = []
    for module in model.modules():
        found = faster(module)
        if found is not None:
            module.forward = MethodType(found, module)
            changed.append(module)
    return changed


def use_own_layers(changed: list[torch.nn.Module]) -> None:
    """Takes that back."""
    for module in changed:
        del module.forward
