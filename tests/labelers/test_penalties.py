"""length and repetition: bounded penalties that silence does not escape."""

from __future__ import annotations

from typing import Any

import pytest

from labelers.discovery import LabelerSpec, build
from labelers.nasty import nasty_texts
from labelers.testing import check
from labelers.types import Candidate, Completion, Prompt


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("length", {}),
        ("length", {"unit": "words", "scale": 10}),
        ("repetition", {}),
        ("repetition", {"measure": "lines"}),
        ("repetition", {"measure": "compression"}),
        ("repetition", {"n": 1}),
    ],
)
def test_a_penalty_keeps_the_contract(use: str, options: dict[str, Any]) -> None:
    spec = LabelerSpec(use, options)
    assert check(spec.build(), spec=spec) == []


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("x" * 1000, {}, -0.5),
        ("x y z", {"unit": "words", "scale": 3}, -0.5),
        ("a\n\nb", {"unit": "lines", "scale": 2}, -0.5),
        ("x" * 100, {"goal": 100}, 0.0),
        ("x" * 150, {"goal": 100, "scale": 50}, -0.5),
        ("x" * 50, {"goal": 100, "scale": 50}, -0.5),
        ("x" * 105, {"goal": 100, "slack": 5}, 0.0),
        ("  ", {}, -1.0),
        ("", {"goal": 0}, -1.0),
    ],
)
def test_length_scores_by_distance(value: Any, text: str, options: dict[str, Any], expected: float) -> None:
    assert value("length", text, **options) == pytest.approx(expected)


def test_a_goal_per_prompt_is_its_target_or_its_metadata(value: Any) -> None:
    assert value("length", "xxx", target=3, per_prompt=True) == 0.0
    assert value("length", "xxx", target="about three", per_prompt=True) == "not_applicable"
    prompt = Prompt.of("?", length_goal=3)
    (answer,) = build("length", {"per_prompt": True}).score([Candidate(prompt, Completion.of(prompt, "xxx"))], None)  # type: ignore
    assert answer.value == 0.0


def test_tokens_are_those_that_were_sampled(value: Any) -> None:
    assert value("length", "by a person", unit="tokens") == "not_applicable"
    prompt = Prompt.of("?")
    sampled = Completion("c", prompt.id, "hi", n_tokens=1000)
    (answer,) = build("length", {"unit": "tokens"}).score([Candidate(prompt, sampled)], None)  # type: ignore
    assert answer.value == -0.5


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a b a b", {"n": 2}, -1 / 3),
        ("a b c", {}, 0.0),
        ("one two", {}, 0.0),
        ("Go go GO", {"n": 1}, -2 / 3),
        ("x\ny\nx\n\n", {"measure": "lines"}, -1 / 3),
        ("aaaa", {"measure": "compression"}, 0.0),
        ("", {}, -1.0),
    ],
)
def test_repetition_is_a_share(value: Any, text: str, options: dict[str, Any], expected: float) -> None:
    assert value("repetition", text, **options) == pytest.approx(expected)


def test_compression_sees_what_runs_of_words_do_not(value: Any) -> None:
    assert value("repetition", "我爱你" * 200) == 0.0
    assert value("repetition", "我爱你" * 200, measure="compression") < -0.8


@pytest.mark.parametrize("use", ["length", "repetition"])
def test_a_penalty_is_between_minus_one_and_zero_on_every_text(value: Any, use: str) -> None:
    for name, text in nasty_texts().items():
        assert -1 <= value(use, text) <= 0, name


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("length", {"scale": 0}),
        ("length", {"goal": 5, "per_prompt": True}),
        ("length", {"slack": -1}),
        ("repetition", {"n": 0}),
        ("repetition", {"usual_ratio": 0.0}),
    ],
)
def test_options_that_make_no_sense_are_refused(use: str, options: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"hint|must|whole"):
        build(use, options)
