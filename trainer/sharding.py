"""A model cut over GPUs by FSDP2, and what must hold: one way into its forward pass, equally many passes on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from trainer.batches import Shape, deal, n_tokens
from trainer.errors import TrainerError
from trainer.options import TrainOptions
from trainer.ranks import Ranks

T = TypeVar("T")
Turns: TypeAlias = "list[tuple[list[int], bool]]"
"""Micro-batches, each with whether it counts; one that does not is made to keep step with other ranks."""

STATE_BYTES = 18  # a parameter's: bf16 weight and gradient, float32 master, its gradient, and two moments, rounded up
ROOM = 0.6  # of a GPU's memory for all that; the rest is for activations (own)


def is_sharded(model: Any) -> bool:
    """Whether the model's weights lie in pieces on several ranks."""
    return isinstance(model, FSDPModule)


def wants_sharding(model: torch.nn.Module, options: TrainOptions, ranks: Ranks, device: torch.device) -> bool:
    """Whether to cut the model: by the option, and by itself when weights and optimizer do not fit one GPU."""
    if ranks.size == 1 or options.shard == "never":
        return False
    if options.shard == "always":
        return True
    if device.type != "cuda":
        return False
    n_bytes = STATE_BYTES * sum(p.numel() for p in model.parameters())
    return n_bytes > ROOM * torch.cuda.get_device_properties(device).total_memory


def blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The decoder layers: the units that are gathered for their own forward and backward pass only.

    Raises:
        TrainerError: the model does not say which of its modules they are.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__.removeprefix("FSDP") in names]
    if not found:
        raise TrainerError(
            f"{type(model).__name__} does not name its layers (_no_split_modules), so it can neither be cut nor recomputed; "
            "hint: --shard never, --recompute never"
        )
    return found


def shard(model: torch.nn.Module, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> None:
    """Cuts float32 weights over the ranks, layer by layer; each layer is gathered in the forward pass's type when it is due.

    Gradients are summed (not averaged) in float32: a step's loss is already divided by the whole step's weight.
    """
    mesh = init_device_mesh(device.type, (ranks.size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in [*blocks(model), model]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    model._run_inside = MethodType(_run_inside, model)  # type: ignore[assignment]
    register_fsdp_forward_method(model, "_run_inside")


def _run_inside(model: Any, function: Callable[..., T], *args: Any) -> T:
    return function(model, *args)


def forward(model: Any, function: Callable[..., T], *args: Any) -> T:
    """`function(model, *args)`, inside the root's hooks when the model is cut: the one way into a forward pass.

    Args:
        function: takes the model first; returns tensors, or tuples of them (the hooks of the backward pass hang on them).
    """
    if not is_sharded(model):
        return function(model, *args)
    result: T = model._run_inside(function, *args)
    return result


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all ranks' pieces of it put together. Every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def turns(model: Any, parts: Sequence[Sequence[int]], shapes: Sequence[Shape], ranks: Ranks) -> Turns:
    """This rank's micro-batches; of a cut model as many as the busiest rank has, since all ranks gather a layer or none."""
    mine = deal(parts, shapes, ranks.size, ranks.rank)
    if not is_sharded(model) or not parts:
        return [(part, True) for part in mine]
    most = max(len(deal(parts, shapes, ranks.size, rank)) for rank in range(ranks.size))
    filler = min(parts, key=lambda part: n_tokens(part, shapes))
    return [*((part, True) for part in mine), *((list(filler), False) for _ in range(most - len(mine)))]


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's pieces."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
