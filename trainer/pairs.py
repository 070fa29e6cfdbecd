"""Preference pairs from Parquet (docs/format.md, "pairs"): token ids to train on, and a count of what was refused and why."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data import Encoded, Ids, as_messages, encode, grouped, read_rows, render
from trainer.errors import UsageError
from trainer.model import Loaded
from trainer.packing import Tree
from trainer.runlog import say

COLUMNS = (
    "pair_id", "prompt", "chosen", "rejected", "weight", "margin",
    "prompt_token_ids", "chosen_token_ids", "rejected_token_ids", "tokenizer_hash", "template_hash",
)  # fmt: skip
GROUP = 1024  # rows rendered and tokenised at a time


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference as token ids; both completions follow the same prompt."""

    pair_id: str
    prompt: Ids
    chosen: Ids
    rejected: Ids
    weight: float = 1.0
    margin: float = 0.0  # chosen minus rejected score, where the file has it

    @property
    def tree(self) -> Tree:
        """Chosen and rejected behind one prompt."""
        return Tree(self.prompt, (self.chosen, self.rejected))

    @property
    def width(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def n_tokens(self) -> int:
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


@dataclass
class PairSet:
    """The pairs kept, sorted by id, how many were refused by reason, and how many came with usable token ids."""

    pairs: list[Pair] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    n_stored: int = 0

    @property
    def data_hash(self) -> str:
        """The identity of what is trained on: ids, tokens and weights, in whatever files they lay."""
        digest = hashlib.sha256()
        for p in self.pairs:
            digest.update(json.dumps([p.pair_id, list(p.prompt), list(p.chosen), list(p.rejected), p.weight]).encode())
        return digest.hexdigest()[:32]


def read_pairs(files: Sequence[Path], loaded: Loaded, max_length: int) -> PairSet:
    """All pairs worth training on.

    Raises:
        UsageError: a file lacks a column, a prompt is not a token prefix, or no pair is left.
    """
    found = PairSet()
    seen: set[str] = set()
    for path in files:
        for group in grouped(read_rows(path, COLUMNS), GROUP):
            for pair_id, row, sides in encoded_rows(group, loaded, found):
                reason = "duplicate pair_id" if pair_id in seen else defect(row, sides, loaded, max_length)
                seen.add(pair_id)
                if reason is not None:
                    found.refused[reason] += 1
                    continue
                found.n_stored += is_stored(row, loaded)
                chosen, rejected = sides
                margin = float(row.get("margin") or 0.0)
                found.pairs.append(
                    Pair(pair_id, chosen.prompt, chosen.completion, rejected.completion, weight_of(row), margin)
                )
    found.pairs.sort(key=lambda pair: pair.pair_id)
    return found


def encoded_rows(
    group: Sequence[tuple[str, dict[str, Any]]], loaded: Loaded, found: PairSet
) -> Iterator[tuple[str, dict[str, Any], tuple[Encoded, Encoded]]]:
    """Each complete row with its two sides as token ids: the stored ones where they are this model's, else rendered here."""
    whole = []
    for name, row in group:
        missing = [c for c in ("prompt", "chosen", "rejected") if c not in row]
        if missing:
            raise UsageError(
                f"{name} has no column {', '.join(missing)}; hint: docs/format.md lists the columns of pairs"
            )
        if not (row["prompt"] and row["chosen"] and row["rejected"]):
            found.refused["prompt, chosen or rejected is missing"] += 1
        elif texts_of(row["chosen"], "assistant") == texts_of(row["rejected"], "assistant"):
            found.refused["chosen and rejected are equal"] += 1
        else:
            whole.append((name, row))
    rendered = rendered_sides([(name, row) for name, row in whole if not is_stored(row, loaded)], loaded)
    for _, row in whole:
        if is_stored(row, loaded):
            sides = stored_sides(row)
        else:
            sides = next(rendered)
        yield row.get("pair_id") or content_name(row), row, sides


def is_stored(row: dict[str, Any], loaded: Loaded) -> bool:
    """Whether the row's token ids mean the same to this model."""
    return (
        row.get("tokenizer_hash") == loaded.tokenizer_hash
        and row.get("template_hash") == loaded.template_hash
        and all(row.get(f"{side}_token_ids") is not None for side in ("prompt", "chosen", "rejected"))
    )


def stored_sides(row: dict[str, Any]) -> tuple[Encoded, Encoded]:
    """Chosen and rejected as the sampler tokenised them."""
    prompt = array("i", row["prompt_token_ids"])
    return Encoded(prompt, array("i", row["chosen_token_ids"])), Encoded(prompt, array("i", row["rejected_token_ids"]))


def rendered_sides(rows: Sequence[tuple[str, dict[str, Any]]], loaded: Loaded) -> Iterator[tuple[Encoded, Encoded]]:
    """Chosen and rejected of each row as the chat template renders them, in order."""
    texts = [
        render(loaded.tokenizer, name, row["prompt"], row[side])
        for name, row in rows
        for side in ("chosen", "rejected")
    ]
    sides = encode(texts, loaded.tokenizer, loaded.end_ids)
    return zip(sides, sides, strict=True)  # two at a time


def texts_of(value: Any, role: str) -> list[str]:
    """The contents of a conversation's messages."""
    return [str(message["content"]) for message in as_messages(value, role)]


def content_name(row: dict[str, Any]) -> str:
    """An id for pairs of foreign files: the hash of their texts."""
    return hashlib.sha256(json.dumps([row["prompt"], row["chosen"], row["rejected"]]).encode()).hexdigest()[:32]


def weight_of(row: dict[str, Any]) -> float:
    """The pair's weight in the loss; 1 where the file has none."""
    weight = row.get("weight")
    return 1.0 if weight is None else float(weight)


def defect(row: dict[str, Any], sides: tuple[Encoded, Encoded], loaded: Loaded, max_length: int) -> str | None:
    """Why a pair cannot teach anything; None when it can."""
    chosen, rejected = sides
    if not all(any(token not in loaded.end_ids for token in side.completion) for side in sides):
        return "a completion is empty"
    if chosen.completion == rejected.completion:
        return "chosen and rejected are equal"
    if not len(chosen.prompt):
        return "the prompt is empty"
    if len(chosen.prompt) + max(len(side.completion) for side in sides) > max_length:
        return "longer than max_length"
    if max(*chosen.prompt, *chosen.completion, *rejected.completion) >= loaded.model.config.vocab_size:
        return "a token id is outside the vocabulary"
    if not (math.isfinite(weight_of(row)) and weight_of(row) > 0):
        return "its weight is not positive"
    return None


def tell(found: PairSet, loaded: Loaded, where: str) -> None:
    """Says what was read, and warns of what is unusual.

    Raises:
        UsageError: no pair is left.
    """
    for reason, count in sorted(found.refused.items()):
        say(f"refused {count} pairs: {reason}")
    if not found.pairs:
        raise UsageError(
            f"no pairs left to train on in {where}; hint: {dict(found.refused) or 'its files hold no rows'}"
        )
    ended = sum(pair.chosen[-1] in loaded.end_ids for pair in found.pairs) / len(found.pairs)
    say(
        f"{len(found.pairs)} pairs ({found.n_stored} with the sampler's token ids), {ended:.0%} of chosen end with the end token"
    )
    if ended < 0.9:  # trainer-speed.md, complaints: EOS twice or never
        say(
            f"warning: only {ended:.0%} of chosen end with the end token, so the policy will learn not to stop; "
            "hint: keep truncated completions out of chosen"
        )
