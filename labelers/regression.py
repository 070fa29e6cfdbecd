"""How far is the number in a completion from the known one?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from labelers.answers import as_vector, in_json, last_list, matched, one_number
from labelers.numbers import OutOfRange, Percent, Which, exact, read_number
from labelers.protocol import Context
from labelers.safe_regex import BadPattern, compiled
from labelers.strict_json import NotJson, Undecided, read_json
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

PATTERN_S = 1.0
"""Longest time for a pattern on one text: half of the deadline per item in isolation.md."""
ErrorKind = Literal["absolute", "squared", "relative", "log", "huber"]
Found = list[Fraction] | None
Number = Fraction | int

_SUM = Prompt.of("What is 40 + 32?", target="40 + 32 = 72\n#### 72")
_EXAMPLES = (
    Example(_SUM, better="40 + 32 = 72, so the answer is 72.", worse="The answer is 70."),
    Example(_SUM, better="It is about 70.", worse="I do not know."),
)


@dataclass(frozen=True)
class Regression:
    """Prefers completions whose number is nearer to the prompt's target (score: minus the error, at best 0).

    ## What it prefers
    One number is read from the completion (`which`) and compared with the prompt's target, a number or a text. A text
    target is read the same way, except that a number behind `####` (GSM8K) always counts, and that the last number
    counts where `which` finds none. The score is -error, cut off at -`worst_error`, which is also what an answer without
    a number gets: the worst guess is never worse than none. Errors are computed from exact fractions.

    A target that is a list of numbers (or the text of one) is a vector: the last `[1, 2]` or `(1, 2)` of the completion is
    compared with it, number by number, and the error is the mean; another length is an answer without a number. Where the
    number stands can also be said by `json_path` or `pattern`.

    ## Why
    Where the answer is a number, near and far are facts: no judge is needed, and wrong answers are still ordered.

    ## Example
    Target 72: `so it is 72.` scores 0, `70` scores -2, `1,072 km` scores -1000, `no idea` scores -1000000.

    ## How numbers are read
    ASCII digits, with a sign, a decimal point, an exponent; commas only between groups of three (`1,234.5`; `1,23` are
    the numbers 1 and 23). A currency sign before it and any unit behind it are ignored; for `%` see `percent`. Digits
    inside a word or in `1.2.3` are no number; nor are inf and nan. `5-3` is 5 and 3.

    ## Known problems
    - `3/4`, `seventy` and `1 234` are not understood; `1.5 million` only with `units = {million = 1e6}`, `3,5` only with
      `decimal = "comma"`.
    - With `which = "last"` a closing remark with a number in it is what is read; a `marker` is safer.
    - A number of over 400 digits is beyond any double; it gets the worst score.
    """

    which: Which = "last"
    """Which number: the `last`, the `first`, the `whole` text is one, or the first `after` the last `marker`."""
    marker: str = ""
    """The text that goes before the answer, for `which = "after"`, for example `####` or `answer is`."""
    error: ErrorKind = "absolute"
    """`absolute` |x-t|; `squared` its square; `relative` |x-t|/|t|, but `absolute` where t is 0; `log` |s(x)-s(t)| with
    s(v) = sign(v) ln(1+|v|)."""
    delta: float = 1.0
    """`huber`: e*e/2 for an error e of up to delta, delta*(e - delta/2) beyond, so that one outlier weighs less."""
    pattern: str = ""
    """Read the number from this pattern's last match (its first group) instead of `which`; regex syntax, 1 s at most."""
    json_path: str | None = None
    """Read it from JSON, at keys and positions joined by dots (`answer.0`; empty: the whole value) instead of `which`."""
    units: dict[str, float] = field(default_factory=dict)
    """Factors of units that may stand behind the number, as {km = 1000, m = 1}; a number with another one, or none, counts 1."""
    decimal: Literal["point", "comma"] = "point"
    """How text writes decimals: `1,234.5`, or with `comma` `1.234,5`. Numbers in JSON always have a point."""
    percent: Percent = "ignore"
    """Whether `12%` reads as 12 (`ignore`) or as 0.12 (`divide`)."""
    tolerance: float | None = None
    """An error of at most this is a pass; null: no pass rate."""
    worst_error: float = 1_000_000.0
    """Errors are cut off here, and an answer without a number gets this; round, and larger than GSM8K's answers."""
    unreadable: Literal["worst", "abstain"] = "worst"
    """An answer without a number: the `worst` score, because a number was asked for, or `abstain`."""
    max_chars: int = 1_048_576
    """Longer text is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    name = "regression"
    version = "2"
    needs = Needs()
    examples = _EXAMPLES

    def __post_init__(self) -> None:
        if (self.which == "after") != bool(self.marker):
            raise ValueError("which = 'after' and marker go together; hint: set both or none")
        if bool(self.pattern) + (self.json_path is not None) + (self.which == "after") > 1:
            raise ValueError("pattern, json_path and which = 'after' exclude each other; hint: set one")
        if self.delta <= 0 or not all(math.isfinite(f) and f > 0 for f in self.units.values()):
            raise ValueError("delta and the factors of units must be above 0")
        if self.pattern:
            try:
                compiled(self.pattern)
            except BadPattern as error:
                raise ValueError(str(error)) from error
        if not 0 < self.worst_error < math.inf:
            raise ValueError(f"worst_error is {self.worst_error}; hint: a finite number above 0")
        if self.tolerance is not None and not 0 <= self.tolerance < self.worst_error:
            raise ValueError(f"tolerance is {self.tolerance}; hint: from 0 to below worst_error={self.worst_error}")

    @property
    def pass_at(self) -> float | None:
        """The score of an error of exactly `tolerance`."""
        return None if self.tolerance is None else 0.0 - self.tolerance

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self._judge(candidate) for candidate in batch]

    def _judge(self, candidate: Candidate) -> Score | Abstain:
        if candidate.prompt.target is None:
            return Abstain("unparsable", "the prompt has no target")
        try:
            target = self._target(candidate.prompt.target)
        except OutOfRange as error:
            return Abstain("unparsable", f"the target is {error}")
        if target is None:
            return Abstain("unparsable", "there is no number in the target")
        try:
            answer = self._answer(candidate.completion.text, isinstance(target, list))
        except OutOfRange as error:
            return Score(-self.worst_error, f"the answer is {error}: counted as error {self.worst_error:g}")
        except Undecided as error:
            return Abstain("not_applicable", str(error))
        except TimeoutError:
            return Abstain("timeout", "the pattern takes over 1 s")
        return self._no_answer() if answer is None else self._compared(answer, target)

    def _answer(self, text: str, is_vector: bool) -> Fraction | list[Fraction] | None:
        """What the completion says. Raises: OutOfRange, Undecided, TimeoutError."""
        if len(text) > self.max_chars:
            raise Undecided(f"{len(text)} characters, more than max_chars={self.max_chars}")
        if self.json_path is not None:
            value = in_json(text, self.json_path)
            if is_vector or not isinstance(value, str):
                return as_vector(value) if is_vector else exact(value)
            return self._number(value, "whole")
        if self.pattern:
            text = matched(text, self.pattern, PATTERN_S) or ""
        return last_list(text) if is_vector else self._number(text, "last" if self.pattern else self.which)

    def _number(self, text: str, which: Which) -> Fraction | None:
        if not self.units and self.decimal == "point":
            return read_number(text, which, marker=self.marker, percent=self.percent)
        comma = self.decimal == "comma"
        return one_number(text, which, marker=self.marker, percent=self.percent, units=self.units, comma=comma)

    def _no_answer(self) -> Score | Abstain:
        if self.unreadable == "abstain":
            return Abstain("not_applicable", "there is no number in the completion")
        return Score(-self.worst_error, f"there is no number: counted as error {self.worst_error:g}")

    def _compared(self, answer: Fraction | list[Fraction], target: Fraction | list[Fraction]) -> Score | Abstain:
        answers, targets = (_plain(each if isinstance(each, list) else [each]) for each in (answer, target))
        if len(answers) != len(targets):
            said = f"{len(answers)} numbers, the target has {len(targets)}: counted as error {self.worst_error:g}"
            return Score(-self.worst_error, said)
        errors = [_error(a, t, self.error, self.delta) for a, t in zip(answers, targets, strict=True)]
        error = math.fsum(errors) / len(errors) if max(errors) < self.worst_error else max(errors)
        said = f"read {_shown(answers[0])}, target {_shown(targets[0])}"
        if len(errors) > 1:
            said = f"{said} and {len(errors) - 1} more"
        if error >= self.worst_error:
            return Score(-self.worst_error, f"{said}: error cut off at {self.worst_error:g}")
        return Score(0.0 - error, said)

    def _target(self, target: Any) -> Fraction | list[Fraction] | None:
        """The known number, or the known numbers. Raises: OutOfRange."""
        if isinstance(target, list):
            return as_vector(target)
        if not isinstance(target, str):
            return exact(target)
        if "####" in target:
            return read_number(target, "after", marker="####", percent=self.percent)
        if target.lstrip().startswith("[") and (numbers := _vector_of(target)) is not None:
            return numbers
        found = self._number(target, self.which)
        return self._number(target, "last") if found is None else found


def _vector_of(text: str) -> Found:
    try:
        return as_vector(read_json(text))
    except (NotJson, Undecided):
        return None


def _plain(values: Sequence[Fraction]) -> list[Number]:
    """Whole numbers as integers, which are as exact, and quicker to reckon with."""
    return [value.numerator if value.denominator == 1 else value for value in values]


def _error(answer: Number, target: Number, kind: ErrorKind, delta: float) -> float:
    """The error as a float; infinite where it is beyond one."""
    difference: Any = abs(answer - target)
    try:
        match kind:
            case "absolute":
                return float(difference)
            case "squared":
                return float(difference * difference)
            case "relative":
                return float(difference / abs(target)) if target else float(difference)
            case "huber":
                size = float(difference)
                return size * size / 2 if size <= delta else delta * (size - delta / 2)
            case "log":
                return abs(_signed_log(answer) - _signed_log(target))
    except OverflowError:
        return math.inf


def _signed_log(value: Number) -> float:
    return math.copysign(math.log1p(abs(float(value))), value)


def _shown(value: Number) -> str:
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "a number beyond any double"
