"""KTO on completions that are good or bad by themselves: no pairs are needed (`dpo --loss kto` takes a pair as two such rows).

Legend: B completions of a micro-batch, M metrics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.batches import shuffled, steps_by_count
from trainer.config import KtoOptions
from trainer.data import Encoded, data_files
from trainer.defects import Refused
from trainer.errors import UsageError
from trainer.identity import fingerprint
from trainer.logps import logps_of
from trainer.losses import kto_row_loss
from trainer.model import Loaded, load
from trainer.packing import Tree
from trainer.pairs import Pair
from trainer.ranks import Ranks, joined
from trainer.reference import Logps, score
from trainer.runlog import say
from trainer.sft import content_ids, documents
from trainer.sharding import Turns
from trainer.start import finished, open_optimizer, prepare_out
from trainer.strangers import strangers_of
from trainer.train import Job, Outcome, train
from trainer.watchdog import Limit

NO_LABEL = "its label is neither true nor false"


@dataclass(frozen=True)
class Rated:
    """Completions with their labels, sorted by id, each beside a stranger: another prompt's completion, for the KL estimate.

    A pair here is (completion, stranger) behind the completion's prompt.
    """

    pairs: tuple[Pair, ...]
    good: tuple[bool, ...]
    refused: Refused

    @property
    def data_hash(self) -> str:
        """The identity of what is trained on."""
        lines = (f"{pair.pair_id} {good}" for pair, good in zip(self.pairs, self.good, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def with_strangers(rows: Sequence[tuple[str, Encoded]], max_length: int) -> tuple[Pair, ...]:
    """Each row beside another prompt's completion."""
    names, prompts, sizes = zip(*((name, item.prompt, len(item.completion)) for name, item in rows), strict=True)
    others = (rows[j][1].completion for j in strangers_of(names, prompts, sizes, max_length))
    return tuple(
        Pair(name, item.prompt, item.completion, other) for (name, item), other in zip(rows, others, strict=True)
    )


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
    return Rated(pairs, tuple(good for _, (_, good) in rows), refused)


class KtoObjective:
    """loss = mean over completions of losses.kto_row_loss."""

    metrics = ("good", "good_times_shift", "bad_times_shift", "good_times_tokens", "bad_times_tokens")
    limits: tuple[Limit, ...] = ()

    def __init__(self, rated: Rated, reference: Logps, loaded: Loaded, options: KtoOptions) -> None:
        self.pairs, self.good, self.reference = rated.pairs, rated.good, reference
        self.trees = [Tree(pair.prompt, (pair.chosen,)) for pair in rated.pairs]
        self.ids = [pair.pair_id for pair in rated.pairs]
        self.shapes = [tree.shape for tree in self.trees]
        self.lengths = [shape.n_plain for shape in self.shapes]
        self.weights = [1.0] * len(self.ids)
        self.options = options
        self.device = loaded.device
        self.kl = torch.zeros((), device=self.device)

    def steps(self, epoch: int) -> Iterator[list[int]]:
        return steps_by_count(shuffled(self.ids, self.options.seed, epoch), self.options.batch_completions)

    def ratios(self, model: Any, trees: Sequence[Tree], names: Sequence[str], side: int) -> Tensor:
        """log pi - log pi_ref of each tree's completion. Shapes: -> (B,)."""
        logps_B = logps_of(model, trees, self.device, self.options.head_mib << 20)
        return logps_B - logps_B.new_tensor([self.reference[name][side] for name in names])

    @torch.no_grad()
    def begin(self, model: Any, parts: Turns, ranks: Ranks) -> None:
        """The estimate of the KL: the strangers' mean log pi - log pi_ref over the whole step."""
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for part, counts in parts:
            pairs = [self.pairs[i] for i in part]
            trees = [Tree(pair.prompt, (pair.rejected,)) for pair in pairs]
            ratio_B = self.ratios(model, trees, [pair.pair_id for pair in pairs], 1)
            if counts:
                total += torch.stack([ratio_B.double().sum(), torch.tensor(len(part), device=self.device)])
        ranks.sum_in_place([total])
        self.kl = (total[0] / total[1]).float()

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        ratio_B = self.ratios(model, [self.trees[i] for i in items], [self.ids[i] for i in items], 0)
        good_B = torch.tensor([self.good[i] for i in items], device=self.device)
        losses_B = kto_row_loss(
            ratio_B, good_B, self.options.beta, self.kl, self.options.kto_desirable, self.options.kto_undesirable
        )
        size_B = ratio_B.new_tensor([len(self.pairs[i].chosen) for i in items])
        shift_B, good, bad = ratio_B.detach(), good_B.float(), (~good_B).float()
        metrics_BM = torch.stack([good, good * shift_B, bad * shift_B, good * size_B, bad * size_B], dim=1)
        return Outcome(losses_B.sum(), losses_B.detach(), metrics_BM)

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        found = {"good": means["good"], "kl": float(self.kl)}
        for side, share in (("good", means["good"]), ("bad", 1 - means["good"])):
            if share > 0:
                found[f"{side}_shift"] = means[f"{side}_times_shift"] / share
                found[f"{side}_shift_per_token"] = means[f"{side}_times_shift"] / means[f"{side}_times_tokens"]
        return found | {"completions_per_s": n_items / seconds}


def run(options: KtoOptions) -> dict[str, Any]:
    """`python -m trainer kto`."""
    data_files(options.data, (".parquet", ".jsonl"))  # a wrong path is said before a model is read
    out = prepare_out(options)
    loaded = load(options)
    rated = read_rated(options.data, loaded, options, "refused.jsonl")
    held = read_rated(options.eval_data, loaded, options, "refused-eval.jsonl") if options.eval_data else None
    held_hash = held.data_hash if held is not None and options.patience else None
    identity = fingerprint(options, data=rated.data_hash, held_out=held_hash, **loaded.hashes)
    before = finished(out, identity)
    if before is not None:
        return before
    with joined(loaded.device) as ranks:
        optimizer = open_optimizer(loaded, options, ranks)

        def objective_of(found: Rated) -> KtoObjective:
            return KtoObjective(found, score(loaded, found.pairs, options, ranks), loaded, options)

        objective = objective_of(rated)
        held_out = None if held is None else objective_of(held)
        result = train(Job(loaded, optimizer, objective, options, identity, ranks, held_out))
    return {**result, "refused": dict(rated.refused.counts)}
