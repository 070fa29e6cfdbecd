"""Every error that `labelers` raises on purpose: what happened, where, and a hint. Standard library only."""

from __future__ import annotations


class LabelerError(Exception):
    """A labeler could not be had or used. Its text is ready to be shown: what happened, where, and a hint."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}; hint: {hint}" if hint else text)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


def _rebuild(kind: type[LabelerError], what: str, where: str, hint: str) -> LabelerError:
    return kind(what, where=where, hint=hint)


class UnknownLabeler(LabelerError):
    """No labeler has this name, or the file, module or class that it points at is not there."""


class BrokenPlugin(LabelerError):
    """The labeler's file or module could not be executed: a syntax error, a failed import, an exception."""


class WrongShape(LabelerError):
    """What was loaded is not a labeler; the text says which part is missing."""


class OptionError(LabelerError):
    """An option is unknown, missing, or of the wrong type."""


class WrongAnswers(WrongShape):
    """The labeler answers nearly every item with the wrong number or type of labels; the text has its file and line."""


class IsolationLacks(LabelerError):
    """A layer of isolation that the labeler needs cannot be had here, or is not allowed; the text says how to get it."""
