"""Judges of known quality, simulated and seeded: what both orders and extra votes make of their slips."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from labelers.discovery import LabelerSpec
from labelers.types import Abstain, Comparison, Completion, Prompt, Verdict
from pipeline.compare import Compare, merge
from pipeline.engines import EngineInfo, Generation, Progress, Request, Sampled
from pipeline.engines.replay import Replay
from pipeline.schema import COMPLETIONS, PROMPTS
from pipeline.spending.budget import Asking
from pipeline.votes import contested, majority, with_votes

PROMPT = Prompt.of("Which is better?")
GOOD, BAD = Completion.of(PROMPT, "good"), Completion.of(PROMPT, "bad")


def questions(n: int) -> list[Comparison]:
    """Half of them have the better completion first."""
    return [Comparison(PROMPT, GOOD, BAD) if i % 2 else Comparison(PROMPT, BAD, GOOD) for i in range(n)]


def right(accuracy: float, seed: int) -> Callable[[Comparison], Verdict]:
    """A judge that is right with this probability, each time anew."""
    rng = random.Random(seed)

    def judge(c: Comparison) -> Verdict:
        better, worse = ("a", "b") if c.a is GOOD else ("b", "a")
        return Verdict(better if rng.random() < accuracy else worse)  # type: ignore[arg-type]

    return judge


def judged(judge: Callable[[Comparison], Any], asked: Sequence[Comparison], votes: int) -> tuple[list[Any], list[int]]:
    """The merged outcome of each question, and how many questions each extra round asked."""
    rounds: list[int] = []

    def ask(again: Sequence[Comparison], number: int) -> list[Any]:
        rounds.append(len(again))
        return [judge(c) for c in again]

    forward = [judge(c) for c in asked]
    backward = [v.swap() if isinstance(v, Verdict) else v for v in (judge(c.swap()) for c in asked)]
    return [merge(f, b) for f, b in zip(*with_votes(ask, asked, forward, backward, votes), strict=True)], rounds


def share_right(asked: Sequence[Comparison], outcomes: Sequence[Any]) -> tuple[float, int]:
    """Of the decided ones the share that is right, and how many are decided."""
    decided = [(q, o) for q, o in zip(asked, outcomes, strict=True) if o.prefers != "tie"]
    hits = sum((o.prefers == "a") == (q.a is GOOD) for q, o in decided)
    return hits / max(1, len(decided)), len(decided)


@pytest.mark.parametrize("votes", [0, 1, 2, 3])
@pytest.mark.parametrize("position", ["a", "b"])
def test_a_judge_that_follows_the_position_decides_nothing_however_often_it_is_asked(position: Any, votes: int) -> None:
    outcomes, _ = judged(lambda c: Verdict(position), questions(200), votes)
    assert {o.prefers for o in outcomes} == {"tie"}
    assert all("order decided" in o.reason for o in outcomes)


def test_agreement_of_both_orders_is_more_often_right_than_the_judge() -> None:
    asked = questions(4000)
    share, decided = share_right(asked, judged(right(0.8, seed=1), asked, votes=0)[0])
    assert share == pytest.approx(0.64 / 0.68, abs=0.02)
    assert decided == pytest.approx(4000 * 0.68, abs=120)


def test_votes_decide_more_questions_and_are_no_less_often_right() -> None:
    asked = questions(4000)
    without, decided_without = share_right(asked, judged(right(0.8, seed=2), asked, votes=0)[0])
    share, decided = share_right(asked, judged(right(0.8, seed=2), asked, votes=2)[0])
    assert decided > 1.2 * decided_without
    assert share > without > 0.9
    assert decided == pytest.approx(0.881 * 4000, abs=100)
    assert share == pytest.approx(0.949, abs=0.015)


def test_only_contested_questions_are_asked_again_in_both_orders() -> None:
    asked = questions(1000)
    outcomes, rounds = judged(right(0.8, seed=3), asked, votes=2)
    assert len(outcomes) == 1000
    assert len(rounds) == 2
    assert rounds[0] == rounds[1] == pytest.approx(2 * 1000 * 0.32, abs=100)
    assert judged(right(1.0, seed=3), asked, votes=2)[1] == []


def test_a_judge_that_leans_to_a_position_is_not_voted_into_wrong_verdicts() -> None:
    """It is right 75 % of the time when the better one is first, and 45 % when it is second."""
    rng = random.Random(4)

    def leaning(c: Comparison) -> Verdict:
        chance = 0.75 if c.a is GOOD else 0.45
        better, worse = ("a", "b") if c.a is GOOD else ("b", "a")
        return Verdict(better if rng.random() < chance else worse)  # type: ignore[arg-type]

    asked = questions(4000)
    single = share_right(asked, [leaning(q) for q in asked])[0]
    assert share_right(asked, judged(leaning, asked, votes=2)[0])[0] > single + 0.05


def test_an_abstention_is_not_contested_and_an_unreadable_vote_does_not_count() -> None:
    assert not contested(Abstain("unparsable"), Verdict("a"))
    assert contested(Verdict("tie"), Verdict("a"))
    assert majority([Verdict("a"), Abstain("unparsable"), Verdict("a"), Verdict("b")]).prefers == "a"  # type: ignore[union-attr]


def test_no_majority_is_a_tie() -> None:
    assert majority([Verdict("a"), Verdict("b")]) == Verdict("tie", "no majority in 2 votes")
    assert majority([Verdict("a"), Verdict("tie"), Verdict("b")]).prefers == "tie"  # type: ignore[union-attr]


def test_an_abstention_stays_one() -> None:
    lost = Abstain("unavailable", "no reply")
    outcomes, rounds = judged(lambda c: lost, questions(10), votes=2)
    assert outcomes == [lost] * 10
    assert rounds == []


class Wavering:
    """An engine whose model follows the position when greedy, and mostly the text when it samples."""

    info = EngineInfo("wavering")

    def __init__(self) -> None:
        self.asked: list[tuple[float, int]] = []

    def generate(self, requests: Sequence[Request]) -> Any:
        for request in requests:
            self.asked.append((request.sampling.temperature, request.seed))
            first = request.messages[-1].content.partition("Answer A:")[2].partition("Answer B:")[0]
            by_text = "[[A]]" if "good" in first else "[[B]]"
            yield Generation(request.id, (Sampled("[[A]]" if request.sampling.temperature == 0 else by_text, "stop"),))

    def progress(self) -> Progress:
        return Progress()

    def close(self) -> None: ...


@pytest.mark.parametrize(("votes", "prefers"), [(0, "tie"), (2, "good")])
def test_the_stage_votes_at_temperature_1_with_a_seed_for_each_vote(votes: int, prefers: str) -> None:
    messages = [{"role": "user", "content": "Which is better?"}]
    prompts = pa.Table.from_pylist([{"prompt_id": PROMPT.id, "messages": messages, "metadata": "{}"}], PROMPTS)
    rows = [
        {"completion_id": c.id, "prompt_id": PROMPT.id, "source": "s", "text": c.text, "finish_reason": "stop", "n_tokens": 1}
        for c in (GOOD, BAD)
    ]  # fmt: skip
    completions = pa.Table.from_pylist([{**row, "model": "m"} for row in rows], COMPLETIONS)
    spec = Replay("unused.jsonl")
    stage = Compare(LabelerSpec("judge"), "judge", engine=spec, asking=Asking(votes=votes))
    engine = Wavering()
    with stage.open(engine) as transform:
        made = transform(prompts, completions)
    (row,) = made.table.to_pylist()
    assert (row["prefers_forward"], row["prefers_backward"]) == ("a", "b")
    shown = {"tie": "tie", "a": row["a_id"], "b": row["b_id"]}[row["prefers"]]
    assert shown == (GOOD.id if prefers == "good" else "tie")
    assert engine.asked == [(0.0, 0)] * 2 + [(1.0, n) for n in range(1, votes + 1) for _ in range(2)]
    (counts,) = made.counts.values()
    assert (counts["flipped"], counts["settled"]) == (1, int(votes > 0))
