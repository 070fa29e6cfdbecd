"""Judges' servers that misbehave, in a whole run (the long form: python -m tests.pipeline.misbehaving)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.misbehaving import WAYS, judged, wrong


@pytest.mark.usefixtures("hasty")
def test_whatever_a_judges_server_does_a_verdict_is_right_or_none(tmp_path: Path) -> None:
    found = judged(tmp_path, 2)
    assert wrong(found, 2) == []
    assert len(found["ways"]) == 2 * len(WAYS)
