"""Text of unknown origin on a terminal."""

from __future__ import annotations

import pytest

from labelers.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 👩 日本\ttab\nline", "plain é 👩 日本\ttab\nline"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m\r\0", "\\x9b31m\\r\\x00"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("hi\U000e0041", "hi\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_moves_hides_or_reorders_is_shown_as_an_escape(text, shown):
    assert printable(text) == shown
