"""The quick encoder says what Python's own says, and refuses what that refuses."""

import json
import random
from typing import Any

import pytest

from labelers.encoding import quick_encode

LEAVES = (
    None,
    True,
    0,
    -(10**40),
    0.1,
    1e308,
    -0.0,
    float("nan"),
    float("-inf"),
    "",
    'ä\u2028"\\\n',
    "\ud800",
    "\U0001f600",
)


def anything(rng: random.Random, depth: int) -> Any:
    match rng.randrange(4 if depth else 2):
        case 2:
            return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]
        case 3:
            return {str(rng.choice(LEAVES)): anything(rng, depth - 1) for _ in range(rng.randrange(4))}
        case _:
            return rng.choice(LEAVES)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("sort_keys", [True, False])
def test_it_writes_what_the_encoder_writes(ascii_only, sort_keys):
    quick = quick_encode(ascii_only=ascii_only, sort_keys=sort_keys, separators=(", ", ": "), nan=True)
    for seed in range(500):
        value = anything(random.Random(seed), 4)
        assert quick(value) == json.dumps(value, ensure_ascii=ascii_only, sort_keys=sort_keys)


def circle() -> list:
    value: list = [1]
    value.append({"again": value})
    return value


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], circle()])
def test_what_is_no_json_is_a_value_error(value):
    quick = quick_encode(ascii_only=False, sort_keys=True, separators=(",", ":"), nan=False)
    for _ in range(2):  # the first refusal leaves nothing behind
        with pytest.raises(ValueError, match=r"not JSON compliant|Circular"):
            quick(value)
    assert quick({"b": 1, "a": [None]}) == '{"a":[null],"b":1}'


@pytest.mark.parametrize("value", [{1, 2}, object(), {"a": b"bytes"}, {(1, 2): 3}])
def test_what_cannot_be_written_is_a_type_error(value):
    with pytest.raises(TypeError):
        quick_encode(ascii_only=True, sort_keys=False, separators=(",", ":"), nan=True)(value)
