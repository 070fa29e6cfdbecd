"""When rounds stop, what they are called, and how they are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.errors import ConfigError
from pipeline.evaluating.rounds import Plan, Rounds, repetition, why_stop
from pipeline.evaluating.rounds_told import Round, draw, table, told
from tests.pipeline.conftest import write_replay

FIRST = Round(
    1, "policy", 7, 100, before=(0.5, 0.4, 0.6), rate=(0.6, 0.5, 0.7), gain=(0.1, 0.05, 0.15), kl=1.0, staleness=0.5, growth=1.1
)  # fmt: skip
PLAN = Plan(3, "heldout.jsonl")


def test_a_round_that_gains_goes_on():
    assert why_stop(FIRST, PLAN) == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gain": (0.02, -0.01, 0.05)}, "the held-out gain of +2.0 points is not certain: its interval begins at -1.0"),
        ({"kl": 12.0}, "KL 12.00 nats a sequence is above 10"),
        ({"growth": 2.5}, "answers are 2.50 times as long as the first model's, more than 2"),
    ],
)
def test_a_round_that_runs_away_or_gains_nothing_is_the_last(change, why):
    found = replace(FIRST, **change)
    assert why_stop(found, PLAN) == why
    assert told(replace(found, stop=why)).endswith(f"stops: {why}")


def test_rounds_need_a_model_to_improve(tmp_path):
    with pytest.raises(ConfigError, match="no source samples with vllm"):
        Rounds(write_replay(tmp_path), (), tmp_path, PLAN)


def test_a_repetition_has_a_name_and_seeds_that_no_other_has(tmp_path):
    config = write_replay(tmp_path)
    assert repetition(config, ["seed=5"], 0, rounds=3) == ["seed=5"]
    name = [s for s in repetition(config, ["seed=5"], 1, rounds=3) if s.startswith("name=")]
    assert name[0].endswith("-again-1")
    seeds = [int(repetition(config, ["seed=5"], k, rounds=3)[-1].removeprefix("seed=")) for k in (1, 2)]
    used = [first + number for first in (5, *seeds) for number in range(3)]
    assert len(set(used)) == len(used)


def test_the_table_has_a_line_for_each_round_of_each_row():
    lines = table([[FIRST, replace(FIRST, number=2, stop="enough")], [replace(FIRST, seed=10)]]).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["7", "1"], ["7", "2"], ["10", "1"]]
    assert lines[2].endswith("stops: enough")


def test_rows_of_different_lengths_are_drawn(tmp_path):
    draw([[FIRST, replace(FIRST, number=2)], [FIRST]], tmp_path / "figures" / "rounds.png")
    assert (tmp_path / "figures" / "rounds.png").read_bytes().startswith(b"\x89PNG")
