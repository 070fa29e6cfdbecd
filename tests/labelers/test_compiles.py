"""Does the code compile? Silence does not pass, the undecided abstains, nothing is executed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from labelers import python_code
from labelers.types import Abstain, Score

HEAD = 'def add(a, b):\n    """Adds."""\n'


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "def f():\n    return 1\n",
        "Here:\n```python\nx = 1\n```\nDone, isn't it?",
        "```\nx = 1\n```",
        "~~~py\nx = 1\n~~~",
        "```bash\npip install x\n```\n```python\nx = 1\n```",
        "  ```python\n  x = 1\n  y = 2\n  ```",
        "```python\nx = 1",
        "x = 1\r\ny = 2\r\n",
        "class Error(Exception):\n    pass\n",
        "# comment\nprint('hi')",
        "x = '\\ud800'",
        "assert 1 is 1",
        "'\\d'; f()",
    ],
)
def test_code_that_compiles_scores_1(value: Any, text: str) -> None:
    assert value("compiles", text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "x = ",
        "def f(:",
        "return 1",
        "def f(a, a): x()",
        "break",
        "The answer is 4.",
        "a\0b = 1",
        "x = '\ud800'",
        "```\n```x",
    ],
)
def test_code_that_does_not_compile_scores_0(value: Any, text: str) -> None:
    assert value("compiles", text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "# nothing",
        '"""Only a docstring."""',
        "...",
        "pass",
        "def f(): ...",
        "def f():\n    '''Doc.'''\n    pass",
        "class A: pass",
        "if x: pass",
        "yes or no",
        "Hello",
        "42",
        "```python\n```",
        "```python\n# later\n```",
    ],
)
def test_silence_does_not_pass(value: Any, text: str) -> None:
    assert value("compiles", text) == 0.0


def test_the_reason_names_the_line(ask: Any) -> None:
    assert ask("compiles", "x = 1\ny = ").reason.startswith("line 2: ")


def test_nothing_is_executed(value: Any, tmp_path: Path) -> None:
    assert value("compiles", f"open({str(tmp_path / 'made')!r}, 'w')") == 1.0
    assert list(tmp_path.iterdir()) == []


def test_warnings_of_the_judged_code_stay_inside(value: Any, recwarn: Any) -> None:
    assert value("compiles", "assert (1, 'x')\nf('\\d')") == 1.0
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return a + b\n", 1.0),
        ("    pass\n", 0.0),
        ("", 0.0),
        ("    # to do\n", 0.0),
        ("return a + b\n", 0.0),
        ("    ...\n", 0.0),
    ],
)
def test_before_prompt_judges_the_continuation_of_a_function_head(value: Any, text: str, expected: float) -> None:
    assert value("compiles", text, prompt=HEAD, before="prompt", extract="whole") == expected


def test_before_target_puts_the_target_before_the_code(value: Any) -> None:
    assert value("compiles", "a + b\n", target="def f(a, b):\n    return ", before="target") == 1.0
    assert value("compiles", "a + b\n", target=7, before="target") == "unparsable"
    assert value("compiles", "a + b\n", before="target") == "not_applicable"


def test_what_the_prompt_says_is_not_credited_to_the_completion(value: Any) -> None:
    assert value("compiles", "\n\n", prompt="x = f()", before="prompt") == 0.0
    assert value("compiles", "\npass", prompt="é = f()", before="prompt") == 0.0


def test_fenced_asks_for_a_block(value: Any) -> None:
    assert value("compiles", "x = 1", extract="fenced") == 0.0
    assert value("compiles", "```\nx = 1\n```", extract="fenced") == 1.0
    assert value("compiles", "```\nx = 1\n```", extract="whole") == 0.0


def test_a_long_text_abstains(value: Any) -> None:
    assert value("compiles", "x = 1\n" * 10, max_chars=20) == "not_applicable"


BOMBS = {
    "50 nested comprehensions (segfault on 3.12)": "x = " + "[" * 50 + "a" + " for a in b]" * 50,
    "19 nested finally (3 s, 1.1 GB)": "".join(f"{' ' * i}try:\n{' ' * i} a()\n{' ' * i}finally:\n" for i in range(19))
    + " " * 19
    + "a()\n",
    "100,000 fields (15 s on 3.11)": "f'" + "{a}" * 100_000 + "'",
    "500,000 statements": "a;" * 500_000,
    "a long sum": "a+" * 90_000 + "a",
    "100,000 minus signs": "-" * 100_000 + "1",
    "20,000 keyword arguments": "f(" + ",".join(f"a{i}=1" for i in range(20_000)) + ")",
    "20,000 equal functions": "def f(a):\n return a\n" * 20_000,
    "1,000 returns before finally": "def f():\n try:\n"
    + "  if a: return 1\n" * 1000
    + " finally:\n"
    + "  b()\n" * 1000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_could_hang_or_crash_the_compiler_abstains_in_time(ask: Any, bomb: str) -> None:
    started = time.process_time()
    assert isinstance(ask("compiles", BOMBS[bomb]), Abstain)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_a_compiler_that_gives_up_is_an_abstention(ask: Any, monkeypatch: pytest.MonkeyPatch, error: type) -> None:
    def gives_up(source: str) -> None:
        raise error

    monkeypatch.setattr(python_code, "compiled", gives_up)
    answer = ask("compiles", "x = 1")
    assert isinstance(answer, Abstain)
    assert answer.kind == "crashed"


def test_a_large_ordinary_module_is_judged(ask: Any) -> None:
    source = "\n".join(
        f"def f{i}(a, b=[{i}]):\n    try:\n        return [x for x in b]\n    finally:\n        g(a)"
        for i in range(500)
    )
    assert isinstance(ask("compiles", source), Score)


@pytest.mark.parametrize(
    "source",
    [
        "pass", "x", "x()", "return x", "def f(): pass", "def f(): return", "def f(): return 5", "def f(): return g",
        "def f(x: int) -> None: ...", "lambda: x", "async def f(): await g()", "def f():\n yield",
        "class A:\n def f(self): return self", "def f():\n def g(): return g", "def f():\n if 0:\n  return x",
        "f'{x!r:{y}}'", "'\\d'",
        "def f() return x", "-" * 1900 + "1",
    ],
)  # fmt: skip
def test_asking_the_compiler_alone_says_what_the_tree_says(source, monkeypatch):
    def outcome():
        try:
            return python_code.does_something(source)
        except (SyntaxError, RecursionError, MemoryError) as error:
            return type(error), getattr(error, "lineno", 0), str(error)

    quick = outcome()
    monkeypatch.setattr(python_code, "SHORT", -1)
    assert quick == outcome()
