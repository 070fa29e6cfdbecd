"""Round after round: sample from the policy, label, pair, train, evaluate; the better policy samples the next round.

Every step is a command of its own, in a process of its own: sampling and training take turns on the device, and a killed
`rounds` goes on where it was, since each command does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.config import Config, load
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluating.commands import printed, sets
from pipeline.evaluating.rounds_told import Round, told
from pipeline.storage.shards import read_json, write_json

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What the rounds are to do.

    Args:
        rounds: how many at most.
        heldout: a prompt file that no round trains on.
        trainer: options of `python -m trainer dpo`.
        fresh: each round takes a part of the prompts of its own; otherwise every round takes all.
        reference: what DPO is measured from: the policy that sampled (`last`), or the first model (`first`).
        n: held-out completions a prompt.
        max_kl: nats a sequence to the first model, at which it stops (own: the demo's policies lie below 3, a collapsed one at 12
            and more; docs/log.md).
        max_growth: how many times longer than the first model's the answers may become (field-notes: length is what runs away).
        min_gain: a round must gain more than this (in shares) with 97.5 % certainty, or it is the last.
    """

    rounds: int
    heldout: str
    trainer: Sequence[str] = ()
    fresh: bool = True
    reference: Literal["last", "first"] = "last"
    n: int = 8
    max_kl: float = 10.0
    max_growth: float = 2.0
    min_gain: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"--rounds {self.rounds}: hint: 1 or more")


@dataclass
class Rounds:
    """The rounds of one config, in `root`/<name>-rounds."""

    config_file: Path
    settings: Sequence[str]
    root: Path
    plan: Plan
    say: Say = print
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        self.config = load(self.config_file, self.settings)
        self.sources = [n for n, source in enumerate(self.config.sources) if isinstance(source.engine, Vllm)]
        if not self.sources:
            raise ConfigError(f"run {self.config.name}: no source samples with vllm, so there is no policy to improve")

    @property
    def folder(self) -> Path:
        """Where policies and results lie."""
        return self.root / f"{self.config.name}-rounds"

    @property
    def first(self) -> str:
        """The model that the first round samples from."""
        engine = self.config.sources[self.sources[0]].engine
        assert isinstance(engine, Vllm)
        return engine.model

    def seed_of(self, number: int) -> int:
        """The seed of a round's sampling and training."""
        return self.config.seed + number - 1

    def run(self) -> list[Round]:
        """All rounds, or as many as it takes to stop."""
        done: list[Round] = []
        for number in range(1, self.plan.rounds + 1):
            sampler = done[-1].policy if done else self.first
            self.say(f"round {number} of {self.plan.rounds}: samples from {sampler}")
            found = self._round(number, sampler)
            done.append(found)
            write_json(self.folder / "rounds.json", {"rounds": [asdict(each) for each in done]})
            self.say(told(found))
            if found.stop:
                break
        return done

    def _round(self, number: int, sampler: str) -> Round:
        made = self._make(number, sampler)
        policy = self.folder / f"policy-{number}"
        reference = sampler if self.plan.reference == "last" else self.first
        trained_from = [] if reference == sampler else [f"--reference-model={reference}"]
        printed(
            *("trainer", "dpo", "--data", made["dataset"], "--model", sampler, "--out", str(policy)),
            *(f"--seed={self.seed_of(number)}", *trained_from, *self.plan.trainer),
        )
        numbers = self._evaluate(number, sampler, str(policy))
        found = _round_of(number, str(policy), self.seed_of(number), int(made["pairs"]), numbers)
        return replace(found, stop=why_stop(found, self.plan))

    def _make(self, number: int, sampler: str) -> Mapping[str, Any]:
        """The round's dataset: an ordinary run whose config names its parent."""
        name = f"{self.config.name}-round-{number}"
        parent = f"{self.config.name}-round-{number - 1}" if number > 1 else self.config.parent
        settings = [*self.settings, f"name={name}", f"seed={self.seed_of(number)}"]
        settings += [f"sources.{n}.engine.model={sampler}" for n in self.sources]
        settings += [f"parent={parent}"] if parent else []
        settings += [f"prompts.part={number}/{self.plan.rounds}"] if self.plan.fresh else []
        made = printed("pipeline", "run", str(self.config_file), *sets(settings), "--root", str(self.root), "--json")
        said: dict[str, Any] = json.loads(made)
        if not said["dataset"]:
            raise PipelineError(f"round {number}: made no pair; hint: python -m pipeline report {self.root / name}")
        return said

    def _evaluate(self, number: int, sampler: str, policy: str) -> Mapping[str, Any]:
        """What the evaluation says of the policy, against the first model and against the one that sampled; kept, since the
        policies do not change."""
        models = {"first": self.first, "sampler": sampler, "policy": policy}
        kept = self.folder / f"evaluation-{number}.json"
        if kept.is_file():
            known = read_json(kept)
            if known["models"] == models:
                return known
        names = {"first": "round-0", "sampler": f"round-{number - 1}", "policy": f"round-{number}"}
        said = {
            base: self._standings({names[role]: models[role] for role in (base, "policy")})
            for base in ("first", "sampler")
            if base == "first" or number > 1
        }
        numbers = {"models": models, "names": names, **said}
        write_json(kept, numbers)
        return numbers

    def _standings(self, models: Mapping[str, str]) -> list[dict[str, Any]]:
        """The evaluation's rows; the first of the models is what the other is measured from."""
        command = ["pipeline", "evaluate", str(self.config_file), *sets(self.settings), "--root", str(self.root)]
        command += ["--json", "--heldout", self.plan.heldout, "--temperature", "1", "--n", str(self.plan.n)]
        command += [part for name, model in models.items() for part in ("--model", f"{name}={model}")]
        standings: list[dict[str, Any]] = json.loads(printed(*command))["standings"]
        return standings


def repetition(config_file: Path, settings: Sequence[str], k: int, rounds: int) -> list[str]:
    """The settings of the k-th of several rows of rounds, from 0: a name and seeds of its own."""
    if k == 0:
        return [*settings]
    config = load(config_file, settings)
    return [*settings, f"name={config.name}-again-{k}", f"seed={config.seed + k * rounds}"]


def why_stop(found: Round, plan: Plan) -> str:
    """Why this round is the last; empty where the next one may begin."""
    if found.kl > plan.max_kl:
        return f"KL {found.kl:.2f} nats a sequence is above {plan.max_kl:g}"
    if found.growth > plan.max_growth:
        return f"answers are {found.growth:.2f} times as long as the first model's, more than {plan.max_growth:g}"
    if found.gain[1] <= plan.min_gain:
        gain, low, _ = (100 * x for x in found.gain)
        return f"the held-out gain of {gain:+.1f} points is not certain: its interval begins at {low:+.1f}"
    return ""


def _round_of(number: int, policy: str, seed: int, pairs: int, numbers: Mapping[str, Any]) -> Round:
    """A round from what the evaluation said, measured from the first model and from the policy that sampled."""
    from_first = {row["model"]: row for row in numbers["first"]}
    from_sampler = {row["model"]: row for row in numbers.get("sampler", numbers["first"])}
    names = numbers["names"]
    own, new = from_first[names["policy"]], from_sampler[names["policy"]]
    return Round(
        number, policy, seed, pairs,
        before=_three(from_sampler[names["sampler"]]["pass_rate"]), rate=_three(own["pass_rate"]), gain=_three(new["gain"]),
        kl=own["kl"]["value"], staleness=new["kl"]["value"], growth=own["tokens"] / from_first[names["first"]]["tokens"],
    )  # fmt: skip


def _three(value: Mapping[str, float]) -> tuple[float, float, float]:
    return value["value"], value["low"], value["high"]
