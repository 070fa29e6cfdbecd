"""The formats of tests, how an assert is taken apart, and what is abstained from."""

# ruff: noqa: E501  one case is one line

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest

from labelers.discovery import build
from labelers.errors import OptionError
from labelers.programs import Launcher
from labelers.types import Abstain, Prompt, Score
from labelers.unit_test_asserts import NotApart, cases_of
from labelers.unit_test_targets import NoTests, plan_of, same_output
from labelers.unit_test_values import Other, Unreadable, replies
from tests.labelers.running import RUNS, judge, opened


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with opened(RUNS) as found:
        yield found


def value(answer: Score | Abstain) -> float | str:
    return answer.value if isinstance(answer, Score) else answer.kind


def asked(test: str) -> list[str]:
    """What the child is asked for a test."""
    return [expression for case in cases_of(ast.parse(test).body) for expression in case.expressions]


APART = {
    "assert f(3) == 9": ["f(3)"],
    "assert 9 == f(3)": ["f(3)"],
    "assert not f(3)": ["f(3)"],
    "assert f(3) is None": ["f(3)"],
    "assert abs(f(3) - 1.5) < 1e-6": ["f(3)"],
    "assert math.isclose(f(3), 1.5, rel_tol=0.01)": ["f(3)"],
    "assert len(f(3)) == 2": ["len(f(3))"],
    "assert list(f(3)) == [1]": ["list(f(3))"],
    "assert sorted(f(3)) == sorted([2, 1])": ["sorted(f(3))"],
    "assert f(3) in (1, 2)": ["f(3)"],
    "assert f(1) == 2 and f(2) != 3 or not f(4)": ["f(1)", "f(2)", "f(4)"],
    "assert f(1) == f(2)": ["f(1)", "f(2)"],
    "assert f(g(1)) == 2": ["f(g(1))"],
    "assert f([1, 2], key=3)[0] == 2": ["f([1, 2], key=3)"],
    "assert isinstance(f(1), list)": ["f(1)"],
    "assert type(f(1)) == int": ["f(1)"],
    "assert f(1).startswith('a')": ["f(1)"],
    "assert (f(1) + 1) * 2 == 6": ["f(1)"],
    "assert round(f(1), 2) == 0.33": ["f(1)"],
    "assert 1 < f(1) <= 3": ["f(1)"],
    "assert stack.pop() == 3": ["stack.pop()"],
    "assert [f(i) for i in range(3)] == [0, 1, 4]": ["[f(i) for i in range(3)]"],
    "assert f(lambda x: x > 3) == 5": ["f(lambda x: x > 3)"],
    "x = [1, 2]\nassert f(x) == 3": ["f([1, 2])"],
    "expected = 3\nassert f(1) == expected": ["f(1)"],
    "r = f(1)\nassert r == 3": ["f(1)"],
    "for i in range(2):\n    assert f(i) == i * 2": ["f(0)", "f(1)"],
    "for a, b in [(1, 2), (3, 4)]:\n    assert f(a) == b": ["f(1)", "f(3)"],
    "assert sum(10, 15) == 6": ["sum(10, 15)"],
}


@pytest.mark.parametrize("test", APART)
def test_of_an_assert_only_the_call_is_asked(test: str) -> None:
    assert asked(test) == APART[test]


NOT_APART = [
    "assert close_to(f(3), 9)",
    "assert test(lambda: f(3) == 9)",
    "assert f(3) == collections.Counter('aab')",
    "from x import y\nassert f(3) == y(9)",
    "assert all(f(x) == y for x, y in [(1, 2)])",
    "assert [f(x) == 9 for x in [1]]",
    "assert (lambda v: v == 9)(f(3))",
    "try:\n    f(1)\n    assert False\nexcept ValueError: pass",
    "with raises(ValueError):\n    f(1)",
    "def helper(): return 1\nassert f(1) == helper()",
    "while True:\n    assert f(1) == 1",
    "for i in f(3):\n    assert i == 1",
    "assert f(1) == 2 if f(3) else 4",
    "assert f(3).equals(9)",
    "assert 1 == 2",
    "assert [].append(1)",
]


@pytest.mark.parametrize("test", NOT_APART)
def test_what_cannot_be_taken_apart_is_an_abstention(launcher: Launcher, test: str) -> None:
    answer = judge(launcher, "tests", "def f(x): return x", [test])
    assert isinstance(answer, Abstain), answer
    assert answer.kind == "not_applicable"


VERDICTS = [
    ("assert f(3) == 9", "9", 1), ("assert f(3) == 9", "9.0", 1), ("assert f(3) == 9", "'9'", 0), ("assert f(3) is None", "None", 1),
    ("assert f(3) is None", "0", 0), ("assert f(3) is True", "True", 1), ("assert f(3) is True", "1", 0), ("assert not f(3)", "[]", 1),
    ("assert not f(3)", "[0]", 0), ("assert f(3) == (1, 2)", "(1, 2)", 1), ("assert f(3) == (1, 2)", "[1, 2]", 0),
    ("assert f(3) == {1, 2}", "{2, 1}", 1), ("assert f(3) == {'a': [1]}", "{'a': [1]}", 1), ("assert f(3) == b'x'", "b'x'", 1),
    ("assert f(3) == 2 ** 70", "1 << 70", 1), ("assert f(3) == 'é\\n'", "chr(233) + chr(10)", 1), ("assert f(3) == 1j", "1j", 1),
    ("assert abs(f(3) - 0.3) < 1e-9", "0.1 + 0.2", 1), ("assert abs(f(3) - 0.3) < 1e-9", "0.4", 0), ("assert f(3) == float('inf')", "1e999", 1),
    ("assert set(f(3)) == {1}", "(i for i in [1, 1])", 1), ("assert len(f(3)) == 2", "'ab'", 1), ("assert f(3) in (1, 2)", "2", 1),
    ("assert f(3) in (1, 2)", "3", 0), ("assert f(3) == f(3)", "object()", 0), ("assert f(3) != 4", "object()", 1), ("assert f(3)", "object()", 0),
    ("import collections\nassert f(3) == collections.Counter('aab')", "None", "not_applicable"), ("assert f(3) == {'a': 2}", "__import__('collections').Counter('aa')", 1),
    ("assert f(3)[1:] == [2]", "[1, 2]", 1), ("assert f(3) == -1", "-1", 1), ("assert f(3) == [[1], (2, {3: None})]", "[[1], (2, {3: None})]", 1),
    ("assert f(3) + 1 == 2", "'1'", 0), ("assert f(3)[5] == 2", "[]", 0), ("assert f(3) == 10 ** 5000", "10 ** 5000", 0),
]  # fmt: skip


@pytest.mark.parametrize(("test", "result", "expected"), VERDICTS)
def test_values_are_compared_as_python_does(launcher: Launcher, test: str, result: str, expected: float | str) -> None:
    assert value(judge(launcher, "tests", f"def f(x):\n    return {result}", [test])) == expected


HEAD = "from typing import List\n\ndef f(xs: List[int]) -> int:\n    '''Sums.'''\n"
HUMANEVAL = {"prompt": HEAD, "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n", "entry_point": "f"}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "    return sum(xs)\n",
        "```python\n" + HEAD + "    return sum(xs)\n```",
        "def f(xs: List[int]) -> int:\n    return sum(xs)",
    ],
)
def test_humaneval_takes_a_continuation_and_a_whole_function(launcher: Launcher, text: str) -> None:
    assert value(judge(launcher, "tests", text, HUMANEVAL)) == 1


def test_the_prompt_can_be_the_head(launcher: Launcher) -> None:
    target = {key: HUMANEVAL[key] for key in ("test", "entry_point")}
    assert (
        value(judge(launcher, "tests", "    return sum(xs)\n", target, prompt=HEAD, before="prompt", extract="whole"))
        == 1
    )


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("assert f(1) == 2", "def f(x): return x + 1"),
        (
            {"test_list": ["assert f(P(1)) == 2"], "test_setup_code": "class P:\n    def __init__(s, v): s.v = v"},
            "def f(p): return p.v + 1",
        ),
        ({"test_list": ["import math\nassert f(1) == math.pi"]}, "import math\ndef f(x): return math.pi"),
        ({"inputs": [[1, 2]], "outputs": [[3, [4]]], "fn_name": "f"}, "def f(a, b): return (3, (4,))"),
        (
            {"inputs": ["1 2\n3"], "outputs": ["6\n"]},
            "import sys\nprint(sum(map(int, sys.stdin.read().split())))  \nexit()",
        ),
        ({"inputs": [["1", "2"]], "outputs": [["3"]]}, "print(int(input()) + int(input()))"),
        ({"tests": [{"input": "1\n", "output": "1"}]}, "if __name__ == '__main__':\n    print(input())"),
        ({"tests": [{"args": [1], "expected": {"a": 1}}], "entry_point": "f"}, "def f(x): return {'a': x}"),
        ([{"call": "f(1)", "expected": None}], "def f(x): return None"),
    ],
)
def test_each_format_of_tests_is_read(launcher: Launcher, target: Any, text: str) -> None:
    answer = judge(launcher, "tests", text, target)
    assert value(answer) == 1, answer


@pytest.mark.parametrize(
    "target",
    [None, 7, {}, [], {"test": "def check(candidate): pass", "entry_point": "f"}, {"test_list": ["assert ("]}, {"inputs": ["1"], "outputs": []},
     {"test": "def check(candidate):\n    assert candidate(1)", "entry_point": "f; import os"}, {"tests": [{"call": "f("}]}, {"tests": [1]},
     {"inputs": ["1"], "outputs": ["1"], "fn_name": "x y"}, {"other": 1}],
)  # fmt: skip
def test_a_target_without_readable_tests_is_an_abstention(target: Any) -> None:
    with pytest.raises(NoTests):
        plan_of(Prompt.of("?", target=target))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("def f(:", "does not run: SyntaxError"),
        ("raise ValueError('x')", "does not run: ValueError: x"),
        ("def g(x): return 1", "NameError"),
        ("def f(x): raise KeyError(x)", "KeyError"),
        ("def f(x):\n    while True: pass", "it had not finished after"),
        ("def f(x): return [0] * (1 << 40)", "MemoryError"),
        ("def f(x): return f(x)", "RecursionError"),
        ("def f(x): return 'x' * 10_000_000", "it wrote too much"),
        ("import numpy_that_is_not_there", "ModuleNotFoundError"),
        ("import socket\ns = socket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("def f(x): return '\\ud800'", "0 of 1"),
        ("", "there is no code"),
        ("x = '\ud800'", "surrogate"),
        ("\0", "does not run"),
        ("[" * 100_000, "does not run"),
    ],
)
def test_code_that_fails_scores_0_and_says_why(launcher: Launcher, text: str, part: str) -> None:
    answer = judge(launcher, "tests", text, ["assert f(1) == 1"])
    assert value(answer) == 0
    assert part in answer.reason


def test_tests_answered_before_the_time_ran_out_count(launcher: Launcher) -> None:
    code = "def f(x):\n    while x > 2: pass\n    return x"
    assert value(judge(launcher, "tests", code, [f"assert f({i}) == {i}" for i in range(4)], timeout_s=2.0)) == 0.75


def test_score_as_all_gives_no_half_points(launcher: Launcher) -> None:
    tests = ["assert f(1) == 1", "assert f(2) == 3"]
    assert value(judge(launcher, "tests", "def f(x): return x", tests)) == 0.5
    assert value(judge(launcher, "tests", "def f(x): return x", tests, score_as="all")) == 0


def test_what_the_completion_prints_is_not_read(launcher: Launcher) -> None:
    assert (
        value(
            judge(
                launcher,
                "tests",
                "print('x' * 5_000_000)\ndef f(x):\n    print('y')\n    return x",
                ["assert f(1) == 1"],
            )
        )
        == 1
    )


def test_no_state_is_carried_from_one_completion_to_the_next(launcher: Launcher) -> None:
    judge(
        launcher,
        "tests",
        "open('kept', 'w').write('1')\nimport builtins\nbuiltins.kept = 1\ndef f(x): return x",
        ["assert f(1) == 1"],
    )
    code = "import builtins, os\ndef f(x): return hasattr(builtins, 'kept') or os.path.exists('kept')"
    assert value(judge(launcher, "tests", code, ["assert f(1) is False"])) == 1


@pytest.mark.parametrize(
    "written",
    [b"x\n", b"[1]\n", b'["value",["int","g"]]\n', b'["value",["list",1]]\n', b'["value",["set",[["list",[]]]]]\n', b"\xff\n",
     b'["value",["what",1]]\n', b'["value",' + b'["list",[' * 5000 + b"\n", b'["value",{}]\n', b'["value",1]\n', b'["other",1]\n',
     b'["value",["float","x"]]\n', b'["error",[]]\n'],
)  # fmt: skip
def test_lines_that_are_no_values_are_not_read(written: bytes) -> None:
    with pytest.raises(Unreadable):
        replies(written)


def test_a_half_line_is_no_answer() -> None:
    assert replies(b'["value",null]\n["value",tr') == ([replies(b'["value",null]\n')[0][0]], None)


def test_a_foreign_value_equals_nothing_and_has_no_truth() -> None:
    assert Other("int") != Other("int")
    with pytest.raises(TypeError, match="not carried out"):
        bool(Other("int"))


def test_outputs_are_equal_but_for_blanks_at_ends() -> None:
    assert same_output("1 \n2\r\n\n", "1\n2")
    assert not same_output("1  2", "1 2")
    assert not same_output("1\n\n2", "1\n2")


def test_a_loop_that_never_ends_here_is_no_test() -> None:
    with pytest.raises(NotApart):
        cases_of(ast.parse("for i in range(10 ** 9):\n    assert f(i) == 1").body)


@pytest.mark.parametrize("options", [{"timeout_s": 0.0}, {"memory_mb": 1}, {"score_as": "none"}])
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        build("tests", options)
