"""What people are asked first: the match-ups about which the machines are least sure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
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
    for item in (*_of_pairs(index, n), *_of_flips(index)):
        known = found.get(item.id)
        if known is None or item.rank > known.rank:
            found[item.id] = item
    return sorted(found.values(), key=lambda item: (-item.rank, item.id))[:n]


def _of_pairs(index: Index, n: int) -> Iterator[Item]:
    """The `n` most uncertain pairs. All are ranked by columns, and only these become objects: a run may have millions."""
    pairs, signs = index.pairs, _signs(index)
    contrary = np.any([s < 0 for s in signs.values()], axis=0) if signs else np.zeros(pairs.num_rows, dtype=bool)
    ranks = np.where(contrary, CONTRADICTED, 1 - _shares(numbers(pairs["margin"])))
    # Equal ranks by id: ids are hashes, hence a draw, and the same each time. The first n alone are sorted.
    ranked = pairs.select(["pair_id"]).append_column("rank", pa.array(ranks))
    places = pc.select_k_unstable(ranked, min(n, len(ranks)), [("rank", "descending"), ("pair_id", "ascending")])
    rows = pairs.select(["prompt_id", "chosen_id", "rejected_id", "margin"]).take(places).to_pylist()
    for place, row in zip(places.to_pylist(), rows, strict=True):
        said = {name: int(s[place]) for name, s in signs.items() if np.isfinite(s[place])}
        yield _item(row, float(ranks[place]), said)


def _item(row: Mapping[str, Any], rank: float, said: Mapping[str, int]) -> Item:
    """A pair as an item. `said`: labeler -> 1 for chosen, -1 for rejected."""
    against = sorted(name for name, sign in said.items() if sign < 0)
    why = f"{', '.join(against)} disagrees" if against else f"margin {row['margin']:.3g}"
    a, b = sorted((row["chosen_id"], row["rejected_id"]))
    turn = 1 if a == row["chosen_id"] else -1
    return Item(row["prompt_id"], a, b, rank, why, {name: sign * turn for name, sign in said.items()})


def _signs(index: Index) -> dict[str, Any]:
    """Labeler -> for each pair of the run 1 where it scores the chosen higher, -1 the rejected, 0 neither; nan: no scores."""
    found: dict[str, Any] = {}
    shards = index.pairs["shard"].to_numpy()
    for number, name in enumerate(index.places.shards):
        first, last = np.searchsorted(shards, [number, number + 1])
        if first == last:
            continue
        labels = read_columns(index.places.paths("labels", name), ["completion_id", "labeler", "value"], LABELS)
        for labeler, chosen, rejected in pair_scores(index.pairs.slice(first, last - first), labels):
            column = found.setdefault(labeler, np.full(len(shards), np.nan))
            column[first:last] = np.sign(chosen - rejected)
    return dict(sorted(found.items()))


def _of_flips(index: Index) -> Iterator[Item]:
    """Match-ups that a judge answered by their order."""
    for name in index.places.shards:
        rows = read_columns(index.places.paths("comparisons", name), VERDICTS, COMPARISONS)
        forward, backward = (pc.fill_null(rows[f"prefers_{way}"], "tie") for way in ("forward", "backward"))
        decided = [pc.not_equal(side, "tie") for side in (forward, backward)]
        flipped = pc.and_(pc.and_(*decided), pc.not_equal(forward, backward))
        for row in rows.filter(flipped).to_pylist():
            a, b = sorted((row["a_id"], row["b_id"]))
            yield Item(row["prompt_id"], a, b, FLIPPED, f"{row['labeler']} flips with the order", {row["labeler"]: 0})


def _shares(values: Sequence[float] | Any) -> Any:
    """Each value's place among all, from 0 for the smallest to 1 for the largest; equal values share the lowest place."""
    ordered = np.sort(values)
    return np.searchsorted(ordered, values) / max(len(ordered) - 1, 1)
