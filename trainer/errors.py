"""What can go wrong, by whose turn it is to act: each error names its exit code.

Messages say what happened, where, and a hint.
"""

from __future__ import annotations

DONE = 0
INTERRUPTED = 130


class TrainerError(Exception):
    """The run failed, and the message names on what."""

    exit_code = 1


class GatePassed(TrainerError):
    """A limit that the user set as a reason to stop was passed."""

    exit_code = 4


class UsageError(TrainerError):
    """The command line or its input cannot be used as it is."""

    exit_code = 2


class EnvironmentProblem(TrainerError):
    """This machine lacks something the run needs."""

    exit_code = 3
