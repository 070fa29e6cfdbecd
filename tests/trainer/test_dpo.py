"""Every loss trains from the command line, with the passes that it needs and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")

from tests.trainer.conftest import pair_row, write_dataset  # noqa: E402
from trainer.config import REFERENCE_FREE, DpoOptions, Loss  # noqa: E402
from trainer.data import data_files  # noqa: E402
from trainer.dpo import objective_of, run, strangers  # noqa: E402
from trainer.errors import UsageError  # noqa: E402
from trainer.model import Loaded, load  # noqa: E402
from trainer.pairs import PairSet, read_pairs  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", [pair_row(n) for n in range(20)])


def asked(folder: Path, model: Path, **changes: Any) -> DpoOptions:
    settings: dict[str, Any] = {
        "data": (str(folder),),
        "model": str(model),
        "out": "-",
        "device": "cpu",
        "tensorboard": False,
    }
    return DpoOptions(**settings | changes)


@pytest.fixture(scope="module")
def loaded(folder: Path, model: Path) -> Loaded:
    return load(asked(folder, model))


@pytest.fixture(scope="module")
def found(folder: Path, loaded: Loaded) -> PairSet:
    return read_pairs(data_files([str(folder)]), loaded, 256)


@pytest.mark.parametrize("loss", get_args(Loss))
def test_a_few_steps_of_each_loss_prefer_the_chosen(loss: str, folder: Path, model: Path, tmp_path: Path) -> None:
    options = asked(
        folder, model, loss=loss, out=str(tmp_path / "out"), cache=str(tmp_path / "cache"), lr=1e-3, batch_pairs=10, epochs=3,
        warmup=0.0, schedule="constant",
    )  # fmt: skip
    run(options)
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert log[-1]["margin"] > log[0]["margin"]
    assert log[-1]["loss"] < log[0]["loss"]
    has_reference = loss not in REFERENCE_FREE
    assert ("kl" in log[0]) == has_reference
    assert (tmp_path / "cache").exists() == has_reference  # no reference pass, so nothing is cached


def test_a_pairs_stranger_is_another_prompts_completions(found: PairSet) -> None:
    others = strangers(found.pairs, 256)
    for pair, other in zip(found.pairs, others, strict=True):
        assert other.prompt == pair.prompt
        assert any(other.chosen == p.chosen and p.prompt != pair.prompt for p in found.pairs)


def test_without_another_prompt_kto_says_what_it_lacks(found: PairSet) -> None:
    with pytest.raises(UsageError, match="another prompt"):
        strangers(found.pairs[:1], 256)


def test_ktos_kl_is_measured_on_strangers_and_zero_at_the_start(
    folder: Path, model: Path, loaded: Loaded, found: PairSet, tmp_path: Path
) -> None:
    options = asked(folder, model, loss="kto", cache=str(tmp_path))
    objective = objective_of(loaded, found, options, Ranks())
    step = [([0, 1, 2], True), ([3, 4], True), ([5], False)]  # the last keeps step with another rank
    objective.begin(loaded.model, step, Ranks())
    assert objective.kl is not None
    assert objective.kl.item() == pytest.approx(0, abs=1e-4)
    moved = {other.pair_id: 0.2 * i for i, other in enumerate(objective.strangers)}
    objective.reference = {
        name: (w - moved.get(name, 9.0), lost - moved.get(name, 9.0)) for name, (w, lost) in objective.reference.items()
    }
    objective.begin(loaded.model, step, Ranks())
    assert objective.kl.item() == pytest.approx(0.4, abs=1e-4)


def test_ktos_step_is_the_same_however_it_is_cut_into_micro_batches(folder: Path, model: Path, tmp_path: Path) -> None:
    logs = []
    for tokens in (64, 4096):
        out = tmp_path / str(tokens)
        run(
            asked(folder, model, loss="kto", out=str(out), lr=1e-3, batch_pairs=10, epochs=2, micro_batch_tokens=tokens)
        )
        logs.append([json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()])
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_the_likelihood_term_keeps_the_chosen_up(folder: Path, model: Path, tmp_path: Path) -> None:
    shifts = []
    for weight in (0.0, 2.0):
        options = asked(
            folder, model, out=str(tmp_path / str(weight)), cache=str(tmp_path / "cache"), lr=1e-3, batch_pairs=10, epochs=2,
            sft_weight=weight,
        )  # fmt: skip
        shifts.append(run(options)["chosen_shift"])
    assert shifts[1] > shifts[0]
