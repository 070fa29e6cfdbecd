"""Which pairs are worth it: one set of candidates, several pair rules, as many pairs of each, a policy each, one evaluation.

Each build, training and sampling is left as it is when it is there already, so that a killed ablation goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from labelers.types import content_id
from pipeline.config import load
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluating.commands import printed
from pipeline.evaluating.evaluate import Measured, evaluate
from pipeline.evaluating.measures import Estimate, interval
from pipeline.observing.funnel import aligned
from pipeline.publishing.versions import folder_of
from pipeline.storage.shards import read_json, replacing, write_json, write_parquet

REFERENCE = "reference"
DEFAULT = ("auto", "best_vs_worst", "best_vs_random", "mu_minus_2sigma", "neighbours", "all_pairs")
"""Where labelers know passing, `auto` is `pass_vs_fail`; elsewhere that rule makes no pair."""


@dataclass(frozen=True)
class Variant:
    """A way to build pairs: a name, and what it lays over the config."""

    name: str
    settings: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """`RULE`, or `NAME:KEY=VALUE,KEY=VALUE` with keys of `[pairs]`. Raises ConfigError when it is neither."""
        name, given, rest = text.partition(":")
        keys = rest.split(",") if given else [f"rule={name}"]
        if not name.replace("_", "").replace("-", "").isalnum() or not all("=" in key for key in keys):
            raise ConfigError(f"--variant {text}: hint: a pair rule, or NAME:KEY=VALUE,... with keys of [pairs]")
        return cls(name, tuple(f"pairs.{key}" for key in keys))


@dataclass(frozen=True)
class Result:
    """What one variant came to.

    Args:
        available: pairs that it made; `pairs` of them were trained on.
        gain: of the held-out pass rate, families counting the same, over prompts and seeds together.
        by_seed: the gain of each seed's policy.
        behind: how far it is behind the best variant, paired by prompt.
        seconds: of one training, on average.
    """

    name: str
    available: int
    pairs: int
    gain: Estimate
    by_seed: tuple[float, ...]
    behind: Estimate
    seconds: float

    @property
    def wins(self) -> bool:
        """Whether nothing says that the best is better."""
        return self.behind.low <= 0.0


@dataclass(frozen=True)
class Ablation:
    """An ablation of one config, in `root`/<name>-ablation.

    Args:
        heldout: a prompt file that nothing is trained on.
        seeds: of the choice of pairs and of training.
        trainer: options of `python -m trainer dpo`.
        pairs: pairs to train on; 0: as many as the variant with the fewest makes.
        n: held-out completions a prompt, at temperature 1.
    """

    config_file: Path
    settings: Sequence[str]
    root: Path
    variants: Sequence[Variant]
    heldout: str
    seeds: Sequence[int] = (0, 1, 2)
    trainer: Sequence[str] = ()
    pairs: int = 0
    n: int = 8
    say: Callable[[str], None] = print

    def run(self) -> list[Result]:
        """Builds, trains, evaluates; the best variant first."""
        config = load(self.config_file, self.settings)
        folder = self.root / f"{config.name}-ablation"
        model = next((s.engine.model for s in config.sources if isinstance(s.engine, Vllm)), None)
        if model is None:
            raise ConfigError(f"run {config.name}: no source samples with vllm, so there is no policy to train")
        built = {variant.name: self._built(variant, folder, self.root / config.name) for variant in self.variants}
        counts = {name: pq.ParquetFile(path).metadata.num_rows for name, path in built.items()}
        least = min(counts.values())
        if self.pairs > least:
            raise ConfigError(
                f"--pairs {self.pairs}: {min(counts, key=lambda n: counts[n])} made {least}; hint: at most that"
            )
        n_pairs = self.pairs or least
        policies = {
            (name, seed): self._trained(path, folder / name, seed, n_pairs, model)
            for name, path in built.items()
            for seed in self.seeds
        }
        models = {REFERENCE: model, **{f"{name}-s{seed}": str(path) for (name, seed), path in policies.items()}}
        self.say(f"evaluates {len(models)} models on {self.heldout}")
        measured = evaluate(config, models, self.heldout, [1.0], self.n, self.root)
        found = compared(measured, {name: [f"{name}-s{seed}" for seed in self.seeds] for name in built})
        results = [
            Result(
                name, counts[name], n_pairs, gain, by_seed, behind, _seconds([policies[name, s] for s in self.seeds])
            )
            for name, (gain, by_seed, behind) in found.items()
        ]
        return sorted(results, key=lambda result: -result.gain.value)

    def _built(self, variant: Variant, folder: Path, run: Path) -> Path:
        """All pairs of a variant in one file. Its build samples and labels nothing that is there."""
        path, note = folder / variant.name / "pairs.parquet", folder / variant.name / "variant.json"
        settings = [*self.settings, *variant.settings]
        if path.is_file() and note.is_file() and read_json(note)["settings"] == settings:
            return path
        self.say(f"builds {variant.name}")
        sets = [part for setting in settings for part in ("--set", setting)]
        said = json.loads(printed("pipeline", "run", str(self.config_file), *sets, "--root", str(self.root), "--json"))
        if not said["version"]:
            raise PipelineError(f"{variant.name}: made no pair; hint: leave it out")
        files = sorted((folder_of(run, said["version"]) / "data").glob("*.parquet"))
        with replacing(path) as beside:
            write_parquet(beside, pa.concat_tables([pq.read_table(file) for file in files]))
        write_json(note, {"settings": settings, "pairs": said["pairs"]})
        return path

    def _trained(self, built: Path, folder: Path, seed: int, n_pairs: int, model: str) -> Path:
        """The policy of a variant and a seed."""
        data, policy = folder / f"pairs-{n_pairs}-s{seed}.parquet", folder / f"policy-{n_pairs}-s{seed}"
        if not data.is_file():
            with replacing(data) as beside:
                write_parquet(beside, drawn(pq.read_table(built), n_pairs, seed))
        if not (policy / "train.json").is_file():
            self.say(f"trains {policy.relative_to(folder.parent)}")
        started = time.monotonic()
        printed(
            "trainer", "dpo", "--data", str(data), "--model", model, "--out", str(policy), "--seed", str(seed), *self.trainer
        )  # fmt: skip
        if not (folder / f"{policy.name}.json").is_file():
            write_json(folder / f"{policy.name}.json", {"seconds": time.monotonic() - started})
        return policy


def drawn(table: pa.Table, n: int, seed: int) -> pa.Table:
    """`n` rows of the pairs, drawn by their ids, in the table's order."""
    ids = table["pair_id"].to_pylist()
    chosen = sorted(sorted(range(len(ids)), key=lambda place: content_id(seed, ids[place]))[:n])
    return table.take(chosen)


def compared(
    measured: Measured, policies: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Estimate, tuple[float, ...], Estimate]]:
    """Variant -> its gain over the reference, each seed's gain, and how far it is behind the best.

    Args:
        policies: variant -> the names under which its seeds' policies were measured.
    """
    base = measured.by_prompt[REFERENCE, 1.0]
    rates = {name: _over_seeds([measured.by_prompt[one, 1.0] for one in own]) for name, own in policies.items()}
    gains = {name: _difference(own, base) for name, own in rates.items()}
    best = max(gains, key=lambda name: gains[name].value)
    return {
        name: (
            gains[name],
            tuple(_difference(measured.by_prompt[one, 1.0], base).value for one in policies[name]),
            _difference(rates[best], rates[name]),
        )
        for name in policies
    }


def table(results: Sequence[Result]) -> str:
    """The results for people: gains in points."""
    head = (
        "variant",
        "pairs made",
        "trained on",
        "gain",
        "by seed",
        "per 100 pairs",
        "per minute",
        "behind the best",
        "",
    )
    rows = [
        (
            r.name, r.available, r.pairs, _points(r.gain), " ".join(f"{100 * gain:+.1f}" for gain in r.by_seed),
            f"{1e4 * r.gain.value / r.pairs:.2f}", f"{6e3 * r.gain.value / r.seconds:.1f}", _points(r.behind),
            "wins" if r.wins else "",
        )
        for r in results
    ]  # fmt: skip
    return aligned([head, *rows])


def _over_seeds(rates: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Family -> prompt -> the mean rate over seeds."""
    return {
        family: {prompt: float(np.mean([seed[family][prompt] for seed in rates])) for prompt in rates[0][family]}
        for family in rates[0]
    }


def _difference(new: Mapping[str, Mapping[str, float]], old: Mapping[str, Mapping[str, float]]) -> Estimate:
    """The mean over families of `new` less `old`, paired by prompt."""
    gaps = [np.array([rate - old[family][prompt] for prompt, rate in new[family].items()]) for family in sorted(new)]
    return Estimate(*interval(gaps, 0), sum(map(len, gaps)))


def _seconds(policies: Sequence[Path]) -> float:
    return float(np.mean([read_json(policy.with_name(f"{policy.name}.json"))["seconds"] for policy in policies]))


def _points(value: Estimate) -> str:
    return f"{100 * value.value:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"
