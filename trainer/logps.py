"""Log-probabilities of completions, without ever holding the logits of a prompt.

Legend: B rows, T positions (padded), N completion tokens of all rows together, V vocabulary, D hidden size.

Rows are padded on the right and no attention mask is passed: attention is causal, so no real token sees padding, and the
hidden states at padding are never read. This is exact and lets every attention implementation take its causal fast path.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.errors import TrainerError


@dataclass(frozen=True)
class Row:
    """One sequence: its token ids and how many of them, from the start, are given (not scored)."""

    ids: array[int]
    n_given: int


@dataclass(frozen=True)
class Padded:
    """Rows as tensors. `place_N` are the flat positions in (B, T) whose *next* token is scored; `target_N` is those tokens."""

    ids_BT: Tensor
    place_N: Tensor
    target_N: Tensor


def pad(rows: Sequence[Row], device: torch.device) -> Padded:
    """Right-padded tensors on the device."""
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.int32)
    scored_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids_BT[index, : len(row.ids)] = torch.frombuffer(row.ids, dtype=torch.int32)
        scored_BT[index, max(row.n_given, 1) - 1 : len(row.ids) - 1] = True  # nothing predicts the first token
    place_N = scored_BT.flatten().nonzero().squeeze(1)  # here, on the CPU: on a GPU the count would wait for the device
    target_N = ids_BT.flatten()[place_N + 1]
    return Padded(ids_BT.to(device), place_N.to(device), target_N.to(device, torch.int64))


def head_logits(model: Any, hidden_ND: Tensor) -> Tensor:
    """Float32 logits of some positions. Shapes: (N, D) -> (N, V)."""
    logits_NV: Tensor = model.get_output_embeddings()(hidden_ND).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)


def _chunk_logps(model: Any, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
    logits_NV = head_logits(model, hidden_ND)
    return logits_NV.gather(1, target_N[:, None]).squeeze(1) - logits_NV.logsumexp(1)


def token_logps(model: Any, batch: Padded, head_bytes: int) -> Tensor:
    """The log-probability of every completion token, row by row. Shapes: -> (N,), float32.

    Args:
        head_bytes: room for float32 logits. What does not fit is computed in pieces, once more in the backward pass.
    """
    hidden_BTD = model.base_model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, batch.place_N)
    piece = max(1, head_bytes // (4 * model.config.vocab_size))
    if len(batch.target_N) <= piece or not torch.is_grad_enabled():
        parts = [
            _chunk_logps(model, h, t) for h, t in zip(hidden_ND.split(piece), batch.target_N.split(piece), strict=True)
        ]
    else:
        parts = [
            checkpoint(_chunk_logps, model, h, t, use_reentrant=False)
            for h, t in zip(hidden_ND.split(piece), batch.target_N.split(piece), strict=True)
        ]
    return torch.cat(parts)


def completion_logps(model: Any, batch: Padded, head_bytes: int) -> Tensor:
    """The summed log-probability of each row's completion. Shapes: -> (B,), nats, float32."""
    logps_N = token_logps(model, batch, head_bytes)
    logps_BT = logps_N.new_zeros(batch.ids_BT.numel()).index_copy(0, batch.place_N, logps_N).view(batch.ids_BT.shape)
    return logps_BT.sum(1)


@torch.no_grad()
def check_head(model: Any, device: torch.device) -> None:
    """Stops when this model makes its logits in a way that `head_logits` does not know.

    Raises:
        TrainerError: its own logits differ from ours (a scaled or otherwise special head).
    """
    ids_BT = torch.arange(8, device=device)[None] % model.config.vocab_size
    ours_NV = head_logits(model, model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[0])
    theirs_NV = model(input_ids=ids_BT, use_cache=False).logits[0].float()
    if not torch.allclose(ours_NV, theirs_NV, rtol=1e-2, atol=1e-2):
        raise TrainerError(
            f"{type(model).__name__} changes its logits after the output matrix in a way this trainer does not know; "
            "hint: teach `head_logits` in trainer/logps.py its scaling"
        )
