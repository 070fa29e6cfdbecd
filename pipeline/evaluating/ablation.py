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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelers.types import content_id
from pipeline.config import load
from pipeline.engines.vllm import Vllm
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluating.ablation_told import (
    Result,
    gain_by_seed,
    gains,
    gains_at_equal_length,
    tokens,
)
from pipeline.evaluating.commands import printed, sets
from pipeline.evaluating.evaluate import REFERENCE, Measured, evaluate_passing
from pipeline.publishing.versions import folder_of
from pipeline.storage.shards import read_json, replacing, write_json, write_parquet

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
        measured = evaluate_passing(config, models, self.heldout, [1.0], self.n, self.root)
        return self._results(measured, folder, counts, n_pairs, policies)

    def _results(
        self, measured: Measured, folder: Path, counts: Mapping[str, int], n_pairs: int,
        policies: Mapping[tuple[str, int], Path],
    ) -> list[Result]:  # fmt: skip
        """The best first."""
        named = {name: [f"{name}-s{seed}" for seed in self.seeds] for name in counts}
        held_out, at_equal_length = gains(measured, named), gains_at_equal_length(measured, named)
        results = [
            Result(
                name, counts[name], n_pairs, held_out[name], at_equal_length[name], gain_by_seed(measured, own),
                length_gap(pa.concat_tables([pq.read_table(_drawn(folder / name, n_pairs, s)) for s in self.seeds])),
                tokens(measured, own), _seconds([policies[name, s] for s in self.seeds]),
            )
            for name, own in named.items()
        ]  # fmt: skip
        return sorted(results, key=lambda result: -result.held_out.gain.value)

    def _built(self, variant: Variant, folder: Path, run: Path) -> Path:
        """All pairs of a variant in one file. Its build samples and labels nothing that is there."""
        path, note = folder / variant.name / "pairs.parquet", folder / variant.name / "variant.json"
        settings = [*self.settings, *variant.settings]
        if path.is_file() and note.is_file() and read_json(note)["settings"] == settings:
            return path
        self.say(f"builds {variant.name}")
        command = ("pipeline", "run", str(self.config_file), *sets(settings), "--root", str(self.root), "--json")
        said = json.loads(printed(*command))
        if not said["version"]:
            raise PipelineError(f"{variant.name}: made no pair; hint: leave it out")
        files = sorted((folder_of(run, said["version"]) / "data").glob("*.parquet"))
        with replacing(path) as beside:
            write_parquet(beside, pa.concat_tables([pq.read_table(file) for file in files]))
        write_json(note, {"settings": settings, "pairs": said["pairs"]})
        return path

    def _trained(self, built: Path, folder: Path, seed: int, n_pairs: int, model: str) -> Path:
        """The policy of a variant and a seed."""
        data, policy = _drawn(folder, n_pairs, seed), folder / f"policy-{n_pairs}-s{seed}"
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


def length_gap(pairs: pa.Table) -> float | None:
    """Tokens of the chosen less those of the rejected, on average; None where the sampler's tokens are not known."""
    chosen, rejected = (pc.list_value_length(pairs[f"{side}_token_ids"]) for side in ("chosen", "rejected"))
    gap: float | None = pc.mean(pc.subtract(chosen, rejected)).as_py()
    return gap


def _drawn(folder: Path, n_pairs: int, seed: int) -> Path:
    return folder / f"pairs-{n_pairs}-s{seed}.parquet"


def _seconds(policies: Sequence[Path]) -> float:
    return float(np.mean([read_json(policy.with_name(f"{policy.name}.json"))["seconds"] for policy in policies]))
