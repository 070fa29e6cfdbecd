"""Which rule wins: equal pairs, drawn by id, policies compared prompt by prompt."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.evaluating.ablation import REFERENCE, Result, Variant, compared, drawn, table
from pipeline.evaluating.evaluate import Measured
from pipeline.evaluating.measures import Estimate

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
    found = compared(
        measured(reference=[0.2] * 40, x_s0=[0.4] * 40, x_s1=[0.6] * 40, y_s0=[0.3] * 40, y_s1=[0.3] * 40),
        {"x": ["x-s0", "x-s1"], "y": ["y-s0", "y-s1"]},
    )
    gain, by_seed, behind = found["x"]
    assert gain.value == pytest.approx(0.3)
    assert by_seed == pytest.approx((0.2, 0.4))
    assert behind.value == 0.0
    assert found["y"][2].value == pytest.approx(0.2)


def test_a_variant_wins_while_nothing_says_that_the_best_is_better():
    gain = Estimate(0.1, 0.05, 0.15, 40)
    near = Result("near", 500, 100, gain, (0.1,), Estimate(0.01, -0.01, 0.03, 40), 60.0)
    far = Result("far", 500, 100, gain, (0.1,), Estimate(0.04, 0.02, 0.06, 40), 60.0)
    assert (near.wins, far.wins) == (True, False)
    lines = table([near, far]).splitlines()
    assert lines[1].endswith("wins")
    assert not lines[2].endswith("wins")


def test_the_reference_has_a_name_that_no_variant_can_take():
    assert "-s" not in REFERENCE
