"""The audit's statistics against references, and prompts that repeat held-out ones."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from pipeline.auditing import overlap
from pipeline.auditing.agreement import ranks
from pipeline.auditing.confounds import expected_wrong, explained, repeat_deviation, two_sided


@pytest.mark.parametrize(("k", "n"), [(0, 1), (5, 10), (9, 10), (60, 100), (40, 100), (700, 1000)])
def test_the_chance_of_uneven_coins_is_the_exact_binomial_test(k: int, n: int) -> None:
    assert two_sided(k, n) == pytest.approx(scipy.stats.binomtest(k, n).pvalue)


def test_without_coins_nothing_is_uneven() -> None:
    assert two_sided(0, 0) == 1.0


def test_what_a_trait_explains_is_the_squared_correlation_of_a_single_group() -> None:
    draw = np.random.default_rng(0)
    x, noise = draw.normal(size=200), draw.normal(size=200)
    y = x + noise
    share, p, _ = explained(y, x[:, None], np.zeros(200))
    reference = scipy.stats.linregress(x, y)
    assert share == pytest.approx(reference.rvalue**2)
    assert p == pytest.approx(reference.pvalue, rel=1e-6)


def test_differences_between_prompts_explain_nothing() -> None:
    group = np.repeat(np.arange(50), 4)
    draw = np.random.default_rng(0)
    y, x = group + draw.normal(size=200) / 9, group + draw.normal(size=200) / 9
    share, p, n = explained(y, x[:, None], group)
    assert share < 0.05
    assert p > 0.001
    assert n == 50


def test_a_trait_that_never_varies_explains_nothing() -> None:
    assert explained(np.arange(9.0), np.ones((9, 1)), np.zeros(9))[:2] == (0.0, 1.0)


def test_by_chance_the_test_is_below_its_level_as_often_as_the_level_says() -> None:
    draw = np.random.default_rng(1)
    group = np.repeat(np.arange(20), 6)
    found = [explained(draw.normal(size=120), draw.normal(size=(120, 1)), group)[1] for _ in range(400)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


@pytest.mark.parametrize("error", [0.05, 0.2, 0.4])
def test_the_expected_share_of_wrong_verdicts_is_what_a_simulated_judge_has(error: float) -> None:
    draw = random.Random(0)
    both = [(draw.random() < error, draw.random() < error) for _ in range(100_000)]
    flips = sum(f != b for f, b in both) / len(both)
    agreed = [f for f, b in both if f == b]
    assert expected_wrong(flips) == pytest.approx(sum(agreed) / len(agreed), abs=0.03)


def test_a_judge_of_coins_is_wrong_half_of_the_time() -> None:
    assert expected_wrong(0.5) == expected_wrong(0.9) == 0.5
    assert expected_wrong(0.0) == 0.0


def test_noise_is_the_pooled_deviation_of_one_texts_scores() -> None:
    table = pa.table({"prompt_id": ["p", "p", "p", "q"], "text_code": [0, 0, 1, 0], "value": [1.0, 3.0, 9.0, 5.0]})
    deviation, repeats = repeat_deviation(table)
    assert repeats == 1
    assert deviation == pytest.approx(np.std([1.0, 3.0], ddof=1))


def test_ranks_are_within_the_prompt_and_ties_share_theirs() -> None:
    table = pa.table({
        "labeler": ["j"] * 5, "prompt_id": ["p", "p", "p", "q", "q"], "completion_id": list("abcde"),
        "value": [10.0, 30.0, 10.0, 2.0, 1.0],
    })  # fmt: skip
    assert ranks(table) == {"j": {"a": 0.25, "b": 1.0, "c": 0.25, "d": 1.0, "e": 0.0}}


WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
HELD = ["What is the capital of Italy?", WORDS, "Sing."]
TRAIN = [
    "what is the capital of italy",
    f"{WORDS} and more",
    "Write a poem about the sea and the wind and nothing else.",
    "Sing!",
]


@pytest.mark.parametrize("small", [overlap.SMALL, 0])
def test_exact_and_near_repeats_are_found_by_counting_and_by_index(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SMALL", small)
    found = overlap.repeats(TRAIN, HELD, 0.8)
    assert [(train, held) for train, held, _ in found] == [(0, 0), (1, 1), (3, 2)]
    assert [likeness == 1.0 for _, _, likeness in found] == [True, False, True]
