"""The project's own commands, started by others: each in a process of its own, so that one device serves them in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from pipeline.errors import PipelineError
from pipeline.tied import tied

GRACE_S = 10.0
"""A command that is told to end has so long: its engine and its own processes take some seconds (own)."""


def printed(*arguments: str) -> str:
    """What `python -m ...` prints on stdout; its talk goes where ours goes.

    Raises:
        PipelineError: it failed, and has said why.
        KeyboardInterrupt: it was interrupted, or we were.
    """
    command = tied([sys.executable, "-m", *arguments])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            said = child.communicate()[0]
        except KeyboardInterrupt:
            _end(child)
            raise
    if child.returncode == 130:
        raise KeyboardInterrupt
    if child.returncode:
        failed = f"`python -m {' '.join(arguments[:2])}` ended with {child.returncode}"
        raise PipelineError(f"{failed}; hint: it said why above, and the same command goes on from there")
    return said


def sets(settings: Sequence[str]) -> list[str]:
    """`--set` for each of the settings."""
    return [part for setting in settings for part in ("--set", setting)]


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
