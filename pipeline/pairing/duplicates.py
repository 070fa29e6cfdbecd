"""Texts that say the same thing twice: equal, equal but for white space, or nearly equal by rapidfuzz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

from rapidfuzz.distance import Indel

from pipeline.pairing.rules import Scored

_id = attrgetter("id")
COMPARED = 10_000
"""Characters of a text that similarity looks at: it costs the product of the lengths."""


def without_duplicates(group: Sequence[Scored], near: float) -> tuple[list[Scored], Counter[str]]:
    """Each text once, and what was dropped. Copies of one text that were scored differently are dropped altogether.

    Args:
        near: completions of one outcome (both passed, both failed, or passing unknown) this alike count once; 1: never.
    """
    by_text: dict[str, list[Scored]] = {}
    for scored in sorted(group, key=_id):
        by_text.setdefault(" ".join(scored.text.split()), []).append(scored)
    kept = [same[0] for same in by_text.values() if len(same) == 1 or len({s.score for s in same}) == 1]
    dropped = Counter[str]()
    if len(kept) < len(group):
        dropped["duplicate completion"] = len(group) - len(kept)
    if near < 1:
        distinct = _without_near(kept, near)
        if len(distinct) < len(kept):
            dropped["near-duplicate completion"] = len(kept) - len(distinct)
        kept = distinct
    return kept, dropped


def similarity(first: str, second: str) -> float:
    """How alike two texts are, from 0 to 1: rapidfuzz's normalised Indel similarity."""
    return float(Indel.normalized_similarity(first[:COMPARED], second[:COMPARED]))


def _without_near(group: Sequence[Scored], near: float) -> list[Scored]:
    """The completions, without those that are near one of their own outcome. Texts sorted by length: most never meet."""
    reach = (2 - near) / near  # texts whose lengths differ by more cannot be so alike
    kept: dict[bool | None, list[tuple[int, str, Scored]]] = {True: [], False: [], None: []}
    for length, _, scored in sorted((len(s.text), s.id, s) for s in group):
        others, text, shortest = kept[scored.passed], scored.text[:COMPARED], length / reach
        for other_length, other, _ in reversed(others):
            if other_length < shortest:
                others.append((length, text, scored))
                break
            if Indel.normalized_similarity(other, text, score_cutoff=near) >= near:
                break
        else:
            others.append((length, text, scored))
    return [scored for others in kept.values() for _, _, scored in others]
