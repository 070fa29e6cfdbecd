"""Ways to train a policy from one set of labelled candidates: on its pairs, on its chosen, or by RL on new samples."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config, load
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluating.commands import printed, sets
from pipeline.storage.shards import replacing, write_parquet

COMMANDS = ("dpo", "sft", "rl")


@dataclass(frozen=True)
class Way:
    """A way to train.

    Args:
        family: the curve that it is on, such as DPO.
        setting: what tells it from others of its family, such as `beta 0.1`.
        command: of `python -m trainer`: `dpo` on the pairs, `sft` on their chosen, `rl` in rounds of samples of its own.
        options: of that command.
    """

    family: str
    setting: str
    command: str
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Way:
        """`FAMILY/SETTING=COMMAND OPTIONS`. Raises ConfigError when it is not."""
        name, _, command = text.partition("=")
        family, _, setting = name.partition("/")
        words = shlex.split(command)
        if not family or not setting or not words or words[0] not in COMMANDS:
            raise ConfigError(
                f'--way {text}: hint: FAMILY/SETTING=dpo|sft|rl OPTIONS, like "DPO/beta 0.1=dpo --beta 0.1"'
            )
        return cls(family, setting, words[0], tuple(words[1:]))

    @property
    def name(self) -> str:
        """What its folders and models are called."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.family} {self.setting}".lower()).strip("-")


# What 2305.18290 compares and its nearest kin; betas from the common 0.1 upward, where policies stay near the reference.
DEFAULT = tuple(
    map(
        Way.parse,
        (
            "DPO/beta 1=dpo --beta 1",
            "DPO/beta 0.3=dpo --beta 0.3",
            "DPO/beta 0.1=dpo --beta 0.1",
            "DPO-Positive/beta 0.3=dpo --loss dpo_positive --beta 0.3",
            "DPO-Positive/beta 0.1=dpo --loss dpo_positive --beta 0.1",
            "IPO/beta 0.5=dpo --loss ipo --beta 0.5",
            "SFT on the chosen/1 epoch=sft",
            "SFT on the chosen/3 epochs=sft --epochs 3",
            "RL/beta 0.05=rl --beta 0.05",
        ),
    )
)


@dataclass(frozen=True)
class Trained:
    """A policy: where it lies, which seed, and what is written beside its point.

    Args:
        checkpoint: which of the policies of one training it is; empty where there is one.
    """

    way: Way
    seed: int
    policy: Path
    checkpoint: str = ""

    @property
    def note(self) -> str:
        """What tells it from others on its curve, seeds aside."""
        return f"{self.way.setting}, {self.checkpoint}" if self.checkpoint else self.way.setting

    @property
    def model(self) -> str:
        """Its name in an evaluation."""
        return self.policy.name


@dataclass(frozen=True)
class Workshop:
    """Trains policies from one config's data; what is there already is left as it is.

    Args:
        folder: where policies go.
        options: command of the trainer -> options for all of its ways.
        rounds: of RL. Each samples from the last one's policy, on its share of the prompts: in all as many completions are
            labelled as for the pairs.
    """

    config_file: Path
    settings: Sequence[str]
    root: Path
    folder: Path
    options: Mapping[str, Sequence[str]]
    rounds: int = 2
    say: Callable[[str], None] = print

    @property
    def config(self) -> Config:
        """The config, the settings laid over it."""
        return load(self.config_file, self.settings)

    @property
    def first(self) -> str:
        """The model that samples the candidates, and that everything is trained from.

        Raises:
            ConfigError: no source samples with vLLM.
        """
        model = next((s.engine.model for s in self.config.sources if isinstance(s.engine, Vllm)), None)
        if model is None:
            raise ConfigError(f"run {self.config.name}: no source samples with vllm, so there is no policy to train")
        return model

    def dataset(self) -> Path:
        """The pairs that all ways but RL learn from; the chosen alone lie in `folder`/chosen.parquet."""
        said = self._run(self.settings)
        if not said["dataset"]:
            run = self.root / self.config.name
            raise PipelineError(f"{run}: made no pair; hint: python -m pipeline report {run}")
        dataset = Path(said["dataset"])
        chosen = self.folder / "chosen.parquet"
        if not chosen.is_file():
            rows = pa.concat_tables([pq.read_table(path) for path in sorted((dataset / "data").glob("*.parquet"))])
            once = dict(zip(rows["chosen_id"].to_pylist(), range(len(rows)), strict=True))
            rows = (
                rows.take(sorted(once.values())).select(["prompt", "chosen"]).rename_columns(["prompt", "completion"])
            )
            with replacing(chosen) as beside:
                write_parquet(beside, rows)
        return dataset

    def train(self, way: Way, seed: int, dataset: Path) -> list[Trained]:
        """The policies of one way and seed: one, or one after each round of RL."""
        if way.command == "rl":
            return self._rounds(way, seed)
        data = dataset if way.command == "dpo" else self.folder / "chosen.parquet"
        policy = self.folder / f"{way.name}-s{seed}"
        self._trained(way, seed, data, self.first, policy)
        return [Trained(way, seed, policy)]

    def _rounds(self, way: Way, seed: int) -> list[Trained]:
        found: list[Trained] = []
        for k in range(1, self.rounds + 1):
            sampler = str(found[-1].policy) if found else self.first
            settings = self._round_settings(way, seed, k, sampler)
            self._run(settings)
            policy = self.folder / f"{way.name}-r{k}-s{seed}"
            near = ["--reference-model", self.first] if found else []
            self._trained(way, seed, self.root / load(self.config_file, settings).name, sampler, policy, near)
            found.append(Trained(way, seed, policy, f"round {k}"))
        return found

    def _round_settings(self, way: Way, seed: int, k: int, sampler: str) -> list[str]:
        """The run that a round of RL samples and labels. The first one's is the same for all ways and seeds."""
        own = f"{way.name}-r{k}-s{seed}" if k > 1 else "rl-r1"
        config = self.config
        settings = [*self.settings, f"name={config.name}-{own}", f"prompts.part={k}/{self.rounds}"]
        settings += [f"seed={config.seed + seed * self.rounds + k}"] if k > 1 else []
        settings += [f"prompts.limit={-(-config.prompts.limit // self.rounds)}"] if config.prompts.limit else []
        vllm = [n for n, source in enumerate(config.sources) if isinstance(source.engine, Vllm)]
        return [*settings, *(f"sources.{n}.engine.model={sampler}" for n in vllm)]

    def _run(self, settings: Sequence[str]) -> dict[str, Any]:
        command = ("pipeline", "run", str(self.config_file), *sets(settings), "--root", str(self.root), "--json")
        said: dict[str, Any] = json.loads(printed(*command))
        return said

    def _trained(self, way: Way, seed: int, data: Path, model: str, policy: Path, more: Sequence[str] = ()) -> None:
        if not (policy / "train.json").is_file():
            self.say(f"trains {policy.name}")
        printed(
            *("trainer", way.command, "--data", str(data), "--model", model, "--out", str(policy), "--seed", str(seed)),
            *(*more, *self.options.get(way.command, ()), *way.options),
        )
