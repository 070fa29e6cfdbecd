"""Combining, ranking, balance, decontamination, people's verdicts and the ablation."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest

from labelers.discovery import build
from labelers.types import Abstain, Comparison, Completion, Prompt
from pipeline.auditing.contamination import EvaluationSets
from pipeline.evaluating.ablate import ablate
from pipeline.pair import Pairing
from pipeline.pairing.balance import residualised, stratified, within_shares
from pipeline.pairing.combine import Role, grades
from pipeline.pairing.eligible import Pairs, choose
from pipeline.pairing.ranking import bradley_terry, flip_rates
from pipeline.pairing.rules import RULES, Scored
from pipeline.plan import make_plan
from pipeline.run import run
from pipeline.schema import COMPLETIONS, LABELS, PROMPTS


def scored(name: str, score: float, passed: bool | None = None, **more) -> Scored:
    given = {"text": f"{name} " * 9, "truncated": False, "length": 10, "source": "s", **more}
    return Scored(name, given.pop("text"), score, passed, **given)


def ids(chosen) -> list[tuple[str, str]]:
    return [(c.id, r.id) for c, r in chosen.pairs]


def verdict(a: str, b: str, prefers: str) -> dict[str, str]:
    return {"a_id": a, "b_id": b, "prefers": prefers}


def test_mu_minus_2sigma_leaves_out_the_outlier_that_best_vs_worst_takes():
    values = [0.0, 4.0, *(8 + i / 20 for i in range(20))]
    group = [scored(f"c{i}", v) for i, v in enumerate(values)]
    assert ids(choose(group, Pairs("best_vs_worst", max_per_prompt=1))) == [("c21", "c0")]
    assert ids(choose(group, Pairs("mu_minus_2sigma", max_per_prompt=1))) == [("c21", "c1")]


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_rejects_what_passed_or_takes_a_tie(rule):
    rng = random.Random(0)
    for _ in range(50):
        group = [scored(f"c{i}", rng.randint(0, 4), None, source="ab"[i % 2]) for i in range(8)]
        group = [Scored(s.id, s.text, s.score, s.score >= 3, False, 10) for s in group]
        for chosen, rejected in choose(group, Pairs(rule)).pairs:
            assert chosen.score > rejected.score
            assert not rejected.passed


def test_near_duplicates_of_one_outcome_count_once_and_a_pass_and_a_fail_stay():
    text = "the quick brown fox jumps over the lazy dog and runs away from it at once"
    near = [scored("a", 1.0, None, text=text), scored("b", 0.0, None, text=text + ".")]
    assert choose(near, Pairs()).dropped["near-duplicate completion"] == 1
    verified = [scored("a", 1.0, True, text=text), scored("b", 0.0, False, text=text + ".")]
    assert ids(choose(verified, Pairs())) == [("a", "b")]
    assert choose(verified, Pairs(max_similarity=0.9)).pairs == ()


@pytest.mark.parametrize("second", ["", 'combine="lexicographic"'])
def test_prompts_outside_the_pass_rate_band_make_no_pair_and_are_counted(replayed, tmp_path, second):
    labelers = 'use = "compiles"\n[[labelers]]\nuse = "length"'
    settings = [f"pairs.{key}" for key in ("pass_rate=[0.6, 0.9]", second) if key]
    finished = run(replayed(*settings, "audit.enforce=false", labeler=labelers), tmp_path / "runs")
    assert (finished.rows, finished.families[0].dropped) == (0, {"prompt outside the pass-rate band": 4})


def test_length_match_and_one_source_bar_pairs():
    group = [scored("a", 1.0, True, length=100, source="x"), scored("b", 0.0, False, length=10, source="y")]
    assert choose(group, Pairs(length="match")).pairs == ()
    assert choose(group, Pairs(sources="same")).pairs == ()
    assert len(choose(group, Pairs(sources="different")).pairs) == 1


def test_a_margin_within_the_labelers_noise_is_no_pair():
    group = [scored("a", 1.0), scored("b", 0.7)]
    assert choose(group, Pairs(min_margin_noise=2), noise=0.2).pairs == ()
    assert len(choose(group, Pairs(min_margin_noise=1), noise=0.2).pairs) == 1


def test_stratifying_makes_longer_and_shorter_win_alike():
    pairs = [(scored(f"c{i}", 1.0, length=20 if i < 9 else 10), scored(f"r{i}", 0.0, length=15)) for i in range(12)]
    kept = stratified(pairs)
    assert sum(c.length > r.length for c, r in kept) == sum(c.length < r.length for c, r in kept)


def test_residualised_scores_no_longer_rise_with_length():
    groups = [[scored(f"c{g}{i}", float(i), length=2**i) for i in range(6)] for g in range(3)]
    assert all(abs(s.score - g[0].score) < 1e-9 for g in residualised(groups) for s in g)


def test_no_source_gives_more_than_its_share_of_either_side():
    pairs = [
        (scored(f"c{i}", 1, source="a" if i < 8 else "b"), scored(f"r{i}", 0, source="ab"[i % 2])) for i in range(12)
    ]
    kept = within_shares(pairs, 0.5)
    assert kept
    for side in (0, 1):
        assert sum(pair[side].source == "a" for pair in kept) * 2 == len(kept)


def test_standardised_scores_do_not_depend_on_a_labelers_unit():
    values = {"x": {"a": 1.0, "b": 3000.0}, "y": {"a": 2.0, "b": 1000.0}, "z": {"a": 3.0, "b": 2000.0}}
    meters = {c: {**v, "b": v["b"] / 1000} for c, v in values.items()}
    roles = (Role("a"), Role("b"))
    first, second = (grades(v, roles, "standardised")[0] for v in (values, meters))
    gaps = [g["z"].score - g["x"].score for g in (first, second)]
    assert gaps[0] == pytest.approx(gaps[1])


def test_lexicographic_lets_the_next_labeler_decide_only_ties():
    values = {"x": {"v": 1.0, "j": 0.1}, "y": {"v": 1.0, "j": 0.9}, "z": {"v": 0.0, "j": 1.0}}
    found, _ = grades(values, (Role("v", pass_at=1.0), Role("j")), "lexicographic")
    assert sorted(found, key=lambda c: found[c].score) == ["z", "x", "y"]


def test_a_gate_bars_what_failed_from_being_chosen():
    values = {"x": {"v": 0.0, "j": 0.9}, "y": {"v": 1.0, "j": 0.5}}
    found, _ = grades(values, (Role("v", 0.0, 1.0, gate="chosen_must_pass"), Role("j")), "sum")
    assert (found["x"].may_be_chosen, found["y"].may_be_chosen) == (False, True)


def test_a_quarter_of_the_questions_ranks_sixteen_completions():
    names = [f"{i:02d}" for i in range(16)]
    ring = [(i, (i + d) % 16) for d in (1, 2) for i in range(16)]
    shares = bradley_terry([verdict(names[a], names[b], "a" if a > b else "b") for a, b in ring])
    assert sorted(names, key=shares.__getitem__) == names
    assert all(0 < share < 1 for share in shares.values())


def test_a_cycle_is_a_tie():
    shares = bradley_terry([verdict("x", "y", "a"), verdict("y", "z", "a"), verdict("z", "x", "a")])
    assert len(set(shares.values())) == 1


def test_flips_are_counted_by_labeler():
    rows = [{"labeler": "j", "prefers_forward": "a", "prefers_backward": b} for b in ("a", "b", "b", "b")]
    assert flip_rates(rows) == {"j": 0.75}


def test_a_prompt_that_an_evaluation_set_holds_is_found(tmp_path):
    words = " ".join(f"word{i}" for i in range(20))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": words}) + "\n")
    sets = EvaluationSets([str(tmp_path / "eval.jsonl")])
    assert sets.overlap([f"Please: {words.upper()}!"])
    assert not sets.overlap([" ".join(f"word{i}" for i in range(0, 40, 2))])


def test_contaminated_prompts_are_dropped_and_counted(replayed, tmp_path):
    (tmp_path / "eval.jsonl").write_text('{"q": "write function 1"}\n')
    finished = run(replayed(f'prompts.decontaminate=["{tmp_path}/eval.jsonl"]'), tmp_path / "runs")
    assert (finished.imported.contaminated, finished.rows) == (1, 6)


def test_most_reviewers_decide_and_a_split_is_a_tie(tmp_path):
    prompt = Prompt.of("p")
    a, b, c = (Completion.of(prompt, text) for text in "abc")
    said = [("ada", "a"), ("bob", "a"), ("eve", "b"), ("ada", "b"), ("ada", "a")]
    rows = [{"a_id": a.id, "b_id": b.id, "prefers": p, "reviewer": r} for r, p in said]
    rows += [{"a_id": b.id, "b_id": c.id, "prefers": p, "reviewer": r} for r, p in said[1:3]]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    human = build("human", {"path": str(tmp_path / "v.jsonl")})
    asked = [Comparison(prompt, *two) for two in ((a, b), (b, a), (b, c), (a, c))]
    first, swapped, split, unknown = human.compare(asked, None)
    assert (first.prefers, swapped.prefers, split.prefers) == ("a", "b", "tie")
    assert isinstance(unknown, Abstain)


def test_the_ablation_says_what_each_rule_would_make(replayed, tmp_path):
    config = replayed()
    finished = run(config, tmp_path / "runs")
    found = {each.rule: each for each in ablate(make_plan(config, finished.folder), finished.imported.shards)}
    assert list(found) == list(RULES)
    assert (found["pass_vs_fail"].pairs, found["pass_vs_fail"].prompts) == (8, 4)
    assert found["pass_vs_fail"].chosen_from == {"people": 1.0}


def _completion(name: str, text: str, **more) -> dict:
    return {
        "completion_id": name, "prompt_id": "p", "text": text, "finish_reason": "stop", "source": "s", "model": "m",
        "prompt_token_ids": [1], "tokenizer_hash": "t", "template_hash": "h", **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rejected", "kept"),
    [
        ({"token_ids": [6]}, ([5, 5], [6], [1])),
        ({"token_ids": [6], "template_hash": "other"}, (None, None, None)),
        ({"token_ids": []}, (None, None, None)),
        ({"token_ids": None}, (None, None, None)),
    ],
)
def test_token_ids_go_over_only_where_both_sides_have_those_of_one_tokenizer_and_template(rejected, kept):
    rows = [_completion("good", "yes", token_ids=[5, 5]), _completion("bad", "no", **rejected)]
    labels = [
        {"completion_id": name, "prompt_id": "p", "labeler": "l", "labeler_version": "1", "reason": "", "value": value}
        for name, value in (("good", 1.0), ("bad", 0.0))
    ]
    prompt = {"prompt_id": "p", "messages": [{"role": "user", "content": "q"}], "metadata": "{}"}
    tables = zip(([prompt], rows, labels), (PROMPTS, COMPLETIONS, LABELS), strict=True)
    with Pairing(Pairs(), (Role("l"),)).open() as pair:
        [made] = pair(*(pa.Table.from_pylist(given, schema) for given, schema in tables)).table.to_pylist()
    assert (made["chosen_token_ids"], made["rejected_token_ids"], made["prompt_token_ids"]) == kept
