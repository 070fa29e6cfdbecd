"""AdamW with bfloat16 moments: torch's AdamW within rounding, right on average, and the same bits every time."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from trainer.moments import HalfMomentsAdamW, rounded_at_random  # noqa: E402


def test_rounding_at_random_is_right_on_average_and_to_a_neighbour() -> None:
    values = torch.full((100_000,), 1.0 + 1 / 1024)  # an eighth of the way from 1 to the next bfloat16
    rounded = rounded_at_random(values, torch.Generator().manual_seed(0)).float()
    assert set(rounded.tolist()) == {1.0, 1.0 + 1 / 128}
    assert rounded.mean().item() == pytest.approx(1 + 1 / 1024, abs=5 * (1 / 128) * math.sqrt(1 / 8 / 100_000))
    exact = torch.tensor([0.0, 0.5, -3.0])
    assert torch.equal(rounded_at_random(exact, torch.Generator().manual_seed(1)).float(), exact)


def trained(kind: str, steps: int = 300) -> tuple[float, torch.Tensor]:
    """A least-squares fit. Returns the last loss and the weights."""
    torch.manual_seed(0)
    inputs, truth = torch.randn(256, 32), torch.randn(32)
    weight = torch.zeros(32, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": 0.01}]
    if kind == "bfloat16":
        adam: torch.optim.Optimizer = HalfMomentsAdamW(groups, lr=0.02, betas=(0.9, 0.999), seed=0)
    else:
        adam = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.999))
    for _ in range(steps):
        adam.zero_grad()
        loss = ((inputs @ weight - inputs @ truth) ** 2).mean()
        loss.backward()
        adam.step()
    return loss.item(), weight.detach()


def test_it_goes_where_torch_goes() -> None:
    (half_loss, half), (full_loss, full) = trained("bfloat16"), trained("float32")
    assert half_loss == pytest.approx(full_loss, abs=2e-3)
    assert (half - full).norm() / full.norm() < 0.01


def test_the_same_seed_gives_the_same_bits() -> None:
    assert torch.equal(trained("bfloat16", 20)[1], trained("bfloat16", 20)[1])


def test_the_second_moment_moves_though_a_step_is_less_than_its_last_digit() -> None:
    weight = torch.zeros(4096, requires_grad=True)
    adam = HalfMomentsAdamW([weight], lr=0.0, betas=(0.9, 0.999), seed=0)
    for _ in range(200):
        weight.grad = torch.ones_like(weight)
        adam.step()
    mean = adam.state[weight]["exp_avg_sq"].float().mean().item()
    assert mean == pytest.approx(1 - 0.999**200, rel=0.01)


def test_gradients_of_a_bfloat16_model_are_added_up_in_float32_and_nowhere_else() -> None:
    """Two passes of which bfloat16 could not hold the sum: 1 + 1/1024."""
    from trainer.config import DpoOptions
    from trainer.optim import MasterAdamW

    model = torch.nn.Linear(4, 4, bias=False)
    optimizer = MasterAdamW(model, torch.bfloat16, DpoOptions(data=("-",), model="-", out="-"))
    for scale in (1.0, 1 / 1024):
        model(torch.ones(1, 4, dtype=torch.bfloat16)).mul(scale).sum().backward()
        assert model.weight.grad is None
    (master,) = optimizer.masters
    assert master.grad is not None
    assert torch.equal(master.grad, torch.full((4, 4), 1 + 1 / 1024))
