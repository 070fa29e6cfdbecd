"""Is the final answer in a completion equal to the known one?"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelers.cpu_limit import TimeIsUp, cpu_limit
from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

MAX_TARGETS = 256
"""Targets that are kept parsed: a shard's prompts have few."""
_WORD = re.compile("[A-Za-z]{2,}")
_FUNCTIONS = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi"))
_LATEX = ("$", "\\boxed", "\\(", "\\[")

_HALF = Prompt.of("What is 3/4 - 1/4?", target="\\frac{1}{2}")
_EXAMPLES = (
    Example(_HALF, better="It is $\\boxed{0.5}$.", worse="It is $\\boxed{\\frac{1}{4}}$."),
    Example(_HALF, better="3/4 - 1/4 = 2/4, so the answer is 1/2.", worse="I do not know."),
    Example(
        Prompt.of("Solve x^2 = 4.", target="\\{-2, 2\\}"), better="$x \\in \\boxed{\\{2, -2\\}}$", worse="$\\boxed{2}$"
    ),
    Example(Prompt.of("Expand (x+1)^2.", target="$x^2+2x+1$"), better="$\\boxed{(x+1)^2}$", worse="$\\boxed{(x-1)^2}$"),
)


@dataclass(frozen=True)
class Math:
    """Prefers completions whose final answer equals the prompt's target, as mathematics (score 1), to others (score 0).

    ## What it prefers
    The answer is what stands in the last `\\boxed{}` (neighbouring boxes are one answer), else behind "the answer is", else
    the last formula or number. It is compared with the target by the library math-verify: fractions and decimals, roots,
    sets, tuples, intervals, percent, equations (`x = 3` is 3), expressions that simplify to each other. The target is a
    number or text: a word, LaTeX with or without `$`, or a worked solution whose answer stands behind `####` (GSM8K) or in
    `\\boxed{}`. A completion without any answer scores 0 and says so.

    ## Why
    `0.5`, `1/2` and `\\frac{1}{2}` are one answer. Comparing texts fails two of the three and rewards a style, not the sum.

    ## Example
    Target `\\frac{1}{2}`: `so it is $\\boxed{0.5}$` scores 1; `$\\boxed{0.25}$` and `I do not know` score 0.

    ## Known problems
    - Units are dropped, not compared: `10 m` equals `10 cm`.
    - The comparison is not symmetric: the target decides. Against a target that is a number, `x = 3` counts as 3.
    - `(1, 2)` is a point or an open interval, whichever fits.
    - What the library cannot finish in `timeout_s` of processor time abstains (`9^{9^{9^9}}`, a factorial of a billion), as
      does what makes it fail. Its own timeouts, by alarm signals, are off.
    - A completion that names several answers without a box is judged by the last.
    """

    answer: Literal["any", "boxed"] = "any"
    """`any`: boxed goes first, other forms count; `boxed`: without `\\boxed{}` the score is 0."""
    digits: int = 6
    """Decimals are compared after rounding to so many digits: math-verify's own default."""
    timeout_s: float = 1.0
    """Most seconds of processor time for one completion: below the worker's 2 s, so that it abstains before it is killed."""
    max_chars: int = 100_000
    """Longer completions are not judged: a megabyte of digits takes the library 3 s and 600 MB."""

    name = "math"
    version = "1"
    needs = Needs()
    examples = _EXAMPLES
    pass_at = 1.0

    def __post_init__(self) -> None:
        if self.digits < 0 or self.timeout_s <= 0 or self.max_chars < 1:
            raise ValueError("digits is a whole number from 0, timeout_s above 0, max_chars from 1")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self._judge(candidate) for candidate in batch]

    def _judge(self, candidate: Candidate) -> Score | Abstain:
        text = candidate.completion.text
        if len(text) > self.max_chars:
            return Abstain("not_applicable", f"{len(text)} characters, more than max_chars={self.max_chars}")
        try:
            with cpu_limit(self.timeout_s):
                return self._compared(candidate.prompt.target, text)
        except TimeIsUp:
            return Abstain("timeout", f"the comparison took over {self.timeout_s:g} s")
        except (Exception, RecursionError, MemoryError) as error:
            return Abstain("crashed", f"math-verify failed: {type(error).__name__}: {error}"[:200])

    def _compared(self, target: Any, text: str) -> Score | Abstain:
        known = _parsed_target(target) if isinstance(target, str | int | float) else ()
        if not known:
            return Abstain("unparsable", "there is no answer in the target" if target is not None else "no target")
        if self.answer == "boxed" and "\\boxed" not in text:
            return Score(0.0, "there is no \\boxed{} answer")
        found = _parsed(text)
        if not found:
            return Score(0.0, "there is no answer")
        said = f"read {str(found[-1])[:80]!r}, target {str(known[-1])[:80]!r}"
        equal = _library().verify(
            list(known), found, float_rounding=self.digits, timeout_seconds=None, raise_on_error=True
        )
        return Score(float(equal), said)


@functools.cache
def _library() -> Any:
    """math-verify, with sympy behind it: half a second and 70 MB, so it is loaded when it is first used."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL + 1)  # it warns that its timeouts are off
    return math_verify


def _parsed(text: str) -> list[Any]:
    """What the library reads as the answer: an expression and its text; empty for none."""
    library = _library()
    kinds = (library.LatexExtractionConfig(boxed_match_priority=0), library.ExprExtractionConfig())
    found: list[Any] = library.parse(text, kinds, parsing_timeout=None, raise_on_error=True)
    return found


@functools.lru_cache(maxsize=MAX_TARGETS)
def _parsed_target(target: str | int | float) -> tuple[Any, ...]:
    """The known answer; empty where none can be read."""
    if isinstance(target, bool):
        return ()
    text = target if isinstance(target, str) else repr(target)
    found = _parsed(_as_formula(text.rpartition("####")[2].strip()))
    return tuple(found) if any(not isinstance(each, str) for each in found) else ()


def _as_formula(text: str) -> str:
    """A bare formula between dollars: without, the library reads `2^{10}` as 2, and with, it reads prose as a product."""
    words = set(_WORD.findall(text)) - _FUNCTIONS
    if any(mark in text for mark in _LATEX) or not text:
        return text
    if "\\" in text or not words:
        return f"${text}$"
    return f"$\\text{{{text}}}$" if _WORD.fullmatch(text) else text
