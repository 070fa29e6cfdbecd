"""What answers to held-out prompts say about a model: pure functions, arrays in, numbers with intervals out.

Legend: P prompts, N answers of a prompt.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, Any]
RESAMPLES = 2000
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and from how many prompts it comes. The ends are nan where they cannot be had."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Answer:
    """One completion of a held-out prompt.

    Args:
        passed: whether it passed all labelers that know passing; an abstention is no pass. None where none knows it.
        score: the combined score; None where a labeler abstained or none scored.
        finished: it ended by itself.
    """

    text: str
    n_tokens: int
    passed: bool | None
    score: float | None
    finished: bool = True


Answers = Mapping[str, Sequence[Answer]]
"""Prompt id -> its answers."""
Rates = Mapping[str, Mapping[str, float]]
"""Family -> prompt id -> the share of its completions that pass."""


def interval(groups: Sequence[Floats], seed: int) -> tuple[float, float, float]:
    """The mean of the groups' means and its 95 % bootstrap interval (percentile, 2,000 resamples within each group)."""
    from scipy import stats

    def mean_of_means(*samples: Floats, axis: int = -1) -> Any:
        return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)

    mean = float(mean_of_means(*groups))
    if all(np.ptp(group) == 0 for group in groups):
        return mean, mean, mean
    groups = [
        np.repeat(group, 2) if len(group) == 1 else group for group in groups
    ]  # scipy refuses one that stands alone
    with warnings.catch_warnings():  # a group of equal values among others is no reason to warn
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        ends = stats.bootstrap(
            tuple(groups), mean_of_means, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
    return mean, float(ends.low), float(ends.high)


def estimate(values: Sequence[float] | Floats, seed: int = 0) -> Estimate:
    """The mean of a number for each prompt."""
    array = np.asarray(values, dtype=float)
    if not len(array):
        return Estimate(math.nan, math.nan, math.nan, 0)
    return Estimate(*interval([array], seed), len(array))


def over_seeds(rates: Sequence[Rates]) -> Rates:
    """The mean of several policies' rates, prompt by prompt: a prompt counts once however many seeds there are."""
    return {
        family: {prompt: float(np.mean([one[family][prompt] for one in rates])) for prompt in own}
        for family, own in rates[0].items()
    }


def mean_rate(rates: Rates) -> Estimate:
    """The mean over families, each counting the same; the interval is over prompts."""
    groups = [np.array([rates[family][prompt] for prompt in sorted(rates[family])]) for family in sorted(rates)]
    return Estimate(*interval(groups, 0), sum(map(len, groups)))


def gain_over(new: Rates, old: Rates) -> Estimate:
    """The mean over families of `new` less `old`, paired by prompt."""
    return mean_rate({family: {p: rate - old[family][p] for p, rate in own.items()} for family, own in new.items()})


def mean_score(answers: Answers, seed: int = 0) -> Estimate:
    """The mean score, prompts counting the same; answers without a score are left out."""
    by_prompt = [[a.score for a in group if a.score is not None] for group in answers.values()]
    return estimate([float(np.mean(scores)) for scores in by_prompt if scores], seed)


def win_rate(new: Answers, old: Answers, seed: int = 0) -> Estimate:
    """How often an answer of `new` scores higher than one of `old` to the same prompt; a tie counts half."""
    shares = []
    for prompt, group in new.items():
        ours, theirs = _scores(group), _scores(old.get(prompt, ()))
        if len(ours) and len(theirs):
            gaps = ours[:, None] - theirs[None, :]
            shares.append(float(np.mean((gaps > 0) + 0.5 * (gaps == 0))))
    return estimate(shares, seed)


def controlled_win_rate(new: Answers, old: Answers, seed: int = 0, resamples: int = 200) -> Estimate:
    """The win rate as it would be between answers of equal length (2404.04475, without the terms for prompts and annotators).

    A logistic regression of winning on the difference of lengths, tanh(gap / deviation); the rate is where the gap is 0. The
    interval is bootstrapped over prompts.
    """
    n = sum(bool(len(_matched(group, old.get(prompt, ())))) for prompt, group in new.items())
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return bootstrapped(controlled_win_rates({"new": new}, old, seed, resamples)["new"], n)


def controlled_win_rates(
    each: Mapping[str, Answers], old: Answers, seed: int = 0, resamples: int = 200
) -> dict[str, Floats]:
    """Of each that answered the same prompts: its win rate at equal length, then the same of every bootstrap sample.

    A sample draws the same prompts for all, so that rates may be compared sample by sample.

    Shapes: (1 + resamples,)
    """
    rows = {name: {p: _matched(group, old.get(p, ())) for p, group in new.items()} for name, new in each.items()}
    prompts = [p for p in old if all(p in own and len(own[p]) for own in rows.values())]
    rng = np.random.default_rng(seed)
    draws = [np.arange(len(prompts)), *(rng.integers(len(prompts), size=len(prompts)) for _ in range(resamples))]
    found = {}
    for name, own in rows.items():
        each_prompt = [own[prompt] for prompt in prompts]
        spread = float(np.std(np.concatenate(each_prompt)[:, 0])) or 1.0
        found[name] = np.array(
            [_at_equal_length(np.concatenate([each_prompt[i] for i in drawn]), spread) for drawn in draws]
        )
    return found


def bootstrapped(values: Floats, n: int) -> Estimate:
    """What was found, first, and its 95 % interval from the bootstrap samples behind it. `n`: prompts."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high), n)


def distinct(answers: Answers, n: int) -> float:
    """The share of different n-grams of words among all of them (1510.03055): 1 when nothing is ever repeated."""
    total, seen = 0, set()
    for group in answers.values():
        for answer in group:
            words = WORD.findall(answer.text)
            grams = list(zip(*(words[i:] for i in range(n)), strict=False))
            total += len(grams)
            seen.update(grams)
    return len(seen) / total if total else math.nan


def self_similarity(answers: Answers) -> float:
    """How alike two answers to one prompt are: the normalised indel similarity, 1 for equal texts, averaged over prompts."""
    from rapidfuzz import process
    from rapidfuzz.distance import Indel

    means = []
    for group in answers.values():
        if len(group) > 1:
            table = process.cdist([a.text for a in group], [a.text for a in group], scorer=Indel.normalized_similarity)
            means.append((float(table.sum()) - len(group)) / (len(group) * (len(group) - 1)))
    return float(np.mean(means)) if means else math.nan


def best_of(answers: Answers, n: int, seed: int = 0) -> tuple[Estimate, float]:
    """The mean score of the best of `n` answers, and its divergence from the sampler in nats: log n - (n - 1) / n.

    Unbiased over all subsets of the answers (2107.03374's estimator for maxima); the divergence is an upper bound (2401.01879).
    """
    found = []
    for group in answers.values():
        scores = np.sort(_scores(group))
        if len(scores) >= n:
            ways = np.array([math.comb(place, n - 1) for place in range(len(scores))], dtype=float)
            found.append(float(scores @ ways / ways.sum()))
    return estimate(found, seed), math.log(n) - (n - 1) / n


def divergence(
    log_ratios: Mapping[str, Sequence[float]], tokens: Mapping[str, Sequence[int]]
) -> tuple[Estimate, Estimate]:
    """KL(policy | reference) in nats, for a sequence and for a token, from log-ratios of the policy's own samples.

    The mean of log pi - log pi_ref over samples of pi: unbiased, sometimes below 0. The interval is normal, by prompts.
    """
    per_sequence = _normal([float(np.mean(values)) for values in log_ratios.values() if len(values)])
    total, length = (np.array([float(sum(by[p])) for p in log_ratios]) for by in (log_ratios, tokens))
    if length.sum() == 0:
        return per_sequence, Estimate(math.nan, math.nan, math.nan, 0)
    ratio = float(total.sum() / length.sum())
    residue = total - ratio * length  # the delta method for a ratio of sums
    error = 1.96 * math.sqrt(float(residue @ residue)) / float(length.sum())
    return per_sequence, Estimate(ratio, ratio - error, ratio + error, len(total))


def _normal(values: Sequence[float]) -> Estimate:
    array = np.asarray(values)
    if len(array) < 2:
        return Estimate(float(array.mean()) if len(array) else math.nan, math.nan, math.nan, len(array))
    error = 1.96 * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Estimate(float(array.mean()), float(array.mean()) - error, float(array.mean()) + error, len(array))


def _scores(group: Sequence[Answer]) -> Floats:
    return np.array([answer.score for answer in group if answer.score is not None], dtype=float)


def _matched(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Floats:
    """(length gap, won) of each answer against its opposite number; won is 1, 0.5 or 0. Shapes: (N, 2)."""
    rows = []
    for new, old in zip(ours, theirs, strict=False):
        if new.score is not None and old.score is not None:
            rows.append((new.n_tokens - old.n_tokens, 0.5 + 0.5 * float(np.sign(new.score - old.score))))
    return np.array(rows, dtype=float).reshape(-1, 2)


def _at_equal_length(rows: Floats, spread: float) -> float:
    """The fitted chance to win at a gap of 0: Newton's method on two parameters, with a hair of ridge against separation."""
    x = np.column_stack([np.ones(len(rows)), np.tanh(rows[:, 0] / spread)])
    won, theta = rows[:, 1], np.zeros(2)
    for _ in range(25):
        chance = 1 / (1 + np.exp(-x @ theta))
        slope = x.T @ (won - chance) - 1e-3 * theta
        curve = (x * (chance * (1 - chance))[:, None]).T @ x + 1e-3 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        theta += step
        if np.abs(step).max() < 1e-9:
            break
    return float(1 / (1 + np.exp(-theta[0])))
