"""Direct preference optimisation: raise the chosen completion against the rejected, measured from the reference.

Legend: B pairs of a micro-batch (2 B rows), M metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.adapters import without_adapter
from trainer.attention_choice import prepare
from trainer.batches import shuffled, steps_by_count, steps_by_prompt
from trainer.command import Objectives, carry_out
from trainer.config import DpoOptions, LogpsOptions
from trainer.data import data_files
from trainer.evaluate import warn_of_trained
from trainer.identity import fingerprint
from trainer.logps import logps_of
from trainer.losses import PairLogps, pair_losses
from trainer.measures import metric_names, pair_metrics, told
from trainer.model import Loaded, cast_parameters, load, model_hash
from trainer.pairs import Pair, PairSet, read_pairs, tell
from trainer.ranks import Ranks, joined
from trainer.reference import (
    Logps,
    cache_key,
    files_hash,
    reference_logps,
    sampler_files,
    score,
    write_logps,
)
from trainer.sharding import Turns
from trainer.start import logps_path, prepare_out
from trainer.strangers import mean_shift, strangers_of
from trainer.train import Outcome
from trainer.watchdog import fall_limit, kl_limit

HINT = "lower --lr, raise --beta, or use --loss dpo_positive"


class DpoObjective:
    """loss = sum over pairs of weight * pair loss / sum of weights; the losses are in losses.py."""

    def __init__(self, pairs: Sequence[Pair], reference: Logps, loaded: Loaded, options: DpoOptions) -> None:
        self.pairs = pairs
        self.ids = [pair.pair_id for pair in pairs]
        self.shapes = [pair.tree.shape for pair in pairs]
        self.lengths = [pair.n_tokens for pair in pairs]
        self.weights = [pair.weight for pair in pairs]
        self.metrics = metric_names(reference=not options.reference_free)
        self.reference = reference
        self.strangers = strangers(pairs, options.max_length) if options.loss == "kto" else ()
        self.kl: Tensor | None = None
        self.options = options
        self.device = loaded.device
        self.limits = (
            fall_limit("chosen_fall", options.chosen_fall, "chosen", "chosen_shift", "chosen_tokens", HINT),
            kl_limit(options.kl_limit, HINT),
        )

    def steps(self, epoch: int) -> Iterator[list[int]]:
        seed, n_prompts = self.options.seed, self.options.batch_prompts
        if n_prompts:
            return steps_by_prompt(self.ids, self.shapes, seed, epoch, n_prompts)
        return steps_by_count(shuffled(self.ids, seed, epoch), self.options.batch_pairs)

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        pairs = [self.pairs[i] for i in items]
        policy_B2 = self.policy_logps(model, pairs)
        reference_B2 = self.reference_logps(model, pairs, policy_B2)
        sizes_B2 = policy_B2.new_tensor([(len(pair.chosen), len(pair.rejected)) for pair in pairs])
        logps = PairLogps(*policy_B2.unbind(1), *reference_B2.unbind(1), *sizes_B2.unbind(1))
        losses_B = pair_losses(logps, self.options, self.kl)
        weight_B = losses_B.new_tensor([pair.weight for pair in pairs])
        metrics_BM = pair_metrics(logps, self.options.beta, reference=not self.options.reference_free)
        return Outcome((weight_B * losses_B).sum(), losses_B.detach(), metrics_BM)

    def policy_logps(self, model: Any, pairs: Sequence[Pair]) -> Tensor:
        """The model's log-probs of chosen and rejected. Shapes: -> (B, 2)."""
        trees = [pair.tree for pair in pairs]
        return logps_of(model, trees, self.device, self.options.head_mib << 20).view(-1, 2)

    def reference_logps(self, model: Any, pairs: Sequence[Pair], like: Tensor) -> Tensor:
        """The reference's, NaN where the loss has none: such a loss cannot use it unnoticed. Shapes: -> (B, 2)."""
        if self.options.reference_free:
            return torch.full_like(like, float("nan")).detach()
        if self.options.reference == "base":
            with torch.no_grad(), without_adapter(model):
                return self.policy_logps(model, pairs)
        return like.new_tensor([self.reference[pair.pair_id] for pair in pairs])

    def begin(self, model: Any, parts: Turns, ranks: Ranks) -> None:
        """KTO's z before it is bounded."""

        def shifts(items: Sequence[int]) -> Tensor:
            pairs = [self.strangers[i] for i in items]
            policy_B2 = self.policy_logps(model, pairs)
            return policy_B2 - self.reference_logps(model, pairs, policy_B2)

        self.kl = mean_shift(shifts, parts, ranks, self.device) if self.strangers else None

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        return {**told(means), "pairs_per_s": n_items / seconds}


def strangers(pairs: Sequence[Pair], max_length: int) -> list[Pair]:
    """For each pair its prompt with the completions of another prompt's pair: what KTO estimates the KL on.

    Raises:
        UsageError: a pair has no other prompt's completions that fit behind its prompt.
    """
    names, prompts, sizes = zip(*((p.pair_id, p.prompt, p.width - len(p.prompt)) for p in pairs), strict=True)
    others = (pairs[j] for j in strangers_of(names, prompts, sizes, max_length))
    return [
        Pair(f"{pair.pair_id}-{other.pair_id}", pair.prompt, other.chosen, other.rejected)
        for pair, other in zip(pairs, others, strict=True)
    ]


def identity_of(options: DpoOptions, loaded: Loaded, found: PairSet, held: PairSet | None) -> str:
    """The run's fingerprint."""
    sampler = files_hash(sampler_files(options)) if options.reference == "sampler" else None
    held_out = held.data_hash if held is not None else None
    other = model_hash(options.reference_model) if options.reference_model else None
    return fingerprint(
        options, data=found.data_hash, sampler=sampler, held_out=held_out, reference_model=other, **loaded.hashes
    )


def held_out_pairs(options: DpoOptions, loaded: Loaded, found: PairSet) -> PairSet | None:
    """The pairs to evaluate on; a warning when they are trained on as well."""
    if not options.eval_data:
        return None
    held = read_pairs(data_files(options.eval_data), loaded, options.max_length, cut_prompt=options.cut_prompt)
    tell(held, loaded, ", ".join(options.eval_data))
    held.refusals.write(Path(options.out) / "refused-eval.jsonl")
    warn_of_trained((pair.prompt for pair in found.pairs), (pair.prompt for pair in held.pairs))
    return held


def objective_of(loaded: Loaded, found: PairSet, options: DpoOptions, ranks: Ranks) -> DpoObjective:
    """Pairs with their reference log-probs."""
    more = [PairSet(strangers(found.pairs, options.max_length))] if options.loss == "kto" else []
    reference = reference_logps(loaded, found, more, options, ranks)
    return DpoObjective(found.pairs, reference, loaded, options)


def run(options: DpoOptions) -> dict[str, Any]:
    """`python -m trainer dpo`."""
    files = data_files(options.data)
    out = prepare_out(options)
    loaded = load(options)
    found = read_pairs(files, loaded, options.max_length, cut_prompt=options.cut_prompt)
    tell(found, loaded, ", ".join(options.data))
    found.refusals.write(out / "refused.jsonl")
    held = held_out_pairs(options, loaded, found)
    identity = identity_of(options, loaded, found, held)

    def objectives(ranks: Ranks) -> Objectives:
        trained = objective_of(loaded, found, options, ranks)
        return trained, objective_of(loaded, held, replace(options, data=options.eval_data), ranks) if held else None

    return carry_out(loaded, options, identity, objectives, found.refused)


def run_logps(options: LogpsOptions) -> dict[str, Any]:
    """`python -m trainer logps`."""
    files = data_files(options.data)
    path = logps_path(options.out)
    loaded = load(options)
    found = read_pairs(files, loaded, options.max_length, cut_prompt=options.cut_prompt)
    tell(found, loaded, ", ".join(options.data))
    cast_parameters(loaded.model, loaded.dtype)
    prepare(loaded.model, loaded.device, options.attention)
    with joined(loaded.device) as ranks:
        logps = score(loaded, found.pairs, options, ranks)
        if ranks.is_first:
            write_logps(path, logps, cache_key(loaded, found.data_hash, options))
    return {"out": str(path), "pairs": len(logps), "refused": dict(found.refused)}
