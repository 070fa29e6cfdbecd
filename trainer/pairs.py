"""Preference pairs from Parquet (docs/format.md, "pairs"): token ids to train on, and a count of what was refused and why."""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.data import UNREADABLE, Encoded, Ids, encode, grouped, read_rows, render, shorter_prompt
from trainer.defects import CUT_PROMPT, Refused, control_tokens, pair_defect, row_defect, weight_of
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
    """The pairs kept, sorted by id, what was refused, and how many came with usable token ids."""

    pairs: list[Pair] = field(default_factory=list)
    refusals: Refused = field(default_factory=Refused)
    n_stored: int = 0

    @property
    def refused(self) -> dict[str, int]:
        """How many were refused (or cut) by reason."""
        return dict(self.refusals.counts)

    @property
    def data_hash(self) -> str:
        """The identity of what is trained on: ids, tokens and weights, in whatever files they lay."""
        digest = hashlib.sha256()
        for p in self.pairs:
            digest.update(json.dumps([p.pair_id, list(p.prompt), list(p.chosen), list(p.rejected), p.weight]).encode())
        return digest.hexdigest()[:32]


def read_pairs(files: Sequence[Path], loaded: Loaded, max_length: int, *, cut_prompt: bool = False) -> PairSet:
    """All pairs worth training on.

    Args:
        cut_prompt: whether a pair that is too long loses its prompt's beginning, and stays, where its completions fit.

    Raises:
        UsageError: a file lacks a column, a prompt is not a token prefix, or no pair is left.
    """
    found = PairSet()
    seen: set[str] = set()
    control = control_tokens(loaded.tokenizer)
    for path in files:
        for group in grouped(read_rows(path, COLUMNS), GROUP):
            for name, row, sides in encoded_rows(group, loaded, control, found):
                pair_id = row.get("pair_id") or content_name(row)
                if cut_prompt and excess(sides, max_length) > 0:
                    sides = with_shorter_prompt(sides, max_length, loaded.tokenizer.bos_token_id)
                    if excess(sides, max_length) <= 0:
                        found.refusals.add(CUT_PROMPT, name, pair_id)
                reason = (
                    "duplicate pair_id" if pair_id in seen else pair_defect(sides, weight_of(row), loaded, max_length)
                )
                seen.add(pair_id)
                if reason is not None:
                    found.refusals.add(reason, name, pair_id)
                    continue
                found.n_stored += is_stored(row, loaded)
                found.pairs.append(pair_of(pair_id, row, sides))
    found.pairs.sort(key=lambda pair: pair.pair_id)
    return found


def pair_of(pair_id: str, row: dict[str, Any], sides: tuple[Encoded, Encoded]) -> Pair:
    """The pair of a row and its token ids."""
    chosen, rejected = sides
    return Pair(pair_id, chosen.prompt, chosen.completion, rejected.completion, weight_of(row), margin_of(row))


def excess(sides: tuple[Encoded, Encoded], max_length: int) -> int:
    """By how many tokens the longer side is too long."""
    return len(sides[0].prompt) + max(len(side.completion) for side in sides) - max_length


def with_shorter_prompt(sides: tuple[Encoded, Encoded], max_length: int, bos: int | None) -> tuple[Encoded, Encoded]:
    """The same completions behind the prompt's end."""
    prompt = shorter_prompt(sides[0].prompt, excess(sides, max_length), bos)
    return Encoded(prompt, sides[0].completion), Encoded(prompt, sides[1].completion)


def encoded_rows(
    group: Sequence[tuple[str, dict[str, Any]]], loaded: Loaded, control: re.Pattern[str], found: PairSet
) -> Iterator[tuple[str, dict[str, Any], tuple[Encoded, Encoded]]]:
    """Each usable row with its two sides as token ids: the stored ones where they are this model's, else rendered here."""
    whole = []
    for name, row in group:
        missing = [c for c in ("prompt", "chosen", "rejected") if c not in row and UNREADABLE not in row]
        if missing:
            raise UsageError(
                f"{name} has no column {', '.join(missing)}; hint: docs/format.md lists the columns of pairs"
            )
        reason = row_defect(row, None if is_stored(row, loaded) else control)
        if reason is not None:
            found.refusals.add(reason, name, row.get("pair_id") or "")
        else:
            whole.append((name, row))
    rendered = rendered_sides([(name, row) for name, row in whole if not is_stored(row, loaded)], loaded)
    for name, row in whole:
        yield name, row, stored_sides(row) if is_stored(row, loaded) else next(rendered)


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


def content_name(row: dict[str, Any]) -> str:
    """An id for pairs of foreign files: the hash of their texts."""
    return hashlib.sha256(json.dumps([row["prompt"], row["chosen"], row["rejected"]]).encode()).hexdigest()[:32]


def margin_of(row: dict[str, Any]) -> float:
    """Chosen minus rejected score; 0 where the file has none."""
    return float(row.get("margin") or 0.0)


def tell(found: PairSet, loaded: Loaded, where: str) -> None:
    """Says what was read, and warns of what is unusual.

    Raises:
        UsageError: no pair is left.
    """
    found.refusals.tell()
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
