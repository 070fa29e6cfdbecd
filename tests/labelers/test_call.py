"""The boundary around a labeler's code, in this process: what each way to answer wrongly costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from labelers import call
from labelers.errors import OptionError, WrongAnswers
from labelers.testing import ScriptedEngine
from labelers.types import Abstain, Candidate, Completion, Needs, Prompt, Score

PROMPT = Prompt.of("say something")
CTX = ScriptedEngine()


@dataclass(frozen=True)
class Scripted:
    """Answers what it is told to."""

    answer: Any
    calls: list = field(default_factory=list)
    name, version, needs, examples = "scripted", "1", Needs(), ()

    def score(self, batch, ctx):
        self.calls.append(len(batch))
        return self.answer(batch)


def batch_of(*texts: str) -> list[Candidate]:
    return [Candidate(PROMPT, Completion.of(PROMPT, text)) for text in texts]


def by_text(judge):
    return lambda batch: [judge(c.completion.text) for c in batch]


def test_a_good_batch_is_asked_once():
    labeler = Scripted(by_text(lambda t: Score(len(t))))
    assert [s.value for s in call.score(labeler, batch_of("a", "bb", "ccc"), CTX)] == [1, 2, 3]
    assert labeler.calls == [3]


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(0), RecursionError("deep"), KeyError("x")])
def test_a_poison_item_costs_only_itself(error):
    def judge(text):
        if text == "poison":
            raise error
        return Score(1.0)

    texts = [f"item {i}" for i in range(100)]
    texts[37] = "poison"
    labels = call.score(Scripted(by_text(judge)), batch_of(*texts), CTX)
    assert [i for i, label in enumerate(labels) if isinstance(label, Abstain)] == [37]
    assert labels[37].kind == "crashed"
    assert type(error).__name__ in labels[37].reason
    assert "test_call.py:" in labels[37].reason


@pytest.mark.parametrize("error", [MemoryError(), OptionError("wrong")])
def test_what_says_nothing_about_this_item_goes_through(error):
    def judge(text):
        raise error

    with pytest.raises(type(error)):
        call.answers(Scripted(by_text(judge)), batch_of("a", "b"), CTX)


def test_a_score_that_is_nan_is_an_abstention_of_that_item():
    labels = call.score(Scripted(by_text(lambda t: Score(float(t)))), batch_of("1", "nan", "2"), CTX)
    assert [type(label).__name__ for label in labels] == ["Score", "Abstain", "Score"]


@pytest.mark.parametrize("answer", [lambda b: [Score(1.0)], lambda b: [], lambda b: [Score(1.0)] * (len(b) + 1)])
def test_another_number_of_labels_is_a_broken_labeler(answer):
    with pytest.raises(WrongAnswers, match=r"scripted \(test_call.py:\d+\): gave \d labels for \d items; hint"):
        call.score(Scripted(answer), batch_of("a", "b"), CTX)


@pytest.mark.parametrize("value", [1.0, True, None, "good", {"value": 1.0}])
def test_something_that_is_no_label_is_a_broken_labeler(value):
    with pytest.raises(WrongAnswers, match="hint: return Score"):
        call.score(Scripted(by_text(lambda t: value)), batch_of("a", "b"), CTX)


@pytest.mark.parametrize("answer", [lambda b: None, lambda b: (Score(1.0) for _ in b), lambda b: "ab"])
def test_an_answer_that_is_no_list_is_a_broken_labeler(answer):
    with pytest.raises(WrongAnswers, match="return a list"):
        call.score(Scripted(answer), batch_of("a", "b"), CTX)


@pytest.mark.parametrize("value", [1.0, None, Score(1.0, 7), Score(1.0, "x" * 2_000_000)])
def test_one_item_with_something_that_is_no_label_costs_only_itself(value):
    labeler = Scripted(by_text(lambda t: value if t == "poison" else Score(1.0)))
    labels = call.score(labeler, batch_of(*"abcdefg", "poison", *"hij"), CTX)
    assert [i for i, label in enumerate(labels) if isinstance(label, Abstain)] == [7]
    assert labels[7].kind == "crashed"


def test_an_item_that_drops_its_label_costs_only_itself():
    labeler = Scripted(lambda batch: [Score(1.0) for c in batch if c.completion.text != "poison"])
    labels = call.score(labeler, batch_of(*"abcdefg", "poison", *"hij"), CTX)
    assert [i for i, label in enumerate(labels) if isinstance(label, Abstain)] == [7]
    assert "gave 0 labels for 1 items" in labels[7].reason


def test_labels_that_go_missing_only_beside_equal_neighbours_are_not_guessed():
    labeler = Scripted(lambda batch: [Score(1.0) for _ in {c.completion.text for c in batch}])
    with pytest.raises(WrongAnswers, match="gave 2 labels for 3 items"):
        call.score(labeler, batch_of("a", "b", "a"), CTX)


def test_a_labeler_that_has_answered_before_is_not_broken_by_a_few_bad_items():
    bad = [call.Malformed("no label")] * 3
    assert call.settled("x", bad, has_answered=True) == [Abstain("crashed", "no label")] * 3
    with pytest.raises(WrongAnswers):
        call.settled("x", bad, has_answered=False)
    with pytest.raises(WrongAnswers):
        call.settled("x", bad * 4, has_answered=True)


def test_a_long_reason_is_cut_and_says_how_long_it_was():
    assert call.cut("x" * 500) == "x" * 500
    shortened = call.cut("x" * 501)
    assert len(shortened) <= 500
    assert shortened.endswith("(501 chars)")
