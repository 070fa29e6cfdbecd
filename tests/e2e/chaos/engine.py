"""SIGKILL of vLLM's engine process in the middle of a run: the run goes on, and comes to the rows of an undisturbed one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from os import environ, kill
from pathlib import Path
from typing import Any

from tests.e2e.chaos.runs import NAME, Golden, contents, make_golden
from tests.e2e.chaos.zygote import ROOT, Zygote

APART = "sources.0.engine.in_process=false"
FEW = "sources.0.engine.max_num_seqs=8"
"""Few at a time, so that the run lasts long enough to be killed again and again; neither setting decides a text."""
START_S = 600.0
"""The longest that an engine may take to start on a busy machine."""


@dataclass
class Survived:
    """What came of a run whose engine was killed.

    Args:
        kills: engine processes killed while they sampled.
        restarts: those that the run speaks of.
        answered: requests that were answered, and how many of them more than once.
        differences: files that are not the undisturbed run's.
    """

    kills: int = 0
    restarts: int = 0
    answered: int = 0
    again: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        passed = not (self.differences or self.again) and self.restarts >= self.kills > 0
        return {**asdict(self), "passed": passed}


def engine_under_fire(home: Path, kills: int, seed: int) -> Survived:
    """An undisturbed run with the engine in its own process, then the same with an engine apart that is killed."""
    with Zygote.started(["vllm"]) as zygote:
        golden = make_golden(zygote, home, "vllm", shards=4, shard_size=10 * kills)
    began, found, draw = time.monotonic(), Survived(), random.Random(f"engine {seed}")
    requests, log = home / "requests", home / "log"
    with log.open("w") as said:
        run = subprocess.Popen(_command(golden, home, requests), cwd=ROOT, stdout=said, stderr=said, env=_environment())
        try:
            while run.poll() is None and found.kills < kills:
                _kill_one(run, requests, draw, found)
            assert run.wait(timeout=2 * START_S) == 0, log.read_text()[-3000:]
        finally:
            run.kill()
    answered = Counter(requests.read_text().split())
    found.answered, found.again = len(answered), sum(n > 1 for n in answered.values())
    found.restarts = log.read_text().count("it is started again")
    ours, theirs = contents(golden.folder), contents(home / "apart" / NAME)
    found.differences = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    found.seconds = round(time.monotonic() - began, 1)
    return found


def _command(golden: Golden, home: Path, requests: Path) -> list[str]:
    arguments = golden.arguments(home / "apart", APART, FEW)
    return [sys.executable, "-m", "tests.e2e.chaos.noted", str(requests), *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {**environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def _kill_one(run: subprocess.Popen[bytes], requests: Path, draw: random.Random, found: Survived) -> None:
    """Waits until the engine has finished some more requests, and ends it a random moment later."""
    before = _size(requests)
    deadline = time.monotonic() + START_S
    while _size(requests) == before:
        if run.poll() is not None:
            return
        assert time.monotonic() < deadline, "the engine does not answer"
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.3))
    for pid in engines_of(run.pid):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
            found.kills += 1


def engines_of(pid: int) -> list[int]:
    """The engine processes below a process."""
    found = []
    for child in _children(pid):
        with suppress(OSError):
            if b"EngineCore" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.exists():
        return []
    listed = [task / "children" for task in tasks.iterdir()]
    return [int(child) for path in listed if path.exists() for child in path.read_text().split()]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
