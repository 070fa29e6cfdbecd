"""A limit on the processor time of a computation that cannot be asked to stop, for a process with one thread."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_AGAIN_S = 0.05
"""Libraries have `except:` clauses that would swallow the first interruption."""


class TimeIsUp(BaseException):
    """The computation took longer; not an Exception, so that `except Exception` in a library does not swallow it."""


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Interrupts what runs inside after so many seconds of this process's processor time.

    Only between two steps of the interpreter: one long step in C is not interrupted, nor is anything outside the main
    thread. The confined worker's own deadline covers both.

    Raises:
        TimeIsUp: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGPROF, _interrupt)
    try:
        with contextlib.suppress(OSError):  # a filter that does not know the call: the worker's deadline is left
            signal.setitimer(signal.ITIMER_PROF, seconds, _AGAIN_S)
        yield
    finally:
        with contextlib.suppress(OSError):
            signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp
