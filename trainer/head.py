"""Vocabulary projection and log-probability in one: full logits are never kept, forward or backward.

Legend: N positions, V vocabulary, D hidden size.

With  z = W h / T  and target t:  log p = z_t - log sum exp z,  and backward with the incoming g:  dz = g (onehot_t - softmax z).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from trainer.layers_cpu import transposed_product

CACHED = 16 << 20
"""Bytes of float32 logits made at a time on a CPU (4 to 80 MiB tried at V = 32,768: 16 MiB was fastest; docs/log.md)."""


def head_logits(model: Any, hidden_ND: Tensor) -> Tensor:
    """Float32 logits of some positions. Shapes: (N, D) -> (N, V)."""
    logits_NV: Tensor = model.get_output_embeddings()(hidden_ND).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)


def is_plain(model: Any) -> bool:
    """Whether the head is one matrix and nothing else, so that `HeadLogps` computes it."""
    head = model.get_output_embeddings()
    capped = getattr(model.config, "final_logit_softcapping", None) is not None
    return type(head) is torch.nn.Linear and getattr(head, "bias", None) is None and not capped


def pieces(n: int, size: int) -> Iterator[slice]:
    """[0, n) in slices of at most `size`."""
    return (slice(begin, min(begin + size, n)) for begin in range(0, n, size))


def shifted_logits(hidden_ND: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    """z less its largest in each row, so that no exponential overflows. Shapes: -> (N, V), float32."""
    logits_NV = transposed_product(hidden_ND, weight_VD).float()
    if temperature != 1:
        logits_NV /= temperature
    return logits_NV.sub_(logits_NV.amax(1, keepdim=True))


class HeadLogps(torch.autograd.Function):
    """log p of each target, float32.

    With `keep` the exponentials stay, in the hidden states' type, for the backward pass: three matrix products in place of four.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, temperature: float, piece: int, keep: bool
    ) -> Tensor:
        logps_N = torch.empty(len(hidden_ND), dtype=torch.float32, device=hidden_ND.device)
        sum_N = torch.empty_like(logps_N)
        kept = [hidden_ND.new_empty(len(hidden_ND), len(weight_VD))] if keep else []
        for part in pieces(len(hidden_ND), piece):
            logits = shifted_logits(hidden_ND[part], weight_VD, temperature)
            logps_N[part] = logits.gather(1, target_N[part, None]).squeeze(1)
            exp = torch.exp(logits, out=logits)
            sum_N[part] = exp.sum(1)
            if kept:
                kept[0][part] = exp
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, sum_N, *kept)
        ctx.temperature, ctx.piece = temperature, piece
        return logps_N - sum_N.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, target_N, sum_N, *kept = ctx.saved_tensors
        grad_N = grad_N / ctx.temperature
        dhidden_ND = torch.empty_like(hidden_ND)
        dweight_VD = None
        for part in pieces(len(hidden_ND), len(hidden_ND) if kept else ctx.piece):
            exp = kept[0] if kept else shifted_logits(hidden_ND[part], weight_VD, ctx.temperature).exp_()
            dlogits = exp.mul_((-grad_N[part] / sum_N[part]).to(exp.dtype)[:, None]).to(hidden_ND.dtype)
            dlogits.scatter_add_(1, target_N[part, None], grad_N[part, None].to(dlogits.dtype))
            dhidden_ND[part] = transposed_product(dlogits, weight_VD.t())
            if ctx.needs_input_grad[1]:
                own = torch.mm(dlogits.t(), hidden_ND[part])
                dweight_VD = own.float() if dweight_VD is None else dweight_VD.add_(own)
        return dhidden_ND, None if dweight_VD is None else dweight_VD.to(weight_VD.dtype), None, None, None, None


def _piece_logps(model: Any, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> Tensor:
    logits_NV = head_logits(model, hidden_ND) / temperature
    return logits_NV.gather(1, target_N[:, None]).squeeze(1) - logits_NV.logsumexp(1)


def head_logps(model: Any, hidden_ND: Tensor, target_N: Tensor, n_bytes: int, temperature: float = 1.0) -> Tensor:
    """The log-probability of each target. Shapes: (N, D), (N,) -> (N,), float32.

    Args:
        n_bytes: room for what has the size of logits. What does not fit is computed in pieces, once more in the backward pass.
    """
    n, n_words = len(target_N), model.config.get_text_config().vocab_size
    piece = max(1, n_bytes // (4 * n_words))
    if is_plain(model):
        weight_VD = model.get_output_embeddings().weight
        grad = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad)
        keep = grad and n * n_words * hidden_ND.element_size() <= n_bytes
        if hidden_ND.device.type == "cpu":
            piece = min(piece, max(1, CACHED // (4 * n_words)))
        found: Tensor = HeadLogps.apply(hidden_ND, weight_VD, target_N, temperature, piece, keep)
        return found
    parts = zip(hidden_ND.split(piece), target_N.split(piece), strict=True)
    if n <= piece or not torch.is_grad_enabled():
        return torch.cat([_piece_logps(model, h, t, temperature) for h, t in parts])
    return torch.cat([checkpoint(_piece_logps, model, h, t, temperature, use_reentrant=False) for h, t in parts])
