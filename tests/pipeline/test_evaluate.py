from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluating.evaluate import ALL, Measured
from pipeline.evaluating.measures import interval


def measured(**rates: dict[str, dict[str, float]]) -> Measured:
    return Measured({(model, 1.0): families for model, families in rates.items()}, n=8)


def test_the_mean_counts_every_family_the_same():
    found = measured(policy={"a": {"p1": 1.0}, "b": {"p2": 0.0, "p3": 0.0, "p4": 0.0}}).rates()
    assert {r.family: r.rate for r in found} == {"a": 1.0, "b": 0.0, ALL: 0.5}


def test_the_gain_is_paired_by_prompt_not_by_order():
    before = {"a": {"p1": 0.0, "p2": 1.0, "p3": 0.5}}
    after = {"a": {"p3": 0.75, "p1": 0.25, "p2": 1.25}}
    gain = measured(reference=before, policy=after).gain("policy", over="reference", temperature=1.0)
    assert gain["a"] == (0.25, 0.25, 0.25)


def test_a_prompt_that_only_one_model_answered_is_left_out_of_the_gain():
    gain = measured(reference={"a": {"p1": 0.0}}, policy={"a": {"p1": 0.5, "p2": 1.0}}).gain("policy", "reference", 1.0)
    assert gain["a"][0] == 0.5


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low_high = interval([rng.binomial(8, 0.4, 60) / 8, rng.binomial(8, 0.7, 60) / 8], seed)[1:]
        covered += low_high[0] <= 0.55 <= low_high[1]
    assert 180 <= covered <= 199


def test_the_interval_is_the_same_for_the_same_seed():
    values = [np.linspace(0, 1, 50)]
    assert interval(values, 3) == interval(values, 3)
    assert interval(values, 3)[0] == pytest.approx(0.5)
