"""Each loss equals its paper's formula, written out here a second time in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")

from trainer.config import REFERENCE_FREE, DpoOptions, Loss  # noqa: E402
from trainer.losses import (  # noqa: E402
    PairLogps,
    bradley_terry_loss,
    dpo_positive_loss,
    kto_loss,
    log_odds,
    pair_losses,
    robust_loss,
    sigmoid_loss,
)
from trainer.measures import ONLY_FOR_SUMS, metric_names, pair_metrics, told  # noqa: E402

W, L, REF_W, REF_L, N_W, N_L = -10.0, -12.0, -11.0, -9.0, 5.0, 8.0  # log-probs and tokens of the pair below
R_W, R_L = W - REF_W, L - REF_L
KL = 0.4


def logps(chosen: float = W, rejected: float = L, ref_chosen: float = REF_W, ref_rejected: float = REF_L) -> PairLogps:
    values = (chosen, rejected, ref_chosen, ref_rejected, N_W, N_L)
    return PairLogps(*(torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in values))


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def options(loss: str, **changes: Any) -> DpoOptions:
    return DpoOptions(data=("-",), model="-", out="-", loss=loss, **changes)  # type: ignore[arg-type]


def orpo(beta: float) -> float:
    p_w, p_l = math.exp(W / N_W), math.exp(L / N_L)
    odds_ratio = (p_w / (1 - p_w)) / (p_l / (1 - p_l))
    return -W / N_W - beta * math.log(s(math.log(odds_ratio)))


FORMULAS: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda beta: -math.log(s(beta * (R_W - R_L))),
    "robust": lambda beta: -math.log(s(beta * (R_W - R_L))),  # without flipped labels
    "ipo": lambda beta: (R_W / N_W - R_L / N_L - 1 / (2 * beta)) ** 2,
    "hinge": lambda beta: max(0.0, 1 - beta * (R_W - R_L)),
    "dpo_positive": lambda beta: -math.log(s(beta * (R_W - R_L - 50 * max(0.0, REF_W - W)))),
    "sigmoid_norm": lambda beta: -math.log(s(beta * (R_W / N_W - R_L / N_L))),
    "simpo": lambda beta: -math.log(s(beta * W / N_W - beta * L / N_L - 1.0)),
    "orpo": orpo,
    "kto": lambda beta: ((1 - s(beta * (R_W - KL))) + (1 - s(beta * (KL - R_L)))) / 2,
    "apo_zero": lambda beta: (1 - s(beta * R_W)) + s(beta * R_L),
    "apo_down": lambda beta: s(beta * R_W) + (1 - s(beta * (R_W - R_L))),
}


def test_every_loss_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(get_args(Loss))


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("loss", get_args(Loss))
def test_a_loss_is_its_papers_formula(loss: str, beta: float) -> None:
    found = pair_losses(logps(), options(loss, beta=beta), kl=torch.tensor(KL, dtype=torch.float64))
    assert found.item() == pytest.approx(FORMULAS[loss](beta), abs=1e-12)


def authors_loss(policy: tuple[float, float], reference: tuple[float, float], beta: float, smoothing: float) -> float:
    """`preference_loss` of the DPO authors' code (trainers.py), by its formula: logits are differences of log-ratios."""
    logits = (policy[0] - policy[1]) - (reference[0] - reference[1])
    return -math.log(s(beta * logits)) * (1 - smoothing) - math.log(s(-beta * logits)) * smoothing


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
def test_sigmoid_is_the_dpo_authors_own_loss(beta: float, smoothing: float) -> None:
    found = sigmoid_loss(logps(), beta, smoothing).item()
    assert found == pytest.approx(authors_loss((W, L), (REF_W, REF_L), beta, smoothing), abs=1e-12)


def test_robust_is_unbiased_its_mean_over_flipped_labels_is_the_clean_loss() -> None:
    clean, flipped = logps(), logps(L, W, REF_L, REF_W)
    mean = 0.8 * robust_loss(clean, 0.3, 0.2) + 0.2 * robust_loss(flipped, 0.3, 0.2)
    assert mean.item() == pytest.approx(sigmoid_loss(clean, 0.3).item(), abs=1e-12)


class TestDpoPositiveAgainstTheThreeWrongCopies:
    """Public copies have the penalty outside the sigmoid, with its sign flipped, or against the rejected completion."""

    fallen = (-10.1, -12.0, -10.0, -9.0)  # the chosen fell by 0.1

    def test_the_penalty_is_inside_the_sigmoid_and_scaled_by_beta(self) -> None:
        found = dpo_positive_loss(logps(*self.fallen), beta=0.3, penalty=50).item()
        assert found == pytest.approx(-math.log(s(0.3 * (-0.1 + 3 - 50 * 0.1))), abs=1e-12)
        outside = -math.log(s(0.3 * (-0.1 + 3))) + 50 * 0.1
        assert abs(found - outside) > 1

    def test_a_fallen_chosen_costs_more_than_dpo_not_less(self) -> None:
        assert dpo_positive_loss(logps(*self.fallen), 0.3, 50).item() > sigmoid_loss(logps(*self.fallen), 0.3).item()

    @pytest.mark.parametrize("chosen", [-10.0, -9.5])
    def test_it_is_dpo_while_the_chosen_has_not_fallen_whatever_the_rejected_does(self, chosen: float) -> None:
        for rejected in (-20.0, -8.0):
            values = (chosen, rejected, -10.0, -9.0)
            assert dpo_positive_loss(logps(*values), 0.3, 50).item() == sigmoid_loss(logps(*values), 0.3).item()

    def test_a_fallen_chosen_is_pulled_up_by_beta_times_one_plus_lambda(self) -> None:
        pair = logps(*self.fallen)
        dpo_positive_loss(pair, beta=0.3, penalty=50).backward()
        argument = 0.3 * (-0.1 + 3 - 50 * 0.1)
        assert pair.chosen_B.grad is not None
        assert pair.rejected_B.grad is not None
        per_argument = s(argument) - 1  # d(-log s(x))/dx
        assert pair.chosen_B.grad.item() / per_argument == pytest.approx(0.3 * (1 + 50), rel=1e-12)
        assert pair.rejected_B.grad.item() / per_argument == pytest.approx(-0.3, rel=1e-12)


def test_no_gradient_flows_through_ktos_kl_and_it_is_never_below_zero() -> None:
    kl = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    loss = kto_loss(logps(), 0.3, kl, 1.0, 1.0)
    loss.backward()
    assert kl.grad is None
    assert loss.item() == kto_loss(logps(), 0.3, torch.tensor(0.0), 1.0, 1.0).item()


def test_ktos_weights_weigh_their_side() -> None:
    kl = torch.tensor(KL, dtype=torch.float64)
    won, lost = 1 - s(0.3 * (R_W - KL)), 1 - s(0.3 * (KL - R_L))
    assert kto_loss(logps(), 0.3, kl, 1.5, 0.5).item() == pytest.approx((1.5 * won + 0.5 * lost) / 2, abs=1e-12)


def test_kto_without_its_kl_is_an_error() -> None:
    with pytest.raises(ValueError, match="estimate of the KL"):
        pair_losses(logps(), options("kto"))


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "simpo"])
def test_the_likelihood_term_is_added_by_token(loss: str) -> None:
    plain = pair_losses(logps(), options(loss)).item()
    mixed = pair_losses(logps(), options(loss, sft_weight=0.2)).item()
    assert mixed == pytest.approx(plain + 0.2 * 10 / 5, abs=1e-12)


@pytest.mark.parametrize("loss", REFERENCE_FREE)
def test_a_loss_without_a_reference_never_looks_at_one(loss: str) -> None:
    nan = float("nan")
    assert math.isfinite(pair_losses(logps(W, L, nan, nan), options(loss)).item())


@pytest.mark.parametrize("loss", sorted(set(get_args(Loss)) - set(REFERENCE_FREE)))
def test_a_loss_with_a_reference_cannot_do_without_one_unnoticed(loss: str) -> None:
    nan = float("nan")
    found = pair_losses(logps(W, L, nan, nan), options(loss), kl=torch.tensor(KL))
    assert math.isnan(found.item())


def test_certain_completions_have_finite_odds_and_gradients() -> None:
    certain = torch.zeros(1, requires_grad=True)
    log_odds(certain).backward()
    assert certain.grad is not None
    assert torch.isfinite(log_odds(certain)).all()
    assert torch.isfinite(certain.grad).all()


@pytest.mark.parametrize(("loss", "beta"), [("sigmoid", 0.1), ("sigmoid_norm", 5.0), ("simpo", 2.0)])
def test_without_a_beta_each_loss_takes_its_own(loss: str, beta: float) -> None:
    assert options(loss).beta == beta


def test_the_reward_models_loss_asks_for_the_margin_and_pulls_the_sum_to_zero() -> None:
    chosen, rejected, margin = (torch.tensor([v], dtype=torch.float64) for v in (1.3, 0.4, 0.5))
    found = bradley_terry_loss(chosen, rejected, margin, centring=0.01).item()
    assert found == pytest.approx(-math.log(s(1.3 - 0.4 - 0.5)) + 0.01 * 1.7**2, abs=1e-12)


def test_metrics_are_what_their_names_say() -> None:
    row = pair_metrics(logps(), beta=0.5, reference=True)[0].tolist()
    values = dict(zip(metric_names(reference=True), row, strict=True))
    expected = {
        "reward_chosen": 0.5, "reward_rejected": -1.5, "margin": 2.0, "accuracy": 1.0, "logp_chosen": -10.0,
        "chosen_shift": 1.0, "rejected_shift": -3.0, "chosen_fell": 0.0, "kl": 1.0, "length_gap": -3.0,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected


def test_without_a_reference_the_margin_is_of_mean_log_probs_and_nothing_is_said_of_the_rest() -> None:
    nan = float("nan")
    names = metric_names(reference=False)
    row = pair_metrics(logps(W, L, nan, nan), beta=2.0, reference=False)[0].tolist()
    assert dict(zip(names, row, strict=True))["margin"] == pytest.approx(2 * (W / N_W - L / N_L))
    assert not {"kl", "chosen_shift", "reward_chosen"} & set(names)


def test_the_log_says_how_length_and_margin_go_together() -> None:
    gaps, margins = torch.tensor([1.0, 2.0, 5.0, -3.0]), torch.tensor([0.3, 0.1, 2.0, -1.0])
    sums = (gaps**2, margins**2, gaps * margins)
    means = {"length_gap": gaps.mean().item(), "margin": margins.mean().item()}
    means |= {name: column.mean().item() for name, column in zip(ONLY_FOR_SUMS, sums, strict=True)}
    expected = torch.corrcoef(torch.stack([gaps, margins]))[0, 1].item()
    assert told(means)["length_margin_correlation"] == pytest.approx(expected, abs=1e-6)
    assert not set(ONLY_FOR_SUMS) & set(told(means))
