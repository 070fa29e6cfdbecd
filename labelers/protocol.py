"""What a labeler is. Any frozen dataclass of this shape is one; there is nothing to inherit from or to register."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from labelers.types import Abstain, Candidate, Comparison, Example, Message, Needs, Score, Verdict

Chat = Sequence[Message]


class Context(Protocol):
    """The tools that the pipeline hands to a labeler; a test hands it a lambda instead."""

    @property
    def scratch(self) -> Path:
        """An empty folder that the labeler may write to; gone after the run."""
        ...

    def generate(self, chats: Sequence[Chat]) -> Sequence[str | None]:
        """The model's reply to each chat, in order; None where it gave none. Needs `Needs(engine=True)`."""
        ...


@runtime_checkable
class PointwiseLabeler(Protocol):
    """Grades one completion alone.

    Sync, batched, flat: any batch size, answers in the same order and number; an answer must not depend on its
    neighbours. Raise ordinary exceptions: the pipeline finds the text that caused one and records an abstention for it.

    `pass_at` is optional: scores of at least this much are a pass (the pass rate in reports, the rule `pass_vs_fail`).
    """

    name: str
    version: str
    needs: Needs
    examples: Sequence[Example]

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]: ...


@runtime_checkable
class PairwiseLabeler(Protocol):
    """Says which of two completions is better. The pipeline asks in both orders unless `symmetric` is True."""

    name: str
    version: str
    needs: Needs
    examples: Sequence[Example]
    symmetric: bool

    def compare(self, batch: Sequence[Comparison], ctx: Context) -> Sequence[Verdict | Abstain]: ...


Labeler = PointwiseLabeler | PairwiseLabeler
