"""SIGTERM and Ctrl-C at any moment: the command ends within seconds, leaves no process, and goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.verify import verify
from tests.e2e.faults.runs import cli, command, environment, shards, write_inputs

WITHIN_S = 30.0
SLOW = """
from dataclasses import dataclass
import time
from labelers.types import Example, Needs, Prompt, Score

@dataclass(frozen=True)
class Slow:
    name, version, needs = "slow", "1", Needs()
    examples = [Example(Prompt.of("p"), better="a", worse="b")]
    def score(self, batch, ctx):
        if any("def" in c.completion.text for c in batch):
            time.sleep(600)
        return [Score(1.0) for c in batch]
"""


@dataclass
class Stopped:
    """How a command ended that was told to."""

    code: int
    seconds: float
    said: str


def started(asked: list[str], tmp: Path, **more: str) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a terminal has it; all it starts inherits TMPDIR, so that it can be found."""
    return subprocess.Popen(
        asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment(TMPDIR=str(tmp), **more), preexec_fn=_hearing,
    )  # fmt: skip


def _hearing() -> None:
    """Ctrl-C is heard, even where this runs in a shell's background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tell(running: subprocess.Popen[str], number: signal.Signals, times: int = 1, pause_s: float = 0.3) -> Stopped:
    """Sends the signal (Ctrl-C goes to the whole group, as a terminal sends it) and waits for the end."""
    began = time.monotonic()
    for i in range(times):
        if i:
            time.sleep(pause_s)
        if running.poll() is None:
            os.killpg(running.pid, number) if number == signal.SIGINT else running.send_signal(number)
    _, said = running.communicate(timeout=400)
    return Stopped(running.returncode, time.monotonic() - began, said)


def outliving(tmp: Path) -> list[str]:
    """The processes that were started with this TMPDIR and are still there, after a moment for the kernel to end them."""
    deadline = time.monotonic() + 20
    mark = f"TMPDIR={tmp}\0".encode()
    while found := [line for line in map(_described, Path("/proc").glob("[0-9]*")) if mark in line[1]]:
        if time.monotonic() > deadline:
            return [name for name, _ in found]
        time.sleep(0.1)
    return []


def _described(process: Path) -> tuple[str, bytes]:
    try:
        return f"{process.name} {(process / 'cmdline').read_bytes()!r}", (process / "environ").read_bytes()
    except OSError:
        return "", b""


def reached(run: Path, n_files: int, running: subprocess.Popen[str]) -> None:
    """Waits until the run's folder holds so many files, or the run ended: a moment that is the same on any machine."""
    while running.poll() is None and sum(1 for path in run.rglob("*") if path.is_file()) < n_files:
        time.sleep(0.005)


def stops(inputs: Path, n_files: int, after_s: float, number: signal.Signals, expected: dict[str, bytes]) -> str:
    """Stops a run and runs it again. Raises AssertionError; gives what happened.

    Args:
        n_files: files in the run's folder by then.
        after_s: seconds later.
    """
    with tempfile.TemporaryDirectory() as place:
        root, tmp = Path(place) / "runs", Path(place) / "tmp"
        tmp.mkdir()
        running = started(command("run", inputs / "config.toml", "--root", root), tmp)
        reached(root / "faults", n_files, running)
        time.sleep(after_s)
        held = (root / "faults" / ".lock").exists()
        stopped = tell(running, number)
        assert stopped.code in (0, 130) or (not held and stopped.code == -number), f"{stopped} after {after_s}"
        assert stopped.seconds < WITHIN_S, stopped
        assert not (left := outliving(tmp)), left
        if (root / "faults" / "prompts").exists():
            damaged = dict(verify(root / "faults").damaged)
            assert set(damaged) <= {"config.json"}, damaged
        again = cli("run", inputs / "config.toml", "--root", root)
        assert again.returncode == 0, again.stderr[-3000:]
        assert shards(root / "faults") == expected, f"after {n_files} files"
        return f"exit {stopped.code} in {stopped.seconds:.1f} s"


def stops_while_busy(folder: Path, times: int) -> Stopped:
    """Ctrl-C once or twice while a labeler thinks for ten minutes. Raises AssertionError when anything outlives it."""
    write_inputs(folder)
    (folder / "slow.py").write_text(SLOW)
    tmp = folder / "tmp"
    tmp.mkdir()
    head, _, _ = (folder / "config.toml").read_text().partition("[[labelers]]")
    (folder / "config.toml").write_text(f'{head}[[labelers]]\nuse = "./slow.py:Slow"\ntimeout_s = 900.0\n')
    asked = command("run", folder / "config.toml", "--root", folder / "runs")
    running = started(asked, tmp)
    deadline = time.monotonic() + 120
    while not any((folder / "runs").glob("faults/completions-*/*.json")):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1.0)
    stopped = tell(running, signal.SIGINT, times)
    assert not (left := outliving(tmp)), left
    return stopped
