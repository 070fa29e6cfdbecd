"""What the log shows of each pair: metrics of a micro-batch, and what a step's means say together.

Legend: B pairs of a micro-batch, M metrics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.losses import PairLogps

PLAIN = (
    "margin", "accuracy", "logp_chosen", "logp_rejected", "chosen_tokens", "rejected_tokens",
    "length_gap", "length_gap_squared", "margin_squared", "length_gap_times_margin",
)  # fmt: skip
FROM_REFERENCE = ("reward_chosen", "reward_rejected", "chosen_shift", "rejected_shift", "chosen_fell", "kl")
ONLY_FOR_SUMS = ("length_gap_squared", "margin_squared", "length_gap_times_margin")


def metric_names(*, reference: bool) -> tuple[str, ...]:
    """The metrics of a pair, in the order of `pair_metrics`; without a reference, those that need none."""
    return PLAIN + (FROM_REFERENCE if reference else ())


def pair_metrics(logps: PairLogps, beta: float, *, reference: bool) -> Tensor:
    """What a step's log shows of each pair. Shapes: -> (B, M).

    margin = beta (r_w - r_l), without a reference that of the mean log-probs a token;  accuracy = [margin > 0];
    reward = beta r;  shift = r;  chosen_fell = [r_w < 0];  length_gap = |w| - |l|;
    kl = -(r_w + r_l) / 2: an estimate of KL(reference || policy) a sequence, unbiased when the completions were sampled from
    the reference and a pair's two sides are exchangeable; it can be negative.
    """
    chosen_B, rejected_B = logps.chosen_B.detach(), logps.rejected_B.detach()
    won_B, lost_B = logps.chosen_ratio_B.detach(), logps.rejected_ratio_B.detach()
    margin_B = won_B - lost_B if reference else chosen_B / logps.n_chosen_B - rejected_B / logps.n_rejected_B
    margin_B = beta * margin_B
    gap_B = logps.n_chosen_B - logps.n_rejected_B
    columns = [
        *(margin_B, (margin_B > 0).float(), chosen_B, rejected_B, logps.n_chosen_B, logps.n_rejected_B),
        *(gap_B, *correlation_sums(gap_B, margin_B)),
    ]
    if reference:
        columns += [beta * won_B, beta * lost_B, won_B, lost_B, (won_B < 0).float(), -(won_B + lost_B) / 2]
    return torch.stack([column.to(margin_B.dtype) for column in columns], dim=1)


def correlation_sums(gap_B: Tensor, margin_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The metrics ONLY_FOR_SUMS: with their means a step's correlation is known. Shapes: three of (B,)."""
    return gap_B**2, margin_B**2, gap_B * margin_B


def correlation(mean_x: float, mean_y: float, mean_xx: float, mean_yy: float, mean_xy: float) -> float:
    """Pearson's, from means; 0 where one of the two does not vary."""
    spread = (mean_xx - mean_x**2) * (mean_yy - mean_y**2)
    return (mean_xy - mean_x * mean_y) / math.sqrt(spread) if spread > 1e-12 else 0.0


def told(means: dict[str, float]) -> dict[str, float]:
    """A step's means as the log shows them: per token where that says more, and how length and margin go together."""
    shown = {name: value for name, value in means.items() if name not in ONLY_FOR_SUMS}
    shown["length_margin_correlation"] = correlation(
        means["length_gap"], means["margin"], *(means[name] for name in ONLY_FOR_SUMS)
    )
    if "chosen_shift" in means:
        shown["chosen_shift_per_token"] = means["chosen_shift"] / means["chosen_tokens"]
        shown["kl_per_token"] = 2 * means["kl"] / (means["chosen_tokens"] + means["rejected_tokens"])
    return shown
