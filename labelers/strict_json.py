"""JSON as RFC 8259 has it, without the lenience of `json.loads` and its ways to crash: one parser for all labelers."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from labelers.malformed import MAX_DEPTH, Malformed, Undecided, check_encodable

__all__ = ["MAX_DEPTH", "MAX_INT_DIGITS", "NotJson", "Undecided", "read_json", "read_json_lines"]

MAX_INT_DIGITS = 4_300
"""CPython refuses to convert longer integers (sys.int_info.default_max_str_digits)."""

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[][{}]', re.DOTALL)
_PARTNER = {"]": "[", "}": "{"}


class NotJson(Malformed):
    """The text is not strict JSON; the text of the error says why."""


def read_json(
    text: str,
    *,
    allow_nan: bool = False,
    allow_duplicate_keys: bool = False,
    allow_trailing_text: bool = False,
    need_numbers: bool = True,
) -> Any:
    """The value of a JSON text.

    Args:
        allow_nan: accept NaN, Infinity and -Infinity.
        allow_duplicate_keys: accept an object that has a key twice; the last one counts.
        allow_trailing_text: accept anything behind the first value.
        need_numbers: the numbers' values matter: those beyond a double, or over 4,300 digits, are undecided. When
            False, any number of the grammar is fine and its value is not computed.

    Raises:
        NotJson: it is not JSON.
        Undecided: nested deeper than 200, or see `need_numbers`.
    """
    _check_encodable(text)
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text, whole=not allow_trailing_text)
    return _decode(_decoder(allow_nan, allow_duplicate_keys, need_numbers), text, allow_trailing_text)


@functools.cache
def _decoder(allow_nan: bool, allow_duplicate_keys: bool, need_numbers: bool) -> json.JSONDecoder:
    """Made once: making it takes as long as reading a short text."""
    return json.JSONDecoder(
        parse_int=_integer if need_numbers else _ignored,
        parse_float=_real if need_numbers else _ignored,
        parse_constant=float if allow_nan else _no_constant,
        object_pairs_hook=dict if allow_duplicate_keys else _no_duplicates,
    )


def _decode(decoder: json.JSONDecoder, text: str, allow_trailing_text: bool) -> Any:
    try:
        if allow_trailing_text:
            return decoder.raw_decode(text.lstrip(" \t\n\r"))[0]
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        if not text.strip(" \t\n\r"):
            raise NotJson("there is no text") from None
        raise NotJson(f"line {error.lineno} column {error.colno}: {error.msg}") from None


def _check_encodable(text: str) -> None:
    try:
        check_encodable(text)
    except Malformed as error:
        raise NotJson(str(error)) from None


def read_json_lines(text: str, **rules: bool) -> list[Any]:
    """The values of JSON lines: one on each line, no blank line, a line feed behind the last or not.

    Args:
        rules: as for `read_json`.

    Raises:
        NotJson: a line is not JSON, or blank; the first such line is named, wherever an undecided one stands.
        Undecided: see `read_json`.
    """
    values, undecided = [], None
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            values.append(read_json(line, **rules))
        except NotJson as error:
            raise NotJson(f"line {number}: {error}") from None
        except Undecided as error:
            undecided = undecided or Undecided(f"line {number}: {error}")
    if undecided:
        raise undecided
    return values


def _check_depth(text: str, *, whole: bool) -> None:
    """Finds brackets that do not match (not JSON) and those that nest too deep (undecided), without recursion."""
    stack: list[str] = []
    deepest = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            stack.append(token)
            deepest = max(deepest, len(stack))
        elif token in _PARTNER:
            if whole and (not stack or stack[-1] != _PARTNER[token]):
                raise NotJson(f"character {match.start()}: {token!r} closes nothing")
            if stack:
                stack.pop()
    if whole and stack:
        raise NotJson(f"{len(stack)} brackets are never closed")
    if deepest > MAX_DEPTH:
        raise Undecided(f"nested {deepest} deep, more than {MAX_DEPTH}")


def _integer(digits: str) -> int:
    if len(digits) > MAX_INT_DIGITS:
        raise Undecided(f"an integer of {len(digits)} digits, more than {MAX_INT_DIGITS}")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise Undecided("a number beyond the largest double")
    return value


def _ignored(digits: str) -> int:
    return 0


def _no_constant(name: str) -> Any:
    raise NotJson(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotJson(f"the key {twice[:80]!r} is there twice")
    return value


def is_json(text: str) -> bool | None:
    """Whether the text is JSON as Python's json reads it (NaN and keys that stand twice pass); None: it is not judged."""
    try:
        read_json(text, allow_nan=True, allow_duplicate_keys=True, need_numbers=False)
    except NotJson:
        return False
    except Undecided:
        return None
    return True
