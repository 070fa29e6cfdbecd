"""A cascade: a cheap labeler first, and the next one only about the prompts whose completions it could not tell apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class After:
    """The labeler before this one.

    Args:
        pass_at: scores of at least this much passed, and passing is all that it says; None: its scores say more.
        n_tables: its label tables, one for each source.
    """

    pass_at: float | None
    n_tables: int


def settled(labels: Sequence[pa.Table], pass_at: float | None) -> set[str]:
    """The prompts of which the labeler judged two completions differently: nobody else needs to be asked about them."""
    said: defaultdict[str, set[float | bool]] = defaultdict(set)
    for table in labels:
        for prompt, value in zip(table["prompt_id"].to_pylist(), table["value"].to_pylist(), strict=True):
            if value is not None:
                said[prompt].add(value if pass_at is None else value >= pass_at)
    return {prompt for prompt, values in said.items() if len(values) > 1}
