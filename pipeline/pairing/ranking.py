"""From verdicts to a ranking: the Bradley-Terry model fitted by choix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PRIOR = 0.1
"""Pseudo-wins of everyone over everyone, as choix's regularisation: strengths stay finite when one completion won all."""
DIGITS = 9
"""Decimals of a ranking's scores: below them lies rounding."""


def bradley_terry(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each completion's expected share of wins against the others of its prompt, from 0 to 1; a tie is half a win each.

    With a connected design (`pipeline.compare.match_ups`) k completions are ranked by far fewer than k(k-1)/2 verdicts, and a
    cycle is settled by all verdicts together. Source: Bradley and Terry 1952; fitted by Luce spectral ranking (choix).
    """
    import choix

    ids = sorted({verdict[side] for verdict in verdicts for side in ("a_id", "b_id")})
    place = {completion: i for i, completion in enumerate(ids)}
    wins = np.zeros((len(ids), len(ids)))
    for verdict in verdicts:
        a, b = place[verdict["a_id"]], place[verdict["b_id"]]
        share = {"a": 1.0, "tie": 0.5, "b": 0.0}[verdict["prefers"]]
        wins[a, b] += share
        wins[b, a] += 1 - share
    strengths = choix.ilsr_pairwise_dense(wins, alpha=PRIOR, max_iter=1000)
    chances = 1 / (1 + np.exp(-np.subtract.outer(strengths, strengths)))
    shares = (chances.sum(axis=1) - 0.5) / (len(ids) - 1)
    return {completion: round(float(share), DIGITS) for completion, share in zip(ids, shares, strict=True)}


def flip_rates(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of each labeler's verdicts that flip with the order: its noise."""
    asked: dict[str, list[bool]] = {}
    for row in comparisons:
        sides = {row["prefers_forward"], row["prefers_backward"]}
        if None not in sides:
            asked.setdefault(row["labeler"], []).append(sides == {"a", "b"})
    return {labeler: sum(flips) / len(flips) for labeler, flips in asked.items()}
