"""SIGKILL in the middle of a run, then the same command again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, command, run_cli

pytestmark = pytest.mark.e2e

SETTINGS = ("--limit", "60", "--set", "prompts.shard_size=5")


def receipts(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.glob("*/[0-9]*.json") if p.parent.name != "versions"}


def pairs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("pairs-*/*.parquet"))}


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in listed.read_text().split()] if listed.exists() else []
    return found + [grandchild for child in found for grandchild in children(child)]


def started(root: Path) -> subprocess.Popen[str]:
    """A run that has made its first shards and goes on."""
    running = subprocess.Popen(
        command("pipeline", "run", *SETTINGS, "--root", root),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    deadline = time.monotonic() + 720
    while len(list(root.glob("quickstart/completions-*/*.json"))) < 3:
        assert running.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return running


def killed_midway(root: Path) -> tuple[dict[Path, bytes], list[int]]:
    """Starts a run, kills it after its first shards, and returns the receipts it left and its children."""
    running = started(root)
    family = children(running.pid)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return receipts(root / "quickstart"), family


def require_gone(pids: list[int]) -> None:
    """No process of a killed run may outlive it: it would write into a folder that the next run holds."""
    assert pids
    deadline = time.monotonic() + 120
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still alive: {alive}"
        time.sleep(0.1)


def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_pairs(tmp_path):
    left, family = killed_midway(tmp_path / "killed")
    require_gone(family)
    folder = tmp_path / "killed" / "quickstart"
    assert not (folder / "dataset").exists()
    run_cli("pipeline", "run", *SETTINGS, "--root", tmp_path / "killed")
    assert {path: path.read_bytes() for path in left} == left, "a finished shard was made again"
    assert len(list(folder.glob("completions-*/*.json"))) == 12
    assert not list(folder.rglob("*.part"))

    undisturbed = tmp_path / "undisturbed" / "quickstart"
    for name in ("prompts", next(folder.glob("completions-*")).name):
        shutil.copytree(folder / name, undisturbed / name)
    run_cli("pipeline", "run", *SETTINGS, "--root", tmp_path / "undisturbed")
    assert pairs(undisturbed) == pairs(folder)
    assert len(pairs(folder)) == 12


def test_an_interrupt_keeps_what_is_finished_and_exits_130(tmp_path):
    running = started(tmp_path)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=400)
    assert running.returncode == 130, said[-2000:]
    assert "the same command goes on from there" in said
    made = list(tmp_path.glob("quickstart/completions-*/*.json"))
    assert 3 <= len(made) < 12
