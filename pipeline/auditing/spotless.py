"""A quick look at a shard's pairs, by columns: is there nothing to find? Whatever is odd is then looked at row by row.

It may call a good shard odd, never the other way about: each line here is at least as strict as the check in defects.py that it
stands for, and knows the common case alone (one label a completion, no verdicts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labelers.types import Prompt, content_id, content_ids
from pipeline.auditing.evidence import Evidence
from pipeline.prompts import prompts_of

SIDES = ("chosen", "rejected")
MOST_REPEATS = 64
"""How many copies of one text from one seed an id is tried for."""


def spotless(evidence: Evidence, signs: Mapping[str, float] | None) -> bool:
    """Whether every pair of the shard passes every check of a pair, and every prompt has its id.

    Args:
        signs: as in defects.Truth.
    """
    pairs = evidence.pairs
    if evidence.comparisons.num_rows or not pairs.num_rows:
        return False
    chosen, rejected = (_rows(evidence.completions, "completion_id", pairs[f"{side}_id"]) for side in SIDES)
    labels = [_rows(evidence.labels, "completion_id", pairs[f"{side}_id"]) for side in SIDES]
    prompts = _rows(evidence.prompts, "prompt_id", pairs["prompt_id"])
    if chosen is None or rejected is None or prompts is None or labels[0] is None or labels[1] is None:
        return False
    return (
        _says_what_its_ids_name(pairs, chosen, rejected, prompts)
        and _two_texts(chosen["text"], rejected["text"])
        and _ids_are_of_their_content(pairs, chosen, rejected)
        and _has_its_labels(pairs, labels[0], labels[1], signs)
        and _margin_is_right(pairs)
        and _all(pc.equal(chosen["finish_reason"], "stop"))
        and all(is_id_of_prompt(prompt) for prompt in prompts_of(evidence.prompts).values())
    )


def _rows(table: pa.Table, key: str, keys: Any) -> pa.Table | None:
    """The row of each key; None where a key has none, or the table has two for one."""
    if len(pc.unique(table[key])) != table.num_rows:
        return None
    places = pc.index_in(keys, value_set=table[key])
    return None if places.null_count else table.take(places)


def _all(wanted: Any) -> bool:
    """Whether all are true; null is not."""
    return bool(pc.all(pc.fill_null(wanted, False)).as_py())


def _equal(first: Any, second: Any) -> bool:
    """Whether two columns of any type are the same, nulls too."""
    return bool(first.combine_chunks().equals(second.combine_chunks()))


def _says_what_its_ids_name(pairs: pa.Table, chosen: pa.Table, rejected: pa.Table, prompts: pa.Table) -> bool:
    for side, rows in (("chosen", chosen), ("rejected", rejected)):
        said = pairs[side].combine_chunks()
        if not _all(pc.equal(pc.list_value_length(said), 1)):
            return False
        if not _equal(pa.chunked_array([pc.struct_field(said.flatten(), "content")]), rows["text"]):
            return False
        if not _equal(rows["source"], pairs[f"source_{side}"]) or not _equal(rows["prompt_id"], pairs["prompt_id"]):
            return False
    return _equal(pairs["prompt"], prompts["messages"])


def _two_texts(chosen: Any, rejected: Any) -> bool:
    return all(c.split() != r.split() for c, r in zip(chosen.to_pylist(), rejected.to_pylist(), strict=True))


def _ids_are_of_their_content(pairs: pa.Table, chosen: pa.Table, rejected: pa.Table) -> bool:
    said = [pairs[name].to_pylist() for name in ("prompt_id", "chosen_id", "rejected_id", "strategy")]
    if pairs["pair_id"].to_pylist() != content_ids(*said):
        return False
    for side in (chosen, rejected):
        ids = side["completion_id"].to_pylist()
        said = [side[name].to_pylist() for name in ("prompt_id", "source", "seed", "text")]
        first = content_ids(*said, [0] * len(ids))  # the text's first time, as most are
        rows = zip(ids, first, *said, strict=True)
        if not all(own == of_first or is_id_of(own, *parts) for own, of_first, *parts in rows):
            return False
    return True


def is_id_of_prompt(prompt: Prompt) -> bool:
    """Whether a prompt's id is of its messages and target."""
    return prompt.id == content_id([[m.role, m.content] for m in prompt.messages], prompt.target)


def is_id_of(completion_id: str, *parts: Any) -> bool:
    """Whether a completion's id is of its prompt id, source, seed and text, and of how often that text came before."""
    return any(completion_id == content_id(*parts, repeat) for repeat in range(MOST_REPEATS))


def _has_its_labels(pairs: pa.Table, chosen: pa.Table, rejected: pa.Table, signs: Mapping[str, float] | None) -> bool:
    """Each side was judged by the pair's one labeler, in its version, and the chosen scored more."""
    for name, column in (("labelers", "labeler"), ("labeler_versions", "labeler_version")):
        if not _all(pc.equal(pc.list_value_length(pairs[name]), 1)):
            return False
        own = pa.chunked_array([pairs[name].combine_chunks().flatten()])
        if not all(_equal(side[column], own) for side in (chosen, rejected)):
            return False
    for side in (chosen, rejected):
        if side["abstain"].null_count != side.num_rows or not _equal(side["prompt_id"], pairs["prompt_id"]):
            return False
    if signs is None:
        return True
    sign = np.array([signs.get(name, 1.0) for name in chosen["labeler"].to_pylist()])
    return bool((sign * (chosen["value"].to_numpy() - rejected["value"].to_numpy()) > 0).all())


def _margin_is_right(pairs: pa.Table) -> bool:
    chosen, rejected, margin = (pairs[name].to_numpy() for name in ("score_chosen", "score_rejected", "margin"))
    near = np.abs(margin - (chosen - rejected)) <= 1e-9 * np.maximum(np.abs(margin), 1.0)
    return bool((np.isfinite(margin) & (margin > 0) & near).all())
