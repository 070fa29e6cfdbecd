"""The policy gradient's parts equal their papers' formulas, written out here a second time in float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from trainer.policy_gradient import (  # noqa: E402
    advantages,
    clipped_losses,
    group_sums,
    kl_estimates,
    shaped_rewards,
    truncated_weights,
)

GROUPS = [[1.0, 0.0, 0.5], [2.0, -1.0], [0.3, 0.3, 0.9, 0.1]]
REWARDS = [r for group in GROUPS for r in group]
GROUP_B = torch.tensor([g for g, group in enumerate(GROUPS) for _ in group])


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_rloo_compares_a_sample_with_the_mean_of_the_others() -> None:
    expected = [r - (sum(group) - r) / (len(group) - 1) for group in GROUPS for r in group]
    found = advantages(double(*REWARDS), GROUP_B, 3, "rloo")
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_grpo_standardises_within_the_group() -> None:
    expected = []
    for group in GROUPS:
        mean = sum(group) / len(group)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        expected += [(r - mean) / (deviation + 1e-4) for r in group]
    found = advantages(double(*REWARDS), GROUP_B, 3, "grpo")
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_advantages_of_a_group_sum_to_nothing(kind: str) -> None:
    found = advantages(double(*REWARDS), GROUP_B, 3, kind)  # type: ignore[arg-type]
    assert group_sums(found, GROUP_B, 3).tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_the_reward_pays_for_leaving_the_reference_and_for_not_ending() -> None:
    logp = double(-4.0, -5.0).requires_grad_()
    found = shaped_rewards(double(1.0, 1.0), double(1.0, 0.0), logp, double(-6.0, -5.5), beta=0.1, missing_end=0.7)
    assert found.tolist() == pytest.approx([1 - 0.1 * 2, 1 - 0.7 - 0.1 * 0.5], abs=1e-12)
    assert not found.requires_grad


def loss_of(logp: float, old: float, advantage: float, weight: float = 1.0) -> tuple[float, float]:
    """The loss and its slope."""
    policy = double(logp).requires_grad_()
    loss = clipped_losses(policy, double(old), double(advantage), double(weight), clip=0.2)
    loss.sum().backward()
    assert policy.grad is not None
    return loss.item(), policy.grad.item()


def test_on_policy_the_gradient_is_reinforces() -> None:
    assert loss_of(-3.0, -3.0, 0.8) == pytest.approx((-0.8, -0.8), abs=1e-12)


@pytest.mark.parametrize(
    ("shift", "advantage", "ratio", "moves"),
    [
        (0.1, 1.0, math.exp(0.1), True),  # within the clip
        (0.5, 1.0, 1.2, False),  # good and already much likelier: no more
        (-0.5, -1.0, 0.8, False),  # bad and already much less likely: no more
        (0.5, -1.0, math.exp(0.5), True),  # bad and likelier: brought back
        (-0.5, 1.0, math.exp(-0.5), True),  # good and less likely: brought back
    ],
)
def test_a_ratio_gains_nothing_by_leaving_the_clip(shift: float, advantage: float, ratio: float, moves: bool) -> None:
    loss, slope = loss_of(-3.0 + shift, -3.0, advantage)
    assert loss == pytest.approx(-ratio * advantage, abs=1e-12)
    assert slope == pytest.approx(-ratio * advantage if moves else 0.0, abs=1e-12)


def test_importance_weights_are_truncated_and_one_where_the_sampler_is_not_known() -> None:
    found = truncated_weights(double(-3.0, -3.0, -3.0), double(-3.5, -9.0, float("nan")), most=2.0)
    assert found.tolist() == pytest.approx([math.exp(0.5), 2.0, 1.0], abs=1e-12)


def test_the_gradient_is_that_of_the_kl_regularised_objective() -> None:
    """On three outcomes, exactly: sum_y p(y) of our loss's gradient is the gradient of -(E r - beta KL)."""
    parameters = double(0.2, -0.4, 0.1).requires_grad_()
    reward, reference = double(1.0, 0.3, -0.5), double(0.5, 0.3, 0.2).log()
    beta = 0.3
    log_p = parameters.log_softmax(0)
    objective = (log_p.exp() * (reward - beta * (log_p - reference))).sum()
    (wanted,) = torch.autograd.grad(-objective, parameters)

    log_p = parameters.log_softmax(0)
    shaped = shaped_rewards(reward, torch.ones(3), log_p, reference, beta, missing_end=1.0)
    losses = clipped_losses(log_p, log_p.detach(), shaped, torch.ones(3), clip=0.2)
    (found,) = torch.autograd.grad((log_p.detach().exp() * losses).sum(), parameters)
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-12)


@pytest.mark.parametrize("old", [(0.5, 0.3, 0.2), (0.2, 0.2, 0.6)])
def test_the_kl_estimate_is_that_of_the_policy_although_the_samples_are_older(old: tuple[float, ...]) -> None:
    """On three outcomes, exactly; never below 0 where the samples are the reference's."""
    policy, reference = double(0.1, 0.6, 0.3), double(0.5, 0.3, 0.2)
    parts = kl_estimates(policy.log(), double(*old).log(), reference.log())
    expected = (policy * (policy / reference).log()).sum().item()
    assert (double(*old) * parts).sum().item() == pytest.approx(expected, abs=1e-12)
    assert old != (0.5, 0.3, 0.2) or (parts >= 0).all()
