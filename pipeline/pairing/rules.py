"""The pair rules: each gives a group's pairs (chosen, rejected), the best first; who may stand in a pair is not their matter.

Pure: equal groups give equal pairs in whatever order they come. Seeds derive from the completions' ids.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from labelers.types import content_id
from pipeline.pairing.settings import Pairs


class Scored(NamedTuple):
    """A completion as a pair rule sees it; a tuple, since there is one for every label.

    Args:
        score: higher is better.
        passed: whether it passed; None when no labeler of it knows passing.
        truncated: it was cut and did not end itself.
        length: tokens, or characters where tokens are unknown.
        source: where it comes from.
        may_be_chosen, may_be_rejected: what the gates say.
    """

    id: str
    text: str
    score: float
    passed: bool | None
    truncated: bool
    length: int
    source: str = ""
    may_be_chosen: bool = True
    may_be_rejected: bool = True


Pair = tuple[Scored, Scored]
"""(chosen, rejected)"""

Rule = Callable[[Sequence[Scored], Pairs], Iterable[Pair]]
FEW = 5
"""So many completions or fewer have no deviation worth the name."""
HUGE = 1e100
"""Larger scores are measured in a larger unit: their squares are beyond a double."""


def best_vs_worst(group: Sequence[Scored], settings: Pairs) -> Iterator[Pair]:
    """The best with the worst, the next best with the next worst. Equal scores go by content, not order."""
    return _each_best(group, _sorted(group, lambda s: s.score))


def best_vs_random(group: Sequence[Scored], settings: Pairs) -> Iterator[Pair]:
    """The best with any that scores less."""
    return _each_best(group, sorted(group, key=lambda s: content_id("random", s.id)))


def mu_minus_2sigma(group: Sequence[Scored], settings: Pairs) -> Iterator[Pair]:
    """The best with the one nearest mean minus two sigma; with the worst where scores are few or discrete.

    Source: arXiv 2502.16825: the worst of many is an outlier that teaches less and less as n grows.
    """
    scores = [s.score for s in group]
    if len(group) <= FEW or 2 * len(set(scores)) <= len(scores):
        return best_vs_worst(group, settings)
    unit = max(1.0, max(map(abs, scores)) / HUGE)
    scores = [score / unit for score in scores]
    mean = statistics.fmean(scores)
    point = mean - 2 * math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    return _each_best(group, _sorted(group, lambda s: (abs(s.score / unit - point), s.score)))


def quantile(group: Sequence[Scored], settings: Pairs) -> Iterator[Pair]:
    """Those nearest the upper quantile of the scores with those nearest the lower."""
    low, high = (_quantile(sorted(s.score for s in group), q) for q in settings.quantiles)
    worst = _sorted(group, lambda s: (abs(s.score - low), s.score))
    best = sorted(group, key=lambda s: (abs(s.score - high), s.id))
    return ((c, r) for c in best for r in worst if c.score > r.score)


def threshold(group: Sequence[Scored], settings: Pairs) -> Iterator[Pair]:
    """Those that score at least so much with those that score at most so little."""
    low, high = settings.threshold
    return ((c, r) for c, r in best_vs_worst(group, settings) if c.score >= high and r.score <= low)


def neighbours(group: Sequence[Scored], settings: Pairs) -> Iterator[Pair]:
    """Each with the next lower score: the hard pairs."""
    ranked = sorted(group, key=lambda s: (-s.score, s.id))
    return ((c, r) for i, c in enumerate(ranked) for r in ranked[i + 1 :] if c.score > r.score)


def pass_vs_fail(group: Sequence[Scored], settings: Pairs) -> Iterable[Pair]:
    """One that passed with one that failed, closest in length first, so that length says nothing about the label."""
    passed, failed = [s for s in group if s.passed], [s for s in group if s.passed is False]
    return sorted(
        ((p, f) for p in passed for f in failed), key=lambda pf: (abs(pf[0].length - pf[1].length), pf[0].id, pf[1].id)
    )


def all_pairs(group: Sequence[Scored], settings: Pairs) -> Iterable[Pair]:
    """Every ordered pair with a positive margin, the widest first."""
    pairs = [(c, r) for c in group for r in group if c.score > r.score]
    return sorted(pairs, key=lambda cr: (cr[1].score - cr[0].score, cr[0].id, cr[1].id))


RULES: dict[str, Rule] = {
    "best_vs_worst": best_vs_worst,
    "best_vs_random": best_vs_random,
    "pass_vs_fail": pass_vs_fail,
    "mu_minus_2sigma": mu_minus_2sigma,
    "quantile": quantile,
    "threshold": threshold,
    "neighbours": neighbours,
    "all_pairs": all_pairs,
}


def _sorted(group: Sequence[Scored], key: Callable[[Scored], Any]) -> list[Scored]:
    """By `key`; ties by a hash of the content that is made for ties alone: it would cost more than the rest of a rule."""
    counts = Counter(map(key, group))
    return sorted(group, key=lambda s: (k := key(s), content_id("worst", s.id) if counts[k] > 1 else ""))


def _each_best(group: Sequence[Scored], others: Sequence[Scored]) -> Iterator[Pair]:
    """The best with the first of `others` that scores less, and so on down."""
    best = sorted(group, key=lambda s: (-s.score, s.id))
    return ((c, r) for c in best for r in others if c.score > r.score)


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = ordered[int(place)]
    above = ordered[min(int(place) + 1, len(ordered) - 1)]
    return below + (above - below) * (place - int(place))
