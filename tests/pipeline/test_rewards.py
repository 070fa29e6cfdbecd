"""Rewards from a real tiny reward model, and from a real tiny policy against its reference, in the engine's own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labelers.types import Message
from pipeline.config import load
from pipeline.engines import Request, RewardEngine, Sampling
from pipeline.engines.rewards import ImplicitReward, RewardModel, RunningRewards
from pipeline.errors import ConfigError, EngineFailed
from pipeline.rows import read_rows
from pipeline.run import run

ROOT = Path(__file__).parents[2]
TINY = ROOT / "data" / "tiny-model"
TEXTS = ["yes", "no, never", "def f(x):\n    return x", "a " * 60, "", "1"]


def chat(text: str, question: str = "Is it so?") -> list[Message]:
    return [Message("user", question), Message("assistant", text)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A reward model with a random head on the shipped tiny model, and a policy that differs a little from it."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    judge = LlamaForSequenceClassification.from_pretrained(TINY, num_labels=1, dtype=torch.float32)
    judge.score.weight.data.normal_()
    judge.save_pretrained(folder / "judge")
    policy = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    for parameter in policy.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    policy.save_pretrained(folder / "policy")
    for name in ("judge", "policy"):
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(TINY / file, folder / name / file)
    return {"judge": folder / "judge", "policy": folder / "policy"}


@pytest.fixture(scope="module")
def engine(models: dict[str, Path]) -> Iterator[Any]:
    running = RewardModel(model=str(models["judge"]), device="cpu").open()
    yield running
    running.close()


def direct(folder: Path, texts: list[str]) -> list[float]:
    """The reward model's own output, one conversation at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for text in texts:
        turns = [{"role": m.role, "content": m.content} for m in chat(text)]
        ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found.append(model(torch.tensor([ids])).logits.item())
    return found


def test_a_reward_is_the_models_own_output(engine: Any, models: dict[str, Path]) -> None:
    assert isinstance(engine, RewardEngine)
    assert engine.rewards([chat(text) for text in TEXTS]) == pytest.approx(
        direct(models["judge"], TEXTS), rel=1e-5, abs=1e-4
    )
    assert engine.progress().requests >= len(TEXTS)


def test_a_reward_does_not_depend_on_its_neighbours(engine: Any) -> None:
    together = engine.rewards([chat(text) for text in TEXTS])
    alone = [engine.rewards([chat(text)])[0] for text in TEXTS]
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-4)
    assert len(set(together)) > 3


def test_a_conversation_that_is_too_long_has_no_reward_and_is_never_cut(engine: Any) -> None:
    long, short = engine.rewards([chat("long " * 5000), chat("short")])
    assert long is None
    assert isinstance(short, float)


def test_a_lone_surrogate_and_a_nul_harm_nobody(engine: Any) -> None:
    found = engine.rewards([chat("\ud800"), chat("a\0b"), chat("fine")])
    assert found[2] == pytest.approx(engine.rewards([chat("fine")])[0], rel=1e-5, abs=1e-4)


def test_more_conversations_than_fit_a_group_come_back_in_order(engine: Any) -> None:
    numbers = engine.rewards([chat(str(i)) for i in range(300)])
    assert numbers[299] == pytest.approx(engine.rewards([chat("299")])[0], rel=1e-5, abs=1e-4)


STAND_IN = """
import json, os, sys, time
print("starting", file=sys.stderr, flush=True)
{start}
group = []
for line in sys.stdin:
    if line.strip():
        group.append(json.loads(line)[-1]["content"])
        continue
    for text in group:
        if text == "poison":
            print("CUDA error: it hurts", file=sys.stderr, flush=True)
            os._exit(9)
        if text == "hang":
            time.sleep(60)
        print("nonsense" if text == "nonsense" else json.dumps(float(len(text))), flush=True)
    group = []
"""


def stand_in(start: str = "", timeout_s: float = 20.0) -> RunningRewards:
    """The engine around a small program that gives each text its length, and dies, hangs or talks nonsense when told to."""
    return RunningRewards("stand-in", [sys.executable, "-c", STAND_IN.replace("{start}", start)], timeout_s)


def test_a_process_that_dies_is_started_again() -> None:
    running = stand_in()
    try:
        assert running.rewards([chat("yes")]) == [3.0]
        os.kill(running._child._process.pid, signal.SIGKILL)
        running._child._process.wait()
        assert running.rewards([chat("yes"), chat("no")]) == [3.0, 2.0]
    finally:
        running.close()
    assert running._child._process.poll() is not None


def test_a_conversation_that_kills_the_process_gets_nothing_and_costs_no_other() -> None:
    running = stand_in()
    texts = ["a" * n for n in range(1, 20)]
    texts[7] = "poison"
    try:
        found = running.rewards([chat(text) for text in texts])
    finally:
        running.close()
    assert found == [None if text == "poison" else float(len(text)) for text in texts]


def test_a_process_that_dies_of_everything_is_an_error_with_its_last_words() -> None:
    running = stand_in()
    try:
        with pytest.raises(EngineFailed, match=r"(?s)died \(exit code 9\): .*CUDA error: it hurts.*hint: "):
            running.rewards([chat("poison")] * 8)
    finally:
        running.close()


@pytest.mark.parametrize(("text", "says"), [("hang", "gave no answer in 1 s"), ("nonsense", "answered 'nonsense")])
def test_a_process_that_hangs_or_talks_nonsense_is_an_error(text: str, says: str) -> None:
    running = stand_in(timeout_s=1.0)
    try:
        with pytest.raises(EngineFailed, match=says):
            running.rewards([chat(text)])
    finally:
        running.close()


def test_a_process_that_does_not_start_is_an_error_with_its_last_words() -> None:
    with pytest.raises(EngineFailed, match=r"(?s)exit code 3\).*starting"):
        stand_in(start="sys.exit(3)")


def test_a_reward_model_writes_no_text(engine: Any) -> None:
    with pytest.raises(EngineFailed, match="writes no text"):
        list(engine.generate([Request("1", tuple(chat("x")), Sampling(), 0)]))


def test_a_missing_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        RewardModel(model=str(tmp_path / "nothing")).check()
    with pytest.raises(ConfigError, match="beta"):
        ImplicitReward(policy=str(TINY), reference=str(TINY), beta=0.0).check()


def test_a_model_is_known_by_its_content(models: dict[str, Path], tmp_path: Path) -> None:
    moved = shutil.copytree(models["judge"], tmp_path / "moved")
    assert RewardModel(model=str(moved)).identity() == RewardModel(model=str(models["judge"])).identity()
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    assert RewardModel(model=str(moved)).identity() != RewardModel(model=str(models["judge"])).identity()


@pytest.mark.parametrize("per_token", [False, True])
def test_an_implicit_reward_is_made_of_the_trainers_own_log_probabilities(
    models: dict[str, Path], per_token: bool
) -> None:
    import torch

    from trainer.config import RewardsOptions
    from trainer.data import encode, render
    from trainer.model import load as load_model
    from trainer.options import ModelOptions
    from trainer.rewards import ImplicitReward as Scorer

    turns = [{"role": m.role, "content": m.content} for m in chat("no, never")]
    settings = {"beta": 0.25, "per_token": per_token, "device": "cpu"}
    scorer = Scorer(RewardsOptions(policy=str(models["policy"]), reference=str(TINY), **settings))
    logps = []
    for folder in (models["policy"], TINY):
        loaded = load_model(ModelOptions(data=(), out="", model=str(folder), device="cpu"))
        (side,) = encode([render(loaded.tokenizer, "x", turns[:1], turns[1:])], loaded.tokenizer, loaded.end_ids)
        ids, n = torch.tensor([*side.prompt, *side.completion]), len(side.completion)
        with torch.no_grad():
            logits = loaded.model.float()(ids[None]).logits[0, -n - 1 : -1]
        logps.append(logits.log_softmax(-1).gather(1, ids[-n:, None]).sum().item())
    tokens = len(side.completion) if per_token else 1
    (found,) = scorer([turns])
    assert found == pytest.approx(0.25 * (logps[0] - logps[1]) / tokens, rel=1e-5, abs=1e-4)
    assert abs(found) > 1e-3


def test_a_policy_that_is_its_reference_gives_zero_and_nothing_to_what_is_too_long() -> None:
    running = ImplicitReward(policy=str(TINY), reference=str(TINY), device="cpu", beta=2.0, per_token=True).open()
    try:
        assert running.rewards([chat("yes"), chat("long " * 5000), chat("no")]) == [0.0, None, 0.0]
    finally:
        running.close()


def test_no_process_outlives_a_run_that_is_killed() -> None:
    script = (
        "import sys, time\nfrom pipeline.engines.rewards import RunningRewards\n"
        f"running = RunningRewards('m', [sys.executable, '-c', {STAND_IN.replace('{start}', '')!r}], 20)\n"
        "print(running._child._process.pid, flush=True)\ntime.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 120
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(child)


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended may wait to be noticed."""
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_run_is_labelled_by_a_reward_model(replayed: Any, models: dict[str, Path], tmp_path: Path) -> None:
    engine = f'engine = {{ use = "reward_model", model = "{models["judge"]}", device = "cpu" }}'
    replayed(labeler=f'use = "reward_model"\n{engine}')
    finished = run(load(tmp_path / "config.toml"), tmp_path / "runs")
    assert finished.failed == {}
    labels = [r.values for f in (finished.folder).glob("labels-*/*.parquet") for r in read_rows(str(f))]
    assert len(labels) == 16
    assert all(row["value"] is not None and row["abstain"] is None for row in labels)
    pairs = [r.values for r in read_rows(str(next((finished.folder / "dataset/data").glob("*.parquet"))))]
    assert all(pair["score_chosen"] > pair["score_rejected"] for pair in pairs)
    assert pairs
