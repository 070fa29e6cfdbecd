"""What came of an ablation: each variant's gain as it is and at equal length, who is in the winning group, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.evaluating.evaluate import REFERENCE, Measured
from pipeline.evaluating.measures import (
    Answers,
    Estimate,
    bootstrapped,
    controlled_win_rates,
    gain_over,
    mean_rate,
    over_seeds,
)
from pipeline.evaluating.told import points
from pipeline.observing.funnel import aligned

Policies = Mapping[str, Sequence[str]]
"""Variant -> the names under which its seeds' policies were measured."""


@dataclass(frozen=True)
class Gain:
    """What a variant gained over the reference, and how far it is behind the variant that gained most."""

    gain: Estimate
    behind: Estimate

    @property
    def wins(self) -> bool:
        """Whether nothing says that the best is better."""
        return self.behind.low <= 0.0


@dataclass(frozen=True)
class Result:
    """What one variant came to.

    Args:
        available: pairs that it made; `pairs` of them were trained on.
        held_out: of the held-out pass rate, families counting the same, over prompts and seeds together, paired by prompt.
        at_equal_length: the same as it would be if the policies' answers were as long as the reference's (2404.04475).
        by_seed: the gain of each seed's policy.
        length_gap: tokens of the chosen less those of the rejected, on average over the pairs trained on; None where unknown.
        tokens: of the policies' answers, on average.
        seconds: of one training, on average.
    """

    name: str
    available: int
    pairs: int
    held_out: Gain
    at_equal_length: Gain
    by_seed: tuple[float, ...]
    length_gap: float | None
    tokens: float
    seconds: float


def gains(measured: Measured, policies: Policies) -> dict[str, Gain]:
    """Each variant's gain of the held-out pass rate, its seeds taken together."""
    base = measured.by_prompt[REFERENCE, 1.0]
    rates = {name: over_seeds([measured.by_prompt[one, 1.0] for one in own]) for name, own in policies.items()}
    found = {name: gain_over(own, base) for name, own in rates.items()}
    best = max(found, key=lambda name: found[name].value)
    return {name: Gain(found[name], gain_over(rates[best], rates[name])) for name in policies}


def gains_at_equal_length(measured: Measured, policies: Policies) -> dict[str, Gain]:
    """The same between answers of equal length: twice the win rate by passing there, less 1."""
    seeds = max(map(len, policies.values()))
    base = _passing([measured.answers[REFERENCE, 1.0]] * seeds)
    each = {name: _passing([measured.answers[one, 1.0] for one in own]) for name, own in policies.items()}
    found = {name: 2 * rates - 1 for name, rates in controlled_win_rates(each, base).items()}
    best = max(found, key=lambda name: float(found[name][0]))
    return {
        name: Gain(bootstrapped(own, len(base)), bootstrapped(found[best] - own, len(base)))
        for name, own in found.items()
    }


def gain_by_seed(measured: Measured, policies: Sequence[str]) -> tuple[float, ...]:
    """The gain of each policy."""
    base = mean_rate(measured.by_prompt[REFERENCE, 1.0]).value
    return tuple(mean_rate(measured.by_prompt[one, 1.0]).value - base for one in policies)


def tokens(measured: Measured, policies: Sequence[str]) -> float:
    """The mean length of the policies' answers."""
    groups = [group for one in policies for group in measured.answers[one, 1.0].values()]
    return float(np.mean([answer.n_tokens for group in groups for answer in group]))


def table(results: Sequence[Result]) -> str:
    """The results for people: gains in points."""
    head = (
        "variant", "pairs made", "trained on", "gain", "by seed", "per 100 pairs", "per minute", "behind the best", "",
        "at equal length", "behind", "", "length gap", "answers' tokens",
    )  # fmt: skip
    rows = [
        (
            r.name, r.available, r.pairs, points(r.held_out.gain), " ".join(f"{100 * gain:+.1f}" for gain in r.by_seed),
            f"{1e4 * r.held_out.gain.value / r.pairs:.2f}", f"{6e3 * r.held_out.gain.value / r.seconds:.1f}",
            *_behind(r.held_out), points(r.at_equal_length.gain), *_behind(r.at_equal_length),
            "-" if r.length_gap is None else f"{r.length_gap:+.1f}", f"{r.tokens:.1f}",
        )
        for r in results
    ]  # fmt: skip
    return aligned([head, *rows])


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The same for scripts."""
    return [
        {
            **asdict(result),
            "held_out": {**asdict(result.held_out), "wins": result.held_out.wins},
            "at_equal_length": {**asdict(result.at_equal_length), "wins": result.at_equal_length.wins},
        }
        for result in results
    ]


def _behind(found: Gain) -> tuple[str, str]:
    return points(found.behind), "wins" if found.wins else ""


def _passing(seeds: Sequence[Answers]) -> Answers:
    """The answers of all seeds by prompt, passing as their score."""
    return {
        prompt: [replace(a, score=float(a.passed)) for one in seeds for a in one[prompt] if a.passed is not None]
        for prompt in seeds[0]
    }
