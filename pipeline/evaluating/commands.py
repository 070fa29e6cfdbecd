"""The project's own commands, started by others: each in a process of its own, so that one device serves them in turn."""

from __future__ import annotations

import subprocess
import sys

from pipeline.errors import PipelineError


def printed(*arguments: str) -> str:
    """What `python -m ...` prints on stdout; its talk goes where ours goes.

    Raises:
        PipelineError: it failed, and has said why.
        KeyboardInterrupt: it was interrupted.
    """
    done = subprocess.run([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        said = f"`python -m {' '.join(arguments[:2])}` ended with {done.returncode}"
        raise PipelineError(f"{said}; hint: it said why above, and the same command goes on from there")
    return done.stdout
