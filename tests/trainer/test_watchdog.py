"""The watchdog: stops at what is not finite, warns of or stops at its limits, and names the pairs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from .conftest import pair_row
from .faults import check_stopped, kill_and_resume, not_finite
from .runs import alarms, interrupt_at, log, words

IDS = {pair_row(n)["pair_id"] for n in range(20)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("kind", ["weights", "activations", "gradients", "data weights"])
def test_a_number_that_is_not_finite_stops_the_run_within_a_step_and_names_the_pairs(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, kind: str, value: float
) -> None:
    with not_finite(kind, 3, value):
        code, result, said = trainer(*words(dataset, model, tmp_path / "out", "--checkpoint-every", "1"))
    assert (code, result) == (1, {})
    assert "nothing saved; in " in said
    assert alarms(tmp_path / "out")[0]["ids"][0] in said
    check_stopped(tmp_path / "out", 3, IDS)


def test_the_one_pair_whose_loss_is_not_finite_is_the_one_named(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    with not_finite("data weights", 2, float("nan")):
        trainer(*words(dataset, model, tmp_path / "out"))
    assert len(alarms(tmp_path / "out")[0]["ids"]) == 1


def test_weights_that_are_not_finite_after_the_last_step_are_not_saved(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    with not_finite("weights", 8, float("nan")):
        code, _, said = trainer(*words(dataset, model, tmp_path / "out"))
    assert code == 1
    assert "are not finite after step 8" in said
    assert not (tmp_path / "out" / "model.safetensors").exists()


FALLING = ("--lr", "0.03", "--warmup", "0")


@pytest.mark.parametrize(("name", "option"), [("chosen_fall", "--chosen-fall"), ("kl", "--kl-limit")])
def test_a_limit_that_is_passed_is_warned_of_and_the_worst_pairs_come_first(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, name: str, option: str
) -> None:
    code, _, said = trainer(*words(dataset, model, tmp_path / "out", *FALLING, option, "1e-4"))
    assert code == 0
    found = [alarm for alarm in alarms(tmp_path / "out") if alarm["alarm"] == name]
    assert found
    assert f"most in {found[0]['ids'][0]}" in said
    assert set(found[0]["ids"]) <= IDS
    assert [alarm["value"] for alarm in found] == sorted(
        alarm["value"] for alarm in found
    )  # told again at a doubling only


def test_a_limit_of_stop_on_stops_before_the_update_with_exit_code_4(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    limit = ("--chosen-fall", "1e-4", "--stop-on", "chosen_fall")
    code, _, said = trainer(*words(dataset, model, tmp_path / "out", *FALLING, *limit))
    assert code == 4
    assert "stopped before the update, as --stop-on says" in said
    assert len(log(tmp_path / "out")) == alarms(tmp_path / "out")[0]["step"] - 1
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_resumed_run_raises_the_alarms_of_the_undisturbed_one(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (*FALLING, "--kl-limit", "0.05", "--checkpoint-every", "1")
    trainer(*words(dataset, model, tmp_path / "whole", *limits))
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=3)
        assert trainer(*words(dataset, model, tmp_path / "out", *limits))[0] == 130
    assert trainer(*words(dataset, model, tmp_path / "out", *limits))[0] == 0
    assert alarms(tmp_path / "whole")
    assert alarms(tmp_path / "out") == alarms(tmp_path / "whole")


def test_killed_runs_go_on_to_the_weights_and_log_of_the_undisturbed_one(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path
) -> None:
    """Three of the thirty of `python -m tests.trainer.faults`; the first is inside a save."""

    def make(out: Path) -> list[str]:
        return words(dataset, model, out, "--checkpoint-every", "1")

    assert trainer(*make(tmp_path / "whole"))[0] == 0
    for number, (wait_s, in_save) in enumerate([(0.002, True), (0.5, False), (0.9, False)]):
        kill_and_resume(make, tmp_path / "whole", tmp_path / f"out-{number}", wait_s, in_save=in_save)
        shutil.rmtree(tmp_path / f"out-{number}")
