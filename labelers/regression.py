"""How far is the number in a completion from the known one?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from labelers.numbers import OutOfRange, Percent, Which, read_number
from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

ErrorKind = Literal["absolute", "squared", "relative", "log"]

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

    ## Why
    Where the answer is a number, near and far are facts: no judge is needed, and wrong answers are still ordered.

    ## Example
    Target 72: `so it is 72.` scores 0, `70` scores -2, `1,072 km` scores -1000, `no idea` scores -1000000.

    ## How numbers are read
    ASCII digits, with a sign, a decimal point, an exponent; commas only between groups of three (`1,234.5`; `1,23` are
    the numbers 1 and 23). A currency sign before it and any unit behind it are ignored; for `%` see `percent`. Digits
    inside a word or in `1.2.3` are no number; nor are inf and nan. `5-3` is 5 and 3.

    ## Known problems
    - `3/4`, `1.5 million`, `2 dozen`, `seventy`, `1 234` and the decimal comma `3,5` are not understood.
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
    percent: Percent = "ignore"
    """Whether `12%` reads as 12 (`ignore`) or as 0.12 (`divide`)."""
    tolerance: float | None = None
    """An error of at most this is a pass; null: no pass rate."""
    worst_error: float = 1_000_000.0
    """Errors are cut off here, and an answer without a number gets this; round, and larger than GSM8K's answers."""
    unreadable: Literal["worst", "abstain"] = "worst"
    """An answer without a number: the `worst` score, because a number was asked for, or `abstain`."""

    name = "regression"
    version = "1"
    needs = Needs()
    examples = _EXAMPLES

    def __post_init__(self) -> None:
        if (self.which == "after") != bool(self.marker):
            raise ValueError("which = 'after' and marker go together; hint: set both or none")
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
            answer = read_number(candidate.completion.text, self.which, marker=self.marker, percent=self.percent)
        except OutOfRange as error:
            return Score(-self.worst_error, f"the answer is {error}: counted as error {self.worst_error:g}")
        return self._no_answer() if answer is None else self._compared(answer, target)

    def _no_answer(self) -> Score | Abstain:
        if self.unreadable == "abstain":
            return Abstain("not_applicable", "there is no number in the completion")
        return Score(-self.worst_error, f"there is no number: counted as error {self.worst_error:g}")

    def _compared(self, answer: Fraction, target: Fraction) -> Score:
        error = _error(answer, target, self.error)
        said = f"read {_shown(answer)}, target {_shown(target)}"
        if error >= self.worst_error:
            return Score(-self.worst_error, f"{said}: error cut off at {self.worst_error:g}")
        return Score(0.0 - error, said)

    def _target(self, target: Any) -> Fraction | None:
        """The known number. Raises: OutOfRange."""
        if isinstance(target, bool) or not isinstance(target, int | float | str):
            return None
        if not isinstance(target, str):
            return _exact(target)
        if "####" in target:
            return read_number(target, "after", marker="####", percent=self.percent)
        found = read_number(target, self.which, marker=self.marker, percent=self.percent)
        return read_number(target, "last", percent=self.percent) if found is None else found


def _error(answer: Fraction, target: Fraction, kind: ErrorKind) -> float:
    """The error as a float; infinite where it is beyond one."""
    difference = abs(answer - target)
    try:
        match kind:
            case "absolute":
                return float(difference)
            case "squared":
                return float(difference * difference)
            case "relative":
                return float(difference / abs(target)) if target else float(difference)
            case "log":
                return abs(_signed_log(answer) - _signed_log(target))
    except OverflowError:
        return math.inf


def _exact(number: float) -> Fraction | None:
    """The number as it is written: 0.1 is a tenth, not the nearest double."""
    if isinstance(number, int):
        return Fraction(number)
    return Fraction(repr(number)) if math.isfinite(number) else None


def _signed_log(value: Fraction) -> float:
    return math.copysign(math.log1p(abs(float(value))), value)


def _shown(value: Fraction) -> str:
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "a number beyond any double"
