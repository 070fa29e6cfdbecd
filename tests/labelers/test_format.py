"""Each constraint kept and broken; the forms of target; what cannot be told abstains."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from labelers.discovery import build
from labelers.ifeval import CHECKS
from labelers.nasty import nasty_texts
from labelers.types import Candidate, Completion, Prompt

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
    (
        "language:response_language",
        {"language": "de"},
        "Der Himmel ist heute blau, sagt er.",
        "The sky is blue, he says.",
    ),
    ("verify_keywords", {"keyword_list": ["sun", "sky"]}, "Sunny SKY", "Sun"),
    ("verify_keyword_frequency", {"word": "Sun", "N": 2}, "sun, SUN, sunny", "sun"),
    ("validate_forbidden_words", {"forbidden_words": ["sun"]}, "sky", "Sunday"),
    ("verify_letter_frequency", {"letter": "a", "N": 2}, "aAa", "aaa"),
    (
        "validate_response_language",
        {"language": "en"},
        "The sky is blue, he says.",
        "Der Himmel ist heute blau, sagt er.",
    ),
    ("verify_paragraph_count", {"N": 2}, "a\n* * *\nb", "a\n* * *\n"),
    ("validate_word_constraint", {"N": 3, "quantifier": "around"}, "one two", "one"),
    ("validate_word_constraint", {"N": 3, "quantifier": "at most"}, "one two-three four", "one two three four"),
    ("verify_sentence_constraint", {"N": 3, "quantifier": "at least"}, "A b. C? D!", "Mr. A b. C?"),
    ("validate_paragraphs", {"N": 2, "first_word": "Then", "i": 2}, "a\n\nThen b", "a\n\nthen b"),
    ("verify_postscript", {"postscript_marker": "P.S."}, "Bye. P.S. more", "Bye. P.S. "),
    ("validate_placeholders", {"N": 2}, "[a] [b]", "[a]"),
    ("verify_bullet_points", {"N": 2}, "* a\n - b", "* a\n** b\n- c"),
    ("validate_title", {}, "<<x>> y", "<x>"),
    ("validate_choice", {"options": ["yes", "no"]}, "I say no", "maybe"),
    ("validate_highlighted_sections", {"N": 2}, "*a* *b*", "*a* b*"),
    ("validate_sections", {"N": 2, "section_splitter": "Part"}, "Part 1 a Part 2 b", "Part 1"),
    ("validate_json_format", {}, '{"a": 1}', "```json\n{}\n```"),
    ("validate_repeat_prompt", {"original_prompt": "Say hi."}, "Say hi. Hi", "say hi. Hi"),
    ("validate_two_responses", {}, "a\n******\nb", "a******a"),
    ("validate_uppercase", {}, "ABC 1", "ABc"),
    ("validate_lowercase", {}, "abc 1", "abC"),
    ("validate_frequency_capital_words", {"N": 2, "quantifier": "at most"}, "AB cd EF", "AB CD EF"),
    ("validate_end", {"end_phrase": "the end."}, "It is the end.", "the end. "),
    ("validate_quotation", {}, '"a"', '"a" '),
    ("validate_no_commas", {}, "a b", "a, b"),
    ("count:characters", {"at_most": 3}, "abc", "abcd"),
    ("count:words", {"at_least": 2, "at_most": 3}, "one two", "one"),
    ("count:sentences", {"at_least": 2, "at_most": 2}, "One. Two.", "One."),
    ("count:lines", {"at_least": 2}, "a\n\nb", "a\n\n"),
    ("count:paragraphs", {"at_most": 2}, "a\nb\n \nc", "a\n\nb\n\nc"),
    ("count:bullets", {"at_least": 2}, "- a\n* b", "- a"),
    ("count:numbered_items", {"at_least": 2}, "1. a\n2) b", "1. a\n2"),
    ("count:headings", {"at_least": 1}, "# Title\ntext", "#Title"),
    ("startend:start_checker", {"start_phrase": "Dear"}, " Dear you", "My dear"),
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


def test_every_check_has_a_case_and_25_are_ifevals_and_25_rlvr_ifs() -> None:
    ifeval = {name for name in CHECKS if ":" in name and CHECKS[name].__module__ == "labelers.ifeval"}
    rlvr = {name for name in CHECKS if CHECKS[name].__module__ == "labelers.rlvr_if"}
    assert (len(ifeval), len(rlvr)) == (25, 25)
    assert {case[0] for case in CASES} >= set(CHECKS)


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
        {
            "id": "length_constraints:nth_paragraph_first_word",
            "num_paragraphs": 1,
            "nth_paragraph": 2,
            "first_word": "a",
        },
        {"id": "keywords:letter_frequency", "letter": "ab", "let_frequency": 1, "let_relation": "at least"},
        {"func_name": "validate_word_constraint", "N": 2, "quantifier": "exactly"},
        {"func_name": "validate_choice", "options": "yes"},
        {"func_name": "validate_paragraphs", "N": 1, "i": 2, "first_word": "a"},
    ],
)
def test_a_target_that_cannot_be_read_abstains(value: Any, target: Any) -> None:
    assert value("format", "x", target=target) == "unparsable"


def test_an_unknown_id_is_named_and_abstains(ask: Any) -> None:
    unknown = ask("format", "x", target={"id": "detectable_format:haiku"})
    assert (unknown.kind, "haiku" in unknown.reason) == ("not_applicable", True)


@pytest.mark.parametrize(
    ("identifier", "arguments"),
    [("language:response_language", {"language": "de"}), ("validate_response_language", {"language": "de"})],
)
def test_a_language_that_cannot_be_told_is_undecided(value: Any, identifier: str, arguments: Any) -> None:
    assert value("format", "ok", target={"id": identifier, **arguments}) == "not_applicable"
    assert value("format", "1, 2, 3", target={"id": identifier, **arguments}) == 1.0
    assert value("format", "ok", target={"id": identifier, "language": "xx"}) == "unparsable"


def test_english_in_capitals_may_not_surely_be_german(value: Any) -> None:
    target = {"id": "change_case:english_capital"}
    assert value("format", "THE SKY IS BLUE AND THE SUN SHINES ON US.", target=target) == 1.0
    assert value("format", "DER HIMMEL IST BLAU, UND DIE SONNE SCHEINT HEUTE AUF UNS.", target=target) == 0.0


RLVR = '{"func_name": "validate_word_constraint", "N": 2, "quantifier": "at least", "letter": null, "options": null}'
OPEN_INSTRUCT = "[{'instruction_id': ['validate_no_commas', 'punctuation:no_comma'], 'kwargs': [None, {'N': None}]}]"


@pytest.mark.parametrize(
    ("target", "kept", "broken"),
    [
        (RLVR, "one two", "one"),
        (json.loads(RLVR), "one two", "one"),
        (OPEN_INSTRUCT, "a b", "a, b"),
        ([OPEN_INSTRUCT[1:-1].replace("'", '"').replace("None", "null")], "a b", "a, b"),
        ('{"instruction_id_list": ["startend:quotation"], "kwargs": [{}]}', '"a"', "a"),
    ],
)
def test_rlvr_ifs_and_open_instructs_targets_are_read_as_they_are(
    value: Any, target: Any, kept: str, broken: str
) -> None:
    assert (value("format", kept, target=target), value("format", broken, target=target)) == (1.0, 0.0)


@pytest.mark.parametrize(
    "metadata",
    [
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        {"ground_truth": '{"func_name": "validate_no_commas"}'},
    ],
)
def test_constraints_may_stand_in_the_metadata(metadata: dict[str, Any]) -> None:
    prompt = Prompt.of("?", **metadata)
    batch = [Candidate(prompt, Completion.of(prompt, text)) for text in ("a b", "a, b")]
    labeler: Any = build("format")
    assert [answer.value for answer in labeler.score(batch, None)] == [1.0, 0.0]


def test_a_surely_broken_constraint_settles_all_but_not_the_fraction(value: Any) -> None:
    target = [{"id": "language:response_language", "language": "de"}, {"id": "punctuation:no_comma"}]
    assert value("format", "o, k", target=target) == 0.0
    assert value("format", "ok", target=target) == "not_applicable"
    assert value("format", "o, k", target=target, score_as="fraction") == "not_applicable"


def test_sentences_between_two_bounds_are_undecided_where_one_may_be_right(value: Any) -> None:
    text = "Dr. Smith came. He left."  # two or three sentences
    for bounds, expected in [((1, 3), 1.0), ((3, 3), "not_applicable"), ((4, 9), 0.0), ((1, 1), 0.0)]:
        target = {"id": "count:sentences", "at_least": bounds[0], "at_most": bounds[1]}
        assert value("format", text, target=target) == expected


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
        assert time.process_time() - started < 2 + 2, name  # all 65 constraints together
