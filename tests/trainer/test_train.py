"""The loop: the same numbers in two processes, the same weights after an interruption, and no NaN ever saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from trainer.config import DpoOptions  # noqa: E402
from trainer.dpo import DpoObjective  # noqa: E402
from trainer.optim import rate_at  # noqa: E402

from .conftest import pair_row, write_dataset  # noqa: E402

ROOT = Path(__file__).parents[2]


def words(data: Path, model: Path, out: Path, *more: object) -> list[str]:
    common = [
        "dpo",
        "--data",
        data,
        "--model",
        model,
        "--out",
        out,
        "--lr",
        "1e-3",
        "--no-tensorboard",
        "--batch-pairs",
        "6",
    ]
    return [str(word) for word in (*common, "--epochs", "2", "--micro-batch-tokens", "128", *more)]


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(out / "model.safetensors")
    return found


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


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


def test_two_processes_give_the_losses_of_one(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    trainer(*words(dataset, model, tmp_path / "one"))
    script = Path(__file__).with_name("ddp_run.py")
    done = subprocess.run(
        [sys.executable, str(script), *words(dataset, model, tmp_path / "two", "--cache", tmp_path / "cache")],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 8  # one line: the second process is silent
    for one, two in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-5)
        assert two["accuracy"] == one["accuracy"]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C arrives while this step's numbers are looked at."""
    watch = DpoObjective.watch

    def interrupting(self: Any, at: int, numbers: dict[str, float]) -> None:
        watch(self, at, numbers)
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(DpoObjective, "watch", interrupting)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_interrupted_run_goes_on_to_the_very_same_weights(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    more = ("--checkpoint-every", "2", "--dtype", dtype, "--keep-checkpoints", "3")
    assert trainer(*words(dataset, model, tmp_path / "whole", *more))[0] == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=4)
        code, _, said = trainer(*words(dataset, model, tmp_path / "broken", *more))
    assert code == 130
    assert "goes on from the newest checkpoint" in said
    assert not (tmp_path / "broken" / "model.safetensors").exists()

    folder = tmp_path / "broken" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002", "step-00000004", "step-00000005"]
    state = folder / "step-00000005" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])  # killed while saving, on a disk that lies
    (folder / "step-00000006").mkdir()  # no manifest
    (folder / ".staging-00000006").mkdir()  # killed while saving

    code, result, said = trainer(*words(dataset, model, tmp_path / "broken", *more))
    assert code == 0
    assert "going on from" in said
    assert "step-00000004" in said
    assert same(tmp_path / "whole", tmp_path / "broken")
    assert [line["step"] for line in log(tmp_path / "broken")] == list(range(1, 9))
    assert result["items"] == 20  # the second epoch: four steps of five


def test_a_checkpoint_of_another_run_is_refused(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=1)
        trainer(*words(dataset, model, tmp_path / "out"))
    code, _, said = trainer(*words(dataset, model, tmp_path / "out", "--beta", "0.2"))
    assert code == 2
    assert "belongs to a run with other options" in said
    assert trainer(*words(dataset, model, tmp_path / "out", "--beta", "0.2", "--resume", "never"))[0] == 0


def test_a_finished_run_is_not_done_again(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    _, first, _ = trainer(*words(dataset, model, tmp_path / "out"))
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    code, second, said = trainer(*words(dataset, model, tmp_path / "out"))
    assert (code, second["loss"]) == (0, first["loss"])
    assert "is done already" in said
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    assert trainer(*words(dataset, model, tmp_path / "out", "--beta", "0.2"))[0] == 2


def test_a_loss_that_is_not_finite_stops_at_once_and_names_the_pair(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = pair_row(11)["pair_id"]
    outcome = DpoObjective.outcome

    def poisoned(self: Any, network: Any, items: list[int]) -> Any:
        found = outcome(self, network, items)
        bad = torch.tensor([float("nan") if self.ids[i] == victim else 1.0 for i in items])
        return type(found)(found.loss * bad.prod(), found.losses_B * bad, found.sums_M)

    monkeypatch.setattr(DpoObjective, "outcome", poisoned)
    code, result, said = trainer(*words(dataset, model, tmp_path / "out", "--checkpoint-every", "1"))
    assert (code, result) == (1, {})
    assert f"nothing saved; in {victim}; hint" in said
    assert not (tmp_path / "out" / "model.safetensors").exists()
    for path in (tmp_path / "out").glob("checkpoints/*/state.pt"):
        saved = torch.load(path, weights_only=True)["weights"]
        assert all(weight.isfinite().all() for weight in saved.values())


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


def test_a_falling_chosen_log_prob_is_warned_of(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    _, _, said = trainer(
        *words(dataset, model, tmp_path / "out", "--chosen-fall", "1e-4", "--lr", "0.03", "--warmup", "0")
    )
    assert "the chosen log-prob has fallen by" in said


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    options = DpoOptions(data=("-",), model="-", out="-", lr=1.0, warmup=0.2, schedule="linear", min_lr=0.5)
    rates = [rate_at(step, 10, options) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[9] == pytest.approx(0.5 + 0.5 / 8)
    assert all(a >= b for a, b in pairwise(rates[2:]))


def test_tensorboard_events_are_written(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    call = [word for word in words(dataset, model, tmp_path / "out", "--max-steps", 1) if word != "--no-tensorboard"]
    assert trainer(*call)[0] == 0
    assert list((tmp_path / "out" / "tensorboard").glob("events*"))
