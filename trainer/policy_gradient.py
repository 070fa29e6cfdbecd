"""KL-regularised policy gradient on groups of samples: pure functions of log-probabilities and rewards.

Legend: B completions of some groups (at least two each), G the groups. `group_B` says which group a completion belongs to.
Log-probabilities are summed over completion tokens, in nats, at the temperature of sampling: pi the policy being trained, old the
policy before the first step, ref the reference, mu the sampler itself.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

Advantage = Literal["rloo", "grpo"]


def shaped_rewards(
    reward_B: Tensor, ended_B: Tensor, logp_B: Tensor, ref_B: Tensor, beta: float, missing_end: float
) -> Tensor:
    """The reward with the pull to the reference in it, and a penalty for not ending.

        R = r - missing_end [did not end] - beta (log pi - log pi_ref)

    No gradient flows through it. Shapes: -> (B,). Source: KL in the reward: InstructGPT, arXiv 2203.02155 eq. 2, by sequence as
    RLOO has it, 2402.14740 eq. 4; the penalty: Huang et al., 2403.17031, detail 9.
    """
    penalty_B = missing_end * (1 - ended_B)
    return reward_B - penalty_B - beta * (logp_B.detach() - ref_B)


def group_sums(values_B: Tensor, group_B: Tensor, n_groups: int) -> Tensor:
    """Sums over each group's completions. Shapes: (B,) -> (G,)."""
    return values_B.new_zeros(n_groups).index_add(0, group_B, values_B)


def advantages(rewards_B: Tensor, group_B: Tensor, n_groups: int, kind: Advantage) -> Tensor:
    """How much better a completion is than the other samples of its prompt.

        rloo:  A_i = R_i - mean of R_j over the others (j != i)
        grpo:  A_i = (R_i - mean R) / (deviation of R + 1e-4)

    Shapes: -> (B,). Source: rloo: arXiv 2402.14740 eq. 7; grpo: 2402.03300, section 4.1.2 (deviation with n - 1, as in TRL).
    """
    count_B = group_sums(torch.ones_like(rewards_B), group_B, n_groups)[group_B]
    from_mean_B = rewards_B - group_sums(rewards_B, group_B, n_groups)[group_B] / count_B
    match kind:
        case "rloo":
            return from_mean_B * count_B / (count_B - 1)
        case "grpo":
            variance_B = group_sums(from_mean_B**2, group_B, n_groups)[group_B] / (count_B - 1)
            return from_mean_B / (variance_B.sqrt() + 1e-4)
        case unknown:
            assert_never(unknown)


def truncated_weights(old_B: Tensor, mu_B: Tensor, most: float) -> Tensor:
    """What makes up for a sampler that computes other probabilities than the trainer: min(old / mu, most).

    1 where mu is not known (NaN). Shapes: -> (B,). Source: truncated importance sampling, Ionides 2008; for samplers: Yao et al.
    2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """
    weight_B = (old_B - mu_B).exp().clamp(max=most)
    return torch.where(mu_B.isnan(), torch.ones_like(weight_B), weight_B)


def clipped_losses(logp_B: Tensor, old_B: Tensor, advantage_B: Tensor, weight_B: Tensor, clip: float) -> Tensor:
    """The policy gradient's loss of each completion, whose whole-sequence ratio cannot gain by leaving [1 - clip, 1 + clip].

        loss = -w min(rho A, clip(rho, 1 - clip, 1 + clip) A),   rho = exp(log pi - log old)

    Shapes: -> (B,). Source: PPO, arXiv 1707.06347 eq. 7, with one ratio a sequence as RLOO has it (2402.14740).
    """
    ratio_B = (logp_B - old_B).exp()
    kept_B = ratio_B.clamp(1 - clip, 1 + clip)
    return -weight_B * torch.minimum(ratio_B * advantage_B, kept_B * advantage_B)


def kl_estimates(logp_B: Tensor, old_B: Tensor, ref_B: Tensor) -> Tensor:
    """Each completion's part in an estimate of KL(pi || ref) a sequence: their mean is unbiased on samples of old.

        rho (log pi - log ref) - (rho - 1),   rho = pi / old

    The last term has mean 0 and takes away most of the noise; where old is the reference, no part is below 0. Without rho it
    would be -KL(old || pi) in the first round: the further the policy went, the further below 0. Shapes: -> (B,).
    Source: Schulman 2020, "Approximating KL divergence", with importance weights.
    """
    ratio_B = (logp_B - old_B).detach().exp()
    return ratio_B * (logp_B.detach() - ref_B) - (ratio_B - 1)
