from __future__ import annotations

import math

import pytest

from pipeline.pairing.eligible import RULES, Pairs, Scored, choose, choose_by_verdicts


def scored(name: str, score: float, passed: bool | None = None, text: str | None = None, **more) -> Scored:
    return Scored(name, text or f"text {name}", score, passed, more.get("truncated", False), more.get("length", 10))


def ids(chosen) -> list[tuple[str, str]]:
    return [(c.id, r.id) for c, r in chosen.pairs]


def test_best_vs_worst_takes_the_extremes_first():
    group = [scored("a", 1.0), scored("b", 3.0), scored("c", 2.0), scored("d", 0.0)]
    assert ids(choose(group, Pairs("best_vs_worst"))) == [("b", "d"), ("c", "a")]


def test_equal_scores_never_become_a_pair():
    chosen = choose([scored("a", 1.0), scored("b", 1.0)], Pairs("best_vs_worst"))
    assert chosen.pairs == ()
    assert chosen.dropped["prompt where all tied"] == 1


@pytest.mark.parametrize("rule", ["best_vs_worst", "pass_vs_fail", "all_pairs", "auto"])
def test_chosen_and_rejected_are_never_the_same_text(rule):
    group = [scored("a", 1.0, True, "same"), scored("b", 0.0, False, "same"), scored("c", 0.0, False, " same\n")]
    assert choose(group, Pairs(rule)).pairs == ()


def test_copies_of_one_text_with_one_score_are_kept_once_and_counted():
    group = [scored("a", 1.0, True, "good"), scored("b", 1.0, True, "good"), scored("c", 0.0, False, "bad")]
    chosen = choose(group, Pairs())
    assert len(chosen.pairs) == 1
    assert chosen.dropped["duplicate completion"] == 1


def test_a_completion_that_passed_is_never_rejected_by_pass_vs_fail():
    group = [scored("a", 1.0, True), scored("b", 0.9, True), scored("c", 0.8, True)]
    chosen = choose(group, Pairs("pass_vs_fail"))
    assert chosen.pairs == ()
    assert chosen.dropped["prompt where all passed"] == 1


def test_a_group_where_all_failed_makes_no_pair_and_is_counted():
    chosen = choose([scored("a", 0.0, False), scored("b", 0.0, False)], Pairs())
    assert chosen.pairs == ()
    assert chosen.dropped["prompt where all failed"] == 1


def test_pass_vs_fail_matches_on_length():
    group = [
        scored("short-pass", 1.0, True, length=5),
        scored("long-pass", 1.0, True, length=50),
        scored("long-fail", 0.0, False, length=52),
        scored("short-fail", 0.0, False, length=6),
    ]
    assert ids(choose(group, Pairs("pass_vs_fail"))) == [("short-pass", "short-fail"), ("long-pass", "long-fail")]


def test_a_truncated_completion_is_never_chosen():
    group = [scored("a", 2.0, True, truncated=True), scored("b", 0.0, False)]
    for rule in ("best_vs_worst", "pass_vs_fail", "all_pairs"):
        assert choose(group, Pairs(rule)).pairs == ()


def test_a_truncated_completion_may_be_rejected_only_by_option():
    group = [scored("a", 1.0, True), scored("b", 0.0, False, truncated=True)]
    assert ids(choose(group, Pairs())) == [("a", "b")]
    strict = choose(group, Pairs(truncated_rejected=False))
    assert strict.pairs == ()
    assert strict.dropped["truncated completion"] == 1


def test_the_margin_is_a_floor():
    group = [scored("a", 1.0), scored("b", 0.6)]
    assert ids(choose(group, Pairs("best_vs_worst", min_margin=0.3))) == [("a", "b")]
    assert choose(group, Pairs("best_vs_worst", min_margin=0.5)).dropped["prompt with no margin wide enough"] == 1


@pytest.mark.parametrize("rule", RULES)
def test_scores_near_the_end_of_a_double_make_no_margin_that_is_no_number(rule):
    group = [scored(str(i), score) for i, score in enumerate((1e308, 9e307, 2.0, 1.0, -9e307, -1e308, -1.7e308))]
    chosen = choose(group, Pairs(rule=rule, max_per_prompt=9))
    assert all(0 < best.score - worst.score < math.inf for best, worst in chosen.pairs)
    assert chosen.pairs or rule == "pass_vs_fail"


def test_all_pairs_is_capped_and_takes_the_widest_margins():
    group = [scored(name, score) for name, score in zip("abcd", (0.0, 1.0, 2.0, 3.0), strict=True)]
    assert ids(choose(group, Pairs("all_pairs", max_per_prompt=2))) == [("d", "a"), ("c", "a")]


def test_the_order_of_the_group_does_not_matter():
    group = [scored(f"{i:02d}", float(i % 3), i % 3 > 0, length=i) for i in range(12)]
    for rule in ("best_vs_worst", "pass_vs_fail", "all_pairs"):
        assert ids(choose(group, Pairs(rule))) == ids(choose(group[::-1], Pairs(rule)))


def test_auto_is_pass_vs_fail_only_where_passing_is_known_of_all():
    assert choose([scored("a", 1.0, True), scored("b", 0.0, False)], Pairs()).strategy == "pass_vs_fail"
    assert choose([scored("a", 1.0), scored("b", 0.0, False)], Pairs()).strategy == "mu_minus_2sigma"


def test_one_completion_makes_no_pair():
    assert choose([scored("a", 1.0)], Pairs()).dropped["prompt with fewer than two distinct completions"] == 1


def test_a_verdict_makes_a_pair_and_one_against_the_win_rates_does_not():
    group = [scored("a", 1.0), scored("b", 0.5), scored("c", 0.0)]
    chosen = choose_by_verdicts(group, [("a", "b"), ("c", "b")], Pairs())
    assert ids(chosen) == [("a", "b")]
    assert chosen.dropped["verdict against the win rates"] == 1


@pytest.mark.parametrize("wrong", [{"max_per_prompt": 0}, {"min_margin": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="hint"):
        Pairs(**wrong)
