"""Patterns with a deadline: a pattern that backtracks without end is a timeout, not a hang."""

from __future__ import annotations

import functools
from typing import Any


class BadPattern(ValueError):
    """The pattern is wrong; the text of the error says where."""


@functools.lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """The pattern, for `.search(text, timeout=...)` and `.fullmatch(...)`, which raise TimeoutError. Raises: BadPattern."""
    import regex

    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise BadPattern(f"the pattern is wrong: {error}") from error
