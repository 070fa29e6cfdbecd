"""The loop: what a step is, what it logs, and what a run leaves behind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from trainer.config import DpoOptions  # noqa: E402
from trainer.optim import MasterAdamW, rate_at  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402

from .conftest import pair_row, write_dataset  # noqa: E402
from .runs import log, same, words  # noqa: E402


def test_training_separates_the_pairs(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    code, result, _ = trainer(*words(dataset, model, tmp_path / "out"))
    lines = log(tmp_path / "out")
    assert code == 0
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert lines[-1]["loss"] < 0.6
    assert result["accuracy"] == lines[-1]["accuracy"] > 0.8
    assert [line["step"] for line in lines] == list(range(1, 9))


def test_the_order_of_rows_in_the_files_changes_nothing(trainer: Any, model: Path, tmp_path: Path) -> None:
    rows = [pair_row(n) for n in range(20)]
    for name, some in (("a", rows), ("b", rows[::-1])):
        assert (
            trainer(*words(write_dataset(tmp_path / name / "data_set", some), model, tmp_path / name / "out"))[0] == 0
        )
    assert same(tmp_path / "a" / "out", tmp_path / "b" / "out")


def test_weights_of_pairs_weigh_their_losses(trainer: Any, model: Path, tmp_path: Path) -> None:
    """A pair of weight 3 counts like three such pairs of weight 1."""
    heavy = [pair_row(0, weight=3.0), pair_row(1)]
    thrice = [pair_row(0), pair_row(0, pair_id="x"), pair_row(0, pair_id="y"), pair_row(1)]
    norms = []
    for name, rows in (("a", heavy), ("b", thrice)):
        data = write_dataset(tmp_path / name / "data_set", rows)
        _, result, _ = trainer(*words(data, model, tmp_path / name / "out", "--max-steps", 1))
        norms.append(result["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize("budget", [64, 100_000])
def test_micro_batches_of_any_size_give_the_same_step(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, budget: int
) -> None:
    trainer(*words(dataset, model, tmp_path / "a"))
    trainer(*words(dataset, model, tmp_path / "b", "--micro-batch-tokens", budget))
    for one, other in zip(log(tmp_path / "a"), log(tmp_path / "b"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


def test_a_finished_run_is_not_done_again(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    _, first, _ = trainer(*words(dataset, model, tmp_path / "out"))
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    code, second, said = trainer(*words(dataset, model, tmp_path / "out"))
    assert (code, second["loss"]) == (0, first["loss"])
    assert "is done already" in said
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    assert trainer(*words(dataset, model, tmp_path / "out", "--beta", "0.2"))[0] == 2


def test_a_model_with_nan_weights_stops_before_training(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    code, _, said = trainer(*words(dataset, broken, tmp_path / "out"))
    assert code == 1
    assert "hint" in said


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    options = DpoOptions(data=("-",), model="-", out="-", lr=1.0, warmup=0.2, schedule="linear", min_lr=0.5)
    rates = [rate_at(step, 10, options) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[9] == pytest.approx(0.5 + 0.5 / 8)
    assert all(a >= b for a, b in pairwise(rates[2:]))


@pytest.mark.parametrize(
    ("schedule", "middle", "last"), [("constant", 1.0, 1.0), ("linear", 0.6, 0.28), ("cosine", 0.6, 0.2196)]
)
def test_a_schedule_falls_to_its_floor_in_its_own_way(schedule: Any, middle: float, last: float) -> None:
    options = DpoOptions(data=("-",), model="-", out="-", lr=1.0, warmup=0.0, schedule=schedule, min_lr=0.2)
    assert [rate_at(step, 10, options) for step in (5, 9)] == pytest.approx([middle, last], abs=1e-4)


@pytest.mark.parametrize(("largest", "left"), [(1.0, 1.0), (100.0, 5.0), (0.0, 5.0)])
def test_gradients_are_scaled_down_to_the_largest_norm_and_the_norm_before_is_told(largest: float, left: float) -> None:
    weights = torch.nn.Linear(2, 1)
    options = DpoOptions(data=("-",), model="-", out="-", max_grad_norm=largest)
    optimizer = MasterAdamW(weights, torch.float32, options)
    weights.weight.grad, weights.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert optimizer.reduce(Ranks()).item() == pytest.approx(5.0)
    assert torch.cat([weights.weight.grad.flatten(), weights.bias.grad]).norm().item() == pytest.approx(left, rel=1e-4)


def test_tensorboard_events_are_written(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    call = [word for word in words(dataset, model, tmp_path / "out", "--max-steps", 1) if word != "--no-tensorboard"]
    assert trainer(*call)[0] == 0
    assert list((tmp_path / "out" / "tensorboard").glob("events*"))
