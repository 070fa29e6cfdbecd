"""`python -m trainer reward`: it learns preferences, and what it saves is read alike by everyone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.trainer.conftest import pair_row, write_dataset  # noqa: E402
from trainer import start  # noqa: E402
from trainer.config import RewardModelOptions, RewardsOptions  # noqa: E402
from trainer.data import data_files  # noqa: E402
from trainer.errors import UsageError  # noqa: E402
from trainer.model import load  # noqa: E402
from trainer.pairs import Pair, read_pairs  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.reward import RewardObjective, closing, held_out_accuracy, values, with_head  # noqa: E402
from trainer.rewards import RewardModel  # noqa: E402

COUNT = 48


def chats(row: dict[str, Any]) -> list[list[dict[str, str]]]:
    return [[*row["prompt"], *row[side]] for side in ("chosen", "rejected")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pairs to train on and others to test on: chosen is a number, rejected has words."""
    root = tmp_path_factory.mktemp("pairs")
    train = write_dataset(root / "train", [pair_row(n) for n in range(COUNT)])
    return train, write_dataset(root / "held-out", [pair_row(n) for n in range(COUNT, COUNT + 24)])


@pytest.fixture(scope="module")
def trained(
    folders: tuple[Path, Path], model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A reward model on disk and what its run reported."""
    from trainer.cli import parse
    from trainer.reward import run

    out = tmp_path_factory.mktemp("out") / "reward"
    words = [
        "reward",
        "--data",
        folders[0],
        "--eval-data",
        folders[1],
        "--model",
        model,
        "--out",
        out,
        "--device",
        "cpu",
    ]
    settings = ["--lr", 1e-3, "--epochs", 3, "--batch-pairs", 12, "--no-tensorboard", "--warmup", 0]
    _, options = parse([str(word) for word in (*words, *settings)])
    return out, run(options)


def test_it_ranks_held_out_pairs_and_says_so_by_length(trained: tuple[Path, dict[str, Any]]) -> None:
    found = trained[1]["held_out"]
    assert found["all"]["pairs"] == 24
    assert found["all"]["accuracy"] > 0.9
    assert sum(bucket["pairs"] for name, bucket in found.items() if name != "all") == 24


def test_the_loss_begins_at_log_2_as_the_head_is_small(trained: tuple[Path, dict[str, Any]]) -> None:
    first = json.loads((trained[0] / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.693, abs=0.05)


def test_transformers_reads_the_values_that_were_trained_also_in_padded_batches(
    trained: tuple[Path, dict[str, Any]], folders: tuple[Path, Path]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = [pair_row(n) for n in range(COUNT, COUNT + 24)]
    tokenizer = AutoTokenizer.from_pretrained(trained[0])
    classifier = AutoModelForSequenceClassification.from_pretrained(trained[0], dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for row in rows for chat in chats(row)]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = classifier(**batch).logits.squeeze(1)
    accuracy = (found[::2] > found[1::2]).float().mean().item()
    assert accuracy == pytest.approx(trained[1]["held_out"]["all"]["accuracy"])
    assert trained[1]["eval_margin"] == pytest.approx((found[::2] - found[1::2]).mean().item(), abs=1e-4)


def test_adapters_are_added_into_the_saved_classifier_and_learn_too(
    folders: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from trainer.reward import run

    options = RewardModelOptions(
        data=(str(folders[0]),), eval_data=(str(folders[1]),), model=str(model), out=str(tmp_path), device="cpu", lr=1e-2,
        epochs=3, batch_pairs=12, warmup=0.0, tensorboard=False, lora_rank=4,
    )  # fmt: skip
    result = run(options)
    assert result["held_out"]["all"]["accuracy"] > 0.9
    scorer = RewardModel(RewardsOptions(model=str(tmp_path), device="cpu"))
    found = torch.tensor(scorer([chat for n in range(COUNT, COUNT + 24) for chat in chats(pair_row(n))])).view(-1, 2)
    assert result["eval_margin"] == pytest.approx((found[:, 0] - found[:, 1]).mean().item(), abs=1e-4)
    saved, start = load_file(tmp_path / "model.safetensors"), load_file(model / "model.safetensors")
    assert not [name for name in saved if "lora" in name or "base_layer" in name]
    changed = {name for name in start if name in saved and not torch.equal(saved[name], start[name])}
    assert changed
    assert all("proj" in name for name in changed)


def test_what_a_reward_models_adapter_cannot_be_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="always added"):
        RewardModelOptions(data=("-",), model=str(model), out="-", lora_rank=4, merge=True)


def test_a_reward_models_adapter_is_not_cut_over_ranks(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "wants_sharding", lambda *_: True)
    options = RewardModelOptions(data=("-",), model=str(model), out="-", device="cpu", lora_rank=4)
    with pytest.raises(UsageError, match="--shard never"):
        start.open_optimizer(with_head(load(options), 0), options, Ranks())


def test_our_engine_for_labelling_reads_the_same_values(trained: tuple[Path, dict[str, Any]]) -> None:
    scorer = RewardModel(RewardsOptions(model=str(trained[0]), device="cpu"))
    rows = [pair_row(n) for n in range(COUNT, COUNT + 24)]
    found = torch.tensor(scorer([chat for row in rows for chat in chats(row)])).view(-1, 2)
    assert trained[1]["eval_value_chosen"] == pytest.approx(found[:, 0].mean().item(), abs=1e-4)
    assert trained[1]["eval_value_rejected"] == pytest.approx(found[:, 1].mean().item(), abs=1e-4)


def test_the_pipelines_own_engine_loads_the_saved_folder(trained: tuple[Path, dict[str, Any]]) -> None:
    from labelers.types import Message
    from pipeline.engines.rewards import RewardModel as Engine

    row = pair_row(COUNT)
    running = Engine(model=str(trained[0]), device="cpu").open()
    try:
        better, worse = running.rewards([[Message(**turn) for turn in chat] for chat in chats(row)])
    finally:
        running.close()
    assert better is not None
    assert worse is not None
    assert better > worse


def test_padding_is_never_the_token_that_ends_a_conversation(trained: tuple[Path, dict[str, Any]], model: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    assert AutoTokenizer.from_pretrained(model).pad_token_id == 1  # the end token, as in many models
    saved = AutoTokenizer.from_pretrained(trained[0])
    assert saved.pad_token_id == AutoConfig.from_pretrained(trained[0]).pad_token_id != saved.eos_token_id


def test_a_second_call_trains_nothing(
    trained: tuple[Path, dict[str, Any]], folders: tuple[Path, Path], model: Path
) -> None:
    from trainer.reward import run

    before = {path.name: path.read_bytes() for path in trained[0].glob("*.safetensors")}
    same = RewardModelOptions(
        data=(str(folders[0]),), eval_data=(str(folders[1]),), model=str(model), out=str(trained[0]), device="cpu",
        lr=1e-3, epochs=3, batch_pairs=12, tensorboard=False, warmup=0.0,
    )  # fmt: skip
    assert run(same)["loss"] == trained[1]["loss"]
    assert before == {path.name: path.read_bytes() for path in trained[0].glob("*.safetensors")}


def objective_of(folder: Path, model: Path, **changes: Any) -> tuple[Any, RewardObjective]:
    options = RewardModelOptions(data=(str(folder),), model=str(model), out="-", device="cpu", **changes)
    loaded = load(options)
    pairs = read_pairs(data_files(options.data), loaded, 256).pairs
    headed = with_head(loaded, seed=0)
    return headed, RewardObjective(pairs, headed, options)


def test_the_loss_is_bradley_terrys_with_margin_and_centring(folders: tuple[Path, Path], model: Path) -> None:
    headed, objective = objective_of(folders[0], model, margin_weight=0.3, centring=0.02)
    objective.pairs = [Pair(p.pair_id, p.prompt, p.chosen, p.rejected, 2.0, 0.5) for p in objective.pairs]
    headed.model.score.weight.data *= 10
    found = objective.outcome(headed.model, [0, 1, 2])
    v = values(headed.model, objective.trees[:3], headed.device).double().view(-1, 2)
    expected = -torch.log(torch.sigmoid(v[:, 0] - v[:, 1] - 0.3 * 0.5)) + 0.02 * (v[:, 0] + v[:, 1]) ** 2
    assert found.losses_B.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.loss.item() == pytest.approx(2 * expected.sum().item(), abs=1e-5)


def test_the_head_stays_float32_when_the_body_is_bfloat16(
    folders: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    from safetensors import safe_open

    from trainer.reward import run

    out = tmp_path / "reward"
    run(
        RewardModelOptions(
            data=(str(folders[0]),),
            model=str(model),
            out=str(out),
            device="cpu",
            dtype="bfloat16",
            save_dtype="bfloat16",
            max_steps=1,
            tensorboard=False,
        )
    )
    with safe_open(out / "model.safetensors", "pt") as file:
        kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118  no mapping
    assert kinds.pop("score.weight") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}


def test_a_cut_completion_is_read_as_it_will_be_rated_with_the_templates_end(model: Path) -> None:
    from array import array

    from trainer.reward import closed

    loaded = load(RewardModelOptions(data=("-",), model=str(model), out="-", device="cpu"))
    assert closing(loaded) == [1]
    assert list(closed(array("i", [7, 8]), loaded.end_ids, [1])) == [7, 8, 1]
    assert list(closed(array("i", [7, 8, 1]), loaded.end_ids, [1])) == [7, 8, 1]


def test_what_a_template_writes_behind_the_end_token_is_read_too(model: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(model, tmp_path / "changed")
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ eos_token }}", "{{ eos_token }}{{ '!' }}"))
    loaded = load(RewardModelOptions(data=("-",), model=str(changed), out="-", device="cpu"))
    assert closing(loaded) == [1, loaded.tokenizer.convert_tokens_to_ids("!")]


def test_accuracy_is_counted_by_the_chosens_length_beside_the_rejecteds() -> None:
    from array import array

    def pair(n_chosen: int, n_rejected: int) -> Pair:
        return Pair("-", array("i", [1]), array("i", [2] * n_chosen), array("i", [3] * n_rejected))

    found = held_out_accuracy([pair(5, 10), pair(10, 5), pair(20, 5), pair(20, 21)], [1.0, -1.0, 2.0, 0.0])
    assert found == {
        "all": {"pairs": 4, "accuracy": 0.5},
        "shorter": {"pairs": 1, "accuracy": 1.0},
        "alike": {"pairs": 1, "accuracy": 0.0},
        "longer": {"pairs": 2, "accuracy": 0.5},
    }
