"""The numbers in an answer, where a rule says to look: behind a marker, in JSON, where a pattern matches, in a list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from labelers.fences import extract
from labelers.numbers import OutOfRange, Percent, Which, exact, find_number, value_of
from labelers.safe_regex import compiled
from labelers.strict_json import NotJson, read_json

_LIST = re.compile(r"[\[(]([^][()]{0,20000})[\])]")
_SEPARATOR = re.compile(r"[,;\s]\s*")
_UNIT = re.compile(r"\s?([^\W\d_]+|%|\u00b0[^\W\d_]?)")
_SWAP = str.maketrans(",.", ".,")


def one_number(
    text: str, which: Which, *, marker: str, percent: Percent, units: Mapping[str, float], comma: bool
) -> Fraction | None:
    """The number that `which` names, times its unit's factor; None where there is none. Raises: OutOfRange."""
    if comma:
        text, marker = text.translate(_SWAP), marker.translate(_SWAP)
    match = find_number(text, which, marker)
    if match is None:
        return None
    value = value_of(match, percent)
    if units and (unit := _UNIT.match(match.string, match.end())):
        value *= Fraction(str(units.get(unit[1], 1)))
    return value


def in_json(text: str, path: str) -> Any:
    """The value at a path of keys and positions (`answer.0`) in the JSON of a text; None where there is none.

    Raises:
        Undecided: the JSON is too deep, or has a number beyond a double.
    """
    body = extract(text, "auto", ("json",))
    try:
        value: Any = read_json(body or "")
    except NotJson:
        return None
    for key in path.split(".") if path else []:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def matched(text: str, pattern: str, timeout_s: float) -> str | None:
    """What the last match's first group holds (the whole match without groups). Raises: TimeoutError."""
    last = None
    for last in compiled(pattern).finditer(text, timeout=timeout_s):  # noqa: B007
        continue
    return None if last is None else last[1 if last.re.groups else 0]


def as_vector(value: Any) -> list[Fraction] | None:
    """A list of numbers as fractions; None for anything else."""
    if not isinstance(value, list | tuple) or not value:
        return None
    numbers = [exact(each) for each in value]
    return [each for each in numbers if each is not None] if None not in numbers else None


def last_list(text: str) -> list[Fraction] | None:
    """The numbers of the last `[1, 2.5]` or `(1, 2.5)` in a text that holds nothing but numbers. Raises: OutOfRange."""
    found = None
    for match in _LIST.finditer(text):
        found = _numbers(match[1]) or found
    return found


def _numbers(inside: str) -> list[Fraction] | None:
    numbers = []
    for part in _SEPARATOR.split(inside.strip()):
        match = find_number(part, "whole")
        if match is None:
            return None
        numbers.append(value_of(match, "ignore"))
    return numbers


__all__ = ["OutOfRange", "as_vector", "in_json", "last_list", "matched", "one_number"]
