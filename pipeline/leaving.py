"""How a command ends when it is told to: the first Ctrl-C or SIGTERM ends it cleanly, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from types import FrameType

EXIT_CODE = 130
"""Of both: a script that reads it wants to know that the same command goes on, not which signal came."""
SAID = "interrupted; what is finished is kept, and the same command goes on from there"
GRACE_S = 3.0
"""What is in flight has so long to end, and its engine as long again to close; then it is dropped (own: Kubernetes gives 30)."""

_asked = False


def listen() -> None:
    """From now on the first SIGTERM does what Ctrl-C does, and a second of either ends this process and all it started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell's background job: whoever set it means it
            signal.signal(number, _heed)


def asked() -> bool:
    """Whether this process was asked to end. Libraries may swallow the exception that said so."""
    return _asked


def end_at_once() -> None:
    """Ends this process and all that it started."""
    end_children()
    os._exit(EXIT_CODE)


def end_children() -> None:
    """Kills all processes that this one started, and theirs: none may write into a folder that another run holds."""
    for pid in reversed(family(os.getpid())):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """The processes that a process started, and those that they started. Empty where there is no /proc."""
    children = _children(pid)
    return children + [grandchild for child in children for grandchild in family(child)]


def _children(pid: int) -> list[int]:
    """Of all its threads: each has its own. A process and its threads may end while they are read."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def _heed(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        end_at_once()
    _asked = True
    raise KeyboardInterrupt
