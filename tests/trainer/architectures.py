"""Tiny random models of the architectures that trees are tested on, and trees that reach every case."""

from __future__ import annotations

import random
from array import array
from typing import Any

from trainer.packing import Tree

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
WINDOW = 9  # shorter than most rows, so that sliding layers hide something
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {}),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW}),
    "gemma2": (
        "Gemma2Config",
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    ),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": WINDOW, "sliding_window_pattern": 2}),
}  # fmt: skip


def tiny(name: str, **changes: Any) -> Any:
    """A float32 model with eager attention, which is the formula itself."""
    import torch
    import transformers

    config_class, own = CONFIGS[name]
    config = getattr(transformers, config_class)(**{**SIZES, **own, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    return model.eval()


def ids(n: int, seed: int) -> array[int]:
    """Token ids."""
    draw = random.Random(seed)
    return array("i", [draw.randrange(1, SIZES["vocab_size"]) for _ in range(n)])


def tree(n_prompt: int, *sizes: int) -> Tree:
    """A tree of made-up tokens."""
    return Tree(ids(n_prompt, n_prompt), tuple(ids(size, 1000 * i + size) for i, size in enumerate(sizes)))


TREES = [tree(5, 7, 3), tree(20, 1, 30, 12, 11), tree(1, 9), tree(60, 50, 60)]
"""A pair, a group, a document of one scored sequence, and a pair too large for one dense block."""
