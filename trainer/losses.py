"""Preference losses and their metrics: pure functions of log-probabilities, one loss per function.

Legend: B pairs of a batch. Every log-probability is summed over completion tokens, in nats.
With  r_w = chosen_B - ref_chosen_B,  r_l = rejected_B - ref_rejected_B  and  s  the logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import DpoOptions


@dataclass(frozen=True)
class PairLogps:
    """The four log-probabilities of each pair. Shapes: all (B,)."""

    chosen_B: Tensor
    rejected_B: Tensor
    ref_chosen_B: Tensor
    ref_rejected_B: Tensor

    @property
    def chosen_ratio_B(self) -> Tensor:
        """r_w."""
        return self.chosen_B - self.ref_chosen_B

    @property
    def rejected_ratio_B(self) -> Tensor:
        """r_l."""
        return self.rejected_B - self.ref_rejected_B


def sigmoid_loss(logps: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO; with label smoothing, conservative DPO, which supposes that a share e of the labels is flipped.

        loss = -(1 - e) log s(beta (r_w - r_l)) - e log s(-beta (r_w - r_l))

    Shapes: -> (B,). Source: arXiv 2305.18290 eq. 7; e: Mitchell 2023, "A note on DPO with noisy preferences", eq. 3.
    """
    logits_B = beta * (logps.chosen_ratio_B - logps.rejected_ratio_B)
    return -(1 - label_smoothing) * F.logsigmoid(logits_B) - label_smoothing * F.logsigmoid(-logits_B)


def dpo_positive_loss(logps: PairLogps, beta: float, penalty: float) -> Tensor:
    """DPO-Positive: DPO that may not lower the chosen completion's own likelihood.

        loss = -log s(beta (r_w - r_l - penalty * max(0, ref_chosen - chosen)))

    Shapes: -> (B,). Source: arXiv 2402.13228 eq. 3: the penalty is inside the sigmoid and scaled by beta.
    """
    fallen_B = torch.relu(-logps.chosen_ratio_B)
    return -F.logsigmoid(beta * (logps.chosen_ratio_B - logps.rejected_ratio_B - penalty * fallen_B))


def pair_losses(logps: PairLogps, options: DpoOptions) -> Tensor:
    """The chosen loss of each pair. Shapes: -> (B,)."""
    match options.loss:
        case "sigmoid":
            return sigmoid_loss(logps, options.beta, options.label_smoothing)
        case "dpo_positive":
            return dpo_positive_loss(logps, options.beta, options.dpop_lambda)
        case unknown:
            assert_never(unknown)


METRICS = (
    "reward_chosen", "reward_rejected", "margin", "accuracy", "logp_chosen", "logp_rejected", "chosen_shift", "chosen_fell", "kl",
)  # fmt: skip


def pair_metrics(logps: PairLogps, beta: float) -> Tensor:
    """What a step's log shows of each pair, in the order of METRICS. Shapes: -> (B, len(METRICS)).

    reward = beta r;  margin = reward_chosen - reward_rejected;  accuracy = [margin > 0];  chosen_shift = r_w;
    chosen_fell = [r_w < 0];  kl = -(r_w + r_l) / 2: an estimate of KL(reference || policy) a sequence, unbiased when the
    completions were sampled from the reference and a pair's two sides are exchangeable; it can be negative.
    """
    won_B, lost_B = logps.chosen_ratio_B.detach(), logps.rejected_ratio_B.detach()
    columns = [
        beta * won_B,
        beta * lost_B,
        beta * (won_B - lost_B),
        (won_B > lost_B).float(),
        logps.chosen_B.detach(),
        logps.rejected_B.detach(),
        won_B,
        (won_B < 0).float(),
        -(won_B + lost_B) / 2,
    ]
    return torch.stack(columns, dim=1)
