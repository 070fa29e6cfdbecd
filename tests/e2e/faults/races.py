"""Several commands start on one folder at the same moment: one works, the others are told who does."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.faults.runs import ROOT, environment

START = """
import pathlib, sys, time
import pipeline.cli.main, pipeline.run, pipeline.config
gate = pathlib.Path(sys.argv.pop(1))
sys.argv[0] = "pipeline/__main__.py"
gate.with_suffix(f".{sys.argv.pop(1)}").touch()
while not gate.exists():
    time.sleep(0.001)
pipeline.cli.main.main()
"""
HOLDER = re.compile(r"another run holds this folder \(process (\d+) on (\S+) since (\S+): (.+?)\)")


def race(inputs: Path, root: Path, n: int = 4) -> str:
    """Raises AssertionError unless one of `n` starters works and each other exits 75 with the winner's name."""
    gate = root.with_suffix(".gate")
    gate.unlink(missing_ok=True)
    asked = ("run", str(inputs / "config.toml"), "--root", str(root))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", START, str(gate), str(i), *asked],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT,
        )
        for i in range(n)
    ]  # fmt: skip
    while not all(gate.with_suffix(f".{i}").exists() for i in range(n)):
        time.sleep(0.005)
    gate.touch()
    said = [process.communicate(timeout=400)[1] for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0] + [75] * (n - 1), f"{codes}\n{said}"
    winner = running[codes.index(0)].pid
    for code, text in zip(codes, said, strict=True):
        if code == 75:
            found = HOLDER.search(text)
            assert found, text
            assert (int(found[1]), found[2]) == (winner, socket.gethostname())
            assert found[4] == f"python -m pipeline run {inputs / 'config.toml'}"
    return f"1 of {n} works, {n - 1} exit 75 naming it"
