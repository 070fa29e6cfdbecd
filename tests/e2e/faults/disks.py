"""Stores that refuse: a really full disk, a permission lost in the middle, a read-only folder."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.verify import verify
from tests.e2e.faults.runs import cli, command, environment, shards

PAGE = 4096


@contextmanager
def small_disk(n_bytes: int) -> Iterator[Path]:
    """A file system of so many bytes. Raises PermissionError where this user may mount none."""
    with tempfile.TemporaryDirectory() as place:
        _mount(f"size={n_bytes}", "-t", "tmpfs", "tmpfs", place)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """The folder as a file system that takes no writes, not even root's."""
    with tempfile.TemporaryDirectory() as place:
        _mount("bind", str(folder), place)
        try:
            _mount("remount,bind,ro", place)
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def may_mount() -> bool:
    """Whether this user may mount a disk of its own."""
    try:
        with small_disk(PAGE):
            return True
    except PermissionError:
        return False


def _mount(options: str, *arguments: str) -> None:
    done = subprocess.run(["mount", "-o", options, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr)


def used_by(folder: Path) -> int:
    """Bytes that a file system of pages needs for a finished run."""
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    return sum(PAGE * (1 + path.stat().st_size // PAGE) for path in paths if path.is_file())


def fills_up(inputs: Path, n_bytes: int, expected: dict[str, bytes]) -> str:
    """Runs on a disk of so many bytes, makes room, runs again. Raises AssertionError; gives the exit code and what was said."""
    with small_disk(n_bytes) as disk:
        done = cli("run", inputs / "config.toml", "--root", disk)
        run = disk / "faults"
        assert done.returncode in (0, 3), f"{n_bytes}: exit {done.returncode}\n{done.stderr[-3000:]}"
        if done.returncode == 3:
            said = done.stderr.strip().splitlines()[-1]
            assert "the disk is full" in said, said
            assert "bytes are free" in said, said
            assert "hint: make room" in said, said
            assert str(disk) in said, said
        left = require_whole(run)
        _mount("remount,size=64m", str(disk))
        again = cli("run", inputs / "config.toml", "--root", disk)
        assert again.returncode == 0, f"exit {again.returncode}\n{again.stderr[-3000:]}"
        assert shards(run) == expected, n_bytes
        return f"exit {done.returncode}, {left} shards kept"


def require_whole(run: Path) -> int:
    """No file under a final name is half, and nothing else is left. Gives the number of shards that count."""
    if not (run / "prompts").exists():
        return 0
    left = [path.name for path in run.rglob("*.part")]
    assert not left, left
    found = verify(run)
    damaged = {name: why for name, why in found.damaged.items() if name != "config.json" or why != "is gone"}
    assert not damaged, damaged
    return sum(1 for _ in run.glob("*-*/[0-9]*.json"))


def files_may_not_grow(inputs: Path, n_bytes: int, root: Path, expected: dict[str, bytes]) -> str:
    """The same by a limit on the size of a file, which needs no right to mount."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    asked = command("run", inputs / "config.toml", "--root", root)
    done = subprocess.run(
        asked, capture_output=True, text=True, timeout=400, check=False, env=environment(), preexec_fn=limit
    )
    assert done.returncode == 3, f"{n_bytes}: exit {done.returncode}\n{done.stderr[-3000:]}"
    assert "a file may not become so large here" in done.stderr
    left = require_whole(root / "faults")
    again = cli("run", inputs / "config.toml", "--root", root)
    assert again.returncode == 0, again.stderr[-3000:]
    assert shards(root / "faults") == expected
    return f"exit 3, {left} shards kept"


def loses_permission(inputs: Path, root: Path, expected: dict[str, bytes]) -> str:
    """A user without special rights runs, and the right to write is taken away in the middle."""
    asked = command("run", inputs / "config.toml", "--root", root)
    running = subprocess.Popen(
        asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=like_anybody
    )
    _wait_for(lambda: any(root.glob("faults/completions-*/*.json")), running)
    taken = [path for path in (root / "faults").iterdir() if path.is_dir() and not path.is_symlink()]
    for path in [*taken, root / "faults"]:
        path.chmod(0o555)
    _, said = running.communicate(timeout=400)
    for path in [*taken, root / "faults"]:
        path.chmod(0o755)
    assert running.returncode == 3, f"exit {running.returncode}\n{said[-3000:]}"
    assert "no permission to write" in said
    assert "hint: make room or mend it" in said
    left = sum(1 for _ in (root / "faults").glob("*-*/[0-9]*.json"))
    again = cli("run", inputs / "config.toml", "--root", root)
    assert again.returncode == 0, again.stderr[-3000:]
    assert shards(root / "faults") == expected
    require_whole(root / "faults")
    return f"exit 3, {left} shards kept"


def like_anybody() -> None:
    """Takes from root what lets it write where nobody may, for what this process executes next."""
    if os.geteuid() == 0:
        drop_from_bounding_set = 24
        for capability in (1, 2, 3):  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
            if ctypes.CDLL(None, use_errno=True).prctl(drop_from_bounding_set, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")


def _wait_for(condition, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)
