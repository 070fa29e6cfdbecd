"""TOML 1.0 by the standard library's parser, kept from its ways to hang."""

from __future__ import annotations

import re
import tomllib

from labelers.malformed import Malformed, Undecided, check_encodable

MAX_KEY_PARTS = 20
"""`a.a.a...` of 100,000 parts takes 15 s, and 10,000 headers of 40 parts take 2.7 s: the time grows with both."""
_STRING = re.compile(r'"(?:[^"\\\n]++|\\.)*+"|\'[^\'\n]*+\'')
_LONG_KEY = re.compile(rf"(?:[^.=\n]{{1,64}}\.){{{MAX_KEY_PARTS},}}")


def kind_of_toml(text: str) -> str:
    """`object`, for text that is a TOML document with at least one key.

    Raises:
        Malformed: it is none, or it says nothing (empty or comments only).
        Undecided: a key that may have over 20 parts, nesting beyond the parser's stack, an integer of over 4,300 digits.
    """
    check_encodable(text)
    if text.count(".") >= MAX_KEY_PARTS and _LONG_KEY.search(_STRING.sub("s", text)):
        raise Undecided(f"what may be a key of over {MAX_KEY_PARTS} parts")
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Malformed(str(error)) from None
    except ValueError as error:
        raise Undecided(f"a number that Python does not read: {error}"[:120]) from None
    except RecursionError:
        raise Undecided("nested deeper than the parser's stack") from None
    if not value:
        raise Malformed("there is no key")
    return "object"
