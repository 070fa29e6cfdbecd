"""The same losses as TRL 1.16, by TRL's own code: whole trainers where the loss is inside one, else its loss function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from tests.trainer.conftest import pair_row, write_dataset  # noqa: E402
from trainer.config import DpoOptions, Loss  # noqa: E402
from trainer.data import data_files  # noqa: E402
from trainer.dpo import DpoObjective  # noqa: E402
from trainer.losses import PairLogps, kto_loss, pair_losses  # noqa: E402
from trainer.model import Loaded, load  # noqa: E402
from trainer.pairs import Pair, read_pairs  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.reference import Logps, score  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

BETAS = [0.05, 0.1, 0.5]
IN_DPO_TRAINER = {
    "sigmoid": "sigmoid", "robust": "robust", "hinge": "hinge", "ipo": "ipo", "sigmoid_norm": "sigmoid_norm",
    "apo_zero": "apo_zero", "apo_down": "apo_down",
}  # fmt: skip
ELSEWHERE = {"simpo", "orpo", "kto"}
NOT_IN_TRL = {"dpo_positive"}
KL = 0.7


def test_every_loss_is_compared_or_known_to_be_missing_there() -> None:
    assert set(get_args(Loss)) == set(IN_DPO_TRAINER) | ELSEWHERE | NOT_IN_TRL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", [pair_row(n) for n in range(20)])


@pytest.fixture(scope="module")
def ours(folder: Path, model: Path, other_model: Path) -> tuple[Loaded, list[Pair], Logps]:
    """Our policy, the pairs, and the reference's log-probs."""
    options = DpoOptions(data=(str(folder),), model=str(model), out="-", device="cpu")
    policy, frozen = load(options), load(DpoOptions(data=("-",), model=str(other_model), out="-", device="cpu"))
    pairs = read_pairs(data_files(options.data), policy, 256).pairs
    return policy, pairs, score(frozen, pairs, options, Ranks())


def trainer_of(kind: Any, config: Any, rows: Any, model: Path, other_model: Path, out: Path) -> Any:
    args = config(
        output_dir=str(out), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, max_length=None,
        save_strategy="no", disable_tqdm=True, per_device_train_batch_size=len(rows),
    )  # fmt: skip
    policy, frozen = (AutoModelForCausalLM.from_pretrained(m, dtype=torch.float32) for m in (model, other_model))
    return kind(policy, frozen, args=args, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(model))


@pytest.fixture(scope="module")
def theirs(
    folder: Path, model: Path, other_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """TRL's loss on all pairs, for a loss, a beta and a label smoothing; and TRL's model."""
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path_factory.mktemp("cache")))
    trainer = trainer_of(trl.DPOTrainer, trl.DPOConfig, rows, model, other_model, tmp_path_factory.mktemp("trl"))
    batch = next(iter(trainer.get_train_dataloader()))

    def compute(loss: str, beta: float, smoothing: float) -> tuple[Any, Any]:
        trainer.loss_types, trainer.loss_weights = [loss], [1.0]
        trainer.beta, trainer.label_smoothing = beta, smoothing
        trainer.model.zero_grad()
        return trainer.compute_loss(trainer.model, dict(batch)), trainer.model

    return compute


def our_loss(ours: tuple[Loaded, list[Pair], Logps], loss: str, beta: float, smoothing: float) -> Any:
    """Our mean loss on all pairs, in two micro-batches."""
    policy, pairs, reference = ours
    options = DpoOptions(data=("-",), model="-", out="-", loss=loss, beta=beta, label_smoothing=smoothing)  # type: ignore[arg-type]
    objective = DpoObjective(pairs, reference, policy, options)
    policy.model.zero_grad()
    outcomes = [objective.outcome(policy.model, items) for items in ([0, 1, 2], list(range(3, 20)))]
    return torch.stack([outcome.loss for outcome in outcomes]).sum() / 20


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("loss", sorted(IN_DPO_TRAINER))
def test_loss_is_that_of_trls_dpo_trainer(loss: str, beta: float, ours: Any, theirs: Callable[..., Any]) -> None:
    smoothing = 0.1 if loss == "robust" else 0.0
    with torch.no_grad():
        expected, _ = theirs(IN_DPO_TRAINER[loss], beta, smoothing)
        found = our_loss(ours, loss, beta, smoothing)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("loss", sorted(IN_DPO_TRAINER))
def test_gradients_are_those_of_trls_dpo_trainer(loss: str, ours: Any, theirs: Callable[..., Any]) -> None:
    smoothing = 0.1 if loss == "robust" else 0.0
    expected, their_model = theirs(IN_DPO_TRAINER[loss], 0.1, smoothing)
    expected.backward()
    our_loss(ours, loss, 0.1, smoothing).backward()
    wanted = {name: parameter.grad for name, parameter in their_model.named_parameters()}
    for name, parameter in ours[0].model.named_parameters():
        assert (parameter.grad - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name


@pytest.mark.parametrize("beta", BETAS)
def test_kto_is_that_of_trls_kto_trainer(
    beta: float, ours: tuple[Loaded, list[Pair], Logps], model: Path, other_model: Path, tmp_path: Path
) -> None:
    """TRL's estimate of the KL is replaced by a number, since it pairs prompts and completions by the batch's order."""
    rows = [pair_row(n) for n in range(20)]
    unpaired = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
    ]
    data = datasets.Dataset.from_list(unpaired)
    trainer = trainer_of(trl.KTOTrainer, trl.KTOConfig, data, model, other_model, tmp_path)
    trainer.beta = beta
    trainer._compute_kl_logps = lambda asked, batch: torch.full((40,), KL if asked is trainer.model else 0.0)
    expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).item()

    policy, pairs, reference = ours
    objective = DpoObjective(pairs, reference, policy, DpoOptions(data=("-",), model="-", out="-"))
    with torch.no_grad():
        policy_B2 = objective.policy_logps(policy.model, pairs)
    reference_B2 = objective.reference_logps(policy.model, pairs, policy_B2)
    logps = PairLogps(*policy_B2.unbind(1), *reference_B2.unbind(1), *torch.ones_like(policy_B2).unbind(1))
    found = kto_loss(logps, beta, torch.tensor(KL), 1.0, 1.0).mean().item()
    assert found == pytest.approx(expected, abs=1e-5)


def random_logps() -> PairLogps:
    generator = torch.Generator().manual_seed(0)
    sums = -20 * torch.rand(2, 50, generator=generator) - 0.5
    sizes = torch.randint(3, 30, (2, 50), generator=generator).float()
    return PairLogps(*sums, *torch.full_like(sums, float("nan")), *sizes)


@pytest.mark.parametrize("beta", [0.5, 2.0, 2.5])
def test_simpo_is_that_of_trls_cpo_trainer(beta: float) -> None:
    from trl.experimental.cpo import CPOTrainer

    logps = random_logps()
    settings = SimpleNamespace(
        alpha=0.0,
        beta=beta,
        simpo_gamma=1.4,
        label_smoothing=0.0,
        loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )
    means = (logps.chosen_B / logps.n_chosen_B, logps.rejected_B / logps.n_rejected_B)
    expected, _, _ = CPOTrainer.cpo_loss(settings, *means)
    options = DpoOptions(data=("-",), model="-", out="-", loss="simpo", beta=beta, simpo_gamma=1.4)
    assert torch.allclose(pair_losses(logps, options), expected, atol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
def test_orpo_is_the_chosens_likelihood_and_the_odds_ratio_of_trls_orpo_trainer(beta: float) -> None:
    from trl.experimental.orpo import ORPOTrainer

    logps = random_logps()
    settings = SimpleNamespace(beta=beta, accelerator=SimpleNamespace(device="cpu"))
    means = (logps.chosen_B / logps.n_chosen_B, logps.rejected_B / logps.n_rejected_B)
    bonus, *_ = ORPOTrainer.odds_ratio_loss(settings, *means)
    options = DpoOptions(data=("-",), model="-", out="-", loss="orpo", beta=beta)
    assert torch.allclose(pair_losses(logps, options), -means[0] - bonus, atol=1e-5)
