"""The numbers behind a run's labels, without their texts: small enough to look at all shards together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.auditing.evidence import Evidence, taken

TRAITS = ["length", "place", "source", "temperature"]
"""What a completion has besides its content."""


@dataclass(frozen=True)
class Facts:
    """A row for each label, pair and comparison, each with the traits of its completions."""

    labels: pa.Table
    pairs: pa.Table
    comparisons: pa.Table


def facts_of(evidence: Evidence) -> Facts:
    """The facts of one shard."""
    traits = traits_of(evidence.completions)
    labels = evidence.labels.select(["labeler", "prompt_id", "completion_id", "value", "abstain"])
    found = taken(traits, "completion_id", labels["completion_id"], [*TRAITS, "text_code"])
    labels = _with(labels, dict(zip([*TRAITS, "text_code"], found, strict=True)))
    pairs = evidence.pairs.select(["margin"]).append_column("labelers", _joined(evidence.pairs["labelers"]))
    for side in ("chosen", "rejected"):
        found = taken(traits, "completion_id", evidence.pairs[f"{side}_id"], TRAITS)
        pairs = _with(pairs, {f"{name}_{side}": column for name, column in zip(TRAITS, found, strict=True)})
    kept = ["labeler", "prompt_id", "a_id", "b_id", "prefers", "prefers_forward", "prefers_backward", "abstain"]
    return Facts(labels, pairs, evidence.comparisons.select(kept))


def together(parts: Sequence[Facts]) -> Facts:
    """The facts of all shards."""
    return Facts(*(pa.concat_tables([getattr(p, name) for p in parts]) for name in ("labels", "pairs", "comparisons")))


def traits_of(completions: pa.Table) -> pa.Table:
    """Each completion's id, traits and a number for its text (the same for copies, in one shard)."""
    n_tokens = completions["n_tokens"]
    length = pc.if_else(pc.greater(n_tokens, 0), n_tokens, pc.cast(pc.utf8_length(completions["text"]), pa.int32()))
    columns = {
        "completion_id": completions["completion_id"],
        "length": pc.cast(length, pa.float64()),
        "place": pa.array(_place_in_group(codes(completions["prompt_id"]))),
        "source": completions["source"],
        "temperature": completions["temperature"],
        "text_code": pa.array(codes(completions["text"])),
    }
    return pa.table(columns)


def codes(column: Any) -> np.ndarray[Any, Any]:
    """A number for each value, the same for equal ones; -1 for null."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    found: np.ndarray[Any, Any] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return found


def numbers(column: Any) -> np.ndarray[Any, Any]:
    """The column as floats; nan for null."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=float)


def _place_in_group(group: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How many rows of the same group came before, for each row."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.array([], int)
    sizes = np.diff(np.r_[starts, len(ordered)])
    place = np.empty(len(group))
    place[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return place


def _joined(lists: Any) -> Any:
    return pc.binary_join(lists, "+")


def _with(table: pa.Table, columns: dict[str, Any]) -> pa.Table:
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def pair_scores(pairs: pa.Table, labels: pa.Table) -> Iterator[tuple[str, Any, Any]]:
    """Each labeler's scores of the pairs' chosen and rejected completions, as floats; nan where it gave none."""
    for labeler in sorted(pc.unique(labels["labeler"]).to_pylist()):
        own = labels.filter(pc.equal(labels["labeler"], labeler))
        chosen, rejected = (
            numbers(own["value"].take(pc.index_in(pairs[side], value_set=own["completion_id"])))
            for side in ("chosen_id", "rejected_id")
        )
        yield labeler, chosen, rejected
