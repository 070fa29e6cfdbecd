"""Statistics of answers, each against a case that can be reckoned by hand or a known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.evaluating.measures import (
    Answer,
    best_of,
    controlled_win_rate,
    distinct,
    divergence,
    interval,
    mean_score,
    self_similarity,
    win_rate,
)


def said(*scores: float | None, n_tokens: int = 5) -> list[Answer]:
    return [Answer(f"text {i}", n_tokens, None, score) for i, score in enumerate(scores)]


def test_every_answer_meets_every_answer_and_a_tie_counts_half():
    rate = win_rate({"p": said(1, 0)}, {"p": said(0, 0)})
    assert (rate.value, rate.n) == (0.75, 1)
    assert win_rate({"p": said(1)}, {"p": said(1)}).value == 0.5


def test_prompts_count_the_same_however_many_answers_have_a_score():
    assert win_rate({"p": said(1, 1, 1), "q": said(0, None)}, {"p": said(0), "q": said(1)}).value == 0.5
    assert mean_score({"p": said(1, 1, 1), "q": said(0, None), "r": said(None)}).value == 0.5


def test_a_prompt_that_only_one_side_answered_is_left_out():
    assert win_rate({"p": said(1), "q": said(0)}, {"p": said(0)}).n == 1
    assert math.isnan(win_rate({"p": said(1)}, {}).value)


def test_the_interval_of_a_win_rate_covers_the_truth_about_95_times_in_100():
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        new = {str(p): said(*rng.normal(0.5, 1, 4)) for p in range(60)}
        old = {str(p): said(*rng.normal(0.0, 1, 4)) for p in range(60)}
        rate = win_rate(new, old, seed)
        covered += rate.low <= 0.5 * (1 + math.erf(0.5 / 2)) <= rate.high  # P(N(0.5, 2) > 0)
    assert covered >= 88


def test_a_judge_of_length_alone_gives_longer_answers_no_controlled_win():
    rng = np.random.default_rng(0)
    new, old = {}, {}
    for p in map(str, range(200)):
        ours, theirs = rng.integers(50, 150, 8), rng.integers(30, 130, 8)
        new[p] = [Answer("", int(n), None, float(n + rng.normal(0, 60))) for n in ours]
        old[p] = [Answer("", int(n), None, float(n + rng.normal(0, 60))) for n in theirs]
    assert win_rate(new, old).value > 0.57
    rate = controlled_win_rate(new, old)
    assert rate.low <= 0.5 <= rate.high


def test_what_is_better_at_equal_length_stays_better():
    rng = np.random.default_rng(1)
    new = {str(p): [Answer("", int(rng.integers(30, 60)), None, 1.0) for _ in range(4)] for p in range(100)}
    old = {
        str(p): [Answer("", int(rng.integers(30, 60)), None, float(rng.random() < 0.3)) for _ in range(4)]
        for p in range(100)
    }
    assert controlled_win_rate(new, old).value == pytest.approx(0.85, abs=0.03)


def test_best_of_n_is_the_mean_over_all_subsets():
    scores = [0.3, 0.9, 0.1, 0.5, 0.5]
    for n in (1, 2, 3, 5):
        by_hand = np.mean([max(subset) for subset in itertools.combinations(scores, n)])
        found, kl = best_of({"p": said(*scores)}, n)
        assert found.value == pytest.approx(by_hand)
        assert kl == pytest.approx(math.log(n) - (n - 1) / n)


def test_distinct_counts_different_ngrams_of_words():
    texts = {"p": [Answer("a b a b", 4, None, None), Answer("a b", 2, None, None)]}
    assert distinct(texts, 1) == pytest.approx(2 / 6)
    assert distinct(texts, 2) == pytest.approx(2 / 4)  # ab, ba, ab | ab


def test_equal_answers_are_wholly_alike_and_different_ones_are_not():
    same = {"p": [Answer("abcd", 1, None, None)] * 3}
    apart = {"p": [Answer("abcd", 1, None, None), Answer("wxyz", 1, None, None)]}
    assert self_similarity(same) == 1.0
    assert self_similarity(apart) == 0.0


def test_the_divergence_of_known_gaussians_is_found():
    rng = np.random.default_rng(0)
    # log N(x; 0.3, 1) - log N(x; 0, 1) under x ~ N(0.3, 1) has the mean 0.045; ten such tokens a sequence
    draws = {str(p): rng.normal(0.3, 1, (8, 10)) for p in range(400)}
    ratios = {p: (0.3 * x - 0.045).sum(axis=1).tolist() for p, x in draws.items()}
    sequence, token = divergence(ratios, {p: [10] * 8 for p in draws})
    assert sequence.low <= 0.45 <= sequence.high
    assert token.low <= 0.045 <= token.high
    assert token.value == pytest.approx(sequence.value / 10)


def test_without_samples_there_is_no_divergence():
    sequence, token = divergence({}, {})
    assert math.isnan(sequence.value)
    assert math.isnan(token.value)


def test_a_family_of_one_prompt_adds_its_value_and_no_doubt():
    mean, low, high = interval([np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.5])], 0)
    assert mean == 0.5
    assert 0.25 <= low < 0.5 < high <= 0.75
