"""Launchers for the tests that run programs, and what is left of a program when it has ended."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labelers import programs
from labelers.discovery import build
from labelers.launcher import descendants
from labelers.program_sandbox import Wall
from labelers.programs import Launcher
from labelers.protocol import Program, Ran
from labelers.types import Abstain, Candidate, Completion, Needs, Prompt, Score

RUNS = Needs(sandbox=True, programs=("python3",))
COMPILES = Needs(programs=("python3",))


@dataclass
class Tools:
    """A context that has a launcher and nothing else."""

    launcher: Launcher

    def run_program(self, program: Program) -> Ran:
        return self.launcher.run(program)


def require(needs: Needs, wall: str | None = None) -> None:
    """Skips the test, with the reason, where programs of these needs cannot run behind the wall."""
    if problem := programs.missing(needs):
        pytest.skip(problem)
    if wall == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")


@contextmanager
def opened(needs: Needs, wall: Wall | None = None) -> Iterator[Launcher]:
    """A launcher for these needs; the test is skipped, with the reason, where it cannot be had."""
    require(needs, wall)
    launcher = Launcher(tuple(needs.programs), completions=needs.sandbox, wall=wall or programs.wall(needs.sandbox))
    try:
        yield launcher
    finally:
        launcher.close()


@contextmanager
def crowded(pids: Callable[[], Iterable[int]]) -> Iterator[None]:
    """Meanwhile these processes get a processor for a fifth of the time, as on a busy machine."""
    over = threading.Event()

    def crowd() -> None:
        while not over.wait(0.02):
            found = list(pids())
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in found:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(0.08 if number == signal.SIGSTOP else 0)

    thread = threading.Thread(target=crowd)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def judge(
    launcher: Launcher, use: str, text: str, target: Any = None, prompt: str = "?", **options: Any
) -> Score | Abstain:
    """A labeler's answer to one text."""
    question = Prompt.of(prompt, target=target)
    labeler: Any = build(use, options)
    (answer,) = labeler.score([Candidate(question, Completion.of(question, text))], Tools(launcher))
    assert isinstance(answer, Score | Abstain)
    return answer


def left_running(launcher: Launcher) -> list[str]:
    """Names of processes below the sandbox besides the launcher itself."""
    sandbox = launcher._alive
    if sandbox is None:
        return []
    found = []
    for pid in descendants(sandbox._process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if not any(b"launcher.py" in word for word in words):
            found.append(b" ".join(words).decode("utf-8", "replace"))
    return found


def left_lying(launcher: Launcher) -> list[str]:
    """What the next program finds in and beside its folder."""
    code = "import os; print(*(os.path.join(d, n) for d, ds, ns in os.walk('..') for n in ds + ns), sep='\\n')"
    program = Program((launcher.programs[0], "-I", "-S", "-c", code), timeout_s=60)  # a disk may stall for seconds
    ran = launcher.run(program)
    assert ran.exit_code == 0, ran
    return [line for line in ran.stdout.decode().split("\n") if line not in ("", "../program")]


def alive(pid: int) -> bool:
    """Whether a process of this id runs; one that only waits for its parent's notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
