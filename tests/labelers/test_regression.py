"""The number in a completion, by the stated rule, and how far it is from the target."""

from __future__ import annotations

import math
import random
import time
from fractions import Fraction
from typing import Any

import pytest

from labelers import numbers
from labelers.discovery import build
from labelers.nasty import nasty_texts
from labelers.numbers import OutOfRange, read_number
from labelers.types import Abstain

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so the answer is 72.", "72"),
        ("$1,234.50", "1234.5"),
        ("\\boxed{-3}", "-3"),
        ("-$5 and -$6", "-6"),
        ("$-5.25", "-5.25"),
        ("\u22127", "-7"),
        ("72 km", "72"),
        ("**72**", "72"),
        ("5-3", "3"),
        ("10 - 3", "3"),
        ("1,2,3", "3"),
        ("1,23", "23"),
        ("1,234,567", "1234567"),
        (".5", "0.5"),
        ("...72", "72"),
        ("1e5", "100000"),
        ("12%", "12"),
        ("x=72", "72"),
        ("12345678901234567890", "12345678901234567890"),
    ],
)
def test_the_last_number_is_read(text: str, number: str) -> None:
    assert read_number(text, "last") == Fraction(number)


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "seventy", "H2O", "v1.2.3", "1_000", "\u0663\u0664", "\uff17", "\u00b2", "1.2.3"]
)
def test_what_is_not_a_number_is_not_read(text: str) -> None:
    assert read_number(text, "last") is None


def test_which_chooses_the_number() -> None:
    text = "First 1, then 2. Answer: 3 (of 4)"
    assert [read_number(text, w) for w in ("first", "last", "whole")] == [1, 4, None]
    assert read_number(text, "after", marker="Answer:") == 3
    assert read_number(text, "after", marker="Result:") is None
    assert read_number(" $1,234. ", "whole") == 1234


def test_percent_may_divide() -> None:
    assert read_number("12.5 %", "last", percent="divide") == Fraction("0.125")


@pytest.mark.parametrize("text", ["1e9999999", "1e-9999999", "9" * 1_000_000, "1e401"])
def test_a_number_beyond_any_double_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(OutOfRange):
        read_number(text, "last")
    assert time.process_time() - started < 1


@pytest.mark.parametrize("target", [72, 72.0, "72", "The answer is 72.", GSM8K])
def test_every_form_of_target_is_read(value: Any, target: Any) -> None:
    assert value("regression", "It is 70", target=target) == -2.0
    assert value("regression", "#### 72", target=target) == 0.0


@pytest.mark.parametrize("options", [{"which": "first"}, {"which": "whole"}, {"which": "after", "marker": "answer is"}])
def test_a_gsm8k_target_is_the_number_behind_its_marker_whatever_is_read_from_the_answer(
    value: Any, options: Any
) -> None:
    text = "72" if options["which"] != "after" else "the answer is 72"
    assert value("regression", text, target=GSM8K, **options) == 0.0


@pytest.mark.parametrize("target", [None, "no number", True, [], ["a"], [True], {"a": 72}, "1e9999999", "####"])
def test_a_target_that_cannot_be_read_abstains(value: Any, target: Any) -> None:
    assert value("regression", "72", target=target) == "unparsable"


@pytest.mark.parametrize(
    ("error", "score"), [("absolute", -10.0), ("squared", -100.0), ("relative", -0.1), ("log", -math.log(101 / 91))]
)
def test_the_error_is_the_one_that_was_asked_for(value: Any, error: str, score: float) -> None:
    assert value("regression", "90", target=100, error=error) == pytest.approx(score, rel=1e-4)


def test_a_relative_error_of_target_0_is_absolute(value: Any) -> None:
    assert value("regression", "3", target=0, error="relative") == -3.0


def test_the_log_error_takes_zero_and_negative_numbers(value: Any) -> None:
    assert value("regression", "-5", target=-5, error="log") == 0.0
    assert value("regression", "0", target=0, error="log") == 0.0


def test_an_answer_without_a_number_is_worst_and_said_so(ask: Any) -> None:
    answer = ask("regression", "no idea", target=1)
    assert answer.value == -1_000_000
    assert "no number" in answer.reason


def test_an_answer_without_a_number_may_abstain(value: Any) -> None:
    assert value("regression", "no idea", target=1, unreadable="abstain") == "not_applicable"


@pytest.mark.parametrize("text", ["1e300", "1" * 300, "-2,000,000", "9" * 1000])
@pytest.mark.parametrize("error", ["absolute", "squared", "relative"])
def test_the_worst_guess_is_never_worse_than_none(value: Any, text: str, error: str) -> None:
    assert value("regression", text, target=1, error=error) == value("regression", "none", target=1, error=error)


def test_large_integers_are_compared_exactly(value: Any) -> None:
    assert value("regression", "12345678901234567891", target="12345678901234567890") == -1.0
    assert value("regression", "0.3", target=0.3) == 0.0


def test_the_tolerance_is_the_pass_mark() -> None:
    assert build("regression", {"tolerance": 0.5}).pass_at == -0.5  # type: ignore[union-attr]
    assert build("regression").pass_at is None  # type: ignore[union-attr]


def test_a_nasty_text_gets_a_finite_score(ask: Any) -> None:
    for name, text in nasty_texts().items():
        assert not isinstance(ask("regression", text, target=72), Abstain), name


@pytest.mark.parametrize(
    ("text", "target", "options", "score"),
    [
        ("it is [1, 2.5]", [1, 2], {}, -0.25),
        ("(1, 4) not [x]", "[1, 2]", {}, -1.0),
        ("[1, 2, 3]", [1, 2], {}, -1e6),
        ("1 and 2", [1, 2], {}, -1e6),
        ('{"a": [3]}', 2, {"json_path": "a.0"}, -1.0),
        ('```json\n{"a": "3"}\n```', 2, {"json_path": "a"}, -1.0),
        ('{"v": [1, 5]}', [1, 2], {"json_path": "v"}, -1.5),
        ("no json 5", 2, {"json_path": "a"}, -1e6),
        ("x=5, y=7", 5, {"pattern": r"x=(\d+)"}, 0.0),
        ("5 km", 5000, {"units": {"km": 1000.0}}, 0.0),
        ("5 m", 5, {"units": {"km": 1000.0}}, 0.0),
        ("1.234,5", 1234.5, {"decimal": "comma"}, 0.0),
        ("3", 1, {"error": "huber"}, -1.5),
        ("1.5", 1, {"error": "huber"}, -0.125),
    ],
)
def test_vectors_json_patterns_units_and_huber(value: Any, text: str, target: Any, options: Any, score: float) -> None:
    assert value("regression", text, target=target, **options) == pytest.approx(score)


def test_a_pattern_that_backtracks_is_undecided(value: Any) -> None:
    assert value("regression", "a" * 100_000, target=1, pattern=r"(a|aa)+(b|a)+(?<!a)\1c") == "timeout"


def test_json_beyond_a_limit_is_undecided(value: Any) -> None:
    assert value("regression", "[" * 300 + "]" * 300, target=1, json_path="a") == "not_applicable"


def test_numbers_are_found_where_the_whole_pattern_tried_at_every_letter_finds_them():
    rng = random.Random(1)
    letters = "0123456789.,+-\u2212$\u20ac\u00a3\u00a5 eEabx%_()\n5 "
    for _ in range(20_000):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 25)))
        found = [m.span() for m in numbers._NUMBER.finditer(text)]
        assert [m.span() for m in numbers._numbers(text)] == found, text
        last = numbers._last(text)
        assert (last and last.span()) == (found[-1] if found else None), text
