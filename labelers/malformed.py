"""What a reader of untrusted text may say instead of a value: it is malformed, or nothing can be known about it."""

from __future__ import annotations

MAX_DEPTH = 200
"""Nesting beyond this is undecided in every format: `json` gives up near 1,000, Python's parser and XML's at 200 to 256."""


class Malformed(ValueError):
    """The text is certainly not of the format; the text of the error says why."""


class Undecided(Exception):
    """The text is beyond a safety limit (too deep, too many copies, a number out of range): nothing is known about it."""


def check_encodable(text: str) -> None:
    """Nothing, for text that UTF-8 can hold. Raises: Malformed, for a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"character {error.start}: a lone surrogate, which UTF-8 cannot hold") from None


def check_not_blank(text: str) -> None:
    """Nothing, for text with something in it. Raises: Malformed."""
    if not text.strip():
        raise Malformed("there is no text")
