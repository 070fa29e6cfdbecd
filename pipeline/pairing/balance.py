"""What is set right over all pairs of a shard: length and sources, so that neither of them is the label.

Which pair goes follows from its ids, so that a rerun drops the same.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from labelers.types import content_id
from pipeline.pairing.rules import Pair, Scored
from pipeline.pairing.settings import Pairs

Groups = Sequence[Sequence[Scored]]


def balanced(pairs: Sequence[Pair], settings: Pairs) -> tuple[list[Pair], Counter[str]]:
    """The pairs that length control and the caps on sources leave, in their order, and what was dropped."""
    kept, dropped = list(pairs), Counter[str]()
    if settings.length == "stratify":
        kept = stratified(kept)
        dropped["pair dropped to balance lengths"] = len(pairs) - len(kept)
    if settings.max_source_share < 1:
        capped = within_shares(kept, settings.max_source_share)
        dropped["pair over its source's share"] = len(kept) - len(capped)
        kept = capped
    return kept, +dropped


def stratified(pairs: Sequence[Pair]) -> list[Pair]:
    """As many pairs whose chosen is longer as pairs whose chosen is shorter, at each ratio of lengths (by factors of sqrt 2)."""
    strata: defaultdict[int, dict[bool, list[Pair]]] = defaultdict(lambda: {True: [], False: []})
    for pair in pairs:
        ratio = _log_length(pair[0]) - _log_length(pair[1])
        if ratio:
            strata[round(2 * abs(ratio) / math.log(2))][ratio > 0].append(pair)
    surplus: set[tuple[str, str]] = set()
    for sides in strata.values():
        n = min(map(len, sides.values()))
        surplus |= {_key(pair) for side in sides.values() for pair in sorted(side, key=_seed)[n:]}
    return [pair for pair in pairs if _key(pair) not in surplus]


def within_shares(pairs: Sequence[Pair], share: float) -> list[Pair]:
    """The pairs among which no source gives more than `share` of the chosen or of the rejected.

    One goes at a time, of the source furthest over its share, and of its pairs one whose other side is the commonest too.
    """
    kept = sorted(pairs, key=_seed)
    while kept:
        counts = [Counter(pair[side].source for pair in kept) for side in (0, 1)]
        n, side, name = max((n, side, name) for side in (0, 1) for name, n in counts[side].items())
        if n <= share * len(kept) + 1e-9:  # the small term is for shares that floats hold just below
            break
        worst = max((p for p in kept if p[side].source == name), key=lambda p: counts[1 - side][p[1 - side].source])
        kept.remove(worst)
    left = {_key(pair) for pair in kept}
    return [pair for pair in pairs if _key(pair) in left]


def residualised(groups: Groups) -> list[list[Scored]]:
    """The groups, without the part of the scores that a line on log length explains within the prompts of the shard.

    One slope for the shard, since the few completions of one prompt give none; the logarithm makes tokens and characters alike.
    Source: the length-controlled regression of arXiv 2404.04475, here on labels.
    """
    slope = length_slope(groups)
    return [[s._replace(score=s.score - slope * x) for s, x in zip(g, _centred(g), strict=True)] for g in groups]


def length_slope(groups: Groups) -> float:
    """How much a score rises with log length, within prompts."""
    above = below = 0.0
    for group in groups:
        mean = sum(s.score for s in group) / max(len(group), 1)
        for scored, x in zip(group, _centred(group), strict=True):
            above += x * (scored.score - mean)
            below += x * x
    return above / below if below else 0.0


def _centred(group: Sequence[Scored]) -> list[float]:
    lengths = [_log_length(s) for s in group]
    return [x - sum(lengths) / len(lengths) for x in lengths]


def _log_length(scored: Scored) -> float:
    return math.log(max(scored.length, 1))


def _key(pair: Pair) -> tuple[str, str]:
    return pair[0].id, pair[1].id


def _seed(pair: Pair) -> str:
    return content_id("balance", *_key(pair))
