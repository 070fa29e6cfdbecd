"""Strict JSON, each leniency an option, bombs undecided."""

from __future__ import annotations

import json
from typing import Any

import pytest

from labelers.nasty import nasty_texts
from labelers.strict_json import NotJson, Undecided, read_json


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5e3, true, null, "\\u00e9\\ud800"]}',
        " [1]\n",
        "42",
        '"x"',
        "```json\n{}\n```",
        "1e999",
        "9" * 5000,
        "-0",
    ],
)
def test_json_scores_1(value: Any, text: str) -> None:
    assert value("parses", text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": NaN}',
        "Infinity",
        "-Infinity",
        '{"a": 1, "a": 2}',
        '{"a": 1} and more',
        "Sure! {}",
        "01",
        "+1",
        ".5",
        "1.",
        "\ufeff{}",
        '"\t"',
        '"\ud800"',
        "\u0663",
        "[1\u00a0]",
        "{}\0",
        "[" * 100_000,
        "]" * 300,
        '{"a":' * 5000,
        "[}" * 300,
    ],
)
def test_what_is_not_strict_json_scores_0(value: Any, text: str) -> None:
    assert value("parses", text) == 0.0


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ('{"a": NaN}', "allow_nan"),
        ('{"a": 1, "a": 2}', "allow_duplicate_keys"),
        ('{"a": 1} thanks', "allow_trailing_text"),
    ],
)
def test_each_leniency_is_one_option(value: Any, text: str, option: str) -> None:
    assert value("parses", text) == 0.0
    assert value("parses", text, **{option: True}) == 1.0


def test_top_level_asks_for_an_object_or_an_array(value: Any) -> None:
    assert value("parses", "42", top_level="object") == 0.0
    assert value("parses", "{}", top_level="object") == 1.0
    assert value("parses", "[]", top_level="array") == 1.0


def test_deep_but_valid_json_is_undecided_not_wrong(value: Any) -> None:
    assert value("parses", "[" * 5000 + "]" * 5000) == "not_applicable"
    assert value("parses", "[" * 199 + "]" * 199) == 1.0


def test_brackets_in_strings_do_not_nest(value: Any) -> None:
    assert value("parses", json.dumps(["[{" * 1000, '\\"]'])) == 1.0


def test_the_deepest_accepted_json_is_read_deep_in_the_stack() -> None:
    def down(levels: int) -> Any:
        return down(levels - 1) if levels else read_json("[" * 200 + "]" * 200)

    assert down(300)


@pytest.mark.parametrize("text", ["1e999", "9" * 5000])
def test_numbers_out_of_range_are_undecided_where_their_value_matters(text: str) -> None:
    with pytest.raises(Undecided):
        read_json(text)


def test_a_nasty_text_is_read_as_json_reads_it_or_refused() -> None:
    for name, text in nasty_texts().items():
        try:
            strict = read_json(text)
        except (NotJson, Undecided):
            continue
        assert strict == json.loads(text), name
