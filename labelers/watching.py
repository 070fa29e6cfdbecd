"""What a labeler does to the machine while it answers: caught before it happens, and named."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ACTS = {
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.kill",
    "socket.connect", "socket.bind", "socket.sendto", "subprocess.Popen", "shutil.rmtree",
}  # fmt: skip
_watching = threading.local()
_hooked = threading.Event()


@contextmanager
def attempts(scratch: Path) -> Iterator[list[str]]:
    """The list of what this thread tries meanwhile: to write outside of `scratch`, to start a process, to connect.

    Each attempt is stopped with a PermissionError; one that is swallowed stays in the list.
    """
    if not _hooked.is_set():  # a hook cannot be taken away again; it does nothing while nobody watches
        _hooked.set()
        sys.addaudithook(_hook)
    found: list[str] = []
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    _watching.now = (found, os.path.realpath(scratch))
    try:
        yield found
    finally:
        _watching.now = None
        sys.dont_write_bytecode = compiled


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watching = getattr(_watching, "now", None)
    if watching is None or (event != "open" and event not in _ACTS):
        return
    found, scratch = watching
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & _WRITING or isinstance(path, int):
            return
    if event != "socket.connect" and arguments and isinstance(arguments[0], str | bytes | os.PathLike):
        place = os.path.realpath(os.fsdecode(arguments[0]))
        if place == scratch or place.startswith(scratch + os.sep):
            return
    what = "write to" if event == "open" else event
    shown = ", ".join(f"{each!r:.80}" for each in arguments[:1])
    found.append(f"it tried to {what} {shown}")
    raise PermissionError(
        f"a labeler writes nowhere but ctx.scratch, starts nothing and connects to nothing: {event} {shown}"
    )
