"""A saved reward model in vLLM: it loads, and gives the value that was trained."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.trainer.conftest import pair_row, write_dataset
from trainer.config import RewardModelOptions, RewardsOptions
from trainer.reward import run
from trainer.rewards import RewardModel

ROOT = Path(__file__).parents[2]
START = ROOT / "data/tiny-model"  # vLLM takes its head size on a CPU; the other tests' model has a smaller one


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM, which is not installed")
@pytest.mark.timeout(300)
def test_vllm_gives_the_values_of_a_saved_reward_model_without_being_told_how(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "pairs", [pair_row(n) for n in range(12)])
    saved = str(tmp_path / "reward")
    run(
        RewardModelOptions(
            data=(str(data),), model=str(START), out=saved, device="cpu", lr=1e-3, warmup=0.0, batch_pairs=6,
            save_dtype="float32", tensorboard=False,
        )
    )  # fmt: skip
    rows = [pair_row(n) for n in range(12, 24)]
    chats = [[*row["prompt"], *row[side]] for row in rows for side in ("chosen", "rejected")]
    ours = RewardModel(RewardsOptions(model=saved, device="cpu"))(chats)
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.vllm_rewards", saved],
        input=json.dumps(chats), capture_output=True, text=True, check=False, cwd=ROOT, timeout=840,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert max(abs(value) for value in ours if value is not None) > 0.1  # more than rounding
    assert [value for (value,) in theirs] == pytest.approx(ours, abs=1e-5)
