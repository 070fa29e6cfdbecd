"""Where a run's numbers go: JSON lines that survive a kill, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from trainer.runlog import JsonLines

from .runs import words


def test_lines_of_steps_that_will_be_done_again_and_half_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    lines = JsonLines(path, start=2)
    lines.write({"step": 3, "loss": 0.5})
    lines.file.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "loss": 0.5},
    ]


def test_a_run_from_the_start_begins_a_new_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    JsonLines(tmp_path / "log.jsonl", start=0).file.close()
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_without_wandb_its_option_is_refused_with_a_hint(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, said = trainer(*words(dataset, model, tmp_path / "out", "--wandb", "trial"))
    assert code == 3
    assert "--wandb needs the package wandb; hint: pip install wandb" in said


def test_wandb_gets_the_numbers_offline(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trainer(*words(dataset, model, tmp_path / "out", "--wandb", "trial", "--max-steps", "1"))[0] == 0
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*/*.wandb"))
