from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from labelers.types import Abstain, Candidate, Completion, Prompt, Verdict
from pipeline.compare import Compare, match_ups, merge
from pipeline.engines import EngineInfo, Generation, Progress, Sampled
from pipeline.pair import Pairing
from pipeline.pairing.eligible import Pairs
from pipeline.schema import COMPLETIONS, PROMPTS

JUDGE = {"use": "judge", "options": {}}


@dataclass
class ScriptedEngine:
    """A real engine's interface around a function from the chat's last text to a reply."""

    reply: Callable[[str], str | None]
    info: EngineInfo = EngineInfo("scripted")
    asked: list[str] = field(default_factory=list)

    def generate(self, requests):
        for request in reversed(requests):  # engines answer in any order
            text = request.messages[-1].content
            self.asked.append(text)
            reply = self.reply(text)
            outputs = () if reply is None else (Sampled(reply, "stop"),)
            yield Generation(request.id, outputs, error=None if outputs else "no reply")

    def progress(self):
        return Progress()

    def close(self):
        pass


def tables(texts: list[str]) -> tuple[pa.Table, pa.Table]:
    prompt = Prompt.of("Which is longer?", family="judged")
    messages = [{"role": "user", "content": "Which is longer?"}]
    prompts = [{"prompt_id": prompt.id, "messages": messages, "metadata": '{"family": "judged"}', "target": None}]
    rows = [
        {
            "completion_id": f"{i:032x}", "prompt_id": prompt.id, "source": "secret-source", "text": text,
            "finish_reason": "stop",             "n_tokens": len(text), "model": "m",
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return pa.Table.from_pylist(prompts, PROMPTS), pa.Table.from_pylist(rows, COMPLETIONS)


def compared(reply: Callable[[str], str | None], texts: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The comparisons of the shipped judge asking `reply`, and the pairs that come of them."""
    from labelers.discovery import LabelerSpec

    prompts, completions = tables(texts)
    stage = Compare(LabelerSpec("judge"), "judge", max_abstained=1.0, match_ups=6)
    with stage.open(ScriptedEngine(reply)) as transform:
        comparisons = transform(prompts, completions).table
    with Pairing(Pairs(), (), n_labels=0, n_comparisons=1).open() as transform:
        pairs = transform(prompts, completions, comparisons).table
    return comparisons.to_pylist(), pairs.to_pylist()


def prefers_x(text: str) -> str:
    """Prefers the completion of x's, whichever position it has."""
    return "[[A]]" if text.index("xxx") < text.index("yyy") else "[[B]]"


def test_a_judge_that_follows_the_text_makes_the_pair():
    comparisons, pairs = compared(prefers_x, ["xxx", "yyy"])
    assert [c["prefers_forward"] == c["prefers_backward"] for c in comparisons] == [True]
    assert [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs] == [("xxx", "yyy")]
    assert pairs[0]["strategy"] == "verdicts"
    assert pairs[0]["labelers"] == ["judge"]


def test_a_judge_that_follows_the_position_makes_no_pair():
    for always in ("[[A]]", "[[B]]"):
        comparisons, pairs = compared(lambda text, always=always: always, ["one", "two", "three", "four"])
        assert {c["prefers"] for c in comparisons} == {"tie"}
        assert "order decided" in comparisons[0]["reason"]
        assert pairs == []


def test_an_unreadable_or_missing_reply_is_an_abstention_and_never_a_pair():
    for reply in ("I like both", None, "[[A]] or [[B]]", ""):
        comparisons, pairs = compared(lambda text, reply=reply: reply, ["one", "two"])
        assert [c["prefers"] for c in comparisons] == [None]
        assert comparisons[0]["abstain"] in ("unparsable", "unavailable")
        assert pairs == []


def test_a_tie_makes_no_pair():
    comparisons, pairs = compared(lambda text: "[[C]]", ["one", "two"])
    assert [c["prefers"] for c in comparisons] == ["tie"]
    assert pairs == []


def test_each_completion_is_asked_about_as_often_as_the_others():
    prompt = Prompt.of("p")
    group = [Candidate(prompt, Completion.of(prompt, f"text {i}")) for i in range(6)]
    questions = match_ups(group, 6)
    met = [c.id for q in questions for c in (q.a, q.b)]
    assert {met.count(c.completion.id) for c in group} == {2}
    assert match_ups(group[::-1], 6) == questions


def test_equal_and_truncated_texts_are_not_asked_about():
    prompt = Prompt.of("p")
    same = [Candidate(prompt, Completion(f"{i}", prompt.id, "same", "stop")) for i in range(3)]
    cut = Candidate(prompt, Completion("c", prompt.id, "cut", "length"))
    assert match_ups([*same, cut], 4) == []


def test_both_orders_must_agree():
    a, b, tie, off = Verdict("a"), Verdict("b"), Verdict("tie"), Abstain("unparsable")
    assert merge(a, a) == a
    assert merge(a, b).prefers == "tie"
    assert merge(a, tie).prefers == "tie"
    assert merge(a, off) == off
    assert merge(off, b) == off


def test_the_judge_sees_both_orders_and_no_source():
    seen: list[str] = []

    def reply(text: str) -> str:
        seen.append(text)
        return "[[A]]"

    compared(reply, ["xxx", "yyy"])
    assert sorted(text.index("xxx") < text.index("yyy") for text in seen) == [False, True]
    assert not any("secret-source" in text for text in seen)
