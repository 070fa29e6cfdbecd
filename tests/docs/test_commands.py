"""Commands on the pages that only look at the quick start's run do their work, on a run that is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.docs.blocks import ROOT, blocks, pages
from tests.docs.shell import commands

CHEAP = ("audit", "diff", "export", "report", "review-export", "show", "status", "verify", "versions")
RUN = "runs/quickstart"
FOUND = sorted({
    tuple(command[3:])
    for page in pages()
    for block in blocks(page)
    if block.language == "bash" and not block.not_run
    for command in commands(block.text)
    if command[:3] == ["python", "-m", "pipeline"] and command[3] in CHEAP and RUN in command and "--ask" not in command
})  # fmt: skip


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/quickstart: the tutorials' completions, sampled by real vLLM, labelled and paired here."""
    spec = importlib.util.spec_from_file_location("make_screenshots", ROOT / "docs" / "make_screenshots.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "runs").mkdir()
    (folder / RUN).symlink_to(module.made(folder / "made", "code"))
    return folder


def test_the_pages_have_such_commands() -> None:
    assert {command[0] for command in FOUND} >= {"audit", "export", "report", "review-export"}


@pytest.mark.parametrize("command", FOUND, ids=" ".join)
def test_a_command_does_its_work(command: tuple[str, ...], quickstart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(quickstart)
    done = CliRunner().invoke(app, list(command))
    assert done.exit_code == 0, done.output
    assert done.stdout
