"""A control group for one sandbox: how many processes and how much memory it may take, where the machine lets us say so.

A backstop. Each program has its own limits; a group bounds what many processes of one program take together. Containers
mostly mount the groups read-only: then there is none, and nothing else depends on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "labelers-"
_ENTER = 'while [ "$1" != -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@"'
PROCESSES, MEMORY_BYTES = 512, 6 << 30
"""A JVM starts about 30 threads; javac and rustc take up to 1 GB."""


class Group:
    """The groups of one sandbox (one for each hierarchy), or none where they cannot be made."""

    def __init__(self) -> None:
        self._folders = [folder for parent, limits in _hierarchies() if (folder := _made(parent, limits)) is not None]

    def entering(self, command: Sequence[str]) -> list[str]:
        """A command that enters the groups and then becomes `command`."""
        if not self._folders:
            return list(command)
        tasks = [str(folder / "cgroup.procs") for folder in self._folders]
        return ["/bin/sh", "-c", _ENTER, "sh", *tasks, "--", *command]

    def close(self) -> None:
        """Removes the groups, whose processes have ended."""
        for folder in self._folders:
            for _ in range(50):
                if _removed(folder):
                    break
                time.sleep(0.01)
        self._folders = []


def _hierarchies() -> list[tuple[Path, dict[str, int]]]:
    """This process's own folder in each hierarchy, and the limits that are set in a child of it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found: list[tuple[Path, dict[str, int]]] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "pids":
            found.append((_ROOT / "pids" / path.strip("/"), {"pids.max": PROCESSES}))
        elif controllers == "memory":
            found.append((_ROOT / "memory" / path.strip("/"), {"memory.limit_in_bytes": MEMORY_BYTES}))
        elif controllers == "" and (_ROOT / "cgroup.subtree_control").is_file():
            found.append((_ROOT / path.strip("/"), {"pids.max": PROCESSES, "memory.max": MEMORY_BYTES}))
    return found


def _made(parent: Path, limits: dict[str, int]) -> Path | None:
    """A new group below `parent` with all of the limits, or None."""
    if not os.access(parent, os.W_OK):
        return None
    for old in parent.glob(f"{_PREFIX}*"):  # of a process that was killed before it could tidy
        if not Path(f"/proc/{old.name.split('-')[1]}").exists():
            _removed(old)
    folder = parent / f"{_PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir()
    except OSError:
        return None
    try:
        for name, amount in limits.items():
            (folder / name).write_text(str(amount))
    except OSError:
        _removed(folder)
        return None
    return folder


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
