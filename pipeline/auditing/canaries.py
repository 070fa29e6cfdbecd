"""Questions whose answer is known, planted after a run: the run's own labelers answer them, and every wrong answer counts."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from labelers.discovery import BUILTIN
from labelers.errors import LabelerError
from labelers.sandbox import Worker, opened
from labelers.types import Abstain, Candidate, Comparison, Completion, Example, Prompt, Score, Verdict, content_id
from pipeline.auditing.limits import Audit, Finding, graded
from pipeline.compare import Compare, merge, unswapped
from pipeline.engines import Engine, EngineSpec
from pipeline.errors import PipelineError
from pipeline.label import Label, lent_tools

Lend = Callable[[EngineSpec], AbstractContextManager[Engine]]
"""From an engine's settings to the running engine."""
Kind = Literal["identical", "example", "again", "empty", "garbage", "known answer"]

GOOD: dict[Kind, str] = {
    "identical": "twins of one text judged equal",
    "example": "examples of the labelers' own ranked right",
    "again": "labels the same when asked again",
    "empty": "empty answers not judged above the chosen",
    "garbage": "meaningless answers not judged above the chosen",
    "known answer": "right answers not judged below a meaningless one",
}
"""Kind of canary -> what is said of those that are judged rightly."""
BAD: dict[Kind, str] = {
    "identical": "judges a text above its own copy; hint: its answer depends on place or id: python -m labelers check",
    "example": "ranks its own example wrongly; hint: python -m labelers check",
    "again": "judges a stored completion otherwise now; hint: it is not deterministic, or changed without a new version",
    "empty": "judges an empty answer above the chosen one; hint: add a labeler that asks for content",
    "garbage": "judges meaningless letters above the chosen answer; hint: look at its scores with python -m pipeline show",
    "known answer": "judges the prompt's own target below meaningless letters; hint: how is the target to be read?",
}
PROMISED: frozenset[Kind] = frozenset({"identical", "example", "again"})
"""Not one may be wrong: it is logic, or the labeler's own promise."""
MOST_AT_ONCE = 8
"""Labelers that are asked side by side."""
TASTE: frozenset[Kind] = frozenset({"empty", "garbage"})
"""A labeler of the user's own may mean it: brevity is somebody's wish. It warns."""
MOST_CHARS = 2000
"""Of a meaningless answer."""


@dataclass(frozen=True)
class Planted:
    """A completion of the run around which canaries are planted.

    Args:
        labelers: those that judged it.
        values: their scores of it; empty for verdicts.
        is_chosen: it is the chosen one of a pair.
    """

    prompt: Prompt
    completion: Completion
    labelers: tuple[str, ...]
    values: Mapping[str, float]
    is_chosen: bool


@dataclass(frozen=True)
class Question:
    """Which of two completions is better? The first, or (where they are twins, or one label asked for again) neither.

    Args:
        group: the labelers of a pair answer such a question together.
        stored: the score of `first` that the run has; then there is no second.
    """

    kind: Kind
    group: str
    prompt: Prompt
    first: Completion
    second: Completion
    stored: float | None = None


Poll = list[tuple[Question, int | None]] | Exception
"""What a labeler answered, or why it could not be asked."""
Polls = Mapping[str, Poll]
"""labeler -> its poll; those that were not asked are not in it."""
Asked = Callable[[Sequence[Planted]], Polls]


@dataclass
class Ballot:
    """What was answered: kind -> group -> labeler -> 1 the first is better, 0 equal, -1 the second is.

    Args:
        gentle: labelers that may be wrong about their own examples, and why.
        plugins: labelers of the user's own: what is better is theirs to say, so an odd taste is a warning.
    """

    said: dict[Kind, dict[str, dict[str, int]]] = field(default_factory=dict)
    gentle: dict[str, str] = field(default_factory=dict)
    plugins: set[str] = field(default_factory=set)

    def note(self, name: str, question: Question, answer: int | None, sign: float) -> None:
        """Takes an answer; an abstention is none."""
        if answer is not None:
            signed = answer if question.kind in PROMISED or sign > 0 else -answer
            self.said.setdefault(question.kind, {}).setdefault(question.group, {})[name] = signed

    def finding(self, kind: Kind, settings: Audit) -> Finding | None:
        """How many canaries of a kind were judged wrongly; None where none was judged."""
        groups = self.said.get(kind, {})
        wrong = {group: answers for group, answers in groups.items() if _is_wrong(kind, answers)}
        if not groups:
            return None
        share, n = len(wrong) / len(groups), len(groups)
        state = graded(share, n, 0.0, settings.max_canaries, settings, tested=False)
        guilty = Counter(name for answers in wrong.values() for name, answer in answers.items() if answer)
        if kind in PROMISED and any(name not in self.gentle for name in guilty):
            state = "FAIL"
        elif state == "FAIL" and kind in TASTE and self.plugins.issuperset(guilty):
            state = "warn"
        names = ", ".join(f"{name}{self.gentle.get(name, '')}" for name, _ in guilty.most_common())
        seen = f"{n} {GOOD[kind]}" if not wrong else f"{len(wrong)} of {n} wrong: {names} {BAD[kind]}"
        limit = 0.0 if kind in PROMISED else settings.max_canaries
        return Finding(f"canary: {kind}", state, seen, share, limit, None, n, tuple(sorted(wrong))[:3])


def _is_wrong(kind: Kind, answers: Mapping[str, int]) -> bool:
    """Twins must be equal, an example's better must win; of the others the worse must not win with nobody against it."""
    if kind in ("identical", "again"):
        return any(answers.values())
    if kind == "example":
        return any(answer <= 0 for answer in answers.values())
    return min(answers.values()) < 0 and max(answers.values()) <= 0


@contextmanager
def asking(stages: Sequence[Label | Compare], settings: Audit, lend: Lend | None = None) -> Iterator[Asked]:
    """Opens the labelers beside what else there is to do; what comes out puts the planted questions to them.

    Args:
        stages: those that label, one for each labeler.
        lend: opens a labeler's engine; None: labelers that ask a model are skipped.
    """
    able = {stage.name for stage in stages if stage.engine is None or lend is not None}
    planted: Future[Sequence[Planted]] = Future()
    threads, patient = ThreadPoolExecutor(MOST_AT_ONCE), True  # they start processes, and wait
    polls = {s.name: threads.submit(_poll, s, planted, able, settings, lend) for s in stages if s.name in able}

    def put(found: Sequence[Planted]) -> Polls:
        planted.set_result(found)
        return {name: poll.result() for name, poll in polls.items()}

    try:
        yield put
    except KeyboardInterrupt:
        patient = False  # a labeler may take a minute to start, and longer to answer
        raise
    finally:
        planted.cancel()
        threads.shutdown(patient)


def canaries(
    polls: Polls, stages: Sequence[Label | Compare], settings: Audit, signs: Mapping[str, float]
) -> Iterator[Finding]:
    """A finding for each kind of canary, and one for each labeler that could not be asked.

    Args:
        signs: labelers whose scores count against a completion -> -1.
    """
    ballot = Ballot()
    for stage in stages:
        poll = polls.get(stage.name)
        if poll is None:
            seen = f"{stage.name} asks a model; hint: python -m pipeline audit RUN --ask"
            yield Finding("canaries", "skipped", seen)
            continue
        if isinstance(poll, Exception):
            yield Finding("canaries", "warn", f"{stage.name} could not be asked: {poll}")
            continue
        if stage.engine is not None or stage.labeler.options:
            why = "a model: it may err" if stage.engine is not None else "with this run's options"
            ballot.gentle[stage.name] = f" ({why})"
        if stage.labeler.use not in BUILTIN:
            ballot.plugins.add(stage.name)
        for question, answer in poll:
            ballot.note(stage.name, question, answer, signs.get(stage.name, 1.0))
    for kind in GOOD:
        if finding := ballot.finding(kind, settings):
            yield finding


@contextmanager
def lent(spec: EngineSpec) -> Iterator[Engine]:
    """An engine, opened for the questions and closed after them."""
    engine = spec.open()
    try:
        yield engine
    finally:
        engine.close()


def _poll(
    stage: Label | Compare, planted: Future[Sequence[Planted]], able: set[str], settings: Audit, lend: Lend | None
) -> Poll:
    """What one labeler answers to all that is planted for it; or why it could not be asked."""
    try:
        needs = stage.needs
        n = settings.costly_canaries if needs.engine or needs.programs or needs.sandbox else settings.canaries
        examples = _examples(stage.name, stage.labeler.build().examples)
        with ExitStack() as stack:
            engine = stack.enter_context(lend(stage.engine)) if stage.engine is not None and lend is not None else None
            tools = stack.enter_context(lent_tools(stage.name, engine, stage.asking, needs))
            worker = stack.enter_context(opened(stage.labeler, tools, stage.limits))
            questions = [*_questions(stage, planted.result(), able, n), *examples]
            return list(zip(questions, answers(worker, questions), strict=True))
    except (LabelerError, PipelineError, CancelledError) as error:
        return error


def _questions(stage: Label | Compare, planted: Sequence[Planted], able: set[str], n: int) -> Iterator[Question]:
    mine = [each for each in planted if stage.name in each.labelers][:n]
    for each in mine:
        prompt, own = each.prompt, each.completion
        where = f"{stage.name} {own.id}"
        yield Question("identical", where, prompt, _other(own, own.text, "1"), _other(own, own.text, "2"))
        if stage.name in each.values:
            yield Question("again", where, prompt, own, own, each.values[stage.name])
        if not set(each.labelers) <= able:  # what one of them cannot be asked, the others cannot answer for it
            continue
        nonsense = _other(own, garbage(prompt, len(own.text)), "garbage")
        if each.is_chosen:
            yield Question("empty", own.id, prompt, own, _other(own, "", "empty"))
            yield Question("garbage", own.id, prompt, own, nonsense)
        if isinstance(prompt.target, str | int | float) and not isinstance(prompt.target, bool):
            yield Question("known answer", own.id, prompt, _other(own, str(prompt.target), "target"), nonsense)


def _examples(name: str, examples: Sequence[Example]) -> list[Question]:
    def side(example: Example, text: str) -> Completion:
        return Completion.of(example.prompt, text)

    return [
        Question("example", f"{name} {i}", e.prompt, side(e, e.better), side(e, e.worse))
        for i, e in enumerate(examples)
    ]


def garbage(prompt: Prompt, n_chars: int) -> str:
    """Letters without meaning, as long as the text that they stand in for; the same for the same prompt."""
    draw = random.Random(content_id("garbage", prompt.id, n_chars))
    words, length = [], 0
    while length < min(max(n_chars, 8), MOST_CHARS):
        words.append("".join(draw.choices("bcdfghjklmnpqrstvwxz", k=draw.randint(3, 8))))
        length += len(words[-1]) + 1
    return " ".join(words)[: max(n_chars, 8)].strip()


def _other(own: Completion, text: str, mark: str) -> Completion:
    """Another text that is in all else like the run's own completion."""
    return Completion(content_id("canary", own.id, mark), own.prompt_id, text, "stop", own.source, own.n_tokens)


def answers(worker: Worker, questions: Sequence[Question]) -> list[int | None]:
    """Which is better of each question: 1 the first, -1 the second, 0 neither, None not judged."""
    if worker.pairwise:
        return _compared(worker, questions)
    firsts = [Candidate(q.prompt, q.first) for q in questions]
    seconds = [Candidate(q.prompt, q.second) for q in questions if q.stored is None]
    # The second ones in reverse, so that no two twins have the same neighbours.
    labels = worker.score([*firsts, *reversed(seconds)])
    waiting = iter(reversed(labels[len(firsts) :]))
    return [
        _sign(label, next(waiting) if q.stored is None else Score(q.stored))
        for q, label in zip(questions, labels[: len(firsts)], strict=True)
    ]


def _sign(first: Score | Abstain, second: Score | Abstain) -> int | None:
    match first, second:
        case Score(a), Score(b):
            return 0 if math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) else 1 if a > b else -1
        case _:
            return None


def _compared(worker: Worker, questions: Sequence[Question]) -> list[int | None]:
    asked = [Comparison(q.prompt, q.first, q.second) for q in questions]
    both = worker.compare([*asked, *([] if worker.symmetric else [c.swap() for c in asked])])
    forward = both[: len(asked)]
    backward = forward if worker.symmetric else [unswapped(answer) for answer in both[len(asked) :]]
    merged = [merge(f, b) for f, b in zip(forward, backward, strict=True)]
    return [{"a": 1, "b": -1, "tie": 0}[m.prefers] if isinstance(m, Verdict) else None for m in merged]
