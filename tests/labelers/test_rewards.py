"""The two labelers that pass on a model's number. The model is a function."""

from __future__ import annotations

from typing import Any

import pytest

from labelers.discovery import build
from labelers.testing import ScriptedEngine, check
from labelers.types import Abstain, Candidate, Completion, Message, Prompt, Score

BOTH = pytest.mark.parametrize("name", ["reward_model", "implicit_reward"])
QUESTION = Prompt.make([Message("system", "Be brief."), Message("user", "What is the capital of Italy?")])


def candidate(text: str, finish_reason: Any = "stop") -> Candidate:
    return Candidate(QUESTION, Completion(text, QUESTION.id, text, finish_reason))


def likes_rome(chat: Any) -> float:
    return 1.5 if "Rome" in chat[-1].content else -2.5


@BOTH
def test_it_keeps_the_contract_with_a_model(name: str) -> None:
    assert check(build(name), ScriptedEngine(reward=likes_rome)) == []


@BOTH
def test_it_keeps_the_contract_without_a_model_by_abstaining(name: str) -> None:
    assert check(build(name)) == []


@BOTH
def test_the_model_reads_the_whole_conversation_and_its_number_is_the_score(name: str) -> None:
    seen: list[Any] = []

    def reward(chat: Any) -> float:
        seen.append([(m.role, m.content) for m in chat])
        return -0.25

    labeler: Any = build(name)
    assert labeler.score([candidate("Rome")], ScriptedEngine(reward=reward)) == [Score(-0.25)]
    assert seen == [
        [("system", "Be brief."), ("user", "What is the capital of Italy?"), ("assistant", "Rome")],
    ]


@BOTH
def test_no_number_is_an_abstention_and_harms_no_neighbour(name: str) -> None:
    labeler: Any = build(name)
    engine = ScriptedEngine(reward=lambda chat: None if "long" in chat[-1].content else 3.0)
    first, second = labeler.score([candidate("long"), candidate("short")], engine)
    assert isinstance(first, Abstain)
    assert first.kind == "unavailable"
    assert second == Score(3.0)


@BOTH
def test_a_completion_that_was_cut_is_scored_or_abstained_from_as_the_option_says(name: str) -> None:
    batch = [candidate("Rome", "length"), candidate("Rome, of course")]
    engine = ScriptedEngine(reward=likes_rome)
    scoring: Any = build(name)
    abstaining: Any = build(name, {"cut": "abstain"})
    assert scoring.score(batch, engine) == [Score(1.5), Score(1.5)]
    first, second = abstaining.score(batch, engine)
    assert (first.kind, second) == ("not_applicable", Score(1.5))


@BOTH
def test_a_wrong_number_of_rewards_is_an_error(name: str) -> None:
    class Short(ScriptedEngine):
        def rewards(self, chats: Any) -> list[float]:
            return [1.0]

    labeler: Any = build(name)
    with pytest.raises(ValueError, match="1 rewards to 2 conversations"):
        labeler.score([candidate("a"), candidate("b")], Short())
