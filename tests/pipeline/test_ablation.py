"""Which rule wins: equal pairs, drawn by id, policies compared prompt by prompt."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluating.ablation import Variant, drawn, length_gap
from pipeline.evaluating.ablation_told import (
    Gain,
    Result,
    as_json,
    gain_by_seed,
    gains,
    gains_at_equal_length,
    table,
)
from pipeline.evaluating.evaluate import REFERENCE, Measured
from pipeline.evaluating.measures import Answer, Estimate

PROMPTS = [f"p{i}" for i in range(40)]


def measured(**rates: list[float]) -> Measured:
    """Model -> the pass rate of each prompt, of which the first half is one family."""
    families = {
        (name.replace("_", "-"), 1.0): {
            "a": dict(zip(PROMPTS[:20], own[:20], strict=True)),
            "b": dict(zip(PROMPTS[20:], own[20:], strict=True)),
        }
        for name, own in rates.items()
    }
    return Measured(families, 8)


def test_a_variant_is_a_rule_or_settings_of_pairs():
    assert Variant.parse("best_vs_worst") == Variant("best_vs_worst", ("pairs.rule=best_vs_worst",))
    assert Variant.parse("wide:rule=all_pairs,min_margin=0.5").settings == (
        "pairs.rule=all_pairs",
        "pairs.min_margin=0.5",
    )


@pytest.mark.parametrize("text", ["", "a b", "../x", "x:rule", "x:"])
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(ConfigError, match="hint: a pair rule, or"):
        Variant.parse(text)


def test_pairs_are_drawn_by_their_ids_and_seeds_draw_others():
    pairs = pa.table({"pair_id": [f"id{i}" for i in range(100)]})
    first = drawn(pairs, 30, 0)["pair_id"].to_pylist()
    assert len(set(first)) == 30
    assert set(drawn(pairs.take(list(range(99, -1, -1))), 30, 0)["pair_id"].to_pylist()) == set(first)
    assert set(drawn(pairs, 30, 1)["pair_id"].to_pylist()) != set(first)


def test_fewer_pairs_are_a_part_of_more():
    pairs = pa.table({"pair_id": [f"id{i}" for i in range(100)]})
    assert set(drawn(pairs, 10, 0)["pair_id"].to_pylist()) < set(drawn(pairs, 30, 0)["pair_id"].to_pylist())


def test_the_gain_is_over_prompts_and_seeds_together():
    rates = measured(reference=[0.2] * 40, x_s0=[0.4] * 40, x_s1=[0.6] * 40, y_s0=[0.3] * 40, y_s1=[0.3] * 40)
    found = gains(rates, {"x": ["x-s0", "x-s1"], "y": ["y-s0", "y-s1"]})
    assert found["x"].gain.value == pytest.approx(0.3)
    assert found["x"].behind.value == 0.0
    assert found["y"].behind.value == pytest.approx(0.2)
    assert gain_by_seed(rates, ["x-s0", "x-s1"]) == pytest.approx((0.2, 0.4))


def by_length(seed: int, better: float, shorter: int) -> dict[str, list[Answer]]:
    """Answers that pass the more often the shorter they are, and besides by so much more often, whatever their length."""
    draw = np.random.default_rng(seed)
    lengths = {p: draw.integers(20, 60, 6) - shorter for p in PROMPTS}
    return {
        p: [Answer("", int(n), bool(draw.random() < better + (70 - n) / 100), None) for n in own]
        for p, own in lengths.items()
    }


def test_what_is_gained_by_shorter_answers_alone_is_no_gain_at_equal_length():
    answers = {
        ("reference", 1.0): by_length(0, 0.0, 0),
        **{(f"short-s{s}", 1.0): by_length(1 + s, 0.0, 15) for s in (0, 1, 2)},
        **{(f"better-s{s}", 1.0): by_length(4 + s, 0.15, 0) for s in (0, 1, 2)},
    }
    policies = {name: [f"{name}-s{s}" for s in (0, 1, 2)] for name in ("short", "better")}
    found = gains_at_equal_length(Measured({}, 6, answers), policies)
    assert found["short"].gain.low <= 0 <= found["short"].gain.high
    assert found["better"].gain.value == pytest.approx(0.15, abs=0.07)
    assert (found["short"].wins, found["better"].wins) == (False, True)


def test_the_length_gap_is_of_the_tokens_that_were_trained_on():
    pairs = pa.table({"chosen_token_ids": [[1, 2], [1]], "rejected_token_ids": [[1, 2, 3], [1, 2, 3, 4]]})
    assert length_gap(pairs) == -2
    unknown = pa.array([None, None], pa.list_(pa.int32()))
    assert length_gap(pa.table({"chosen_token_ids": unknown, "rejected_token_ids": unknown})) is None


def test_a_variant_wins_while_nothing_says_that_the_best_is_better():
    gain = Estimate(0.1, 0.05, 0.15, 40)
    near, far = Gain(gain, Estimate(0.01, -0.01, 0.03, 40)), Gain(gain, Estimate(0.04, 0.02, 0.06, 40))
    results = [Result(name, 500, 100, own, far, (0.1,), None, 20.0, 60.0) for name, own in (("a", near), ("b", far))]
    assert [line.count("wins") for line in table(results).splitlines()] == [0, 1, 0]
    assert [row["held_out"]["wins"] for row in as_json(results)] == [True, False]


def test_the_reference_has_a_name_that_no_variant_can_take():
    assert "-s" not in REFERENCE
