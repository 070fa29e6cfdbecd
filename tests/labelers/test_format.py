"""Each constraint kept and broken; the forms of target; what cannot be told abstains."""

from __future__ import annotations

import time
from typing import Any

import pytest

from labelers.ifeval import CHECKS
from labelers.nasty import nasty_texts

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["C++", "sun"]}, "The SUN likes c++.", "The sun."),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "at least"}, "sun Sunday", "sun"),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "less than"}, "sun", "sun sun"),
    ("keywords:forbidden_words", {"forbidden_words": ["sun", "C++"]}, "Sunday is C", "The Sun."),
    ("keywords:letter_frequency", {"letter": "a", "let_frequency": 3, "let_relation": "at least"}, "Aa a", "aa"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two", "one two three"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "it's two", "one two"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two.", "Just one."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "One. Two.",
        "One. Two! Three?",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***", "a\n***\n***\nb"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        "a\n\n'Weekend, b",
        "a\n\nb weekend",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] lives in [city]", "[name] ] ["),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. more", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S more", "Bye.\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "Fruit:\n* a\n\n\n  - b\n**bold**", "* a"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na\nSECTION b",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<poem of joy>>\nJoy.", "<< >>\n<poem>"),
    ("combination:two_responses", {}, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi!"),
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        '"Yes. any other questions?"',
        "Any other questions? No.",
    ),
    ("startend:quotation", {}, ' "quoted" ', '"quoted'),
    ("change_case:english_capital", {}, "HELLO WORLD 1!", "HELLO World"),
    ("change_case:english_lowercase", {}, "hello \u2014 world", "\u043f\u0440\u0438\u0432\u0435\u0442"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "BIG RED dog",
        "BIG dog",
    ),
    ("punctuation:no_comma", {}, "apples and pears", "apples, pears"),
    ("regex:fullmatch", {"pattern": r"\d{4}"}, "2024", "2024\n"),
    ("regex:search", {"pattern": r"\p{Lu}"}, "hEllo", "hello"),
]


@pytest.mark.parametrize(("identifier", "arguments", "kept", "broken"), CASES)
def test_a_constraint_tells_kept_from_broken(
    value: Any, identifier: str, arguments: Any, kept: str, broken: str
) -> None:
    target = {"id": identifier, **arguments}
    assert value("format", kept, target=target) == 1.0
    assert value("format", broken, target=target) == 0.0
    assert value("format", " \n", target=target) == 0.0


def test_every_instruction_of_ifeval_but_one_has_a_case() -> None:
    assert {case[0] for case in CASES} >= set(CHECKS)
    assert len(CHECKS) == 24


def test_ifevals_own_target_is_read_with_its_nulls(value: Any) -> None:
    target = {
        "key": 1001,
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [
            {"num_words": None, "relation": None, "keywords": None},
            {"num_words": 3.0, "relation": "at least", "keywords": None},
        ],
    }
    assert value("format", "one two three", target=target) == 1.0
    assert value("format", "one, two three", target=target) == 0.0
    assert value("format", "one, two three", target=target, score_as="fraction") == 0.5


def test_options_go_before_the_target(value: Any) -> None:
    assert (
        value("format", "a, b", target=[{"id": "startend:quotation"}], constraints=[{"id": "punctuation:no_comma"}])
        == 0.0
    )


@pytest.mark.parametrize("target", [None, 72, "text", True, [], {"schema": 1}])
def test_a_prompt_without_constraints_does_not_apply(value: Any, target: Any) -> None:
    assert value("format", "x", target=target) == "not_applicable"


@pytest.mark.parametrize(
    "target",
    [
        ["no comma"],
        [{"name": "punctuation:no_comma"}],
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
        {"instruction_id_list": ["punctuation:no_comma"]},
        {"id": "length_constraints:number_words", "relation": "at least"},
        {"id": "length_constraints:number_words", "num_words": "3", "relation": "at least"},
        {"id": "length_constraints:number_words", "num_words": 3, "relation": "at most"},
        {"id": "punctuation:no_comma", "num_words": 3},
        {"id": "keywords:existence", "keywords": []},
        {"id": "regex:search", "pattern": "("},
        {"id": "regex:search"},
    ],
)
def test_a_target_that_cannot_be_read_abstains(value: Any, target: Any) -> None:
    assert value("format", "x", target=target) == "unparsable"


def test_an_unknown_id_is_named_and_a_missing_library_is_not_a_low_score(ask: Any) -> None:
    unknown = ask("format", "x", target={"id": "detectable_format:haiku"})
    assert (unknown.kind, "haiku" in unknown.reason) == ("not_applicable", True)
    assert ask("format", "x", target={"id": "language:response_language", "language": "de"}).kind == "unavailable"


def test_a_surely_broken_constraint_settles_all_but_not_the_fraction(value: Any) -> None:
    target = [{"id": "language:response_language", "language": "de"}, {"id": "punctuation:no_comma"}]
    assert value("format", "a, b", target=target) == 0.0
    assert value("format", "a b", target=target) == "unavailable"
    assert value("format", "a, b", target=target, score_as="fraction") == "unavailable"


def test_sentences_that_can_be_counted_two_ways_abstain_at_the_limit_only(value: Any) -> None:
    text = "Dr. Smith came. He left."
    target = {"id": "length_constraints:number_sentences", "relation": "at least"}
    assert value("format", text, target={**target, "num_sentences": 3}) == "not_applicable"
    assert value("format", text, target={**target, "num_sentences": 2}) == 1.0
    assert value("format", text, target={**target, "num_sentences": 4}) == 0.0


def test_the_loose_rule_forgives_a_first_line_a_last_line_and_asterisks(value: Any) -> None:
    target = {"id": "startend:end_checker", "end_phrase": "the end"}
    assert value("format", "*the end*", target=target) == 0.0
    assert value("format", "*the end*", target=target, strict=False) == 1.0
    assert value("format", "It is\nthe end\nBye", target=target, strict=False) == 1.0
    assert value("format", "It is\nthe ent\nBye", target=target, strict=False) == 0.0


def test_a_pattern_that_takes_too_long_is_a_timeout(value: Any) -> None:
    target = {"id": "regex:fullmatch", "pattern": r"(a|aa)+(b|a)+(?<!a)\1c"}
    assert value("format", "a" * 100_000, target=target, regex_timeout_s=0.05) == "timeout"


def test_no_constraint_takes_over_two_seconds_on_a_nasty_text(ask: Any) -> None:
    target = [{"id": identifier, **arguments} for identifier, arguments, _, _ in CASES]
    for name, text in nasty_texts().items():
        started = time.process_time()
        ask("format", text, target=target, score_as="fraction")
        assert time.process_time() - started < 2 + 2, name  # all 30 constraints together
