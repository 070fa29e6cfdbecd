"""Hostile texts through the real path: a confined worker for each labeler, right verdict, in time, in bounded memory."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from labelers import sandbox
from labelers.discovery import LabelerSpec
from labelers.testing import ScriptedEngine
from labelers.types import Abstain, Candidate, Completion, Prompt, Score
from tests.labelers.hostile import Hostile, cases

BEST = {"regression": 0.0}
DEADLINE_S = 2.0
SLACK_S = 1.5
"""Killing, forking anew and the other core's work; the deadline itself is the worker's."""
GROUPS: dict[str, list[Hostile]] = defaultdict(list)
for _case in cases():
    GROUPS[f"{_case.use} {_case.options.get('format', '')}".strip()].append(_case)


def outcome(case: Hostile, label: Any) -> str:
    if isinstance(label, Abstain):
        return "undecided"
    assert isinstance(label, Score)
    return "pass" if label.value == BEST.get(case.use, 1.0) else "fail"


def is_right(case: Hostile, seen: str) -> bool:
    match case.expected:
        case "any":
            return True
        case "not-pass":
            return seen != "pass"
        case _:
            return seen == case.expected


def test_there_are_at_least_150_cases() -> None:
    assert sum(map(len, GROUPS.values())) >= 150


@pytest.mark.parametrize("group", GROUPS)
def test_every_hostile_text_gets_the_right_verdict_in_time(group: str, tmp_path: Path) -> None:
    wrong = []
    spec = LabelerSpec(GROUPS[group][0].use, GROUPS[group][0].options)
    with sandbox.opened(spec, ScriptedEngine(scratch=tmp_path)) as worker:
        for case in GROUPS[group]:
            prompt = Prompt.of("?", target=case.target)
            started = time.monotonic()
            (label,) = worker.score([Candidate(prompt, Completion("hostile", prompt.id, case.text))])
            took = time.monotonic() - started
            if not is_right(case, outcome(case, label)) or took > DEADLINE_S + SLACK_S:
                wrong.append((case.name, case.expected, str(label)[:150], round(took, 2)))
    assert wrong == []
    assert list(tmp_path.iterdir()) == []
    assert not Path("/tmp/pwned").exists()
