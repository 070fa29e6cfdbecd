"""One command at a time holds a run's folder; whoever comes second is told who it is."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import Busy, Damaged
from pipeline.publishing.history import now
from pipeline.storage.lease import lease
from pipeline.storage.shards import read_json, write_json
from pipeline.storage.stores import is_store, remembering
from pipeline.storage.storing import make_folder, storing

LOCK = ".lock"
HOLDER = ".lock.json"
"""The file in a run's folder that says who holds it. The lock itself is the kernel's: it ends with its owner."""
PATIENCE_S = 1.0
"""A new owner takes a moment to write its name over a dead one's."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run's folder; the lock dies with its owner, however that ends.

    Raises:
        Busy: another run holds it; the message says which process, where, since when, and its command.
        ConfigError: it cannot be a folder.
        EnvironmentLacks: the folder cannot be written.
    """
    if is_store(folder):
        with lease(folder / LOCK), remembering(folder):
            yield
        return
    make_folder(folder)
    with storing(folder):
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise Busy(
                f"{folder}: another run holds this folder ({holder(folder)}); "
                "hint: wait for it, or take another --set name=..."
            ) from None
    try:
        write_json(folder / HOLDER, _self())
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> str:
    """Who holds the folder, in words."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            who = read_json(folder / HOLDER)
            if _may_live(who) or time.monotonic() > deadline:
                return f"process {who['pid']} on {who['host']} since {who['since']}: {who['command']}"
        except (OSError, Damaged, KeyError):  # it has not said so yet, or just ended
            if time.monotonic() > deadline:
                return "it has not said who it is"
        time.sleep(0.05)


def _may_live(who: dict[str, object]) -> bool:
    """Whether the process may be there: of another machine's nothing is known."""
    return (
        who["host"] != socket.gethostname() or Path(f"/proc/{who['pid']}").exists() or not Path("/proc/self").exists()
    )


def _self() -> dict[str, object]:
    name = "python -m pipeline" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name
    words = itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:])  # what is --set may be a secret
    command = " ".join([name, *words])
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now(), "command": command}
