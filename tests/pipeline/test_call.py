from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from labelers.types import Abstain, Candidate, Completion, Needs, Prompt, Score
from pipeline import call
from pipeline.errors import BrokenLabeler
from pipeline.label import Tools, require_enough

PROMPT = Prompt.of("say something")
CTX = Tools(Path("unused"))


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


@pytest.mark.parametrize("error", [ValueError("boom"), MemoryError(), RecursionError("deep"), KeyError("x")])
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


def test_a_score_that_is_nan_is_an_abstention_of_that_item():
    labels = call.score(Scripted(by_text(lambda t: Score(float(t)))), batch_of("1", "nan", "2"), CTX)
    assert [type(label).__name__ for label in labels] == ["Score", "Abstain", "Score"]


@pytest.mark.parametrize("answer", [lambda b: [Score(1.0)], lambda b: [], lambda b: [Score(1.0)] * (len(b) + 1)])
def test_another_number_of_labels_stops_the_run(answer):
    with pytest.raises(BrokenLabeler, match="labels for 2 items; hint"):
        call.score(Scripted(answer), batch_of("a", "b"), CTX)


@pytest.mark.parametrize("value", [1.0, True, None, "good", {"value": 1.0}])
def test_something_that_is_no_label_stops_the_run(value):
    with pytest.raises(BrokenLabeler, match="hint"):
        call.score(Scripted(by_text(lambda t: value)), batch_of("a", "b"), CTX)


@pytest.mark.parametrize("answer", [lambda b: None, lambda b: (Score(1.0) for _ in b), lambda b: "ab"])
def test_an_answer_that_is_no_list_stops_the_run(answer):
    with pytest.raises(BrokenLabeler, match="return a list"):
        call.score(Scripted(answer), batch_of("a", "b"), CTX)


def test_a_labeler_that_asks_a_model_without_having_one_stops_the_run():
    labeler = Scripted(lambda batch: CTX.generate([c.prompt.messages for c in batch]))
    with pytest.raises(BrokenLabeler, match="hint: give it engine"):
        call.score(labeler, batch_of("a"), CTX)


def test_too_many_abstentions_stop_the_run_and_say_the_commonest_reason():
    labels = [Abstain("not_applicable", "no target")] * 6 + [Score(1.0)] * 4
    with pytest.raises(BrokenLabeler, match=r"abstained on 6 of 10 .* not_applicable: no target"):
        require_enough("mine", labels, 0.5)
    require_enough("mine", labels, 0.6)
