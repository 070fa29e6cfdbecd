"""Evaluation while training: the held-out numbers, no slower than training, and early stopping on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from trainer.evaluate import Patience

from .conftest import pair_row, write_dataset
from .runs import interrupt_at, log, same, timeless, words


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """Seven held-out pairs whose preference is the opposite of the training pairs': their loss rises."""
    rows = [pair_row(n) for n in range(50, 57)]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    return write_dataset(tmp_path / "held", turned)


def test_held_out_numbers_are_those_of_the_same_pairs_in_training(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    """At a learning rate of 0 the two sets are told apart by nothing."""
    call = words(dataset, model, tmp_path / "out", "--eval-data", dataset, "--eval-every", "1", "--batch-pairs", "20")
    code, _, said = trainer(*call, "--lr", "0")
    line = log(tmp_path / "out")[0]
    assert code == 0
    assert "the prompts of 20 held-out rows are trained on as well" in said
    for name in ("loss", "accuracy", "margin", "logp_chosen", "kl"):
        assert line[f"eval_{name}"] == pytest.approx(line[name], abs=1e-5)


def test_evaluation_comes_every_so_many_steps_and_at_the_end(
    trainer: Any, dataset: Path, held: Path, model: Path, tmp_path: Path
) -> None:
    trainer(*words(dataset, model, tmp_path / "out", "--eval-data", held, "--eval-every", "3", "--log-every", "5"))
    lines = log(tmp_path / "out")
    assert [line["step"] for line in lines] == [3, 5, 6, 8]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6, 8]
    assert all(0 <= line["eval_accuracy"] <= 1 for line in lines if "eval_loss" in line)


def test_evaluation_changes_nothing_in_training(
    trainer: Any, dataset: Path, held: Path, model: Path, tmp_path: Path
) -> None:
    trainer(*words(dataset, model, tmp_path / "without"))
    trainer(*words(dataset, model, tmp_path / "with", "--eval-data", held, "--eval-every", "1"))
    assert same(tmp_path / "without", tmp_path / "with")


def test_evaluation_is_no_slower_than_training(trainer: Any, model: Path, tmp_path: Path) -> None:
    rows = [pair_row(n) for n in range(200)]
    data = write_dataset(tmp_path / "dataset", rows)
    call = words(data, model, tmp_path / "out", "--eval-data", data, "--eval-every", "1", "--micro-batch-tokens", "512")
    trainer(*call, "--batch-pairs", "100")
    lines = log(tmp_path / "out")
    fastest = [max(line[name] for line in lines) for name in ("eval_pairs_per_s", "pairs_per_s")]
    assert fastest[0] > fastest[1]


STOPPING = ("--eval-every", "1", "--patience", "2", "--checkpoint-every", "3", "--keep-checkpoints", "1")


def test_early_stopping_keeps_the_best_evaluation(
    trainer: Any, dataset: Path, held: Path, model: Path, tmp_path: Path
) -> None:
    flat = ("--schedule", "constant", "--warmup", "0")
    code, result, said = trainer(*words(dataset, model, tmp_path / "out", "--eval-data", held, *STOPPING, *flat))
    losses = [line["eval_loss"] for line in log(tmp_path / "out")]
    best = losses.index(min(losses)) + 1
    assert code == 0
    assert (result["best_step"], result["steps"]) == (best, best + 2)
    assert result["steps"] < 8
    assert f"the weights are those after step {best}" in said
    trainer(*words(dataset, model, tmp_path / "short", *flat, "--max-steps", best))
    assert same(tmp_path / "out", tmp_path / "short")


def test_a_run_stopped_early_is_resumed_to_the_same_end(
    trainer: Any, dataset: Path, held: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--eval-data", held, *STOPPING)
    assert trainer(*words(dataset, model, tmp_path / "whole", *more))[0] == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=1)
        assert trainer(*words(dataset, model, tmp_path / "out", *more))[0] == 130
    assert trainer(*words(dataset, model, tmp_path / "out", *more))[0] == 0
    assert same(tmp_path / "whole", tmp_path / "out")
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "out")


def test_a_best_checkpoint_that_is_damaged_is_not_replaced_by_other_weights(
    trainer: Any, dataset: Path, held: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.watchdog import Watchdog

    look = Watchdog.look

    def losing(self: Any, step: int, *more: Any) -> None:
        look(self, step, *more)
        if step == 3:
            shutil.rmtree(tmp_path / "out" / "checkpoints")

    monkeypatch.setattr(Watchdog, "look", losing)
    code, _, said = trainer(*words(dataset, model, tmp_path / "out", "--eval-data", held, *STOPPING))
    assert code == 1
    assert "the checkpoint of the best evaluation, step 1, is not whole" in said
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_patience_counts_evaluations_without_a_lower_loss() -> None:
    patience = Patience()
    assert [patience.note(step, loss) for step, loss in enumerate([3.0, 2.0, 2.0, 4.0, 1.0, 1.5])] == [
        True, True, False, False, True, False,
    ]  # fmt: skip
    assert (patience.best_step, patience.best_loss, patience.behind) == (4, 1.0, 1)
    assert Patience(**patience.state()) == patience


def test_patience_without_evaluations_is_refused(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    code, _, said = trainer(*words(dataset, model, tmp_path / "out", "--patience", "2"))
    assert code == 2
    assert "give --eval-data and --eval-every" in said
