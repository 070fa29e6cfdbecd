"""How groups become pairs: the options of `[pairs]`, each checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RuleName = Literal[
    "auto", "best_vs_worst", "best_vs_random", "pass_vs_fail", "mu_minus_2sigma", "quantile", "threshold", "neighbours",
    "all_pairs",
]  # fmt: skip
Combine = Literal["sum", "standardised", "lexicographic"]
LengthControl = Literal["off", "match", "stratify", "residualise"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """How groups become pairs.

    Args:
        rule: `pass_vs_fail` matches one that passed with one that failed of like length; `mu_minus_2sigma` takes the best and
            the one nearest mean minus two sigma (Source: arXiv 2502.16825); `best_vs_worst` the extremes; `best_vs_random` the
            best and any lower one; `quantile` those nearest two quantiles; `threshold` one above and one below two scores;
            `neighbours` the next lower score; `all_pairs` every pair, widest margin first; `auto` is `pass_vs_fail` where
            labelers know passing, else `mu_minus_2sigma`. What passed is never rejected by any rule.
        max_per_prompt: pairs of one prompt at most; no completion is in two of them except under `all_pairs`.
        min_margin: the least difference of scores; a difference of 0 is a tie and never a pair.
        min_margin_noise: the same, in multiples of the labelers' own noise: the deviation of a repeated score (`noise` of a
            labeler), or for verdicts the share of the shard's verdicts that flip with the order.
        truncated_rejected: a truncated completion may be rejected (it is never chosen).
        quantiles: for `quantile`: of the rejected and of the chosen score.
        threshold: for `threshold`: a rejected score is at most the first, a chosen one at least the second.
        near_duplicate: completions of one outcome whose texts are at least this alike (0 to 1) count once; 1 drops only texts
            equal but for white space. A pass and a fail that differ in one character are a signal and stay.
        max_similarity: a pair's texts are at most this alike, pass and fail too; 1 is no limit. Source: DPO lowers the
            chosen's likelihood most at low edit distance (arXiv 2402.13228).
        pass_rate: only prompts of which this share of completions passed, from and to; where passing is known.
        length: `match` pairs within `max_length_ratio`; `stratify` balances a shard's pairs so that longer and shorter win alike
            at each ratio; `residualise` takes out of the scores what a line on log length explains within the prompts.
        max_length_ratio: for `match`: the longer over the shorter at most.
        max_source_share: the most of a shard's chosen, and of its rejected, that one source may give.
        sources: `same` pairs completions of one source only, so that model and temperature cannot be the label; `different`.
        combine: several scores of a completion: `sum` by weight; `standardised` by weight in deviations within the prompt;
            `lexicographic`: the first labeler decides (by passing where it knows it), the next where it ties.
        verdicts: `decided` pairs are those that a verdict decided; `ranked` are any of the Bradley-Terry ranking.
    """

    rule: RuleName = "auto"
    max_per_prompt: int = 4
    min_margin: float = 0.0
    truncated_rejected: bool = True
    min_margin_noise: float = 0.0
    quantiles: tuple[float, float] = (0.1, 0.9)
    threshold: tuple[float, float] = (0.0, 1.0)
    near_duplicate: float = 0.98
    max_similarity: float = 1.0
    pass_rate: tuple[float, float] | None = None
    length: LengthControl = "off"
    max_length_ratio: float = 1.25
    max_source_share: float = 1.0
    sources: Literal["any", "same", "different"] = "any"
    combine: Combine = "sum"
    verdicts: Literal["decided", "ranked"] = "decided"

    def __post_init__(self) -> None:
        if self.max_per_prompt < 1:
            raise ValueError(f"max_per_prompt is {self.max_per_prompt}; hint: 1 or more")
        for name in ("min_margin", "min_margin_noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; hint: 0 or more")
        for name in ("near_duplicate", "max_similarity", "max_source_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; hint: a share above 0 and up to 1")
        if not self.max_length_ratio >= 1:
            raise ValueError(f"max_length_ratio is {self.max_length_ratio}; hint: 1 or more, 1.25 is a quarter longer")
        _check_range("quantiles", self.quantiles)
        if self.pass_rate is not None:
            _check_range("pass_rate", self.pass_rate)
        if not self.threshold[0] < self.threshold[1]:
            raise ValueError(f"threshold is {list(self.threshold)}; hint: [rejected at most, chosen at least], rising")


def _check_range(name: str, ends: tuple[float, float]) -> None:
    if not 0 <= ends[0] < ends[1] <= 1:
        raise ValueError(f"{name} is {list(ends)}; hint: two shares from 0 to 1, the lower first")
