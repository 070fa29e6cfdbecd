"""Whether the backward pass may keep all activations, or must compute them again: by a measurement on the model itself.

What a forward pass keeps for its backward pass is counted on a small packed row (attention_choice.sample) and scaled to a full
micro-batch. Only where that does not fit the memory left are the decoder layers' activations computed again (torch's activation
checkpointing: a quarter more work, and memory for one layer at a time).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.attention_choice import sample
from trainer.logps import hidden_at
from trainer.model import micro_batch_budget
from trainer.options import TrainOptions
from trainer.runlog import say
from trainer.sharding import blocks, forward, is_sharded, local

ROOM = 0.8  # of the memory left; the rest is for what one layer needs at a time, and for fragments (own)


def kept_bytes(model: Any, packed: Any) -> int:
    """Bytes that a forward pass keeps for its backward pass, the weights left out."""
    cut = is_sharded(model)
    weights = set() if cut else storages(model)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in (storages(model) if cut else weights):  # of a cut model those gathered just now
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = forward(model, hidden_at, packed, "place_N")  # held until counted, so that no storage is used twice
    total = sum(kept.values())
    del hidden
    return total


def storages(model: torch.nn.Module) -> set[int]:
    """Where the weights lie that are whole on this rank."""
    whole = (weight for weight in model.parameters() if not isinstance(weight, DTensor))
    return {weight.untyped_storage().data_ptr() for weight in whole}


def free_bytes(device: torch.device) -> int:
    """Memory that is left."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return next(1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:")


def still_to_come(model: torch.nn.Module, options: TrainOptions) -> int:
    """Bytes of gradients and moments, which the first step makes."""
    moments = 8 if options.moments == "float32" else 4
    return sum(
        local([weight])[0].numel() * (moments + 4)  # gradients lie in float32 only
        for weight in model.parameters()
        if weight.requires_grad
    )


def recompute(model: Any) -> None:
    """Makes every decoder layer compute its activations again in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for block in blocks(model):
        block.training = True  # transformers asks the layer itself; what is inside stays without dropout


def spare(model: Any, device: torch.device, options: TrainOptions) -> bool:
    """Turns recomputation on where the option, or a measured estimate, asks for it. Returns whether it did."""
    if options.recompute == "auto":
        packed = sample(model, device)
        a_token = kept_bytes(model, packed) / len(packed.ids_T)
        tokens = max(micro_batch_budget(options.micro_batch_tokens, device), options.max_length)
        need = a_token * tokens + (options.head_mib << 20)
        room = ROOM * (free_bytes(device) - still_to_come(model, options))
        if need <= room:
            return False
        say(
            f"activations of {tokens} tokens need {need / 2**30:.1f} GiB of {max(room, 0) / 2**30:.1f}: they are computed again "
            "in the backward pass; hint: a smaller --micro-batch-tokens keeps them"
        )
    elif options.recompute == "never":
        return False
    recompute(model)
    return True
