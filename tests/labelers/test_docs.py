"""docs/writing-a-labeler.md works as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from labelers.discovery import LabelerSpec
from labelers.testing import check

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "docs/writing-a-labeler.md").read_text(), re.MULTILINE | re.DOTALL
)
CLASSES = [text for kind, text in BLOCKS if kind == "python" and "class " in text]
COMMANDS = [
    (text, BLOCKS[i + 1][1] if i + 1 < len(BLOCKS) and BLOCKS[i + 1][0] == "text" else "")
    for i, (kind, text) in enumerate(BLOCKS)
    if kind == "bash"
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's first file in it, which is also the current one."""
    (tmp_path / "short.py").write_text(CLASSES[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_first_file_is_the_example() -> None:
    assert (ROOT / "examples/labeler/short.py").read_text() == CLASSES[0]


@pytest.mark.parametrize(("command", "printed"), COMMANDS)
def test_a_command_prints_what_the_page_says(folder: Path, command: str, printed: str) -> None:
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


@pytest.mark.parametrize("source", CLASSES)
def test_a_class_on_the_page_keeps_the_contract(folder: Path, source: str) -> None:
    (folder / "plugin.py").write_text(source)
    spec = LabelerSpec(f"./plugin.py:{re.findall('class (.*):', source)[0]}")
    assert check(spec.build(), spec=spec) == []


def test_the_other_python_on_the_page_runs(folder: Path) -> None:
    for kind, text in BLOCKS:
        if kind == "python" and "class " not in text:
            exec(compile(text, "docs/writing-a-labeler.md", "exec"), {})


def test_the_entry_point_is_toml() -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "toml"]
    assert tomllib.loads(text)["project"]["entry-points"]["labelers"]
