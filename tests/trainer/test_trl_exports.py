"""TRL trains on the dataset folder, and on what `export --as` writes, as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

from pipeline.config import load  # noqa: E402
from pipeline.pairing.candidates import export_candidates  # noqa: E402
from pipeline.run import run  # noqa: E402
from tests.pipeline.conftest import write_replay  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

MODEL = Path(__file__).resolve().parents[2] / "data" / "tiny-model"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a replay run with 8 passing and 8 failing completions."""
    folder = tmp_path_factory.mktemp("run")
    return run(load(write_replay(folder)), folder / "runs").folder


@pytest.fixture
def exported(finished: Path, tmp_path: Path) -> Callable[[str], Any]:
    """The rows of an export as `datasets` gives them to a trainer."""

    def make(kind: str) -> Any:
        _, folder = export_candidates(finished, kind, tmp_path / kind)
        return datasets.load_dataset(str(folder), split="train")

    return make


def options(kind: Any, out: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(out), max_steps=1, per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, save_strategy="no", disable_tqdm=True, logging_steps=1, **more,
    )  # fmt: skip


def causal() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def loss_of(trainer: Any) -> float:
    """The loss of the one step."""
    return float(trainer.train().training_loss)


def test_dpo_trains_a_step_on_the_dataset_folder_itself(finished: Path, tmp_path: Path) -> None:
    rows = datasets.load_dataset(str(finished / "dataset"), split="train")
    trainer = trl.DPOTrainer(
        causal(), args=options(trl.DPOConfig, tmp_path), train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    )  # fmt: skip
    assert len(trainer.train_dataset) == len(rows) > 0
    assert loss_of(trainer) == pytest.approx(0.6931, abs=1e-3)  # ln 2: the policy is still the reference


def test_kto_trains_a_step_on_the_unpaired_export(exported: Callable[[str], Any], tmp_path: Path) -> None:
    trainer = trl.KTOTrainer(
        causal(), causal(), args=options(trl.KTOConfig, tmp_path), train_dataset=exported("kto"),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    )  # fmt: skip
    assert len(trainer.train_dataset) == 16
    assert sorted(trainer.train_dataset["label"]) == [False] * 8 + [True] * 8
    assert 0 < loss_of(trainer) < 10


def test_the_reward_trainer_trains_a_step_and_takes_the_margin(exported: Callable[[str], Any], tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, dtype=torch.float32)
    trainer = trl.RewardTrainer(
        model, args=options(trl.RewardConfig, tmp_path), train_dataset=exported("reward"),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["margin"].tolist() == [1.0] * 4
    assert 0 < loss_of(trainer) < 10


def test_sft_trains_a_step_on_the_completions_alone(exported: Callable[[str], Any], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    trainer = trl.SFTTrainer(
        causal(), args=options(trl.SFTConfig, tmp_path), train_dataset=exported("sft"), processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trained = [tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in batch["labels"]]
    assert all(text.startswith("def f(x):") for text in trained)
    assert 0 < loss_of(trainer) < 20
