"""`parses` in every format: what passes, what fails, each leniency, and bombs that stay undecided."""

from __future__ import annotations

import time
from typing import Any, get_args

import pytest

from labelers.discovery import LabelerSpec
from labelers.nasty import nasty_texts
from labelers.parses import Format
from labelers.testing import check

GOOD: dict[str, list[str]] = {
    "jsonl": ['{"a": 1}\n[2]\n', '{"a": 1}', "{}\r\n{}\r\n", '```jsonl\n{"a": 1}\n{"a": 2}\n```'],
    "yaml": [
        "a: 1\nb: [x, y]\n",
        "- a\n- b: {c: d}\n",
        "a: &x {k: 1}\nb: *x\n",
        "? [1]\n: a\n",
        "%YAML 1.1\n---\na: 1\n",
    ],
    "toml": ["a = 1\n[t]\nb.c = [1, {d = 2}]\n", 'a = "x.y." # c', "a = 1\r\n", "a = inf", "a = 1979-05-27"],
    "xml": ["<a b='1'>x &amp; y</a>", '<?xml version="1.0" encoding="utf-16"?><a/>', "<!DOCTYPE html><html/>"],
    "csv": ["a,b\n1,2\n", 'a,b\r\n"x ""y"", z\n",2', "a,b\n,\n", "a,b\n=1+1,2"],
    "python_literal": ["{'a': [1, -2.5, (3,)]}", "1, 2", "set()", "-1+2j", "b'x'", "'a' 'b'", "{1: None, True: ...}"],
    "markdown_table": ["| a | b |\n|---|:-:|\n| 1 | 2 |", "a | b\n--|--\n1 \\| x | 2\n", "|a|\n|-|"],
}
BAD: dict[str, list[str]] = {
    "jsonl": [
        '{"a": 1}\n\n{}',
        '{"a": 1},\n{}',
        "{}\nNaN",
        "{}\n{'a': 1}",
        '{"a": 1, "a": 2}',
        "[" * 300 + "]" * 300 + "\nx",
    ],
    "yaml": [
        "a: 1\na: 2",
        "a: 1\n---\nb: 2",
        "Just prose.",
        "a: *b",
        "a:\n\tb: 1",
        "a: !!python/name:os.system ",
        "# c",
        "a: [1",
    ],
    "toml": ["a = b", "a = 1\na = 2", "# only a comment", "hello", "a = 01", "[a]\n[a]", "a = 1, b = 2", "a = '\0'"],
    "xml": [
        "<a><b></a>",
        "<a/><b/>",
        "<a>&nbsp;</a>",
        "<x:a/>",
        "<a b='1' b='2'/>",
        "<a>\0</a>",
        "hi",
        "<a>" * 1000,
        "<A></a>",
    ],
    "csv": [
        "a,b\n1",
        "a,b\n\n1,2",
        "a,b",
        "prose without",
        'a,b\n1"2,3',
        'a,b\n"1,2',
        "a,a\n1,2",
        ",b\n1,2",
        "a,b\r1,2",
        "a,b\n\0,1",
    ],
    "python_literal": [
        "f(1)",
        "SystemExit(0)",
        "{'a': 1, 'a': 2}",
        "{[]: 1}",
        "...",
        "9**9",
        "x",
        "f'{a}'",
        "1\0",
        "# c",
        "{**a}",
    ],
    "markdown_table": [
        "| a | b |",
        "|a|b|\n|-|",
        "|a|b|\n|-|-|\n|1|",
        "See:\n\n|a|b|\n|-|-|\n|1|2|",
        "|a|b|\n|-|-|\n|1|2|\n\nok",
    ],
}
LAUGHS = "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 10))
UNDECIDED: dict[str, list[str]] = {
    "jsonl": ["{}\n" + "[" * 300 + "]" * 300],
    "yaml": [
        "[" * 100_000,
        "- " * 1_000 + "a",
        LAUGHS,
        "&a [*a]",
        "- 1\n" * 100_001,
    ],
    "toml": ["a." * 100_000 + "a = 1", "a = " + "[" * 5_000 + "]" * 5_000, "a = " + "9" * 5_000],
    "xml": [
        "<a>" * 1000 + "</a>" * 1000,
        '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><a>&d;</a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "http://x.example/a.dtd"><a/>',
    ],
    "python_literal": ["[" * 1000 + "]" * 1000, "9" * 5_000, "[" + "1," * 500_000 + "]"],
    "markdown_table": ["|a|b|\n|-|-|\n" + "|1|2|\n" * 100_000],
}
BLANK = ["", " \n\t", "\ud800"]


def pairs(table: dict[str, list[str]]) -> list[Any]:
    return [pytest.param(kind, text, id=f"{kind}-{i}") for kind, texts in table.items() for i, text in enumerate(texts)]


@pytest.mark.parametrize(("kind", "text"), pairs(GOOD))
def test_what_is_of_the_format_scores_1(ask: Any, kind: str, text: str) -> None:
    assert ask("parses", text, format=kind).value == 1.0


@pytest.mark.parametrize(("kind", "text"), pairs(BAD) + pairs(dict.fromkeys(get_args(Format), BLANK)))
def test_what_is_not_scores_0(ask: Any, kind: str, text: str) -> None:
    answer = ask("parses", text, format=kind)
    assert (answer.value, bool(answer.reason)) == (0.0, True)


@pytest.mark.parametrize(("kind", "text"), pairs(UNDECIDED))
def test_what_is_beyond_a_safety_limit_is_undecided_and_quick(value: Any, kind: str, text: str) -> None:
    started = time.process_time()
    assert value("parses", text, format=kind) == "not_applicable"
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("kind", "text", "options"),
    [
        ("jsonl", "NaN", {"allow_nan": True}),
        ("yaml", "a: 1\na: 2", {"allow_duplicate_keys": True}),
        ("yaml", "Just prose.", {"top_level": "any"}),
        ("csv", "a,a\n1,2", {"allow_duplicate_keys": True}),
        ("csv", "1,2", {"header": False}),
        ("csv", "a\n1", {"min_columns": 1}),
        ("csv", "a;b\n1;2,5", {"delimiter": ";"}),
        ("python_literal", "{'a': 1, 'a': 2}", {"allow_duplicate_keys": True}),
        ("markdown_table", "See:\n\n|a|b|\n|-|-|\n|1|2|\n\nok", {"allow_trailing_text": True}),
    ],
)
def test_a_leniency_is_an_option(value: Any, kind: str, text: str, options: dict[str, Any]) -> None:
    assert value("parses", text, format=kind) == 0.0
    assert value("parses", text, format=kind, **options) == 1.0


@pytest.mark.parametrize(
    ("kind", "text"), [("yaml", "- 1"), ("jsonl", "{}\n[]"), ("python_literal", "[1]"), ("json", "3")]
)
def test_top_level_asks_for_an_object_in_every_format_that_has_them(value: Any, kind: str, text: str) -> None:
    assert value("parses", text, format=kind, top_level="object") == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"format": "xml", "top_level": "object"},
        {"delimiter": ""},
        {"delimiter": '"'},
        {"max_chars": 0},
        {"min_columns": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(ask: Any, options: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(reversed(options))):
        ask("parses", "", **options)


@pytest.mark.parametrize("kind", get_args(Format))
def test_every_format_keeps_the_contract(kind: str) -> None:
    spec = LabelerSpec("parses", {"format": kind})
    assert check(spec.build(), spec=spec) == []


@pytest.mark.parametrize("kind", get_args(Format))
def test_a_nasty_text_never_takes_long(ask: Any, kind: str) -> None:
    for name, text in nasty_texts().items():
        started = time.process_time()
        ask("parses", text, format=kind)
        assert time.process_time() - started < 2, name
