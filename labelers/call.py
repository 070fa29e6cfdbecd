"""The one boundary around a labeler's code: whose fault it was is decided here and nowhere else.

The first half runs beside the labeler (in the confined worker, or in a test), the second in the process that asked.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelers.errors import LabelerError, WrongAnswers
from labelers.protocol import Context, PairwiseLabeler, PointwiseLabeler
from labelers.types import Abstain, Candidate, Comparison, Score, Verdict

REASON_CHARS = 500
"""What is kept of a reason: some lines on a screen."""
MAX_REASON_CHARS = 1 << 20
"""A longer one is a defect of the labeler, and its answer no label."""
BROKEN_SHARE = 0.9
"""Answers of the wrong number or type on this share of the items: it is the labeler, not the texts."""
FEW = 10

Label = Score | Verdict | Abstain


@dataclass(frozen=True, slots=True)
class Malformed:
    """What came back for one item is no label."""

    reason: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """One item made the labeler raise, or ended its process."""

    reason: str


Outcome = Label | Malformed | Crashed


def score(labeler: PointwiseLabeler, batch: Sequence[Candidate], ctx: Context) -> list[Score | Abstain]:
    """One label for each candidate, in order. An exception costs only the text that caused it.

    Raises:
        WrongAnswers: nearly every answer is of the wrong number or type.
    """
    return settled(place(labeler), answers(labeler, batch, ctx), has_answered=False)  # type: ignore[return-value]


def compare(labeler: PairwiseLabeler, batch: Sequence[Comparison], ctx: Context) -> list[Verdict | Abstain]:
    """One label for each comparison, in the order asked; see `score`."""
    return settled(place(labeler), answers(labeler, batch, ctx), has_answered=False)  # type: ignore[return-value]


def answers(labeler: Any, batch: Sequence[Any], ctx: Context) -> list[Outcome]:
    """What the labeler says to each item; the batch is halved until a poison item is alone.

    Raises:
        LabelerError: the labeler says that it cannot be used.
        MemoryError: perhaps an earlier item's doing, so nothing is known about this one.
    """
    pairwise = hasattr(labeler, "compare")
    ask, kinds = (labeler.compare, (Verdict, Abstain)) if pairwise else (labeler.score, (Score, Abstain))
    try:
        return _answers(lambda part: ask(part, ctx), batch, kinds)
    except _Entangled as error:
        return [Malformed(cut(str(error)))] * len(batch)


class _Entangled(Exception):
    """Each item alone is answered, and together they are not: the answers depend on neighbours and are of no use."""


def _answers(ask: Callable[[Sequence[Any]], Any], batch: Sequence[Any], kinds: Any) -> list[Outcome]:
    if not batch:
        return []
    try:
        found = ask(batch)
        wrong = _wrong(found, batch, kinds)
    except (LabelerError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a labeler is somebody else's code: anything may come out
        if len(batch) == 1:
            return [Crashed(described(error))]
        return _halves(ask, batch, kinds)
    if not wrong:
        return list(found)
    if len(batch) == 1:
        return [Malformed(cut(wrong))]
    try:
        answers = _halves(ask, batch, kinds)
    except _Entangled as error:
        raise _Entangled(wrong) from error
    if not any(isinstance(answer, Malformed) for answer in answers):
        raise _Entangled(wrong)
    return answers


def _halves(ask: Callable[[Sequence[Any]], Any], batch: Sequence[Any], kinds: Any) -> list[Outcome]:
    middle = len(batch) // 2
    return [answer for half in (batch[:middle], batch[middle:]) for answer in _answers(ask, half, kinds)]


def _wrong(found: Any, batch: Sequence[Any], kinds: Any) -> str:
    """Why this is not one label an item; empty when it is."""
    if not isinstance(found, Sequence) or isinstance(found, str):
        return f"gave {found!r:.80}; hint: return a list with one label an item"
    if len(found) != len(batch):
        return f"gave {len(found)} labels for {len(batch)} items; hint: return one label an item, in the same order"
    for answer in found:
        if not isinstance(answer, kinds):
            options = f"{kinds[0].__name__}(...) or Abstain(kind, reason)"
            return f"gave {answer!r:.80}; hint: return {options} for each item"
        if not isinstance(answer.reason, str):
            return f"gave a reason that is {type(answer.reason).__name__}; hint: a reason is text"
        if len(answer.reason) > MAX_REASON_CHARS:
            return f"gave a reason of {len(answer.reason)} characters; hint: a sentence, not more than {REASON_CHARS}"
    return ""


def place(labeler: Any) -> str:
    """A labeler's name, and the file and line of its method where they are known."""
    method = getattr(labeler, "compare", None) or labeler.score
    code = getattr(method, "__code__", None)
    return f"{labeler.name} ({Path(code.co_filename).name}:{code.co_firstlineno})" if code else labeler.name


def described(error: BaseException) -> str:
    """The error, and the line of the labeler that raised it (the file's name alone: labels must not tell of folders)."""
    frames = [frame for frame in _frames(error.__traceback__) if frame[0] != __file__]
    where = f" at {Path(frames[0][0]).name}:{frames[0][1]}" if frames else ""
    hint = ""
    if isinstance(error, PermissionError | ImportError):
        hint = "; hint: it runs confined: load what it needs at import or on its examples, use ctx for the rest"
    return cut(f"{type(error).__name__}: {error}", REASON_CHARS - len(where + hint)) + where + hint


def _frames(trace: types.TracebackType | None) -> list[tuple[str, int]]:
    """File and line of each frame. `traceback` would read the source files, which a confined process cannot."""
    found = []
    while trace is not None:
        found.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return found


def cut(text: str, limit: int = REASON_CHARS) -> str:
    """The text, or its beginning and how long it was."""
    return text if len(text) <= limit else f"{text[: limit - 20]} ... ({len(text)} chars)"[:limit]


def settled(where: str, found: Sequence[Outcome], *, has_answered: bool) -> list[Label]:
    """The labels, where an answer that is none costs its item only.

    Args:
        where: the labeler, for the message.
        has_answered: it has answered rightly before, so that a few bad answers are the items' doing.

    Raises:
        WrongAnswers: nearly every answer is of the wrong number or type: the labeler is broken.
    """
    malformed = [answer for answer in found if isinstance(answer, Malformed)]
    enough = len(found) >= FEW or not has_answered
    if malformed and enough and len(malformed) >= BROKEN_SHARE * len(found):
        raise WrongAnswers(f"labeler {where}: {malformed[0].reason}")
    return [Abstain("crashed", a.reason) if isinstance(a, Malformed | Crashed) else a for a in found]
