"""Pairs as the table that a pair shard holds. By columns: texts, token ids and prompts go over as arrow, never as objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import content_ids
from pipeline.pairing.rules import Pair
from pipeline.schema import PAIR_SHARD

SHARED = ("tokenizer_hash", "template_hash", "prompt_token_ids")
"""The columns in which two completions must agree for their token ids to make an exact pair."""
Maker = tuple[tuple[str, str], ...]
"""The labelers that made a pair: name and version of each."""


@dataclass
class PairRows:
    """Pairs on their way into a table, a column each of what is not in the prompts or the completions already.

    Args:
        prompts: the row of each pair's prompt in the table of prompts.
    """

    prompts: list[int] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    strategies: list[str] = field(default_factory=list)
    made_by: list[Maker] = field(default_factory=list)

    def add(self, prompt: int, pairs: Sequence[Pair], strategy: str, made_by: Sequence[tuple[str, str]]) -> None:
        """The pairs of one prompt."""
        n = len(pairs)
        self.prompts += [prompt] * n
        self.pairs += pairs
        self.strategies += [strategy] * n
        self.made_by += [tuple(made_by)] * n

    def table(self, prompts: pa.Table, completions: pa.Table) -> pa.Table:
        """The pair shard's table.

        Args:
            prompts, completions: the shard's own, with all their columns.
        """
        asked = prompts.take(pa.array(self.prompts, pa.int64()))
        chosen, rejected = self._sides(completions)
        columns: dict[str, Any] = {
            **self._own(asked["prompt_id"].to_pylist()),
            "prompt_id": asked["prompt_id"],
            "prompt": asked["messages"],
            "metadata": asked["metadata"],
            "weight": pa.repeat(pa.scalar(1.0), len(self.pairs)),
        }
        for side, rows in (("chosen", chosen), ("rejected", rejected)):
            columns[side] = _said(rows["text"])
            columns[f"{side}_id"] = rows["completion_id"]
            columns |= {f"{name}_{side}": rows[name] for name in ("source", "logp", "model_hash")}
        columns |= _token_ids(chosen, rejected)
        return pa.table([_column(columns[f.name], f) for f in PAIR_SHARD], PAIR_SHARD)

    def _sides(self, completions: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The completions' rows of the chosen and of the rejected, in the pairs' order."""
        place = {completion: i for i, completion in enumerate(completions["completion_id"].to_pylist())}
        chosen = pa.array([place[c.id] for c, _ in self.pairs], pa.int64())
        rejected = pa.array([place[r.id] for _, r in self.pairs], pa.int64())
        return completions.take(chosen), completions.take(rejected)

    def _own(self, prompt_ids: Sequence[str]) -> dict[str, Any]:
        """What only the pairs know."""
        sides = ([c.id for c, _ in self.pairs], [r.id for _, r in self.pairs])
        return {
            "pair_id": pa.array(content_ids(prompt_ids, *sides, self.strategies), pa.string()),
            "score_chosen": pa.array([c.score for c, _ in self.pairs], pa.float64()),
            "score_rejected": pa.array([r.score for _, r in self.pairs], pa.float64()),
            "margin": pa.array([c.score - r.score for c, r in self.pairs], pa.float64()),
            "labelers": _each([[name for name, _ in made] for made in self.made_by]),
            "labeler_versions": _each([[version for _, version in made] for made in self.made_by]),
            "strategy": pa.array(self.strategies, pa.string()),
        }


def _each(lists: list[list[str]]) -> pa.Array:
    return pa.array(lists, pa.list_(pa.string()))


def _said(texts: Any) -> pa.Array:
    """Each text as a conversation of one message, the assistant's."""
    kind = PAIR_SHARD.field("chosen").type
    content = texts.combine_chunks()
    role = pa.repeat(pa.scalar("assistant"), len(content))
    turns = pa.StructArray.from_arrays([role, content], fields=[kind.value_type.field(i) for i in range(2)])
    return pa.ListArray.from_arrays(pa.array(range(len(content) + 1), pa.int32()), turns, type=kind)


def _token_ids(chosen: pa.Table, rejected: pa.Table) -> dict[str, Any]:
    """Token ids of both sides and their prompt, where both were sampled with one tokenizer and one template: else of no use."""
    has_ids = [
        pc.fill_null(pc.greater(pc.list_value_length(side["token_ids"]), 0), False) for side in (chosen, rejected)
    ]
    exact = pc.and_(*has_ids)
    if pc.any(exact).as_py():
        exact = pa.array(
            [both and alike for both, alike in zip(exact.to_pylist(), _alike(chosen, rejected), strict=True)]
        )
    found = {name: _only(exact, chosen[name]) for name in SHARED}
    return {
        **found,
        "chosen_token_ids": _only(exact, chosen["token_ids"]),
        "rejected_token_ids": _only(exact, rejected["token_ids"]),
    }


def _alike(chosen: pa.Table, rejected: pa.Table) -> Iterator[bool]:
    """Whether both sides of each pair agree in all that SHARED names."""
    columns = [(chosen[name].to_pylist(), rejected[name].to_pylist()) for name in SHARED]
    for row in range(chosen.num_rows):
        yield all(c[row] == r[row] for c, r in columns)


def _only(wanted: Any, column: Any) -> Any:
    """The column, null where it is not wanted."""
    places = pa.array([i if is_wanted else None for i, is_wanted in enumerate(wanted.to_pylist())], pa.int64())
    return column.take(places)


def _column(values: Any, of: pa.Field) -> pa.Array:
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return whole if whole.type.equals(of.type) else whole.cast(of.type)
