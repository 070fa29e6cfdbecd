"""Log-probabilities of completions: trees in, one number for each completion or token out.

Legend: B completions, N completion tokens of all of them, T positions of a packed row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.attention import Forest
from trainer.batches import Shape, padded
from trainer.errors import TrainerError
from trainer.head import head_logits, head_logps
from trainer.packing import Packed, Tree, lay, merged, plain
from trainer.sharding import forward


def takes_trees(model: Any) -> bool:
    """Whether the model's attention is one of ours (attention_choice.py), so that it gets packed rows."""
    return str(model.base_model.config._attn_implementation).startswith("tree_")


def shapes_for(model: Any, shapes: Sequence[Shape]) -> Sequence[Shape]:
    """The items in numbers as this model computes them: as trees, or as padded rows."""
    return shapes if takes_trees(model) else padded(shapes)


def hidden_at(model: Any, packed: Packed, wanted: str) -> Tensor:
    """Hidden states where they are wanted: `place_N` (before each completion token) or `end_B` (at each completion's last).

    A model whose attention takes trees gets the packed row; another one gets padded rows. Shapes: -> (N, D) or (B, D).
    """
    if takes_trees(model):
        layout: Any = packed
        forest = Forest(packed, getattr(packed, wanted).unique())
        call = {"input_ids": packed.ids_T[None], "position_ids": packed.position_T[None], "forest": forest}
    else:
        layout = plain(packed)
        call = {"input_ids": layout.ids_BW}
    hidden_TD = model.base_model(**call, use_cache=False).last_hidden_state.flatten(0, 1)
    return hidden_TD.index_select(0, getattr(layout, wanted))


def _token_logps(model: Any, packed: Packed, head_bytes: int, temperature: float) -> Tensor:
    return head_logps(model, hidden_at(model, packed, "place_N"), packed.target_N, head_bytes, temperature)


def token_logps(model: Any, packed: Packed, head_bytes: int, temperature: float = 1.0) -> Tensor:
    """The log-probability of every completion token, in order. Shapes: -> (N,), float32.

    Args:
        head_bytes: room for what has the size of logits; what does not fit is computed in pieces.
        temperature: what the logits are divided by.
    """
    return forward(model, _token_logps, packed, head_bytes, temperature)


def completion_logps(model: Any, packed: Packed, head_bytes: int, temperature: float = 1.0) -> Tensor:
    """The summed log-probability of each completion. Shapes: -> (B,), nats, float32."""
    return packed.sums(token_logps(model, packed, head_bytes, temperature))


def logps_of(
    model: Any, trees: Sequence[Tree], device: torch.device, head_bytes: int, temperature: float = 1.0
) -> Tensor:
    """`completion_logps` of trees of which some may have the same prompt: each prompt, and each completion, is computed once.

    Shapes: -> (B,), in the trees' order.
    """
    fewer, where = merged(trees)
    logps = completion_logps(model, lay(fewer, device), head_bytes, temperature)
    return logps if where == list(range(len(where))) else logps[torch.tensor(where).to(device)]


def end_hidden(model: Any, packed: Packed) -> Tensor:
    """The hidden state at each completion's last token, for a head of one's own. Shapes: -> (B, D)."""
    return forward(model, hidden_at, packed, "end_B")


def _both_logits(model: Any, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    hidden_TD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[0]
    return head_logits(model, hidden_TD), model(input_ids=ids_BT, use_cache=False).logits[0].float()


@torch.no_grad()
def check_head(model: Any, device: torch.device) -> None:
    """Stops when this model makes its logits in a way that `head_logits` does not know.

    Raises:
        TrainerError: its own logits differ from ours (a scaled or otherwise special head).
    """
    ids_BT = torch.arange(8, device=device)[None] % model.config.get_text_config().vocab_size
    ours_NV, theirs_NV = forward(model, _both_logits, ids_BT)
    if not torch.allclose(ours_NV, theirs_NV, rtol=1e-2, atol=1e-2):
        raise TrainerError(
            f"{type(model).__name__} changes its logits after the output matrix in a way this trainer does not know; "
            "hint: teach `head_logits` in trainer/head.py its scaling"
        )
