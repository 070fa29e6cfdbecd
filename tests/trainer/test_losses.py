"""Each loss equals its paper's formula."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from trainer.losses import METRICS, PairLogps, dpo_positive_loss, pair_metrics, sigmoid_loss  # noqa: E402


def logps(chosen: float, rejected: float, ref_chosen: float, ref_rejected: float) -> PairLogps:
    return PairLogps(
        *(
            torch.tensor([v], dtype=torch.float64, requires_grad=True)
            for v in (chosen, rejected, ref_chosen, ref_rejected)
        )
    )


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_sigmoid_loss_is_the_negative_log_of_the_logistic_of_the_margin() -> None:
    loss = sigmoid_loss(logps(-10, -12, -11, -9), beta=0.3)
    assert loss.item() == pytest.approx(-math.log(s(0.3 * (1 - -3))), abs=1e-12)


def test_label_smoothing_adds_the_flipped_loss() -> None:
    loss = sigmoid_loss(logps(-10, -12, -11, -9), beta=0.3, label_smoothing=0.2)
    assert loss.item() == pytest.approx(-0.8 * math.log(s(1.2)) - 0.2 * math.log(s(-1.2)), abs=1e-12)


def test_dpo_positive_has_its_penalty_inside_the_sigmoid_scaled_by_beta() -> None:
    loss = dpo_positive_loss(logps(-10.1, -12, -10, -9), beta=0.3, penalty=50)
    assert loss.item() == pytest.approx(-math.log(s(0.3 * (-0.1 + 3 - 50 * 0.1))), abs=1e-12)


@pytest.mark.parametrize("chosen", [-10.0, -9.5])
def test_dpo_positive_is_dpo_while_the_chosen_has_not_fallen(chosen: float) -> None:
    values = (chosen, -12, -10, -9)
    expected = sigmoid_loss(logps(*values), beta=0.3)
    assert dpo_positive_loss(logps(*values), beta=0.3, penalty=50).item() == expected.item()


def test_dpo_positive_pulls_a_fallen_chosen_up_by_beta_times_one_plus_lambda() -> None:
    pair = logps(-10.1, -12, -10, -9)
    loss = dpo_positive_loss(pair, beta=0.3, penalty=50)
    loss.backward()
    argument = 0.3 * (-0.1 + 3 - 50 * 0.1)
    assert pair.chosen_B.grad is not None
    slope_of_argument = pair.chosen_B.grad.item() / (s(argument) - 1)  # d(-log s(x))/dx = s(x) - 1
    assert slope_of_argument == pytest.approx(0.3 * (1 + 50), rel=1e-12)


def test_metrics_are_what_their_names_say() -> None:
    values = dict(zip(METRICS, pair_metrics(logps(-10, -12, -11, -9), beta=0.5)[0].tolist(), strict=True))
    assert values["reward_chosen"] == 0.5
    assert values["reward_rejected"] == -1.5
    assert values["margin"] == 2.0
    assert values["accuracy"] == 1.0
    assert values["logp_chosen"] == -10
    assert values["chosen_fell"] == 0.0
    assert values["kl"] == 1.0
