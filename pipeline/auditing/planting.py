"""Which completions of a run canaries are planted around: a few for each labeler, picked by their ids' hashes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import Completion, Prompt
from pipeline.auditing.canaries import Planted
from pipeline.auditing.evidence import Evidence
from pipeline.prompts import prompts_of


@dataclass
class Planter:
    """Goes through the shards and keeps `n` completions for each set of labelers, and `n` for each labeler without a pair."""

    n: int
    chosen: dict[tuple[str, ...], list[tuple[str, Planted]]] = field(default_factory=dict)
    judged: dict[str, list[tuple[str, Planted]]] = field(default_factory=dict)

    def shard(self, evidence: Evidence) -> None:
        """Takes what this shard has to offer."""
        if not self.n:
            return
        joined = pc.binary_join(evidence.pairs["labelers"], "\n")
        for name in pc.unique(joined).to_pylist():
            labelers = tuple(name.split("\n"))
            ids = _smallest(evidence.pairs["chosen_id"].filter(pc.equal(joined, name)), self.n)
            self._keep(self.chosen.setdefault(labelers, []), _planted(evidence, ids, labelers, is_chosen=True))
        for name, ids in _judged(evidence):
            kept = self.judged.setdefault(name, [])
            if not any(name in labelers for labelers in self.chosen):
                self._keep(kept, _planted(evidence, _smallest(ids, self.n), (name,), is_chosen=False))

    def planted(self) -> list[Planted]:
        """What was kept."""
        paired = {name for labelers in self.chosen for name in labelers}
        alone = [each for name, kept in self.judged.items() if name not in paired for each in kept]
        return [each for _, each in sorted([*(e for kept in self.chosen.values() for e in kept), *alone], key=_by_id)]

    def _keep(self, kept: list[tuple[str, Planted]], found: Iterator[Planted]) -> None:
        kept[:] = heapq.nsmallest(self.n, [*kept, *((each.completion.id, each) for each in found)], key=_by_id)


def _by_id(entry: tuple[str, Planted]) -> str:
    return entry[0]


def _smallest(ids: Any, n: int) -> pa.Array:
    """The n smallest ids: ids are hashes, so this is a draw that comes out the same each time."""
    distinct = pc.unique(ids)
    return distinct.take(pc.sort_indices(distinct)[:n])


def _judged(evidence: Evidence) -> Iterator[tuple[str, Any]]:
    labels, comparisons = evidence.labels.select(["labeler", "completion_id", "value"]), evidence.comparisons
    scored = labels.filter(pc.is_valid(labels["value"]))
    for labeler, ids in ((scored["labeler"], scored["completion_id"]), (comparisons["labeler"], comparisons["a_id"])):
        for name in pc.unique(labeler).to_pylist():
            yield name, ids.filter(pc.equal(labeler, name))


def _planted(evidence: Evidence, ids: pa.Array, labelers: tuple[str, ...], *, is_chosen: bool) -> Iterator[Planted]:
    rows = _rows(evidence.completions, "completion_id", ids)
    wanted = pa.array([row["prompt_id"] for row in rows], pa.string())
    prompts: Mapping[str, Prompt] = prompts_of(
        evidence.prompts.filter(pc.is_in(evidence.prompts["prompt_id"], value_set=wanted))
    )
    labels = _rows(evidence.labels, "completion_id", ids)
    for row in rows:
        own = [each for each in labels if each["completion_id"] == row["completion_id"] and each["value"] is not None]
        completion = Completion(
            row["completion_id"], row["prompt_id"], row["text"], row["finish_reason"], row["source"], row["n_tokens"]
        )
        values = {each["labeler"]: each["value"] for each in own}
        yield Planted(prompts[row["prompt_id"]], completion, labelers, values, is_chosen)


def _rows(table: pa.Table, key: str, ids: pa.Array) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.filter(pc.is_in(table[key], value_set=ids)).to_pylist()
    return found
