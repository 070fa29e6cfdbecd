"""Which completions of one group become pairs. Pure functions: a group in, pairs and counted reasons out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.pairing.duplicates import similarity, without_duplicates
from pipeline.pairing.rules import RULES, Pair, Scored
from pipeline.pairing.settings import Pairs, RuleName

__all__ = ["RULES", "Chosen", "Pair", "Pairs", "RuleName", "Scored", "automatic_rule", "choose", "choose_by_verdicts"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A group's pairs, the rule that made them, and what was dropped: completions and groups by reason."""

    pairs: tuple[Pair, ...] = ()
    strategy: str = ""
    dropped: Counter[str] = field(default_factory=Counter)


def choose(group: Sequence[Scored], settings: Pairs, noise: float = 0.0) -> Chosen:
    """The pairs of one group of scored completions (abstentions are not among them).

    Args:
        noise: the deviation of a repeated score, for `min_margin_noise`.
    """
    distinct, dropped = without_duplicates(group, settings.near_duplicate)
    if len(distinct) < 2:
        dropped["prompt with fewer than two distinct completions"] += 1
        return Chosen(dropped=dropped)
    strategy = settings.rule if settings.rule != "auto" else automatic_rule(distinct)
    eligible, cut = fit_to_pair(distinct, settings)
    dropped += cut
    pairs = _select(RULES[strategy](eligible, settings), settings, noise, strategy != "all_pairs")
    if not pairs:
        dropped[f"prompt {why_none(distinct)}"] += 1
    return Chosen(tuple(pairs), strategy, dropped)


def choose_by_verdicts(
    group: Sequence[Scored], decided: Sequence[tuple[str, str]], settings: Pairs, noise: float = 0.0
) -> Chosen:
    """The pairs that verdicts made: `decided` holds (preferred id, other id), a group's scores are its ranking's.

    A verdict that goes against the ranking of the two completions is part of a cycle and makes no pair.

    Args:
        noise: the share of verdicts that flip with the order, for `min_margin_noise`.
    """
    if settings.verdicts == "ranked":
        chosen = choose(group, settings, noise)
        return Chosen(chosen.pairs, f"ranked by verdicts, {chosen.strategy}" if chosen.pairs else "", chosen.dropped)
    by_id = {s.id: s for s in group}
    asked = [(by_id[winner], by_id[loser]) for winner, loser in sorted(set(decided)) if {winner, loser} <= by_id.keys()]
    whole = [(c, r) for c, r in asked if not c.truncated and (settings.truncated_rejected or not r.truncated)]
    wide = [pair for pair in whole if wide_enough(pair, settings, noise)]
    pairs = [pair for pair in wide if allowed(pair, settings)]
    dropped = Counter({"verdict for a truncated completion": len(asked) - len(whole)})
    dropped["verdict against the win rates"] = len(whole) - len(wide)
    dropped["verdict for a pair that the options bar"] = len(wide) - len(pairs)
    if not pairs:
        dropped["prompt with no decided comparison"] += 1
    return Chosen(tuple(pairs[: settings.max_per_prompt]), "verdicts", +dropped)


def automatic_rule(group: Sequence[Scored]) -> Literal["mu_minus_2sigma", "pass_vs_fail"]:
    """Passing decides where it is known of all."""
    return "mu_minus_2sigma" if any(s.passed is None for s in group) else "pass_vs_fail"


def fit_to_pair(group: Sequence[Scored], settings: Pairs) -> tuple[list[Scored], Counter[str]]:
    """Those that may stand in a pair: truncated ones only where they may be rejected, and what the gates let through."""
    kept = list(group) if settings.truncated_rejected else [s for s in group if not s.truncated]
    gated = [s for s in kept if s.may_be_chosen or s.may_be_rejected]
    if len(gated) == len(group):
        return gated, Counter()
    cut = Counter({"truncated completion": len(group) - len(kept), "completion behind a gate": len(kept) - len(gated)})
    return gated, +cut


def wide_enough(pair: Pair, settings: Pairs, noise: float = 0.0) -> bool:
    """The margin is above 0, a number, and at least the asked one."""
    margin = pair[0].score - pair[1].score
    return 0 < margin < math.inf and margin >= settings.min_margin and margin >= settings.min_margin_noise * noise


def allowed(pair: Pair, settings: Pairs) -> bool:
    """Whether the two may be chosen and rejected: what was cut is not chosen, what passed is not rejected."""
    chosen, rejected = pair
    if chosen.truncated or rejected.passed or not chosen.may_be_chosen or not rejected.may_be_rejected:
        return False
    if settings.sources != "any" and (chosen.source == rejected.source) != (settings.sources == "same"):
        return False
    if settings.length == "match":
        shorter, longer = sorted((chosen.length, rejected.length))
        if longer > settings.max_length_ratio * shorter:
            return False
    return settings.max_similarity >= 1 or similarity(chosen.text, rejected.text) <= settings.max_similarity


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
    if not any(s.may_be_chosen for s in group) or not any(s.may_be_rejected for s in group):
        return "behind a gate"
    return "where all failed" if passed == {False} else "with no margin wide enough"


def _select(pairs: Iterable[Pair], settings: Pairs, noise: float, disjoint: bool) -> list[Pair]:
    """The first pairs that the settings allow; where `disjoint`, without those that use a completion again."""
    used: set[str] = set()
    kept: list[Pair] = []
    for pair in pairs:
        chosen, rejected = pair
        if disjoint and (chosen.id in used or rejected.id in used):
            continue
        if wide_enough(pair, settings, noise) and allowed(pair, settings):
            used |= {chosen.id, rejected.id}
            kept.append(pair)
            if len(kept) == settings.max_per_prompt:
                break
    return kept
