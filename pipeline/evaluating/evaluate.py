"""How good is a policy: held-out prompts through the same sampling and the same labelers as the training data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import Message
from pipeline.config import Config, Source
from pipeline.engines.rewards import ImplicitReward
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluating.measures import Answer, Answers, interval
from pipeline.imported import Imported
from pipeline.pair import Pairing
from pipeline.pairing.combine import Role
from pipeline.plan import Plan, Step, make_plan
from pipeline.prompts import chats_of, family_by_id, import_prompts
from pipeline.run import describe_failures, executor_of, locked, perform_all
from pipeline.schema import COMPLETIONS, LABELS, PROMPTS
from pipeline.storage.damage import Checked
from pipeline.storage.shards import read_shard

TEXTS = ["completion_id", "prompt_id", "text", "n_tokens", "finish_reason"]
REFERENCE = "reference"
"""What the policy that the others started from is called, wherever several are measured."""
ALL = "mean"
"""The row that averages the families, each counting the same."""


@dataclass(frozen=True)
class Rate:
    """A pass rate with its 95 % interval, bootstrapped over prompts.

    Args:
        low, high: the interval's ends; equal to `rate` where all prompts agree.
    """

    family: str
    model: str
    temperature: float
    rate: float
    low: float
    high: float
    n_prompts: int
    n_completions: int


@dataclass(frozen=True)
class Measured:
    """What was measured of each (model, temperature).

    Args:
        by_prompt: (model, temperature) -> family -> prompt id -> the share of its completions that pass.
        n: completions of a prompt above temperature 0.
        answers: (model, temperature) -> the completions themselves, with their combined scores.
    """

    by_prompt: Mapping[tuple[str, float], Mapping[str, Mapping[str, float]]]
    n: int
    answers: Mapping[tuple[str, float], Answers] = field(default_factory=dict)

    def rates(self, seed: int = 0) -> list[Rate]:
        """Each family's rate, and the mean over families, for each model and temperature."""
        found = []
        for (model, temperature), families in sorted(self.by_prompt.items()):
            arrays = {family: np.array(list(rates.values())) for family, rates in sorted(families.items())}
            groups = {**{family: [values] for family, values in arrays.items()}, ALL: list(arrays.values())}
            for name, values in groups.items():
                mean, low, high = interval(values, seed)
                n_prompts = sum(map(len, values))
                n = self.n if temperature > 0 else 1
                found.append(Rate(name, model, temperature, mean, low, high, n_prompts, n_prompts * n))
        return found

    def gain(self, model: str, over: str, temperature: float, seed: int = 0) -> dict[str, tuple[float, float, float]]:
        """By how much `model` passes more often than `over`, by family and on average: (mean, low, high), paired by prompt."""
        new, old = self.by_prompt[model, temperature], self.by_prompt[over, temperature]
        differences = {
            family: np.array(
                [rate - old[family][prompt] for prompt, rate in new[family].items() if prompt in old[family]]
            )
            for family in sorted(new)
        }
        gains = {family: interval([values], seed) for family, values in differences.items()}
        return {**gains, ALL: interval(list(differences.values()), seed)}


def evaluate(
    config: Config, models: Mapping[str, str], prompts: str, temperatures: Sequence[float], n: int, root: Path
) -> Measured:
    """Samples `prompts` with each model at each temperature and labels the answers with the labelers of `config`.

    The answers lie in `root`/`<name>-evaluation` as in any run, so that a repeat samples nothing again.

    Args:
        models: name -> model folder or Hub name; the engine's other settings are those of the first vLLM source.
        n: completions per prompt; 1 at temperature 0.

    Raises:
        ConfigError: `config` has no vLLM source, or no labeler that scores single completions.
        PipelineError: shards could not be made.
    """
    asked = replace(
        config,
        name=f"{config.name}-evaluation",
        prompts=replace(config.prompts, path=prompts, limit=None, part=""),
        sources=tuple(_source(config, name, model, t, n) for name, model in models.items() for t in temperatures),
    )
    folder = (root / asked.name).absolute()  # other machines of a cluster work in folders of their own
    with locked(folder):
        imported = import_prompts(asked.prompts, folder / "prompts")
        plan = make_plan(asked, folder)
        judged = Plan(tuple(step for step in plan.steps if step.kind in ("completions", "labels")))
        outcome = perform_all(judged, imported, executor_of(asked), Checked.recall(folder))
    if outcome.failed:
        raise PipelineError(describe_failures(outcome.failed))
    return _measure(asked, plan, imported, n)


def evaluate_passing(
    config: Config, models: Mapping[str, str], prompts: str, temperatures: Sequence[float], n: int, root: Path
) -> Measured:
    """The same where pass rates are asked for. Raises: ConfigError, too, where no labeler knows passing."""
    measured = evaluate(config, models, prompts, temperatures, n, root)
    if not any(measured.by_prompt.values()):
        raise ConfigError(f"run {config.name}: no labeler knows passing; hint: give one a pass_at")
    return measured


def log_ratios(
    measured: Measured, model: str, folder: str, reference: str, prompts: Mapping[str, Sequence[Message]]
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """log pi - log pi_ref of a model's own finished answers at temperature 1, and their tokens, by prompt.

    The pipeline has no log-probability of its own under another model: the trainer's process reckons both.

    Args:
        folder: where the model lies; `reference`: where the one lies that it is measured from.
        prompts: prompt id -> its messages.
    """
    rows = [
        (prompt, answer)
        for prompt, group in measured.answers.get((model, 1.0), {}).items()
        for answer in group
        if answer.finished and answer.text
    ]
    engine = ImplicitReward(policy=folder, reference=reference, beta=1.0).open()
    try:
        values = engine.rewards([(*prompts[prompt], Message("assistant", answer.text)) for prompt, answer in rows])
    finally:
        engine.close()
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    tokens: defaultdict[str, list[int]] = defaultdict(list)
    for (prompt, answer), value in zip(rows, values, strict=True):
        if value is not None:
            ratios[prompt].append(value)
            tokens[prompt].append(answer.n_tokens)
    return dict(ratios), dict(tokens)


def messages_of(config: Config, root: Path) -> dict[str, Sequence[Message]]:
    """The held-out prompts of an evaluation that was made: id -> messages."""
    shards = sorted((root / f"{config.name}-evaluation" / "prompts").glob("[0-9]*.parquet"))
    return {i: said for shard in shards for i, said in chats_of(read_shard(shard, PROMPTS)).items()}


def _source(config: Config, name: str, model: str, temperature: float, n: int) -> Source:
    first = next((s for s in config.sources if isinstance(s.engine, Vllm)), None)
    if first is None or not isinstance(first.engine, Vllm):
        raise ConfigError(f"run {config.name}: has no vllm source to take the engine's settings from")
    return replace(
        first,
        name=f"{name}-t{temperature:g}",
        engine=replace(first.engine, model=model, revision=None),
        temperature=temperature,
        n=n if temperature > 0 else 1,
    )


def _measure(config: Config, plan: Plan, imported: Imported, n: int) -> Measured:
    """Reads the answers and their labels back."""
    stage = plan.pairs.stage
    assert isinstance(stage, Pairing)
    if not stage.roles:
        raise ConfigError(f"run {config.name}: no labeler scores single completions; hint: add one to the config")
    families: dict[str, str] = {}
    for shard in imported.shards:
        families |= family_by_id(read_shard(shard, PROMPTS))
    by_prompt: dict[tuple[str, float], dict[str, dict[str, float]]] = {}
    answers: dict[tuple[str, float], dict[str, list[Answer]]] = {}
    for sample in plan.of_kind("completions"):
        name, _, temperature = sample.name.rpartition("-t")
        own = [step for step in plan.of_kind("labels") if step.inputs[0] == sample.folder]
        found = _answers(sample, own, imported.shards, stage.roles)
        answers[name, float(temperature)] = {prompt: group for prompt, group in found.items() if prompt in families}
        rates = by_prompt.setdefault((name, float(temperature)), defaultdict(dict))
        for prompt, group in answers[name, float(temperature)].items():
            if any(answer.passed is not None for answer in group):
                rates[families[prompt]][prompt] = sum(answer.passed is True for answer in group) / len(group)
    return Measured(by_prompt, n, answers)


def _answers(
    sample: Step, labelled: Sequence[Step], shards: Sequence[Path], roles: Sequence[Role]
) -> dict[str, list[Answer]]:
    """Each prompt's completions; one that any labeler abstained from has no score and did not pass."""
    found: defaultdict[str, list[Answer]] = defaultdict(list)
    for shard in shards:
        labels = pa.concat_tables([read_shard(step.folder / shard.name, LABELS) for step in labelled])
        said: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for row in labels.select(["completion_id", "labeler", "value"]).to_pylist():
            said[row["completion_id"]][row["labeler"]] = math.nan if row["value"] is None else row["value"]
        completions = read_shard(sample.folder / shard.name, COMPLETIONS)
        for row in completions.filter(pc.is_null(completions["error"])).select(TEXTS).to_pylist():
            found[row["prompt_id"]].append(_answer(row, said.get(row["completion_id"], {}), roles))
    return dict(found)


def _answer(row: Mapping[str, Any], said: Mapping[str, float], roles: Sequence[Role]) -> Answer:
    knowing = [said[role.name] >= role.pass_at for role in roles if role.name in said and role.pass_at is not None]
    score = sum(role.weight * said[role.name] for role in roles if role.name in said)
    known = bool(said) and not math.isnan(score)
    return Answer(
        row["text"], row["n_tokens"], all(knowing) if knowing else None, score if known else None,
        finished=row["finish_reason"] == "stop",
    )  # fmt: skip
