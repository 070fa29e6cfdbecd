"""How good is a policy: held-out prompts through the same sampling and the same labelers as the training data."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from pipeline.config import Config, Source
from pipeline.damage import Checked
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError, PipelineError
from pipeline.executors.local import LocalExecutor
from pipeline.label import Label
from pipeline.plan import Plan, Step, make_plan
from pipeline.prompts import Imported, family_of, import_prompts, prompts_of
from pipeline.run import describe_failures, locked, perform_all
from pipeline.schema import LABELS, PROMPTS
from pipeline.shards import read_shard

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
    """Pass rates by prompt: (model, temperature) -> family -> prompt id -> share of its completions that pass."""

    by_prompt: Mapping[tuple[str, float], Mapping[str, Mapping[str, float]]]
    n: int

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
        ConfigError: `config` has no vLLM source, or no labeler that knows passing.
        PipelineError: shards could not be made.
    """
    asked = replace(
        config,
        name=f"{config.name}-evaluation",
        prompts=replace(config.prompts, path=prompts, limit=None),
        sources=tuple(_source(config, name, model, t, n) for name, model in models.items() for t in temperatures),
    )
    folder = root / asked.name
    with locked(folder):
        imported = import_prompts(asked.prompts, folder / "prompts")
        plan = make_plan(asked, folder)
        judged = Plan(tuple(step for step in plan.steps if step.kind in ("completions", "labels")))
        outcome = perform_all(judged, imported, LocalExecutor, Checked.recall(folder))
    if outcome.failed:
        raise PipelineError(describe_failures(outcome.failed))
    return _measure(asked, plan, imported, n)


def interval(groups: Sequence[np.ndarray], seed: int) -> tuple[float, float, float]:
    """The mean of the groups' means and its 95 % bootstrap interval (percentile, 2,000 resamples within each group)."""

    def mean_of_means(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)

    mean = float(mean_of_means(*groups))
    if all(np.ptp(group) == 0 for group in groups):
        return mean, mean, mean
    with warnings.catch_warnings():  # a group of equal values among others is no reason to warn
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        ends = stats.bootstrap(
            tuple(groups), mean_of_means, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
    return mean, float(ends.low), float(ends.high)


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
    """Reads the labels back."""
    knowing = [s for s in plan.of_kind("labels") if isinstance(s.stage, Label) and s.stage.pass_at is not None]
    if not knowing:
        raise ConfigError(f"run {config.name}: no labeler knows passing; hint: set pass_at")
    families = {
        prompt.id: family_of(prompt.metadata)
        for shard in imported.shards
        for prompt in prompts_of(read_shard(shard, PROMPTS)).values()
    }
    by_prompt: dict[tuple[str, float], dict[str, dict[str, float]]] = {}
    for sample in plan.of_kind("completions"):
        name, _, temperature = sample.name.rpartition("-t")
        found = by_prompt.setdefault((name, float(temperature)), defaultdict(dict))
        steps = [step for step in knowing if step.inputs == (sample.folder,)]
        for prompt_id, rate in _pass_rates(steps, imported.shards).items():
            found[families[prompt_id]][prompt_id] = rate
    return Measured(by_prompt, n)


def _pass_rates(steps: Sequence[Step], shards: Sequence[Path]) -> dict[str, float]:
    """The share of each prompt's completions that pass all of the steps' labelers; an abstention is no pass."""
    passed: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for step, shard in ((step, shard) for step in steps for shard in shards):
        limit = step.stage.pass_at  # type: ignore[attr-defined]  # chosen by _measure
        for row in read_shard(step.folder / shard.name, LABELS).to_pylist():
            passes = row["value"] is not None and row["value"] >= limit
            completions = passed[row["prompt_id"]]
            completions[row["completion_id"]] = passes and completions.get(row["completion_id"], True)
    return {prompt: sum(completions.values()) / len(completions) for prompt, completions in passed.items()}
