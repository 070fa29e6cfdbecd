"""Pairs to look at: the clearest, the closest, and those on which labelers disagree."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.auditing.evidence import Evidence
from pipeline.auditing.facts import numbers, pair_scores
from pipeline.prompts import families_of

Kind = Literal["clearest", "closest", "contested"]
KINDS: tuple[Kind, ...] = ("clearest", "closest", "contested")
EACH = 4
"""Examples of a kind that the report shows."""


@dataclass(frozen=True)
class Example:
    """A pair to look at. `why` says what makes it an example of its kind."""

    kind: Kind
    family: str
    why: str
    pair: Mapping[str, Any]


@dataclass(order=True)
class _Candidate:
    rank: float
    pair_id: str
    example: Example = field(compare=False)


@dataclass
class Examples:
    """Gathers examples shard by shard and keeps a few: of the clearest and closest one a family first."""

    kept: dict[Kind, dict[str, list[_Candidate]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def shard(self, evidence: Evidence) -> None:
        """Takes the pairs of one shard into account."""
        pairs = evidence.pairs
        if not pairs.num_rows:
            return
        margins = numbers(pairs["margin"])
        said = [f"margin {margin:.3g}" for margin in margins]
        against, named = _against(evidence)
        families = np.array(families_of(pairs["metadata"]))
        for family in np.unique(families):
            own = np.flatnonzero(families == family)
            order = own[np.argsort(-margins[own], kind="stable")]
            self._keep("clearest", family, pairs, order[:EACH], margins, said)
            self._keep("closest", family, pairs, order[::-1][:EACH], -margins, said)
            self._keep("contested", family, pairs, own[against[own] > 0][:EACH], against, named)

    def found(self) -> list[Example]:
        """The examples kept, by kind; families take turns."""
        found = []
        for families in self.kept.values():
            ranked = {name: sorted(held, reverse=True) for name, held in sorted(families.items())}
            turns = [(place, name) for name, held in ranked.items() for place in range(len(held))]
            found += [ranked[name][place].example for place, name in sorted(turns)[:EACH]]
        return found

    def _keep(self, kind: Kind, family: str, pairs: pa.Table, places: Any, ranks: Any, why: Sequence[str]) -> None:
        held = self.kept[kind].setdefault(str(family), [])
        for place in map(int, places):
            pair = pairs.slice(place, 1).to_pylist()[0]
            candidate = _Candidate(float(ranks[place]), pair["pair_id"], Example(kind, str(family), why[place], pair))
            (heapq.heappush if len(held) < EACH else heapq.heappushpop)(held, candidate)


def _against(evidence: Evidence) -> tuple[Any, list[str]]:
    """For each pair how many labelers scored the rejected completion above the chosen one, and which."""
    pairs = evidence.pairs
    count = np.zeros(pairs.num_rows, dtype=int)
    names: list[list[str]] = [[] for _ in range(pairs.num_rows)]
    for labeler, chosen, rejected in pair_scores(evidence.pairs, evidence.labels):
        contrary = np.flatnonzero(rejected > chosen)
        count[contrary] += 1
        for place in contrary:
            names[place].append(labeler)
    return count, [f"{', '.join(found)} scored the rejected higher" for found in names]
