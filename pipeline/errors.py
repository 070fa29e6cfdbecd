"""Everything the pipeline raises on purpose, with the exit code that a script reads."""

from __future__ import annotations

from pathlib import Path


class PipelineError(Exception):
    """Something failed and is named; the message says what, where, and what to do."""

    exit_code = 1


class ConfigError(PipelineError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class BadPrompts(ConfigError):
    """A prompt file is missing, empty, or has a row that cannot be read."""


class UnreadableShard(PipelineError):
    """A file of this run cannot be read as what it should be."""


class Damaged(UnreadableShard):
    """A file of this run is not what was written: the next build moves it aside and makes it again."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message, path)  # both, so that it survives the way out of a worker's process
        self.path = path

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def what(self) -> str:
        """What is wrong with it, without the file's name and the hint."""
        return str(self).removeprefix(f"{self.path}: ").partition("; hint: ")[0]


class BrokenLabeler(PipelineError):
    """A labeler broke its contract or abstained too often: its labels cannot be trusted, so the run stops."""


class AuditFailed(PipelineError):
    """The audit found labels that are not to be trusted; nothing was published."""


class EngineFailed(PipelineError):
    """An engine died or a server cannot be reached."""


class EnvironmentLacks(PipelineError):
    """This machine lacks something that the run needs."""

    exit_code = 3


class BelowGate(PipelineError):
    """The run finished, but below the asked yield."""

    exit_code = 4


class BudgetSpent(PipelineError):
    """The judges' budget is spent; what is finished is kept."""

    exit_code = 4


class Interrupted(PipelineError):
    """Somebody pressed Ctrl-C; what was in flight has ended and is kept."""

    exit_code = 130


class Busy(PipelineError):
    """Another run holds this folder."""

    exit_code = 75
