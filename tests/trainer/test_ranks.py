"""Two processes give the losses and weights of one: with whole weights on each (DDP), and with weights cut over both (FSDP2).

In float32 a sum over two ranks is rounded differently from a sum in one, by some 1e-7 of it, and AdamW's first steps divide
gradients by their own size; so weights are compared by how far they went.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from .conftest import pair_row, write_dataset  # noqa: E402
from .runs import log, weights, words  # noqa: E402

ROOT = Path(__file__).parents[2]
KINDS = {
    "whole": ("--shard", "never"),
    "cut": ("--shard", "always", "--checkpoint-every", "3", "--keep-checkpoints", "9"),
    "cut_lora": ("--shard", "always", "--lora-rank", "4", "--merge", "--reference", "base", "--recompute", "always"),
}


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process in `one`, those of two under the names of KINDS."""
    from trainer.cli import main

    place = tmp_path_factory.mktemp("ranks")
    data = write_dataset(place / "dataset", [pair_row(n) for n in range(20)])
    held = write_dataset(place / "held", [pair_row(n) for n in range(50, 57)])
    more = ("--eval-data", held, "--eval-every", "4", "--micro-batch-tokens", "96")  # several passes, unevenly dealt
    assert main(words(data, model, place / "one", *more)) == 0
    assert main(words(data, model, place / "one_lora", *more, *KINDS["cut_lora"])) == 0
    assert main(kto_words(place, model, "one_kto")) == 0
    lines = [words(data, model, place / name, *more, *kind, "--cache", place / name) for name, kind in KINDS.items()]
    lines.append(kto_words(place, model, "two_kto"))
    argv = [word for line in lines for word in (*line, "NEXT")][:-1]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ddp_run.py")), *argv],
        capture_output=True, text=True, timeout=840, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [json.loads(line)["steps"] for line in done.stdout.splitlines()] == [
        8,
        8,
        8,
        3,
    ]  # the second process is silent
    return place


def kto_words(place: Path, model: Path, name: str) -> list[str]:
    """KTO on the chosen of some pairs and the rejected of others: 3 steps."""
    data = place / "rated.jsonl"
    sides = [(pair_row(n), "rejected" if n % 3 else "chosen") for n in range(20)]
    rows = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row, side in sides]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["kto", "--data", data, "--eval-data", data, "--model", model, "--out", place / name, "--lr", "1e-3"]
    return [*map(str, given), "--batch-completions", "7", "--micro-batch-tokens", "96", "--no-tensorboard"]


def apart(one: dict[str, Any], two: dict[str, Any], start: dict[str, Any]) -> float:
    """How far two runs' weights are from each other, as a share of how far the first one's went."""
    assert one.keys() == two.keys()
    gap, way = (torch.stack([(a[n] - b[n]).norm() for n in one]).norm() for a, b in ((one, two), (one, start)))
    return float(gap / way)


@pytest.mark.parametrize(("two", "one"), [("whole", "one"), ("cut", "one"), ("cut_lora", "one_lora")])
def test_two_processes_give_the_losses_and_weights_of_one(folder: Path, model: Path, two: str, one: str) -> None:
    for alone, both in zip(log(folder / one), log(folder / two), strict=True):
        assert both["loss"] == pytest.approx(alone["loss"], abs=2e-5)
        assert both["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-3)
        assert both["accuracy"] == alone["accuracy"]
        assert ("eval_loss" in both) == ("eval_loss" in alone)
        if "eval_loss" in both:
            assert both["eval_loss"] == pytest.approx(alone["eval_loss"], abs=2e-5)
    assert apart(weights(folder / one), weights(folder / two), weights(model)) < 1e-3


def test_ktos_z_is_that_of_all_ranks(folder: Path, model: Path) -> None:
    """Each of two ranks sees other rows, and both get the estimate of one process over all of them."""
    alone, both = log(folder / "one_kto"), log(folder / "two_kto")
    assert abs(alone[-1]["eval_stranger_shift"]) > 1e-2
    for name in ("loss", "stranger_shift", "kl", "good_shift", "bad_shift"):
        assert [line[name] for line in both] == pytest.approx([line[name] for line in alone], abs=2e-4)
    assert both[-1]["eval_stranger_shift"] == pytest.approx(alone[-1]["eval_stranger_shift"], abs=2e-4)
    assert apart(weights(folder / "one_kto"), weights(folder / "two_kto"), weights(model)) < 1e-3


def test_a_checkpoint_of_two_ranks_is_gone_on_from_by_one(trainer: Any, folder: Path, model: Path) -> None:
    out = folder / "later"
    shutil.copytree(folder / "cut", out)
    for name in ("train.json", "model.safetensors"):
        (out / name).unlink()
    argv = words(folder / "dataset", model, out, "--eval-data", folder / "held", "--eval-every", "4")
    code, result, said = trainer(*argv, "--micro-batch-tokens", "96")
    assert (code, result["items"]) == (0, 10)
    assert "step-00000006" in said
    assert apart(weights(folder / "cut"), weights(out), weights(model)) < 1e-3
