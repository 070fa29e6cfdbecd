"""LoRA: only the adapter is trained, the model without it is the reference, and peft and transformers load what is saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from .runs import log, weights, words  # noqa: E402

LORA = ("--lora-rank", "4", "--lr", "5e-3")
IDS = torch.arange(5, 25)[None]


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset and the adapter `out` trained on it; the whole model is saved too."""
    from trainer.cli import main

    from .conftest import pair_row, write_dataset

    folder = tmp_path_factory.mktemp("lora")
    data = write_dataset(folder / "dataset", [pair_row(n) for n in range(20)])
    assert main(words(data, model, folder / "merged", *LORA, "--merge")) == 0
    assert main(words(data, model, folder / "out", *LORA)) == 0
    return folder


def test_peft_loads_the_adapter_and_it_is_the_merged_model(trained: Path, model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(model)
    before = logits(base)
    adapted = peft.PeftModel.from_pretrained(base, str(trained / "out"))
    merged = AutoModelForCausalLM.from_pretrained(trained / "merged")
    torch.testing.assert_close(logits(adapted), logits(merged), rtol=1e-4, atol=1e-4)
    assert (logits(merged) - before).abs().max() > 0.05


def test_an_adapter_folder_holds_the_adapter_and_the_tokenizer_only(trained: Path) -> None:
    names = {path.name for path in (trained / "out").iterdir() if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "train.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    assert all(".lora_" in name for name in load_file(trained / "out" / "adapter_model.safetensors"))
    assert (trained / "merged" / "adapter" / "adapter_model.safetensors").exists()


def test_lora_learns(trained: Path) -> None:
    lines = log(trained / "out")
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert lines[-1]["loss"] < 0.6


def test_the_model_without_its_adapter_as_reference_gives_the_losses_of_the_computed_one(
    trainer: Any, trained: Path, model: Path, tmp_path: Path
) -> None:
    code, _, said = trainer(*words(trained / "dataset", model, tmp_path / "out", *LORA, "--reference", "base"))
    assert code == 0
    assert "reference log-probs" not in said  # no pass before training
    for one, other in zip(log(tmp_path / "out"), log(trained / "out"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["kl"] == pytest.approx(other["kl"], abs=1e-3)


def test_an_adapter_is_gone_on_with_against_the_base(trainer: Any, trained: Path, model: Path, tmp_path: Path) -> None:
    more = (*LORA, "--adapter", trained / "out", "--reference", "base", "--max-steps", "1")
    code, _, _ = trainer(*words(trained / "dataset", model, tmp_path / "out", *more))
    assert code == 0
    assert log(tmp_path / "out")[0]["loss"] < 0.6  # it begins where the adapter stands, and the reference is the base


def test_another_adapter_is_another_run(trainer: Any, trained: Path, model: Path, tmp_path: Path) -> None:
    more = ("--lora-rank", "4", "--adapter", trained / "out", "--max-steps", "1")
    assert trainer(*words(trained / "dataset", model, tmp_path / "out", *more))[0] == 0
    other = ("--lora-rank", "4", "--adapter", trained / "merged" / "adapter", "--max-steps", "1")
    assert (trained / "out" / "adapter_model.safetensors").read_bytes() == (
        trained / "merged" / "adapter" / "adapter_model.safetensors"
    ).read_bytes()
    assert "is done already" in trainer(*words(trained / "dataset", model, tmp_path / "out", *other))[2]
    changed = trained / "merged" / "adapter" / "adapter_config.json"
    changed.write_text(changed.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    assert trainer(*words(trained / "dataset", model, tmp_path / "out", *other))[0] == 2


def test_the_frozen_weights_of_a_bfloat16_run_take_no_optimizer_memory(model: Path) -> None:
    from trainer.config import DpoOptions
    from trainer.model import load
    from trainer.ranks import Ranks
    from trainer.start import open_optimizer

    options = DpoOptions(data=("-",), model=str(model), out="-", device="cpu", dtype="bfloat16", lora_rank=4)
    loaded = load(options)
    optimizer = open_optimizer(loaded, options, Ranks())
    assert all("lora_" in name for name in optimizer.names)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.bfloat16}
    assert {master.dtype for master in optimizer.masters} == {torch.float32}


def test_supervised_fine_tuning_takes_adapters_too(trainer: Any, model: Path, tmp_path: Path) -> None:
    rows = [f'{{"prompt": "Say {n}", "completion": "It is {n}."}}\n' for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    argv = ["sft", "--data", tmp_path / "rows.jsonl", "--model", model, "--out", tmp_path / "out", "--no-tensorboard"]
    code, _, _ = trainer(*argv, "--batch-tokens", "64", *LORA, "--lora-targets", "q_proj", "v_proj")
    assert code == 0
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all("q_proj" in name or "v_proj" in name for name in names)


def test_options_of_lora_without_lora_are_refused(trainer: Any, trained: Path, model: Path, tmp_path: Path) -> None:
    for more in (("--merge",), ("--quantize", "nf4"), ("--reference", "base")):
        code, _, said = trainer(*words(trained / "dataset", model, tmp_path / "out", *more))
        assert code == 2
        assert "--lora-rank" in said


@pytest.mark.parametrize(("package", "more"), [("peft", LORA), ("bitsandbytes", (*LORA, "--quantize", "nf4"))])
def test_a_missing_package_is_named(
    trainer: Any, trained: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, more: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, _, said = trainer(*words(trained / "dataset", model, tmp_path / "out", *more))
    assert code == 3
    assert f"needs the package {package}; hint: pip install" in said


def test_the_merged_weights_differ_where_an_adapter_is(trained: Path, model: Path) -> None:
    before, after = weights(model), weights(trained / "merged")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("_proj" in name for name in changed)
