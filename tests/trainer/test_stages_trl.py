"""The other stages' losses are TRL 1.16's too: supervised fine-tuning, the reward model, KTO's rows, the policy gradient."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

from tests.trainer.conftest import pair_row, write_dataset  # noqa: E402
from trainer.config import KtoOptions, RewardModelOptions, SftOptions  # noqa: E402
from trainer.data import data_files  # noqa: E402
from trainer.kto import KtoObjective, read_rated  # noqa: E402
from trainer.model import load  # noqa: E402
from trainer.pairs import Pair, read_pairs  # noqa: E402
from trainer.policy_gradient import clipped_losses  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.reference import score  # noqa: E402
from trainer.reward import RewardObjective, name_padding, with_head  # noqa: E402
from trainer.sft import SftObjective, read_documents  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = [pair_row(n) for n in range(20)]
CPU: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False, "max_length": None,
    "save_strategy": "no", "disable_tqdm": True,
}  # fmt: skip


def their_loss(trainer: Any) -> float:
    """TRL's loss on its first batch, which holds all rows."""
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))))


def asked(kind: Any, data: Path, model: Path, out: Path, **more: Any) -> Any:
    return kind(data=(str(data),), model=str(model), out=str(out), device="cpu", **more)


@pytest.mark.parametrize("completion_only", [True, False])
def test_sft_is_that_of_trls_sft_trainer(model: Path, tmp_path: Path, completion_only: bool) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    config = trl.SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=20, completion_only_loss=completion_only, **CPU
    )
    trainer = trl.SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config,
        train_dataset=datasets.Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = asked(SftOptions, tmp_path / "rows.jsonl", model, tmp_path, completion_only=completion_only)
    loaded = load(options)
    objective = SftObjective(read_documents(data_files(options.data, (".jsonl",)), loaded, 256)[0], loaded, options)
    with torch.no_grad():
        found = objective.outcome(loaded.model, range(20)).loss.item() / sum(objective.weights)
    assert found == pytest.approx(their_loss(trainer), abs=1e-5)


def test_the_reward_models_loss_is_that_of_trls_reward_trainer_with_margin_and_centring(
    model: Path, tmp_path: Path
) -> None:
    options = asked(RewardModelOptions, write_dataset(tmp_path / "data", ROWS), model, tmp_path, margin_weight=1.0)
    loaded = load(options)
    margins = {row["pair_id"]: 0.1 * n for n, row in enumerate(ROWS)}
    read = read_pairs(data_files(options.data), loaded, 256).pairs
    pairs = [Pair(p.pair_id, p.prompt, p.chosen, p.rejected, 1.0, margins[p.pair_id]) for p in read]
    headed = with_head(loaded, seed=0)
    headed.model.score.weight.data *= 20
    with torch.no_grad():
        found = RewardObjective(pairs, headed, options).outcome(headed.model, range(20)).loss.item() / 20

    saved = tmp_path / "saved"
    headed.model.save_pretrained(saved)
    AutoTokenizer.from_pretrained(model).save_pretrained(saved)
    name_padding(saved, loaded)
    config = trl.RewardConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=20, center_rewards_coefficient=options.centring, **CPU
    )
    rows = [
        {name: row[name] for name in ("prompt", "chosen", "rejected")} | {"margin": margins[row["pair_id"]]}
        for row in ROWS
    ]
    trainer = trl.RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.float32), config,
        train_dataset=datasets.Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(saved),
    )  # fmt: skip
    assert found == pytest.approx(their_loss(trainer), abs=1e-5)


def test_ktos_rows_are_those_of_trls_kto_trainer(model: Path, other_model: Path, tmp_path: Path) -> None:
    """Rows that are in no pair, with TRL's weights; the KL, which TRL estimates on rows of its own choice, is given."""
    sides = [(row, "chosen" if n % 3 else "rejected") for n, row in enumerate(ROWS)]
    rows = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row, side in sides]
    config = trl.KTOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=20, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, **CPU
    )  # fmt: skip
    policy, frozen = (AutoModelForCausalLM.from_pretrained(m, dtype=torch.float32) for m in (model, other_model))
    trainer = trl.KTOTrainer(
        policy, frozen, args=config, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    trainer._compute_kl_logps = lambda given, batch: torch.full((20,), 0.7 if given is trainer.model else 0.0)

    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    weights = {"beta": 0.3, "kto_desirable": 1.5, "kto_undesirable": 0.5}
    options = asked(KtoOptions, tmp_path / "rows.jsonl", model, tmp_path, **weights)
    loaded, reference = load(options), load(asked(KtoOptions, tmp_path, other_model, tmp_path))
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    objective = KtoObjective(rated, score(reference, rated.pairs, options, Ranks()), loaded, options)
    objective.stranger_shift = torch.tensor(0.7)
    with torch.no_grad():
        found = objective.outcome(loaded.model, range(20)).loss.item() / 20
    assert found == pytest.approx(their_loss(trainer), abs=1e-5)


def test_the_policy_gradients_loss_is_that_of_trls_rloo_trainer() -> None:
    """On both sides of the clip, with advantages of both signs."""
    generator = torch.Generator().manual_seed(0)
    token_logps_BT = -torch.rand(40, 7, generator=generator)
    mask_BT = (torch.arange(7) < torch.randint(1, 8, (40, 1), generator=generator)).float()
    logp_B = (token_logps_BT * mask_BT).sum(1)
    old_B, advantage_B = (logp_B + 0.5 * torch.randn(40, generator=generator), torch.randn(40, generator=generator))
    same = SimpleNamespace(
        gather=lambda value: value, gather_for_metrics=lambda value: value, reduce=lambda value, reduction: value
    )
    settings = SimpleNamespace(
        epsilon_low=0.2, epsilon_high=0.2, aux_loss_enabled=False, accelerator=same, model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (token_logps_BT, torch.zeros_like(token_logps_BT), None),
    )  # fmt: skip
    ids_BT = torch.zeros(40, 7, dtype=torch.long)
    given = {"prompt_ids": ids_BT, "prompt_mask": mask_BT, "completion_ids": ids_BT, "completion_mask": mask_BT}
    given |= {"old_logps": old_B, "advantages": advantage_B}
    expected = trl.RLOOTrainer._compute_loss(settings, None, given)
    found_B = clipped_losses(logp_B, old_B, advantage_B, torch.ones(40), clip=0.2)
    assert found_B.mean().item() == pytest.approx(expected.item(), abs=1e-6)
