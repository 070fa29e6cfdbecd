"""Text of unknown origin made fit for a terminal: what would move the cursor, hide or reorder is shown as an escape."""

from __future__ import annotations

import re

_UNFIT = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb"
    "\\ud800-\\udfff\\U000e0000-\\U000e007f]"
)


def printable(text: str) -> str:
    """The text with control, bidirectional, invisible and tag characters as escapes; tabs and line ends stay."""
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)
