"""KTO on completions that are good or bad by themselves: no pairs are needed (`dpo --loss kto` takes a pair as two such rows).

Legend: B completions of a micro-batch, M metrics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.adapters import without_adapter
from trainer.batches import shuffled, steps_by_count
from trainer.command import Objectives, carry_out
from trainer.config import KtoOptions
from trainer.data import Encoded, data_files
from trainer.defects import Refused
from trainer.errors import UsageError
from trainer.evaluate import warn_of_trained
from trainer.identity import fingerprint
from trainer.logps import logps_of
from trainer.losses import kto_row_loss
from trainer.model import Loaded, load, model_hash
from trainer.packing import Tree
from trainer.pairs import Pair, PairSet
from trainer.ranks import Ranks
from trainer.reference import Logps, reference_logps
from trainer.runlog import say
from trainer.sft import content_ids, documents
from trainer.sharding import Turns
from trainer.start import prepare_out
from trainer.strangers import mean_shift, strangers_of
from trainer.train import Outcome
from trainer.watchdog import fall_limit, kl_limit

NO_LABEL = "its label is neither true nor false"
HINT = "lower --lr, or raise --beta"


@dataclass(frozen=True)
class Rated:
    """Completions with their labels, sorted by id, each beside a stranger: another prompt's completion, for the KL estimate.

    A pair here is (completion, stranger) behind the completion's prompt: both are scored under the reference alike.
    """

    found: PairSet
    good: tuple[bool, ...]

    @property
    def pairs(self) -> list[Pair]:
        """Completion and stranger, in the order of `good`."""
        return self.found.pairs

    @property
    def data_hash(self) -> str:
        """The identity of what is trained on."""
        lines = (f"{pair.pair_id} {good}" for pair, good in zip(self.pairs, self.good, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def with_strangers(rows: Sequence[tuple[str, Encoded]], max_length: int) -> list[Pair]:
    """Each row beside another prompt's completion."""
    names, prompts, sizes = zip(*((name, item.prompt, len(item.completion)) for name, item in rows), strict=True)
    others = (rows[j][1].completion for j in strangers_of(names, prompts, sizes, max_length))
    return [Pair(name, item.prompt, item.completion, other) for (name, item), other in zip(rows, others, strict=True)]


def read_rated(sources: Sequence[str], loaded: Loaded, options: KtoOptions, told: str) -> Rated:
    """All rows worth training on; what was refused is said, and written to the file `told` in `--out`.

    Raises:
        UsageError: none is left, or all are good, or all are bad.
    """
    refused, kept = Refused(), []
    files = data_files(sources, (".parquet", ".jsonl"))
    for name, row, item in documents(files, loaded, options.max_length, refused, cut_prompt=options.cut_prompt):
        if isinstance(row.get("label"), bool):
            kept.append((item, row["label"]))
        else:
            refused.add(NO_LABEL, name)
    refused.tell()
    refused.write(Path(options.out) / told)
    n_good = sum(good for _, good in kept)
    if not 0 < n_good < len(kept):
        raise UsageError(f"{n_good} of {len(kept)} rows in {', '.join(sources)} are good; hint: KTO needs both kinds")
    say(f"{len(kept)} completions, {n_good} of them good")
    rows = sorted(zip(content_ids([item for item, _ in kept]), kept, strict=True), key=lambda row: row[0])
    pairs = with_strangers([(name, item) for name, (item, _) in rows], options.max_length)
    return Rated(PairSet(pairs, refused), tuple(good for _, (_, good) in rows))


class KtoObjective:
    """loss = mean over completions of losses.kto_row_loss."""

    metrics = (
        "good", "good_times_shift", "bad_times_shift", "good_times_tokens", "bad_times_tokens", "kl", "accuracy",
    )  # fmt: skip

    def __init__(self, rated: Rated, reference: Logps, loaded: Loaded, options: KtoOptions) -> None:
        self.pairs, self.good, self.reference = rated.pairs, rated.good, reference
        self.ids = [pair.pair_id for pair in rated.pairs]
        self.shapes = [self.tree(i, 0).shape for i in range(len(self.ids))]
        self.lengths = [shape.n_plain for shape in self.shapes]
        self.weights = [1.0] * len(self.ids)
        self.options = options
        self.device = loaded.device
        self.stranger_shift = torch.zeros((), device=self.device)
        self.limits = (
            fall_limit(
                "good_fall", options.good_fall, "good completions'", "good_times_shift", "good_times_tokens", HINT
            ),
            kl_limit(options.kl_limit, HINT),
        )

    def steps(self, epoch: int) -> Iterator[list[int]]:
        return steps_by_count(shuffled(self.ids, self.options.seed, epoch), self.options.batch_completions)

    def tree(self, item: int, side: int) -> Tree:
        """A row's prompt with its completion (side 0) or its stranger (side 1)."""
        pair = self.pairs[item]
        return Tree(pair.prompt, ((pair.chosen, pair.rejected)[side],))

    def shifts(self, model: Any, items: Sequence[int], side: int) -> Tensor:
        """log pi - log pi_ref of each row's completion (side 0) or stranger (side 1). Shapes: -> (B,)."""
        trees = [self.tree(i, side) for i in items]
        policy_B = self.policy_logps(model, trees)
        if self.options.reference == "base":
            with torch.no_grad(), without_adapter(model):
                reference_B = self.policy_logps(model, trees)
        else:
            reference_B = policy_B.new_tensor([self.reference[self.ids[i]][side] for i in items])
        return policy_B - reference_B

    def policy_logps(self, model: Any, trees: Sequence[Tree]) -> Tensor:
        """The model's log-prob of each tree's one completion. Shapes: -> (B,)."""
        return logps_of(model, trees, self.device, self.options.head_mib << 20)

    def begin(self, model: Any, parts: Turns, ranks: Ranks) -> None:
        """KTO's z before it is bounded."""
        self.stranger_shift = mean_shift(lambda items: self.shifts(model, items, 1), parts, ranks, self.device)

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        shift_B = self.shifts(model, items, 0)
        good_B = torch.tensor([self.good[i] for i in items], device=self.device)
        options = self.options
        losses_B = kto_row_loss(
            shift_B, good_B, options.beta, self.stranger_shift, options.kto_desirable, options.kto_undesirable
        )
        size_B = shift_B.new_tensor([len(self.pairs[i].chosen) for i in items])
        shift_B, good, bad = shift_B.detach(), good_B.float(), (~good_B).float()
        right_B = ((shift_B > self.stranger_shift.clamp(min=0)) == good_B).float()
        columns = [good, good * shift_B, bad * shift_B, good * size_B, bad * size_B, -shift_B, right_B]
        return Outcome(losses_B.sum(), losses_B.detach(), torch.stack(columns, dim=1))

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        found = {name: means[name] for name in ("good", "accuracy", "kl")}
        found["kl_per_token"] = means["kl"] / (means["good_times_tokens"] + means["bad_times_tokens"])
        found["stranger_shift"] = float(self.stranger_shift)
        for side, share in (("good", means["good"]), ("bad", 1 - means["good"])):
            if share > 0:
                found[f"{side}_shift"] = means[f"{side}_times_shift"] / share
                found[f"{side}_shift_per_token"] = means[f"{side}_times_shift"] / means[f"{side}_times_tokens"]
        return found | {"completions_per_s": n_items / seconds}


def run(options: KtoOptions) -> dict[str, Any]:
    """`python -m trainer kto`."""
    data_files(options.data, (".parquet", ".jsonl"))  # a wrong path is said before a model is read
    prepare_out(options)
    loaded = load(options)
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    held = read_rated(options.eval_data, loaded, options, "refused-eval.jsonl") if options.eval_data else None
    warn_of_trained((pair.prompt for pair in rated.pairs), (pair.prompt for pair in held.pairs) if held else ())
    hashes = {"data": rated.data_hash, "held_out": held.data_hash if held else None}
    other = model_hash(options.reference_model) if options.reference_model else None
    identity = fingerprint(options, **hashes, reference_model=other, **loaded.hashes)

    def objective_of(one: Rated, asked: KtoOptions, ranks: Ranks) -> KtoObjective:
        return KtoObjective(one, reference_logps(loaded, one.found, (), asked, ranks), loaded, options)

    def objectives(ranks: Ranks) -> Objectives:
        trained = objective_of(rated, options, ranks)
        return trained, objective_of(held, replace(options, data=options.eval_data), ranks) if held else None

    return carry_out(loaded, options, identity, objectives, rated.found.refused)
