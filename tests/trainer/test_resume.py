"""Checkpoints: whole or absent, one run's own, and a run that goes on from one ends as if it had never stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from .faults import DAMAGES, half_renamed, truncated  # noqa: E402
from .runs import interrupt_at, log, same, timeless, words  # noqa: E402


@pytest.mark.parametrize("how", [(), ("--dtype", "bfloat16"), ("--moments", "bfloat16"), ("--lora-rank", "4")])
def test_an_interrupted_run_goes_on_to_the_very_same_weights_and_log(
    trainer: Any, dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...]
) -> None:
    more = ("--checkpoint-every", "2", "--keep-checkpoints", "3", *how)
    assert trainer(*words(dataset, model, tmp_path / "whole", *more))[0] == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, step=4)
        code, _, said = trainer(*words(dataset, model, tmp_path / "broken", *more))
    assert code == 130
    assert "goes on from the newest checkpoint" in said
    assert not list((tmp_path / "broken").glob("*.safetensors"))
    code, result, said = trainer(*words(dataset, model, tmp_path / "broken", *more))
    assert code == 0
    assert "going on from" in said
    assert "step-00000005" in said
    assert (tmp_path / "whole" / "train.json").exists()
    if "--lora-rank" not in how:
        assert same(tmp_path / "whole", tmp_path / "broken")
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "broken")
    assert result["items"] == 15  # of the second epoch's four steps of five: the last three


@pytest.fixture(scope="module")
def stopped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Path]:
    """A run stopped at step 6 with checkpoints after 2, 4 and 6, its command line, and the run that was left alone."""
    from trainer.cli import main

    from .conftest import pair_row, write_dataset

    folder = tmp_path_factory.mktemp("stopped")
    data = write_dataset(folder / "dataset", [pair_row(n) for n in range(20)])
    more = ("--checkpoint-every", "2", "--keep-checkpoints", "3")
    assert main(words(data, model, folder / "whole", *more)) == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, step=5)
        assert main(words(data, model, folder / "out", *more)) == 130
    return folder / "out", words(data, model, folder / "out", *more), folder / "whole"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(
    trainer: Any, stopped: tuple[Path, list[str], Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    source, argv, whole = stopped
    shutil.copytree(source, tmp_path / "out")
    damage(tmp_path / "out" / "checkpoints" / "step-00000006")
    code, _, said = trainer(*[str(tmp_path / "out") if word == str(source) else word for word in argv])
    assert code == 0
    assert "going on from" in said
    assert "step-00000004" in said.split("going on from")[1]
    assert same(tmp_path / "out", whole)
    assert timeless(tmp_path / "out") == timeless(whole)
    assert not list((tmp_path / "out" / "checkpoints").glob(".staging-*")) or damage is half_renamed


def test_with_no_whole_checkpoint_the_run_says_so_and_starts_over(
    trainer: Any, stopped: tuple[Path, list[str], Path], tmp_path: Path
) -> None:
    source, argv, whole = stopped
    shutil.copytree(source, tmp_path / "out")
    for folder in (tmp_path / "out" / "checkpoints").iterdir():
        truncated(folder)
    code, result, said = trainer(*[str(tmp_path / "out") if word == str(source) else word for word in argv])
    assert (code, result["items"]) == (0, 40)
    assert said.count("is not whole") == 3
    assert "no whole checkpoint is left, starting over" in said
    assert same(tmp_path / "out", whole)
    assert [line["step"] for line in log(tmp_path / "out")] == list(range(1, 9))


def test_a_checkpoint_of_another_run_is_refused(
    trainer: Any, stopped: tuple[Path, list[str], Path], tmp_path: Path
) -> None:
    source, argv, _ = stopped
    shutil.copytree(source, tmp_path / "out")
    here = [str(tmp_path / "out") if word == str(source) else word for word in argv]
    code, _, said = trainer(*here, "--beta", "0.2")
    assert code == 2
    assert "belongs to a run with other options" in said
    assert trainer(*here, "--beta", "0.2", "--resume", "never")[0] == 0


def test_a_manifest_that_vouches_for_itself_only_is_not_believed(stopped: tuple[Path, list[str], Path]) -> None:
    from trainer.checkpoint import read_whole, seal

    path = stopped[0] / "checkpoints" / "step-00000004"
    assert read_whole(path) is not None
    manifest = json.loads((path / "manifest.json").read_text())
    given = manifest.pop("manifest_sha256")
    assert given == seal(manifest)
    assert given != seal({**manifest, "step": 5})
