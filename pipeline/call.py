"""The one boundary between the pipeline and a labeler: whose fault it was is decided here and nowhere else."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from labelers.errors import LabelerError
from labelers.protocol import Context, PairwiseLabeler, PointwiseLabeler
from labelers.types import Abstain, Candidate, Comparison, Score, Verdict
from pipeline.errors import BrokenLabeler, PipelineError

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def score(labeler: PointwiseLabeler, batch: Sequence[Candidate], ctx: Context) -> list[Score | Abstain]:
    """One label for each candidate, in order. An exception costs only the text that caused it.

    Raises:
        BrokenLabeler: the labeler answered with another number of labels, or with something that is no label.
    """
    where = _place(labeler.name, labeler.score)
    return _answers(where, lambda part: labeler.score(part, ctx), batch, (Score, Abstain))


def compare(labeler: PairwiseLabeler, batch: Sequence[Comparison], ctx: Context) -> list[Verdict | Abstain]:
    """One label for each comparison, in the order asked; see `score`."""
    where = _place(labeler.name, labeler.compare)
    return _answers(where, lambda part: labeler.compare(part, ctx), batch, (Verdict, Abstain))


def _answers(
    where: str,
    ask: Callable[[Sequence[Question]], Sequence[Answer]],
    batch: Sequence[Question],
    kinds: tuple[type, ...],
) -> list[Answer]:
    """Asks for the whole batch; where that raises, halves it until the poison item is alone."""
    if not batch:
        return []
    try:
        answers = ask(batch)
    except (PipelineError, LabelerError):
        raise
    except Exception as error:  # a labeler is somebody else's code: anything may come out
        if len(batch) == 1:
            return [cast(Answer, Abstain("crashed", _described(error)))]
        middle = len(batch) // 2
        return [answer for half in (batch[:middle], batch[middle:]) for answer in _answers(where, ask, half, kinds)]
    _require(where, answers, batch, kinds)
    return list(answers)


def _require(where: str, answers: Sequence[object], batch: Sequence[object], kinds: tuple[type, ...]) -> None:
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        raise BrokenLabeler(f"labeler {where}: gave {answers!r:.80}; hint: return a list with one label an item")
    if len(answers) != len(batch):
        raise BrokenLabeler(
            f"labeler {where}: gave {len(answers)} labels for {len(batch)} items; "
            "hint: return one label an item, in the same order"
        )
    for answer in answers:
        if not isinstance(answer, kinds):
            raise BrokenLabeler(
                f"labeler {where}: gave {answer!r:.80}; "
                f"hint: return {kinds[0].__name__}(...) or Abstain(kind, reason) for each item"
            )


def _place(name: str, method: Callable[..., object]) -> str:
    """A labeler's name, and the file and line of its method where they are known."""
    code = getattr(method, "__code__", None)
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})" if code else name


def _described(error: Exception) -> str:
    """The error, and the line of the labeler that raised it (the file's name alone: labels must not tell of folders)."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    place = f" at {Path(frames[0].filename).name}:{frames[0].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}"[:500] + place
