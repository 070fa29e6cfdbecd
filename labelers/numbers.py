"""A number out of prose, by one stated rule. Exact: what is read is a fraction, never a rounded float."""

from __future__ import annotations

import math
import re
import sys
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

Which = Literal["last", "first", "whole", "after"]
Percent = Literal["ignore", "divide"]

MAX_DIGITS = 400
"""More digits, or a larger exponent, are beyond a double (about 1.8e308); a fraction of them could take for ever."""

# ASCII digits, commas only between groups of three, not inside a word, not a part of 1.2.3; a sign only where no
# digit, letter or bracket stands before it (5-3 is 5 and 3); one currency sign between the two.
_NUMBER = re.compile(
    r"""[$\u20ac\u00a3\u00a5]?
        (?: (?<![\w)\]}]) (?P<sign>[+\-\u2212]) )?
        [$\u20ac\u00a3\u00a5]?
        (?<!\w) (?<!\w[.])
        (?P<whole> [0-9]{1,3} (?:,[0-9]{3})++ (?![0-9]) | [0-9]++ )?
        (?P<part> (?(whole)|(?<![.])) [.][0-9]++ )?
        (?(whole) | (?(part) | (?!) ))
        (?P<exponent> [eE][+-]?[0-9]++ )?
        (?! [.][0-9] ) (?! [0-9_] )
        (?P<percent> [ ]?% )?""",
    re.VERBOSE,
)


_START = re.compile("[0-9.+\\-\u2212$\u20ac\u00a3\u00a5]")
"""The characters that a number begins with."""
_DIGIT = re.compile("[0-9]")
_LAST_DIGIT = re.compile("(?s:.*)[0-9]")


class OutOfRange(Exception):
    """There is a number, but it is beyond any double."""


def read_number(text: str, which: Which, *, marker: str = "", percent: Percent = "ignore") -> Fraction | None:
    """The number in `text`, or None where there is none.

    Args:
        which: `last` or `first` number; `whole` the text is a number and nothing else (a full stop may follow); `after`
            the first number behind the last `marker`.
        percent: whether `12%` is 12 (`ignore`) or 0.12 (`divide`).

    Raises:
        OutOfRange: the number has more than 400 digits, or an exponent beyond 400.
    """
    match = find_number(text, which, marker)
    return value_of(match, percent) if match else None


def find_number(text: str, which: Which, marker: str = "") -> re.Match[str] | None:
    """Where that number stands, for `value_of`; None where there is none."""
    if which == "after":
        _, found, text = text.rpartition(marker)
        if not found:
            return None
    return _find(text, which) if _DIGIT.search(text) else None


def exact(number: object) -> Fraction | None:
    """A JSON number as it is written: 0.1 is a tenth, not the nearest double; None for anything else, nan and inf."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    if isinstance(number, int):
        return Fraction(number)
    return Fraction(repr(number)) if math.isfinite(number) else None


def _find(text: str, which: Which) -> re.Match[str] | None:
    match which:
        case "whole":
            return _NUMBER.fullmatch(text.strip().removesuffix("."))
        case "first" | "after":
            return next(_numbers(text), None)
        case "last":
            return _last(text)


def _last(text: str) -> re.Match[str] | None:
    """The last number. None goes on over the end of a line, so the last line with digits that has one is enough."""
    end = len(text)
    while digit := _LAST_DIGIT.match(text, 0, end):
        begin = text.rfind("\n", 0, digit.end()) + 1
        if found := deque(_numbers(text, begin, digit.end()), maxlen=1):
            return found[0]
        end = begin
    return None


def _numbers(text: str, begin: int = 0, end: int = sys.maxsize) -> Iterator[re.Match[str]]:
    """What `_NUMBER.finditer` gives. That tries the whole pattern at every letter; this only where a number can begin."""
    start = _START.search(text, begin, end)
    while start:
        found = _NUMBER.match(text, start.start())
        if found:
            yield found
        start = _START.search(text, found.end() if found else start.end(), end)


def value_of(match: re.Match[str], percent: Percent) -> Fraction:
    """The number that was found. Raises: OutOfRange."""
    whole = (match["whole"] or "0").replace(",", "")
    part, exponent = match["part"] or "", match["exponent"] or ""
    if len(whole) + len(part) > MAX_DIGITS or len(exponent) > 6 or abs(int(exponent[1:] or "0")) > MAX_DIGITS:
        raise OutOfRange(f"a number of {len(whole) + len(part)} digits{' and a large exponent' if exponent else ''}")
    value = (
        Fraction(whole + part + exponent) if part or exponent else Fraction(int(whole))
    )  # the latter in a fifth of the time
    value = -value if match["sign"] in ("-", "\u2212") else value
    return value / 100 if match["percent"] and percent == "divide" else value
