"""Values as JSON text, for those that are written by the million."""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder
from typing import Any


def quick_encode(*, ascii_only: bool, sort_keys: bool, separators: tuple[str, str], nan: bool) -> Callable[[Any], str]:
    """What `json.JSONEncoder(...).encode` does, with C's encoder made once: that makes one for each value, which takes longer
    than a short value itself."""
    plain = json.JSONEncoder(ensure_ascii=ascii_only, sort_keys=sort_keys, separators=separators, allow_nan=nan)
    item, key = separators
    text = encoder.encode_basestring_ascii if ascii_only else encoder.encode_basestring
    made_in_c = getattr(encoder, "c_make_encoder", None)
    if made_in_c is None:  # another Python than CPython
        return plain.encode
    parts = made_in_c(None, plain.default, text, None, key, item, sort_keys, False, nan)

    def encode(value: Any) -> str:
        try:
            return "".join(parts(value, 0))
        except RecursionError:  # no circle was looked for
            return plain.encode(value)

    return encode
