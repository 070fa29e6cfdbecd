"""TRL trains on what we publish (that it finds the same numbers there: test_losses_trl.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def trl_trainer(folder: Path, model: Path, reference: Path, out: Path, **settings: Any) -> Any:
    rows = datasets.load_dataset(str(folder), split="train")
    args = trl.DPOConfig(
        output_dir=str(out), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, max_length=None,
        save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    policy, frozen = (AutoModelForCausalLM.from_pretrained(m, dtype=torch.float32) for m in (model, reference))
    tokenizer = AutoTokenizer.from_pretrained(model)
    return trl.DPOTrainer(policy, frozen, args=args, train_dataset=rows, processing_class=tokenizer)


def test_trl_trains_two_steps_on_a_published_folder(dataset: Path, model: Path, tmp_path: Path) -> None:
    trainer = trl_trainer(dataset, model, model, tmp_path / "trl", max_steps=2, per_device_train_batch_size=4)
    assert trainer.train().global_step == 2
