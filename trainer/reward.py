"""A reward model: the policy with a linear head, whose value at a conversation's last token says how good the completion is.

The saved folder is a Hugging Face sequence classifier with one output: `python -m trainer rewards`, transformers and vLLM read
the value where it was trained. Legend: B pairs of a micro-batch, D hidden size.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from trainer.batches import micro_batches, shuffled, steps_by_count
from trainer.checkpoint import write_text
from trainer.config import RewardModelOptions
from trainer.data import Ids, data_files, render
from trainer.errors import UsageError
from trainer.evaluate import warn_of_trained
from trainer.identity import fingerprint
from trainer.logps import end_hidden, shapes_for
from trainer.losses import bradley_terry_loss
from trainer.measures import correlation_sums, told
from trainer.model import Loaded, load, micro_batch_budget
from trainer.packing import Tree, lay
from trainer.pairs import Pair, PairSet, read_pairs, tell
from trainer.ranks import Ranks, joined
from trainer.runlog import say
from trainer.sharding import Turns
from trainer.start import finished, open_optimizer, prepare_out
from trainer.train import Job, Outcome, train

HEAD_SCALE = 0.1
"""Of 1 / sqrt(D + 1), the deviation of Stiennon et al. (2009.01325): values begin near 0 and the loss near log 2 (own)."""
ALIKE = 0.1  # completions whose lengths differ by less than this share count as equally long (own)


def with_head(loaded: Loaded, seed: int) -> Loaded:
    """The language model's body under a new head with one output: small, float32, drawn from the seed.

    Raises:
        UsageError: transformers has no such classifier for this architecture.
    """
    config = copy.deepcopy(loaded.model.config)
    config.num_labels = 1
    config.problem_type = "regression"  # vLLM gives a regression as it is, others as probabilities
    config.pad_token_id = padding_token(loaded)
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        head = model.score
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"{type(loaded.model).__name__} has no classifier with a linear head in transformers: {error}; "
            "hint: Llama, Qwen2, Qwen3, Mistral and Gemma have one"
        ) from error
    setattr(model, model.base_model_prefix, loaded.model.base_model)
    n = head.in_features
    weight = torch.randn(1, n, generator=torch.Generator().manual_seed(seed)) * HEAD_SCALE * (n + 1) ** -0.5
    model.score = torch.nn.Linear(n, 1, bias=False)
    model.score.weight = torch.nn.Parameter(weight.to(next(loaded.model.parameters()).device))
    model.score.weight.keep_float32 = True
    return dataclasses.replace(loaded, model=model.eval())


def padding_token(loaded: Loaded) -> int | None:
    """A token that ends no conversation: readers take the value at the last token that is not it.

    The tokenizer's own where that will do; else the token that begins a text; None where there is neither.
    """
    tokenizer = loaded.tokenizer
    last = closing(loaded)[-1:]
    for token in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id):
        if token is not None and token not in last and token not in loaded.end_ids:
            return int(token)
    return None


def closing(loaded: Loaded) -> list[int]:
    """The tokens that the chat template writes behind an answer: with them a conversation is read when it is rated."""
    answer = "The answer."
    full = render(loaded.tokenizer, "the template's check", "Hi", answer).full
    ids: list[int] = loaded.tokenizer(full.rpartition(answer)[2], add_special_tokens=False)["input_ids"]
    return ids


def closed(completion: Ids, ends: Sequence[int], behind: Sequence[int]) -> Ids:
    """A completion as it is read when it is rated: without its own end tokens, with what the template writes behind it."""
    n = len(completion)
    while n and completion[n - 1] in ends:
        n -= 1
    return completion[:n] + array("i", behind)


def values(model: Any, trees: Sequence[Tree], device: torch.device) -> Tensor:
    """The value of every completion, in order. Shapes: -> (completions,), float32."""
    hidden_BD = end_hidden(model, lay(trees, device))
    return F.linear(hidden_BD.float(), model.score.weight.float()).squeeze(1)


class RewardObjective:
    """loss = sum over pairs of weight * Bradley-Terry loss / sum of weights (losses.bradley_terry_loss)."""

    limits = ()
    metrics = (
        "accuracy", "margin", "value_chosen", "value_rejected",
        "length_gap", "length_gap_squared", "margin_squared", "length_gap_times_margin",
    )  # fmt: skip

    def __init__(self, pairs: Sequence[Pair], loaded: Loaded, options: RewardModelOptions) -> None:
        behind = closing(loaded)
        self.pairs = pairs
        self.trees = [
            Tree(
                pair.prompt,
                (closed(pair.chosen, loaded.end_ids, behind), closed(pair.rejected, loaded.end_ids, behind)),
            )
            for pair in pairs
        ]
        self.ids = [pair.pair_id for pair in pairs]
        self.shapes = [tree.shape for tree in self.trees]
        self.lengths = [shape.n_plain for shape in self.shapes]
        self.weights = [pair.weight for pair in pairs]
        self.options = options
        self.device = loaded.device

    def steps(self, epoch: int) -> Iterator[list[int]]:
        return steps_by_count(shuffled(self.ids, self.options.seed, epoch), self.options.batch_pairs)

    def begin(self, model: Any, parts: Turns, ranks: Ranks) -> None:
        """Nothing: each item's loss is its own."""

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        pairs = [self.pairs[i] for i in items]
        chosen_B, rejected_B = values(model, [self.trees[i] for i in items], self.device).view(-1, 2).unbind(1)
        asked_B = chosen_B.new_tensor([self.options.margin_weight * pair.margin for pair in pairs])
        losses_B = bradley_terry_loss(chosen_B, rejected_B, asked_B, self.options.centring)
        weight_B = losses_B.new_tensor([pair.weight for pair in pairs])
        margin_B = (chosen_B - rejected_B).detach()
        gap_B = margin_B.new_tensor([len(pair.chosen) - len(pair.rejected) for pair in pairs])
        columns = [(margin_B > 0).float(), margin_B, chosen_B.detach(), rejected_B.detach(), gap_B]
        metrics_BM = torch.stack([*columns, *correlation_sums(gap_B, margin_B)], dim=1)
        return Outcome((weight_B * losses_B).sum(), losses_B.detach(), metrics_BM)

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        return {**told(means), "pairs_per_s": n_items / seconds}


@torch.no_grad()
def margins(model: Any, objective: RewardObjective) -> list[float]:
    """v_w - v_l of every pair, in order."""
    budget = micro_batch_budget(objective.options.micro_batch_tokens, objective.device)
    own: dict[int, float] = {}
    parts = micro_batches(range(len(objective.ids)), shapes_for(model, objective.shapes), budget)
    for part in parts:
        found_B2 = values(model, [objective.trees[i] for i in part], objective.device).view(-1, 2)
        own |= dict(zip(part, (found_B2[:, 0] - found_B2[:, 1]).tolist(), strict=True))
    return [own[i] for i in range(len(objective.ids))]


def length_bucket(pair: Pair) -> str:
    """How long the chosen is beside the rejected."""
    ratio = len(pair.chosen) / len(pair.rejected)
    return "shorter" if ratio < 1 - ALIKE else "longer" if ratio > 1 + ALIKE else "alike"


def held_out_accuracy(pairs: Sequence[Pair], found: Sequence[float]) -> dict[str, dict[str, float]]:
    """The share of pairs whose chosen has the higher value: of all, and by the chosen's length beside the rejected's."""
    buckets: dict[str, list[bool]] = {"all": [], "shorter": [], "alike": [], "longer": []}
    for pair, margin in zip(pairs, found, strict=True):
        buckets["all"].append(margin > 0)
        buckets[length_bucket(pair)].append(margin > 0)
    return {name: {"pairs": len(hits), "accuracy": sum(hits) / len(hits)} for name, hits in buckets.items() if hits}


def name_padding(out: Path, loaded: Loaded) -> None:
    """Makes the saved tokenizer pad with the token that readers of the saved model leave out."""
    path, token = out / "tokenizer_config.json", padding_token(loaded)
    settings = json.loads(path.read_text(encoding="utf-8"))
    if token is not None and loaded.tokenizer.pad_token_id != token:
        name = loaded.tokenizer.convert_ids_to_tokens(token)
        write_text(path, json.dumps({**settings, "pad_token": name}, indent=2, ensure_ascii=False) + "\n")


def identity_of(options: RewardModelOptions, loaded: Loaded, found: PairSet, held: PairSet) -> str:
    """The run's fingerprint."""
    asked = [pair.margin for pair in found.pairs] if options.margin_weight else []
    margins_hash = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
    hashes = {"data": found.data_hash, "margins": margins_hash, "held_out": held.data_hash}
    return fingerprint(options, **hashes, **loaded.hashes)


def pairs_of(sources: Sequence[str], loaded: Loaded, options: RewardModelOptions, refused: str) -> PairSet:
    """The pairs of some data, told and with the refused ones written down; none where there are no sources."""
    if not sources:
        return PairSet()
    found = read_pairs(data_files(sources), loaded, options.max_length, cut_prompt=options.cut_prompt)
    tell(found, loaded, ", ".join(sources))
    found.refusals.write(Path(options.out) / refused)
    return found


def run(options: RewardModelOptions) -> dict[str, Any]:
    """`python -m trainer reward`."""
    data_files(options.data)  # before anything is made
    out = prepare_out(options)
    loaded = load(options)
    found = pairs_of(options.data, loaded, options, "refused.jsonl")
    held = pairs_of(options.eval_data, loaded, options, "refused-eval.jsonl")
    warn_of_trained((pair.prompt for pair in found.pairs), (pair.prompt for pair in held.pairs))
    identity = identity_of(options, loaded, found, held)
    before = finished(out, identity)
    if before is not None:
        name_padding(out, loaded)
        return before
    loaded = with_head(loaded, options.seed)
    with joined(loaded.device) as ranks:
        optimizer = open_optimizer(loaded, options, ranks)
        objective = RewardObjective(found.pairs, loaded, options)
        asked = RewardObjective(held.pairs, loaded, options) if held.pairs else None
        result = train(Job(loaded, optimizer, objective, options, identity, ranks, asked))
        if ranks.is_first:
            name_padding(out, loaded)
        if asked is not None:
            result["held_out"] = held_out_accuracy(held.pairs, margins(loaded.model, asked))
            say(f"held-out accuracy, by the chosen's length beside the rejected's: {json.dumps(result['held_out'])}")
    return {**result, "refused": dict(found.refused)}
