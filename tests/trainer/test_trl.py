"""The same numbers as TRL's DPOTrainer, and TRL trains on what we publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from trainer.config import DpoOptions  # noqa: E402
from trainer.data import data_files  # noqa: E402
from trainer.dpo import DpoObjective  # noqa: E402
from trainer.model import load  # noqa: E402
from trainer.pairs import read_pairs  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.reference import score  # noqa: E402

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


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_loss_and_gradients_equal_trl(
    dataset: Path, model: Path, other_model: Path, tmp_path: Path, beta: float
) -> None:
    theirs = trl_trainer(dataset, model, other_model, tmp_path / "trl", beta=beta, per_device_train_batch_size=20)
    batch = next(iter(theirs.get_train_dataloader()))
    expected = theirs.compute_loss(theirs.model, batch)
    expected.backward()

    options = DpoOptions(data=(str(dataset),), model=str(model), out="-", device="cpu", beta=beta)
    policy, frozen = load(options), load(DpoOptions(data=("-",), model=str(other_model), out="-", device="cpu"))
    pairs = read_pairs(data_files(options.data), policy, 256).pairs
    objective = DpoObjective(pairs, score(frozen, pairs, options, Ranks()), policy, options)
    outcomes = [objective.outcome(policy.model, items) for items in ([0, 1, 2], list(range(3, 20)))]
    loss = torch.stack([outcome.loss for outcome in outcomes]).sum() / 20
    loss.backward()

    assert abs(loss.item() - expected.item()) <= 1e-5
    wanted = dict(theirs.model.named_parameters())
    for name, parameter in policy.model.named_parameters():
        gap = (parameter.grad - wanted[name].grad).norm() / wanted[name].grad.norm()
        assert gap <= 1e-4, name


def test_trl_trains_two_steps_on_a_published_folder(dataset: Path, model: Path, tmp_path: Path) -> None:
    trainer = trl_trainer(dataset, model, model, tmp_path / "trl", max_steps=2, per_device_train_batch_size=4)
    assert trainer.train().global_step == 2
