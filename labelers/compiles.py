"""Does the code in a completion compile? It is never executed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from labelers import python_code
from labelers.fences import Extract, extract
from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

Language = Literal["python"]
Outcome = Score | Abstain

_ADD = Prompt.of("Write a Python function that adds two numbers.")
_EXAMPLES = (
    Example(
        _ADD,
        better="```python\ndef add(a, b):\n    return a + b\n```",
        worse="```python\ndef add(a, b)\n    return\n```",
    ),
    Example(_ADD, better="def add(a, b):\n    return a + b\n", worse="# I would add the two numbers here."),
)


@dataclass(frozen=True)
class Compiles:
    """Prefers completions whose code compiles (score 1) to those whose code does not (score 0).

    ## What it prefers
    The code is taken out of the completion (`extract`), put behind other text if wanted (`before`), and given to
    Python's own `compile()`. Nothing is executed. Silence does not pass: code that is empty, or only comments,
    docstrings, `...`, `pass`, empty definitions or expressions without a call, scores 0.

    ## Why
    Code that does not compile is wrong without any doubt, and finding out costs a fraction of a millisecond, no model
    and no tests. `compile()` and not `ast.parse()`: that one accepts `return` outside a function and 19 other errors.

    ## Example
    `def add(a, b): return a + b` scores 1; `def add(a, b) return a + b` scores 0 with `line 1: expected ':'`.
    For sets whose prompt is the head of a function (HumanEval), set `before = "prompt"` and `extract = "whole"`.

    ## Known problems
    - Which Python? The one that runs the labeler: `type X = int` fails on 3.11 and passes on 3.12.
    - Source that may hang or crash the compiler is not judged (abstains): over 200,000 tokens, 15 nested
      comprehensions, `finally` bodies that multiply, thousands of functions or of fields in an f-string; see
      python_code.py for the measurements. MemoryError and RecursionError of the compiler abstain as `crashed`.
    - It runs in the labeler's own process. Within the limits no source is known that kills it; one may exist.
    - Text put before the code that does not itself compile makes every completion fail.
    """

    language: Language = "python"
    """The programming language; only Python for now."""
    extract: Extract = "auto"
    """Where the code is: `auto` the first fenced block, else the whole text; `whole`; `fenced` (no block scores 0)."""
    before: Literal["nothing", "prompt", "target"] = "nothing"
    """The text that the completion continues, put before the code: the last user message, or the prompt's target."""
    max_chars: int = 1_048_576
    """Longer code is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    name = "compiles"
    version = "1"
    needs = Needs()
    examples = _EXAMPLES
    pass_at = 1.0

    def __post_init__(self) -> None:
        if self.max_chars < 1:
            raise ValueError(f"max_chars is {self.max_chars}; hint: at least 1")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Outcome]:
        return [self._judge(candidate) for candidate in batch]

    def _judge(self, candidate: Candidate) -> Outcome:
        before = self._text_before(candidate.prompt)
        if isinstance(before, Abstain):
            return before
        code = extract(candidate.completion.text, self.extract, _TAGS[self.language])
        if code is None:
            return Score(0.0, "there is no fenced block")
        if len(before) + len(code) > self.max_chars:
            return Abstain(
                "not_applicable", f"{len(before) + len(code)} characters, more than max_chars={self.max_chars}"
            )
        return _JUDGES[self.language](before, code)

    def _text_before(self, prompt: Prompt) -> str | Abstain:
        match self.before:
            case "nothing":
                return ""
            case "prompt":
                texts = [m.content for m in prompt.messages if m.role == "user"]
                return texts[-1] if texts else Abstain("not_applicable", "before=prompt, but there is no user message")
            case "target":
                if prompt.target is None:
                    return Abstain("not_applicable", "before=target, but the prompt has no target")
                if not isinstance(prompt.target, str):
                    return Abstain("unparsable", "before=target, but the target is not text")
                return prompt.target


def _judge_python(before: str, code: str) -> Outcome:
    """1 when `before` + `code` compiles and `code` adds a statement that does something."""
    before, code = _unix_newlines(before), _unix_newlines(code)
    source = before + code
    if not code.strip():
        return Score(0.0, "there is no code")
    if "\0" in source:
        return Score(0.0, "a NUL character, which Python source cannot contain")
    try:
        boundary = (before.count("\n") + 1, len(before.rpartition("\n")[2].encode()))
        tree = python_code.compiled(source)
    except UnicodeEncodeError:
        return Score(0.0, "a lone surrogate: the text cannot be written as UTF-8")
    except SyntaxError as error:
        return Score(0.0, f"line {error.lineno}: {error.msg}")
    except python_code.TooHard as error:
        return Abstain("not_applicable", f"not given to the compiler: {error}")
    except (MemoryError, RecursionError) as error:
        return Abstain("crashed", f"the compiler gave up: {type(error).__name__}")
    if not python_code.says_something(tree, boundary):
        return Score(0.0, "it compiles, but does nothing: only comments, docstrings, `...`, `pass` or bare expressions")
    return Score(1.0, "it compiles")


def _unix_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


_TAGS: dict[Language, tuple[str, ...]] = {"python": ("python", "py", "python3", "py3")}
_JUDGES: dict[Language, Callable[[str, str], Outcome]] = {"python": _judge_python}
