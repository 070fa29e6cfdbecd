"""Rounds, ablation and frontier as a user runs them: real vLLM, real training, every step a process; at their smallest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import ROOT, command, run_cli

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMALL = (
    "prompts.limit=10", "prompts.shard_size=10", "sources.0.n=4", "sources.0.max_tokens=64",
    "sources.0.engine.kv_cache_memory_mb=128",
)  # fmt: skip
TRAINING = "--lr 1e-4 --max-steps 1 --no-tensorboard"


def heldout(folder: Path) -> Path:
    """Five held-out prompts, one of each family."""
    path = folder / "heldout.jsonl"
    path.write_text("".join((ROOT / "data/prompts/heldout.jsonl").read_text().splitlines(keepends=True)[:5]))
    return path


def arguments(name: str, folder: Path, *more: str) -> list[str]:
    small = [part for setting in SMALL for part in ("--set", setting)]
    return [
        *("pipeline", name, str(ROOT / "examples/demo.toml"), *small, "--heldout", str(heldout(folder))),
        *("--root", str(folder / "runs"), "--n", "2", *more),
    ]


def rounds_of(folder: Path) -> list[str]:
    # A gain of less than nothing will do: five prompts prove none, and it is the second round that is looked at.
    return arguments(
        "rounds", folder, "--rounds", "2", "--reference", "first", "--min-gain", "-2", "--trainer", TRAINING
    )


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds, killed in the first one between training and evaluation's end, and the same command again."""
    folder = tmp_path_factory.mktemp("rounds")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    trained = folder / "runs/demo-rounds/policy-1/train.json"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command(*rounds_of(folder)), stdout=log, stderr=log, env=environment) as first,
    ):
        until = time.monotonic() + 720
        while not trained.exists() and first.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    assert trained.exists(), (folder / "log").read_text()[-3000:]
    assert not (folder / "runs/demo-rounds/rounds.json").exists(), "it was killed too late"
    (folder / "weights").write_text(str(weights(folder).stat().st_mtime_ns))
    done = run_cli(*rounds_of(folder), "--figures", str(folder / "figures"), "--json")
    (folder / "said.json").write_text(done.stdout)
    return folder


def weights(folder: Path) -> Path:
    return next((folder / "runs/demo-rounds/policy-1").glob("*.safetensors"))


def said(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "said.json").read_text())[0]


def test_killed_rounds_go_on_where_they_were(killed):
    assert [each["number"] for each in said(killed)] == [1, 2]
    assert str(weights(killed).stat().st_mtime_ns) == (killed / "weights").read_text()
    assert (killed / "figures/rounds.png").read_bytes().startswith(b"\x89PNG")


def test_a_round_is_a_run_that_names_its_parent_and_samples_from_its_policy(killed):
    first, second = (json.loads((killed / f"runs/demo-round-{k}/config.json").read_text()) for k in (1, 2))
    assert not first["parent"]
    assert second["parent"] == "demo-round-1"
    assert second["sources"][0]["engine"]["model"] == said(killed)[0]["policy"]
    assert first["seed"] != second["seed"]


def test_rounds_have_prompts_of_their_own(killed):
    first, second = (
        {
            prompt
            for file in (killed / f"runs/demo-round-{k}/prompts").glob("*.parquet")
            for prompt in pq.read_table(file)["prompt_id"].to_pylist()
        }
        for k in (1, 2)
    )
    assert first
    assert second
    assert first.isdisjoint(second)


def test_the_reference_stays_the_first_model_and_staleness_is_told(killed):
    receipt = json.loads((killed / "runs/demo-rounds/policy-2/train.json").read_text())
    assert str(ROOT / "data/tiny-model") in json.dumps(receipt)
    second = said(killed)[1]
    assert abs(second["kl"]) < 1
    assert abs(second["staleness"]) < 1
    assert second["kl"] != second["staleness"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ablation and frontier share: what the one sampled the other need not."""
    return tmp_path_factory.mktemp("shop")


def test_rules_are_compared_by_policies_trained_on_as_many_pairs(shop):
    more = (
        "--variant",
        "auto",
        "--variant",
        "best_vs_worst",
        "--seeds",
        "1",
        "--pairs",
        "4",
        "--trainer",
        TRAINING,
        "--json",
    )
    found = json.loads(run_cli(*arguments("ablate", shop, *more)).stdout)
    assert {each["name"] for each in found} == {"auto", "best_vs_worst"}
    assert [each["pairs"] for each in found] == [4, 4]
    assert any(each["held_out"]["wins"] for each in found)
    assert any(each["at_equal_length"]["wins"] for each in found)
    data = (shop / "runs/demo-ablation").glob("*/pairs-4-s0.parquet")
    assert [pq.ParquetFile(path).metadata.num_rows for path in data] == [4, 4]


def test_the_two_figures_come_from_one_command(shop):
    ways = ("--way", "SFT/a step=sft", "--way", "RL/beta 0.05=rl --scores rank")
    more = ("--seeds", "1", "--rounds", "1", "--best-of", "4", "--temperature", "0", "--figures", str(shop / "figures"))
    found = json.loads(run_cli(*arguments("frontier", shop, *ways, *more, "--trainer", TRAINING, "--json")).stdout)
    assert [(p["family"], p["note"]) for p in found["frontier"]] == [("SFT", "a step"), ("RL", "beta 0.05, round 1")]
    assert all(abs(p["kl"]["value"]) < 1 for p in found["frontier"])
    assert {p["temperature"] for p in found["temperatures"]} == {0.0, 1.0}
    assert [b["n"] for b in found["best"] if b["temperature"] == 1] == [1, 2, 4]
    assert sorted(p.name for p in (shop / "figures").iterdir()) == ["frontier.png", "temperature.png"]
