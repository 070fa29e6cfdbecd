"""Ctrl-C and SIGTERM: the step ends and a checkpoint is written before the run does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.runlog import say


class StopFlag:
    """Whether the run was asked to stop."""

    is_set = False


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """A flag that Ctrl-C or SIGTERM sets; the second one stops at once."""
    flag = StopFlag()

    def ask(number: int, frame: object) -> None:
        if flag.is_set:
            raise KeyboardInterrupt
        flag.is_set = True
        say("stopping after this step")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
