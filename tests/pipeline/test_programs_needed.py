"""What a labeler's programs lack is said before anything is sampled."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import LabelerEntry
from pipeline.errors import EnvironmentLacks
from pipeline.isolation import require_isolation


def config(**options: Any) -> Any:
    return SimpleNamespace(labelers=[LabelerEntry(use="compiles", options=options)], accept_weaker=())


def test_a_missing_compiler_stops_the_run_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match=r"labeler compiles: gcc is not installed; hint: apt-get install gcc"):
        require_isolation(config(language="c"))


def test_a_labeler_without_programs_needs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "bubblewrap" not in require_isolation(config())
