"""Preference losses and their metrics: pure functions of log-probabilities, one loss per function.

Legend: B pairs of a batch. Every log-probability is summed over completion tokens, in nats. With
    r_w = chosen_B - ref_chosen_B,   r_l = rejected_B - ref_rejected_B,   m = r_w - r_l,
    |w| = n_chosen_B,   |l| = n_rejected_B  (completion tokens),   and  s  the logistic function.
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
    """What a loss may know of each pair. Shapes: all (B,). The reference's are NaN for losses that have none."""

    chosen_B: Tensor
    rejected_B: Tensor
    ref_chosen_B: Tensor
    ref_rejected_B: Tensor
    n_chosen_B: Tensor
    n_rejected_B: Tensor

    @property
    def chosen_ratio_B(self) -> Tensor:
        """r_w."""
        return self.chosen_B - self.ref_chosen_B

    @property
    def rejected_ratio_B(self) -> Tensor:
        """r_l."""
        return self.rejected_B - self.ref_rejected_B

    @property
    def margin_B(self) -> Tensor:
        """m."""
        return self.chosen_ratio_B - self.rejected_ratio_B

    @property
    def mean_margin_B(self) -> Tensor:
        """r_w / |w| - r_l / |l|."""
        return self.chosen_ratio_B / self.n_chosen_B - self.rejected_ratio_B / self.n_rejected_B


def sigmoid_loss(logps: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO; with label smoothing, conservative DPO, which supposes that a share e of the labels is flipped.

        loss = -(1 - e) log s(beta m) - e log s(-beta m)

    Shapes: -> (B,). Source: arXiv 2305.18290 eq. 7; e: Mitchell 2023, "A note on DPO with noisy preferences", eq. 3.
    """
    logits_B = beta * logps.margin_B
    return -(1 - label_smoothing) * F.logsigmoid(logits_B) - label_smoothing * F.logsigmoid(-logits_B)


def robust_loss(logps: PairLogps, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO: its mean over labels of which a share e is flipped is DPO's loss on clean ones.

        loss = [-(1 - e) log s(beta m) + e log s(-beta m)] / (1 - 2 e)

    Shapes: -> (B,). Source: rDPO, arXiv 2403.00409, section 3. It can be negative.
    """
    logits_B = beta * logps.margin_B
    clean_B = -(1 - label_smoothing) * F.logsigmoid(logits_B)
    flipped_B = -label_smoothing * F.logsigmoid(-logits_B)
    return (clean_B - flipped_B) / (1 - 2 * label_smoothing)


def ipo_loss(logps: PairLogps, beta: float) -> Tensor:
    """IPO: the margin a token is drawn to 1 / (2 beta), so it cannot grow without end on certain labels.

        loss = (r_w / |w| - r_l / |l| - 1 / (2 beta))^2

    Shapes: -> (B,). Source: arXiv 2310.12036 eq. 17, whose tau is beta; by means over tokens, as its authors ran it (TRL's note
    in `dpo_trainer.py`), so that beta means the same at every length.
    """
    return (logps.mean_margin_B - 1 / (2 * beta)) ** 2


def hinge_loss(logps: PairLogps, beta: float) -> Tensor:
    """SLiC's hinge, measured from the reference: pairs with beta m of at least 1 teach nothing more.

        loss = max(0, 1 - beta m)

    Shapes: -> (B,). Source: SLiC-HF, arXiv 2305.10425; from the reference: RSO's hinge-norm, 2309.06657.
    """
    return torch.relu(1 - beta * logps.margin_B)


def dpo_positive_loss(logps: PairLogps, beta: float, penalty: float) -> Tensor:
    """DPO-Positive: DPO that may not lower the chosen completion's own likelihood.

        loss = -log s(beta (m - penalty * max(0, ref_chosen - chosen)))

    Shapes: -> (B,). Source: arXiv 2402.13228 eq. 3: the penalty is inside the sigmoid and scaled by beta.
    """
    fallen_B = torch.relu(-logps.chosen_ratio_B)
    return -F.logsigmoid(beta * (logps.margin_B - penalty * fallen_B))


def sigmoid_norm_loss(logps: PairLogps, beta: float) -> Tensor:
    """Length-normalised DPO: a long completion's margin counts no more than a short one's.

        loss = -log s(beta (r_w / |w| - r_l / |l|))

    Shapes: -> (B,). Source: Tulu 3, arXiv 2411.15124 eq. 6 (there beta is 5).
    """
    return -F.logsigmoid(beta * logps.mean_margin_B)


def simpo_loss(logps: PairLogps, beta: float, gamma: float) -> Tensor:
    """SimPO: the mean log-prob a token is the reward; there is no reference.

        loss = -log s(beta log pi(w) / |w| - beta log pi(l) / |l| - gamma)

    Shapes: -> (B,). Source: arXiv 2405.14734 eq. 6.
    """
    means_B = logps.chosen_B / logps.n_chosen_B - logps.rejected_B / logps.n_rejected_B
    return -F.logsigmoid(beta * means_B - gamma)


def log_odds(mean_logp_B: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean_logp). Shapes: (B,) -> (B,)."""
    below_B = mean_logp_B.clamp(max=-1e-6)  # p = 1 has no odds; float32 comes to it (own)
    return below_B - torch.log(-torch.expm1(below_B))


def orpo_loss(logps: PairLogps, beta: float) -> Tensor:
    """ORPO: likelihood of the chosen, and its odds against the rejected's; there is no reference.

        loss = -log pi(w) / |w| - beta log s(log odds(w) - log odds(l)),   odds(y) = p / (1 - p),  log p = log pi(y) / |y|

    Shapes: -> (B,). Source: arXiv 2403.07691 eq. 4, 6 and 7, whose lambda is beta. TRL's first term is over the prompt, too.
    """
    chosen_B, rejected_B = logps.chosen_B / logps.n_chosen_B, logps.rejected_B / logps.n_rejected_B
    return -chosen_B - beta * F.logsigmoid(log_odds(chosen_B) - log_odds(rejected_B))


def kto_row_loss(
    ratio_B: Tensor, good_B: Tensor, beta: float, kl: Tensor, desirable: float, undesirable: float
) -> Tensor:
    """KTO of single completions: the good ones up and the bad ones down, from the policy's own drift z = max(0, kl).

        loss = desirable (1 - s(beta (r - z)))  of a good one,   undesirable (1 - s(beta (z - r)))  of a bad one

    Shapes: -> (B,). Source: arXiv 2402.01306 eq. 7, the weights as TRL has them.

    Args:
        kl: estimate of KL(policy || reference), nats a sequence; no gradient flows through it.
    """
    up_B = good_B.to(ratio_B.dtype)
    weight_B = desirable * up_B + undesirable * (1 - up_B)
    return weight_B * (1 - torch.sigmoid(beta * (2 * up_B - 1) * (ratio_B - kl.detach().clamp(min=0))))


def kto_loss(logps: PairLogps, beta: float, kl: Tensor, desirable: float, undesirable: float) -> Tensor:
    """KTO, both completions of a pair as two rows: each is weighed against the policy's own drift, not against the other.

        loss = [desirable (1 - s(beta (r_w - z))) + undesirable (1 - s(beta (z - r_l)))] / 2,   z = max(0, kl)

    Shapes: -> (B,). Source: arXiv 2402.01306 eq. 7, the weights as TRL has them.

    Args:
        kl: estimate of KL(policy || reference), nats a sequence; no gradient flows through it.
    """
    good_B = torch.ones_like(logps.chosen_B, dtype=torch.bool)
    won_B = kto_row_loss(logps.chosen_ratio_B, good_B, beta, kl, desirable, undesirable)
    lost_B = kto_row_loss(logps.rejected_ratio_B, ~good_B, beta, kl, desirable, undesirable)
    return (won_B + lost_B) / 2


def apo_zero_loss(logps: PairLogps, beta: float) -> Tensor:
    """Anchored: the chosen goes up and the rejected down, each from the reference. For chosen better than the policy's own.

        loss = 1 - s(beta r_w) + s(beta r_l)

    Shapes: -> (B,). Source: arXiv 2408.06266 eq. 7.
    """
    return 1 - torch.sigmoid(beta * logps.chosen_ratio_B) + torch.sigmoid(beta * logps.rejected_ratio_B)


def apo_down_loss(logps: PairLogps, beta: float) -> Tensor:
    """Anchored: both go down, the rejected more. For chosen that are worse than the policy's own.

        loss = s(beta r_w) + 1 - s(beta m)

    Shapes: -> (B,). Source: arXiv 2408.06266 eq. 8.
    """
    return torch.sigmoid(beta * logps.chosen_ratio_B) + 1 - torch.sigmoid(beta * logps.margin_B)


def chosen_nll(logps: PairLogps) -> Tensor:
    """The chosen's negative log-likelihood a token, to be mixed into any loss: -log pi(w) / |w|.

    Shapes: -> (B,). Source: Iterative RPO, arXiv 2404.19733 eq. 1 (there its weight is 1).
    """
    return -logps.chosen_B / logps.n_chosen_B


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor, centring: float) -> Tensor:
    """A reward model's loss on its values of chosen and rejected.

        loss = -log s(v_w - v_l - margin) + centring (v_w + v_l)^2

    Shapes: -> (B,). Source: InstructGPT, arXiv 2203.02155 eq. 1; margin: Llama 2, 2307.09288 eq. 2; centring: 2312.09244.
    """
    return -F.logsigmoid(chosen_B - rejected_B - margin_B) + centring * (chosen_B + rejected_B) ** 2


def preference_losses(logps: PairLogps, options: DpoOptions, kl: Tensor | None) -> Tensor:
    """The loss of each pair that `options` name, without what is mixed in. Shapes: -> (B,)."""
    match options.loss:
        case "sigmoid":
            return sigmoid_loss(logps, options.beta, options.label_smoothing)
        case "robust":
            return robust_loss(logps, options.beta, options.label_smoothing)
        case "ipo":
            return ipo_loss(logps, options.beta)
        case "hinge":
            return hinge_loss(logps, options.beta)
        case "dpo_positive":
            return dpo_positive_loss(logps, options.beta, options.dpop_lambda)
        case "sigmoid_norm":
            return sigmoid_norm_loss(logps, options.beta)
        case "simpo":
            return simpo_loss(logps, options.beta, options.simpo_gamma)
        case "orpo":
            return orpo_loss(logps, options.beta)
        case "kto":
            if kl is None:
                raise ValueError("KTO is measured from an estimate of the KL; hint: pass kl")
            return kto_loss(logps, options.beta, kl, options.kto_desirable, options.kto_undesirable)
        case "apo_zero":
            return apo_zero_loss(logps, options.beta)
        case "apo_down":
            return apo_down_loss(logps, options.beta)
        case unknown:
            assert_never(unknown)


def pair_losses(logps: PairLogps, options: DpoOptions, kl: Tensor | None = None) -> Tensor:
    """The loss of each pair that `options` ask for. Shapes: -> (B,).

    Args:
        kl: for KTO alone.
    """
    losses_B = preference_losses(logps, options, kl)
    return losses_B + options.sft_weight * chosen_nll(logps) if options.sft_weight else losses_B
