"""Which attention a run takes: the fastest over trees that gives this model's own numbers, else plain rows. Never a wrong one.

Legend: N positions before the sample's completion tokens, D hidden size.
"""

from __future__ import annotations

from array import array
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trainer import attention_cuda  # noqa: F401  (registers its kernels)
from trainer.errors import TrainerError
from trainer.last_layer import spare_last_mlp
from trainer.layers_cpu import use_faster_layers, use_own_layers
from trainer.logps import check_head, hidden_at, takes_trees
from trainer.packing import Packed, Tree, lay
from trainer.runlog import say
from trainer.sharding import blocks, forward, is_sharded

Answer: TypeAlias = tuple[Tensor, list[Tensor]]
"""A model's hidden states of the sample, and the gradients of its first layer."""
LIMITS = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.05, 0.2)}
"""Largest relative error of hidden states and gradients, by type. A lost mask gives 0.3 or more; rounding 1e-6, in bfloat16
0.01 (tests/trainer/test_attention.py)."""


def candidates(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The kernels worth trying, fastest first."""
    if device.type == "cpu":
        return ["tree_segments"]
    return ["tree_varlen", "tree_flex"] if dtype in (torch.bfloat16, torch.float16) else ["tree_flex"]


def sample(model: Any, device: torch.device) -> Packed:
    """Three trees of made-up tokens: of one, two and three completions, short and longer."""
    config = model.config.get_text_config()
    longest = min(140, getattr(config, "max_position_embeddings", None) or 140)
    draw = torch.Generator().manual_seed(0)

    def ids(n: int) -> array[int]:
        return array("i", torch.randint(config.vocab_size, (n,), generator=draw).tolist())

    half = longest // 2
    return lay(
        [
            Tree(ids(1), (ids(3),)),
            Tree(ids(half), (ids(longest - half), ids(half // 2))),
            Tree(ids(5), (ids(4), ids(1), ids(7))),
        ],
        device,
    )


def watched(model: Any) -> list[Tensor]:
    """The trained weights of the first layer: their gradients pass through every other layer. None of a model cut over ranks."""
    try:
        first = blocks(model)[0]
    except TrainerError:
        return []
    return [] if is_sharded(model) else [weight for weight in first.parameters() if weight.requires_grad]


def answer(model: Any, packed: Packed) -> Answer:
    """Hidden states of the sample, and gradients of a fixed sum of them."""
    with torch.enable_grad():
        hidden_ND = forward(model, hidden_at, packed, "place_N")
        weights = watched(model)
        signs = torch.randint(2, hidden_ND.shape, generator=torch.Generator().manual_seed(1)).to(hidden_ND) * 2 - 1
        total = (hidden_ND * signs).float().sum()
        grads = torch.autograd.grad(total, weights, allow_unused=True) if weights else ()
    return hidden_ND.detach().float(), [grad.float() for grad in grads if grad is not None]


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The relative error in the L2 norm; infinite where it is no number."""
    error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))
    return error if error == error else float("inf")


def difference(ours: Answer, theirs: Answer) -> tuple[float, float]:
    """The relative errors of hidden states and of all gradients together."""
    hidden = gap(ours[0], theirs[0])
    if not theirs[1]:
        return hidden, 0.0
    return hidden, gap(*(torch.cat([grad.flatten() for grad in side[1]]) for side in (ours, theirs)))


def switch(model: Any, kernel: str) -> None:
    """Gives model and body this attention: under a head of one's own they have configs of their own."""
    for part in (model, model.base_model):
        part.set_attn_implementation(kernel)


def why_not(model: Any, kernel: str, packed: Packed, expected: Answer) -> str | None:
    """Switches the model to a kernel and compares; None when it gives the model's own numbers, else the reason."""
    switch(model, kernel)
    if not takes_trees(model):
        return "the model's code does not let its attention be replaced"
    return unlike(model, packed, expected)


def unlike(model: Any, packed: Packed, expected: Answer) -> str | None:
    """How far the model as it is now is from numbers it should give; None when it is not."""
    try:
        found = difference(answer(model, packed), expected)
    except Exception as error:  # whatever a model's code or a kernel raises: then it is not taken, and the user is told
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    limits = LIMITS[expected_dtype(model)]
    if found[0] <= limits[0] and found[1] <= limits[1]:
        return None
    return (
        f"relative errors of {found[0]:.1g} (hidden states) and {found[1]:.1g} (gradients), "
        f"limits {limits[0]:g} and {limits[1]:g}"
    )


def expected_dtype(model: Any) -> torch.dtype:
    """The type that the model computes in."""
    return torch.float32 if next(model.parameters()).dtype == torch.float32 else torch.bfloat16


def take_shortcuts(model: Any, packed: Packed, expected: Answer, *, compiled: bool) -> None:
    """Lets the layers of a model that takes trees compute less (last_layer.py) and faster (layers_cpu.py), to its own numbers."""
    plain = packed.device.type == "cpu" and expected_dtype(model) == torch.float32 and not is_sharded(model)
    changed = use_faster_layers(model.base_model) if plain and not compiled else []
    last = spare_last_mlp(model)
    reason = unlike(model, packed, expected)
    if reason is not None:
        use_own_layers(changed)
        if last is not None:
            last.remove()
        say(f"shortcuts through the model's layers are not taken: {reason}")


def prepare(model: Any, device: torch.device, attention: str = "auto", *, compiled: bool = False) -> None:
    """Checks a language model's head, and lets the model take packed rows where a kernel over trees gives its own numbers.

    Args:
        attention: another one than "auto" was asked for by name and stays; only the head is checked.
        compiled: whether torch.compile gets the layers afterwards: then they stay as transformers wrote them.
    """
    if takes_trees(model):
        return
    if model.get_output_embeddings() is not None:
        check_head(model, device)
    if attention != "auto":
        return
    packed, own = sample(model, device), model.base_model.config._attn_implementation
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        switch(model, "eager")  # transformers' other ones leave the cap out
        own = "eager"
    expected = answer(model, packed)
    for kernel in candidates(device, expected_dtype(model)):
        reason = why_not(model, kernel, packed, expected)
        if reason is None:
            take_shortcuts(model, packed, expected, compiled=compiled)
            return
        switch(model, own)
        say(f"attention over trees by {kernel} is not taken: {reason}")
    say(f"rows are padded, and {own} attention computes every prompt once for each completion")
