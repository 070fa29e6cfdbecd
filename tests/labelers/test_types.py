"""Identities of values."""

from __future__ import annotations

import random

import pytest

from labelers.types import content_id, content_ids

VALUES = [
    "",
    "text",
    'a "quoted" \\ \n text',
    "é\u2028\ud800",
    0,
    -7,
    2**63,
    None,
    True,
    0.5,
    ["a", 1],
    {"b": None, "a": [1]},
]


def test_ids_by_columns_are_the_ids_of_the_rows():
    rng = random.Random(0)
    for kinds in range(1, 4):
        some = [rng.sample(VALUES, kinds) for _ in range(4)]
        columns = [[rng.choice(values) for _ in range(50)] for values in some]
        assert content_ids(*columns) == [content_id(*row) for row in zip(*columns, strict=True)]


def test_columns_of_different_lengths_have_no_ids():
    with pytest.raises(ValueError, match="argument 2"):
        content_ids(["a", "b"], ["a"])


def test_no_rows_have_no_ids():
    assert content_ids([], []) == []
