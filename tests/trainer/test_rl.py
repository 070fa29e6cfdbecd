"""`python -m trainer rl`: it reads the pipeline's shards by their columns, and the reward rises."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")

from trainer.config import RlOptions  # noqa: E402
from trainer.errors import UsageError  # noqa: E402
from trainer.groups import COMPLETIONS, LABELS, group_files, read_groups  # noqa: E402
from trainer.model import Loaded, load, load_tokenizer, model_hash, template_hash, tokenizer_hash  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.rl import Known, RlObjective, before_first_step  # noqa: E402

PROMPTS = [f"Say {n}" for n in range(8)]
N = 6
LIMIT = 4  # tokens of a completion


def sample_rows(folder: Path, temperature: float = 1.0, seed: int = 0) -> list[dict[str, Any]]:
    """Completions drawn from the model with plain torch, as rows of docs/format.md, with their log-probs at temperature 1."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    tokenizer, policy = (
        load_tokenizer(str(folder)),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
    )
    hashes = {"model_hash": model_hash(str(folder)), "tokenizer_hash": tokenizer_hash(tokenizer)}
    hashes["template_hash"] = template_hash(tokenizer)
    rows = []
    for number, prompt in enumerate(PROMPTS):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        given = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids_BT = torch.tensor([given] * N)
        with torch.no_grad():
            for _ in range(LIMIT):
                logits = policy(ids_BT).logits[:, -1] / temperature
                ids_BT = torch.cat([ids_BT, torch.multinomial(logits.softmax(-1), 1)], dim=1)
            logps = policy(ids_BT).logits.log_softmax(-1)[:, :-1].gather(2, ids_BT[:, 1:, None]).squeeze(2)
        for k, ids in enumerate(ids_BT[:, len(given) :].tolist()):
            n = ids.index(1) + 1 if 1 in ids else LIMIT
            logp = logps[k, len(given) - 1 : len(given) - 1 + n].sum().item()
            rows.append(
                {
                    "completion_id": f"{number:02}-{k}", "prompt_id": f"{number:02}", "token_ids": ids[:n], "logp": logp,
                    "finish_reason": "stop" if 1 in ids else "length", "temperature": temperature, "top_p": 1.0,
                    "prompt_token_ids": given, **hashes,
                }
            )  # fmt: skip
    return rows


def reward_of(row: dict[str, Any]) -> float:
    """The share of tokens with an even id."""
    return sum(token % 2 == 0 for token in row["token_ids"]) / len(row["token_ids"])


def labels_of(rows: Sequence[dict[str, Any]], labeler: str = "even") -> list[dict[str, Any]]:
    return [{"completion_id": row["completion_id"], "labeler": labeler, "value": reward_of(row)} for row in rows]


def write_run(folder: Path, rows: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]]) -> Path:
    """A run's folder as `pipeline` leaves it: an older build's labels lie beside the newest's."""
    ids = pa.list_(pa.int32())
    kinds = {"temperature": pa.float64(), "top_p": pa.float64(), "logp": pa.float64(), "value": pa.float64()}
    kinds |= {"prompt_token_ids": ids, "token_ids": ids}
    parts = {"completions-tiny-1": (rows, COMPLETIONS), "labels-even-1": (labels, LABELS)}
    for name, (part, columns) in parts.items():
        schema = pa.schema([(column, kinds.get(column, pa.string())) for column in columns])
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(list(part), schema=schema), folder / name / "00000.parquet")
    (folder / "labels-old-0").mkdir()
    (folder / "labels-old-0/00000.parquet").write_text("not read")
    steps = {
        "folders": {"completions": ["completions-tiny-1"], "labels": ["labels-even-1"]},
        "shards": ["00000.parquet"],
    }
    (folder / "steps.json").write_text(json.dumps(steps))
    return folder


def options(run: Path, model: Path, **changes: Any) -> RlOptions:
    settings: dict[str, Any] = {
        "data": (str(run),),
        "model": str(model),
        "out": "-",
        "device": "cpu",
        "tensorboard": False,
    }
    return RlOptions(**settings | changes)


def read(run: Path, loaded: Loaded, *, rank: bool = False) -> Any:
    return read_groups(*group_files(options(run, Path(loaded.source))), loaded, 256, rank=rank)


@pytest.fixture(scope="module")
def rows(model: Path) -> list[dict[str, Any]]:
    return sample_rows(model)


@pytest.fixture(scope="module")
def loaded(model: Path) -> Loaded:
    return load(options(Path("-"), model))


def test_the_reward_rises_over_rounds_and_the_model_stays_near(trainer: Any, model: Path, tmp_path: Path) -> None:
    policy, means = model, []
    for k in range(3):
        rows = sample_rows(policy, seed=k)
        means.append(sum(map(reward_of, rows)) / len(rows))
        run, out = write_run(tmp_path / f"run-{k}", rows, labels_of(rows)), tmp_path / f"policy-{k}"
        code, result, said = trainer(
            *("rl", "--data", run, "--model", policy, "--reference-model", model, "--out", out, "--device", "cpu"),
            *("--lr", 5e-3, "--schedule", "constant", "--warmup", 0, "--batch-prompts", 2, "--beta", 0.01),
            *("--missing-end", 0, "--no-tensorboard"),
        )  # fmt: skip
        assert code == 0, said
        policy = out
    rows = sample_rows(policy, seed=9)
    means.append(sum(map(reward_of, rows)) / len(rows))
    assert means[-1] > means[0] + 0.1
    assert 0 < result["kl"] < 10
    assert result["completion_tokens"] > 0


def test_policy_and_sampler_agree_at_step_0(trainer: Any, rows: Any, model: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows, labels_of(rows))
    code, _, said = trainer("rl", "--data", run, "--model", model, "--out", tmp_path / "out", "--max-steps", 1)
    assert code == 0
    assert "policy against sampler at step 0" in said
    wrong = [row | {"logp": row["logp"] - 5} for row in rows]
    run = write_run(tmp_path / "wrong", wrong, labels_of(rows))
    code, _, said = trainer("rl", "--data", run, "--model", model, "--out", tmp_path / "out2", "--max-steps", 1)
    assert code == 1
    assert "they differ by" in said


def test_the_first_step_is_reinforce_with_the_others_mean_as_baseline(
    rows: Any, loaded: Loaded, model: Path, tmp_path: Path
) -> None:
    """Loss and gradient against plain transformers: sum over samples of -(A / N) grad log pi."""
    found = read(write_run(tmp_path / "run", rows, labels_of(rows)), loaded)
    asked = options(Path("-"), model, missing_end=0.5, beta=0.0)
    objective = RlObjective(found, before_first_step(loaded, found, asked, Ranks()), loaded, asked)
    loaded.model.zero_grad()
    outcome = objective.outcome(loaded.model, [0, 1])
    outcome.loss.backward()
    ours = {name: p.grad.clone() for name, p in loaded.model.named_parameters()}

    loaded.model.zero_grad()
    for group in found.groups[:2]:
        shaped = [s.reward - 0.5 * (not s.ended) for s in group.samples]
        for own, sample in zip(shaped, group.samples, strict=True):
            others = (sum(shaped) - own) / (len(shaped) - 1)
            ids = torch.tensor([[*group.prompt, *sample.ids]])
            logits = loaded.model(ids, use_cache=False).logits[0, len(group.prompt) - 1 : -1].log_softmax(-1)
            logp = logits.gather(1, ids[0, len(group.prompt) :, None]).sum()
            (-(own - others) * logp / len(shaped)).backward()
    for name, parameter in loaded.model.named_parameters():
        assert (parameter.grad - ours[name]).norm() <= 1e-4 * parameter.grad.norm() + 1e-7, name
    assert outcome.metrics_BM[:, objective.metrics.index("ratio")].tolist() == pytest.approx([1, 1], abs=1e-5)


def test_samples_of_another_temperature_are_scored_at_it(model: Path, loaded: Loaded, tmp_path: Path) -> None:
    rows = sample_rows(model, temperature=1.5)
    found = read(write_run(tmp_path / "run", rows, labels_of(rows)), loaded)
    known = before_first_step(loaded, found, options(Path("-"), model), Ranks())
    sample, group = found.groups[0].samples[0], found.groups[0]
    ids = torch.tensor([[*group.prompt, *sample.ids]])
    with torch.no_grad():
        logits = loaded.model(ids, use_cache=False).logits[0, len(group.prompt) - 1 : -1] / 1.5
    expected = logits.log_softmax(-1).gather(1, ids[0, len(group.prompt) :, None]).sum().item()
    assert known.old[sample.name] == pytest.approx(expected, abs=1e-3)
    assert known.sampler == {}


def test_the_reference_is_another_model_when_named(
    rows: Any, loaded: Loaded, model: Path, other_model: Path, tmp_path: Path
) -> None:
    found = read(write_run(tmp_path / "run", rows, labels_of(rows)), loaded)
    known: Known = before_first_step(
        loaded, found, options(Path("-"), model, reference_model=str(other_model)), Ranks()
    )
    assert known.reference.keys() == known.old.keys()
    assert all(abs(known.reference[name] - known.old[name]) > 1e-3 for name in known.old)


def test_a_completion_that_a_labeler_could_not_score_is_left_out_and_counted(
    rows: Any, loaded: Loaded, tmp_path: Path
) -> None:
    labels = labels_of(rows)
    labels[0]["value"] = None
    found = read(write_run(tmp_path / "run", rows, labels), loaded)
    assert rows[0]["completion_id"] not in {s.name for g in found.groups for s in g.samples}
    assert found.refused["completions without a score of every labeler"] == 1


def test_a_reward_is_the_sum_of_the_labelers_that_score_the_group(rows: Any, loaded: Loaded, tmp_path: Path) -> None:
    second = [label | {"labeler": "more", "value": 1.0} for label in labels_of(rows)[:N]]  # of the first prompt alone
    found = read(write_run(tmp_path / "run", rows, [*labels_of(rows), *second]), loaded)
    rewards = {s.name: s.reward for g in found.groups for s in g.samples}
    for row in rows[: 2 * N]:
        bonus = 1.0 if row["prompt_id"] == "00" else 0.0
        assert rewards[row["completion_id"]] == pytest.approx(reward_of(row) + bonus)


def test_ranks_in_place_of_scores_know_no_outliers(rows: Any, loaded: Loaded, tmp_path: Path) -> None:
    labels = [label | {"value": value} for label, value in zip(labels_of(rows)[:N], [3, -1e6, 3, 7, 3, 0], strict=True)]
    found = read(write_run(tmp_path / "run", rows[:N], labels), loaded, rank=True)
    assert [sample.reward for sample in found.groups[0].samples] == pytest.approx([0.6, 0.0, 0.6, 1.0, 0.6, 0.2])


def test_a_prompt_whose_rewards_are_equal_teaches_nothing(rows: Any, loaded: Loaded, tmp_path: Path) -> None:
    rows = [row | {"finish_reason": "stop"} for row in rows]
    labels = [label | ({"value": 1.0} if label["completion_id"].startswith("00") else {}) for label in labels_of(rows)]
    found = read(write_run(tmp_path / "run", rows, labels), loaded)
    assert "00" not in {group.name for group in found.groups}
    assert found.refused["prompts whose completions all have the same reward"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature above 0"),
        ({"top_p": 0.9}, "top_p 1"),
        ({"temperature": 0.5}, r"temperatures \[0.5, 1.0\]"),
    ],
)
def test_samples_of_a_distribution_that_is_not_the_policys_are_refused(
    rows: Any, loaded: Loaded, tmp_path: Path, change: dict[str, float], message: str
) -> None:
    run = write_run(tmp_path / "run", [rows[0] | change, *rows[1:]], labels_of(rows))
    with pytest.raises(UsageError, match=message):
        read(run, loaded)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"token_ids": None}, "completions without token ids"),
        ({"tokenizer_hash": "other"}, "completions of another tokenizer or template"),
        ({"token_ids": [5] * 400}, "completions longer than max_length"),
        ({"token_ids": [5000]}, "completions with a token id outside the vocabulary"),
    ],
)
def test_a_completion_that_cannot_be_trained_on_is_counted(
    rows: Any, loaded: Loaded, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    found = read(write_run(tmp_path / "run", [rows[0] | change, *rows[1:]], labels_of(rows)), loaded)
    assert found.refused[reason] == 1


def test_samples_of_another_model_are_warned_of(trainer: Any, rows: Any, model: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [row | {"model_hash": "older"} for row in rows], labels_of(rows))
    code, _, said = trainer("rl", "--data", run, "--model", model, "--out", tmp_path / "out", "--max-steps", 1)
    assert code == 0
    assert "were not sampled by this very model" in said


def test_completions_may_be_named_with_their_labels(rows: Any, model: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows, labels_of(rows))
    named = options(run / "completions-tiny-1", model, labels=(str(run / "labels-even-1"),))
    assert group_files(named) == group_files(options(run, model))


def test_a_folder_that_is_no_run_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run that has been built"):
        group_files(options(tmp_path, model))


def test_every_column_that_is_read_is_one_that_the_pipeline_writes() -> None:
    from pipeline.schema import TABLES

    assert set(COMPLETIONS) <= set(TABLES["completions"].names)
    assert set(LABELS) <= set(TABLES["labels"].names)
