"""Commands that end when the process that started them ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# PR_SET_PDEATHSIG, SIGKILL; then, if whoever started us is gone already, nobody will send it.
_TIE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or os._exit(137); os.execv(sys.argv[2], sys.argv[2:])"
)


def tied(command: Sequence[str]) -> list[str]:
    """The command, so that Linux kills it when this process is gone: one that went on alone would hold its folder, and
    whoever comes next would find that busy. Elsewhere it is left as it is.

    Args:
        command: its first word is the path of the program. Start it from the main thread: Linux looks at the thread.
    """
    if sys.platform != "linux":
        return [*command]
    return [sys.executable, "-S", "-c", _TIE, str(os.getpid()), *command]
