"""The command line: quick to ask, strict, and with the exit codes it promises."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import parse
from trainer.config import COMMANDS, DpoOptions


def test_help_loads_neither_torch_nor_transformers() -> None:
    code = "import sys; from trainer.cli import main\ntry: main(['dpo', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pyarrow', 'numpy')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--label-smoothing" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_sentence_of_help(command: str) -> None:
    for field in fields(COMMANDS[command][0]):
        assert len(field.metadata["help"]) > 10, field.name


def test_options_become_a_frozen_dataclass() -> None:
    name, options = parse(
        ["dpo", "--data", "a", "b", "--model", "m", "--out", "o", "--beta", "0.3", "--no-tensorboard"]
    )
    assert (name, type(options)) == ("dpo", DpoOptions)
    assert (options.data, options.beta, options.tensorboard) == (("a", "b"), 0.3, False)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--beta", "-1"], "beta is -1.0"),
        (["--loss", "ipo", "--simpo-gamma", "2"], "no meaning for ipo"),
        (["--loss", "simpo", "--reference", "sampler"], "simpo has no reference"),
        (["--loss", "dpo_positive", "--label-smoothing", "0.1"], "no meaning for dpo_positive"),
        (["--epochs", "0"], "epochs is 0"),
        (["--lr", "-1"], "lr is -1.0"),
    ],
)
def test_a_value_out_of_range_is_a_usage_error(trainer: Any, words: list[str], hint: str) -> None:
    code, _, said = trainer("dpo", "--data", "a", "--model", "m", "--out", "o", *words)
    assert code == 2
    assert hint in said


def test_an_unknown_option_exits_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["dpo", "--data", "a", "--model", "m", "--out", "o", "--betta", "1"])
    assert stopped.value.code == 2


def test_a_missing_model_folder_is_named(trainer: Any, dataset: Path, tmp_path: Path) -> None:
    code, _, said = trainer("dpo", "--data", dataset, "--model", tmp_path / "none", "--out", tmp_path / "out")
    assert code == 2
    assert "none does not exist" in said


def test_a_model_folder_without_a_tokenizer_is_named(trainer: Any, dataset: Path, model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((model / "config.json").read_bytes())
    code, _, said = trainer("dpo", "--data", dataset, "--model", bare, "--out", tmp_path / "out")
    assert code == 2
    assert "has no tokenizer" in said


def test_data_without_parquet_is_named(trainer: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, said = trainer("dpo", "--data", tmp_path / "empty", "--model", model, "--out", tmp_path / "out")
    assert code == 2
    assert "no .parquet file" in said
