"""Which completions of one group become pairs. Pure functions: a group in, pairs and counted reasons out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from labelers.types import content_id

RuleName = Literal["auto", "best_vs_worst", "pass_vs_fail", "all_pairs"]


@dataclass(frozen=True, slots=True)
class Scored:
    """A completion as a pair rule sees it.

    Args:
        score: higher is better.
        passed: whether it passed; None when no labeler of it knows passing.
        truncated: it was cut and did not end itself.
        length: tokens, or characters where tokens are unknown.
    """

    id: str
    text: str
    score: float
    passed: bool | None
    truncated: bool
    length: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """How groups become pairs.

    Args:
        rule: `pass_vs_fail` matches one that passed with one that failed of like length; `best_vs_worst` takes the extremes of
            the scores; `all_pairs` takes every pair, largest margins first; `auto` is `pass_vs_fail` where labelers know
            passing, else `best_vs_worst`.
        max_per_prompt: pairs of one prompt at most; no completion is in two of them except under `all_pairs`.
        min_margin: the least difference of scores; a difference of 0 is a tie and never a pair.
        truncated_rejected: a truncated completion may be rejected (it is never chosen).
    """

    rule: RuleName = "auto"
    max_per_prompt: int = 4
    min_margin: float = 0.0
    truncated_rejected: bool = True

    def __post_init__(self) -> None:
        if self.max_per_prompt < 1:
            raise ValueError(f"max_per_prompt is {self.max_per_prompt}; hint: 1 or more")
        if self.min_margin < 0:
            raise ValueError(f"min_margin is {self.min_margin}; hint: 0 or more")


Pair = tuple[Scored, Scored]
"""(chosen, rejected)"""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A group's pairs, the rule that made them, and what was dropped: completions and groups by reason."""

    pairs: tuple[Pair, ...] = ()
    strategy: str = ""
    dropped: Counter[str] = field(default_factory=Counter)


def choose(group: Sequence[Scored], settings: Pairs) -> Chosen:
    """The pairs of one group of scored completions (abstentions are not among them)."""
    distinct, duplicates = drop_duplicates(group)
    dropped = Counter({"duplicate completion": duplicates}) if duplicates else Counter()
    if len(distinct) < 2:
        dropped["prompt with fewer than two distinct completions"] += 1
        return Chosen(dropped=dropped)
    strategy = settings.rule if settings.rule != "auto" else automatic_rule(distinct)
    eligible, cut = fit_to_pair(distinct, settings)
    dropped.update(cut)
    pairs = [pair for pair in RULES[strategy](eligible) if wide_enough(pair, settings)]
    if not pairs:
        dropped[f"prompt {why_none(distinct)}"] += 1
    return Chosen(tuple(pairs[: settings.max_per_prompt]), strategy, dropped)


def choose_by_verdicts(group: Sequence[Scored], decided: Sequence[tuple[str, str]], settings: Pairs) -> Chosen:
    """The pairs that verdicts made: `decided` holds (preferred id, other id), a group's scores are win rates.

    A verdict that goes against the two completions' win rates is part of a cycle and makes no pair.
    """
    by_id = {s.id: s for s in group}
    asked = [(by_id[winner], by_id[loser]) for winner, loser in sorted(decided) if winner in by_id and loser in by_id]
    whole = [(c, r) for c, r in asked if not c.truncated and (settings.truncated_rejected or not r.truncated)]
    pairs = [pair for pair in whole if wide_enough(pair, settings)]
    dropped = Counter({"verdict for a truncated completion": len(asked) - len(whole)})
    dropped["verdict against the win rates"] = len(whole) - len(pairs)
    if not pairs:
        dropped["prompt with no decided comparison"] += 1
    return Chosen(tuple(pairs[: settings.max_per_prompt]), "verdicts", +dropped)


def drop_duplicates(group: Sequence[Scored]) -> tuple[list[Scored], int]:
    """Each text once, and how many were dropped. Copies of one text that were scored differently are dropped altogether."""
    by_text: dict[str, list[Scored]] = {}
    for scored in sorted(group, key=lambda s: s.id):
        by_text.setdefault(scored.text.strip(), []).append(scored)
    kept = [same[0] for same in by_text.values() if len({s.score for s in same}) == 1]
    return kept, len(group) - len(kept)


def automatic_rule(group: Sequence[Scored]) -> Literal["best_vs_worst", "pass_vs_fail"]:
    """Passing decides where it is known of all."""
    return "best_vs_worst" if any(s.passed is None for s in group) else "pass_vs_fail"


def fit_to_pair(group: Sequence[Scored], settings: Pairs) -> tuple[list[Scored], Counter[str]]:
    """Those that may stand in a pair: truncated ones only where they may be rejected."""
    kept = [s for s in group if settings.truncated_rejected or not s.truncated]
    cut = Counter({"truncated completion": len(group) - len(kept)}) if len(kept) < len(group) else Counter[str]()
    return kept, cut


def wide_enough(pair: Pair, settings: Pairs) -> bool:
    """The margin is above 0 and at least the asked one."""
    margin = pair[0].score - pair[1].score
    return margin > 0 and margin >= settings.min_margin


def why_none(group: Sequence[Scored]) -> str:
    """Why a group of at least two distinct completions made no pair."""
    passed = {s.passed for s in group}
    if passed == {True}:
        return "where all passed"
    if passed == {False} and len({s.score for s in group}) == 1:
        return "where all failed"
    if len({s.score for s in group}) == 1:
        return "where all tied"
    if all(s.truncated for s in group if s.score == max(t.score for t in group)):
        return "whose best are truncated"
    return "where all failed" if passed == {False} else "with no margin wide enough"


def best_vs_worst(group: Sequence[Scored]) -> list[Pair]:
    """The best with the worst, the next best with the next worst, until they meet. Equal scores go by content, not order."""
    best = [s for s in sorted(group, key=lambda s: (-s.score, s.id)) if not s.truncated]
    worst = sorted(group, key=lambda s: (s.score, content_id("worst", s.id)))
    return _disjoint([(c, r) for c in best for r in worst if c.score > r.score])


def pass_vs_fail(group: Sequence[Scored]) -> list[Pair]:
    """One that passed with one that failed, closest in length first, so that length says nothing about the label."""
    passed = [s for s in group if s.passed and not s.truncated]
    failed = [s for s in group if s.passed is False]
    by_gap = sorted(
        ((p, f) for p in passed for f in failed), key=lambda pf: (abs(pf[0].length - pf[1].length), pf[0].id, pf[1].id)
    )
    return _disjoint(by_gap)


def all_pairs(group: Sequence[Scored]) -> list[Pair]:
    """Every ordered pair with a positive margin, the widest first."""
    pairs = [(c, r) for c in group for r in group if c.score > r.score and not c.truncated]
    return sorted(pairs, key=lambda cr: (cr[1].score - cr[0].score, cr[0].id, cr[1].id))


RULES: dict[str, Callable[[Sequence[Scored]], list[Pair]]] = {
    "best_vs_worst": best_vs_worst,
    "pass_vs_fail": pass_vs_fail,
    "all_pairs": all_pairs,
}


def _disjoint(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs in order, without those that use a completion again."""
    used: set[str] = set()
    kept = []
    for chosen, rejected in pairs:
        if not {chosen.id, rejected.id} & used:
            used |= {chosen.id, rejected.id}
            kept.append((chosen, rejected))
    return kept
