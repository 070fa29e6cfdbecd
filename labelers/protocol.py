"""What a labeler is. Any frozen dataclass of this shape is one; there is nothing to inherit from or to register."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from labelers.types import Abstain, Candidate, Comparison, Example, Message, Needs, Score, Verdict

Chat = Sequence[Message]


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start on text that nobody trusts, in an empty folder of its own.

    Args:
        argv: the command; the first word is one of the labeler's `needs.programs`.
        files: relative names and contents, laid into the folder first.
        timeout_s: wall-clock seconds until it is killed.
        memory_mb: address space of each of its processes, in 2^20 bytes.
        max_output: bytes kept of stdout and of stderr; a program that writes more is killed.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    timeout_s: float = 2.0
    memory_mb: int = 1024
    max_output: int = 1 << 16


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended. Output and exit code are the program's own words: they prove nothing by themselves.

    Args:
        ended: `exited` by itself; `killed` by a signal that was not ours; `timeout`, `output` beyond a limit, by us.
        exit_code: None unless it exited.
    """

    ended: Literal["exited", "killed", "timeout", "output"]
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    seconds: float = 0.0


class Context(Protocol):
    """The tools that the pipeline hands to a labeler; a test hands it a lambda instead."""

    @property
    def scratch(self) -> Path:
        """An empty folder that the labeler may write to; gone after the run."""
        ...

    def generate(self, chats: Sequence[Chat], schema: str = "") -> Sequence[str | None]:
        """The model's reply to each chat, in order; None where it gave none. Needs `Needs(engine=True)`.

        Args:
            schema: a JSON Schema, as text, that engines hold the replies to; read them strictly all the same.
        """
        ...

    def rewards(self, chats: Sequence[Chat]) -> Sequence[float | None]:
        """The engine's number for each finished conversation, higher is better; None where it gave none."""
        ...

    def run_program(self, program: Program) -> Ran:
        """Runs a program on text that nobody trusts: confined, without network. Needs `Needs(programs=...)`.

        Raises:
            LabelerError: the isolation that it needs cannot be had here.
        """
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
