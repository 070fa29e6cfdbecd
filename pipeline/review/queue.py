"""What people are asked first: the match-ups about which the machines are least sure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from labelers.types import content_id
from pipeline.auditing.evidence import read_columns
from pipeline.auditing.facts import numbers, pair_scores
from pipeline.review.index import VERDICTS, Index
from pipeline.schema import COMPARISONS, LABELS

CONTRADICTED, FLIPPED = 3.0, 2.0
"""Ranks above those of margins, which lie between 0 and 1."""


@dataclass(frozen=True)
class Item:
    """Two completions of a prompt that a person may compare.

    Args:
        a_id, b_id: their ids, the smaller first, so that the item says nothing about which one is better.
        rank: the more uncertain, the higher.
        why: what makes it uncertain; a reviewer never sees it before the verdict.
        said: labeler -> 1 for a, -1 for b, 0 for neither.
    """

    prompt_id: str
    a_id: str
    b_id: str
    rank: float
    why: str
    said: dict[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A hash of what is compared."""
        return content_id(self.prompt_id, self.a_id, self.b_id)


def queue(index: Index, n: int) -> list[Item]:
    """The `n` match-ups to ask about, the most uncertain first: labelers that disagree, verdicts that flip, small margins."""
    found: dict[str, Item] = {}
    for number in range(len(index.places.shards)):
        for item in (*_of_pairs(index, number), *_of_flips(index, number)):
            known = found.get(item.id)
            if known is None or item.rank > known.rank:
                found[item.id] = item
    return sorted(found.values(), key=lambda item: (-item.rank, item.id))[:n]


def _of_pairs(index: Index, number: int) -> Iterator[Item]:
    pairs = index.pairs.filter(pc.equal(index.pairs["shard"], number))
    if not pairs.num_rows:
        return
    paths = index.places.paths("labels", index.places.shards[number])
    labels = read_columns(paths, ["completion_id", "labeler", "value"], LABELS)
    signs = {name: np.sign(chosen - rejected) for name, chosen, rejected in pair_scores(pairs, labels)}
    small = 1 - _shares(numbers(pairs["margin"]))
    for place, row in enumerate(pairs.select(["prompt_id", "chosen_id", "rejected_id", "margin"]).to_pylist()):
        chosen_is_a = row["chosen_id"] <= row["rejected_id"]
        said = {name: int(s[place]) * (1 if chosen_is_a else -1) for name, s in signs.items() if np.isfinite(s[place])}
        against = sorted(name for name, s in signs.items() if s[place] < 0)
        rank, why = (
            (CONTRADICTED, f"{', '.join(against)} disagrees")
            if against
            else (small[place], f"margin {row['margin']:.3g}")
        )
        a, b = sorted((row["chosen_id"], row["rejected_id"]))
        yield Item(row["prompt_id"], a, b, float(rank), why, said)


def _of_flips(index: Index, number: int) -> Iterator[Item]:
    """Match-ups that a judge answered by their order."""
    rows = read_columns(
        index.places.paths("comparisons", index.places.shards[number]), VERDICTS, COMPARISONS
    ).to_pylist()
    for row in rows:
        if {row["prefers_forward"], row["prefers_backward"]} == {"a", "b"}:
            a, b = sorted((row["a_id"], row["b_id"]))
            yield Item(row["prompt_id"], a, b, FLIPPED, f"{row['labeler']} flips with the order", {row["labeler"]: 0})


def _shares(values: Sequence[float] | Any) -> Any:
    """Each value's place among all, from 0 for the smallest to 1 for the largest; equal values share the lowest place."""
    ordered = np.sort(values)
    return np.searchsorted(ordered, values) / max(len(ordered) - 1, 1)
