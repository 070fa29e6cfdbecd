"""Whether a labeler keeps the contract: for authors' own tests and for `python -m labelers check`."""

from __future__ import annotations

import contextlib
import math
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labelers.discovery import LabelerSpec
from labelers.errors import LabelerError, WrongAnswers, WrongShape
from labelers.nasty import nasty_texts
from labelers.protocol import Chat, Context, Labeler, Program, Ran
from labelers.sandbox import Worker
from labelers.shape import check_class, check_instance
from labelers.types import Abstain, Candidate, Comparison, Completion, Example, Needs, Score, Verdict
from labelers.watching import attempts

Outcome = Score | Verdict | Abstain
SLOW_ITEM_S = 2.0
"""The deadline per item in isolation.md; a text that takes longer is a finding."""
MOST_ALIKE = 5
"""Texts that are named when many break the same rule."""


@dataclass(frozen=True)
class Finding:
    """One broken rule: which, and what was seen."""

    rule: str
    seen: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.seen}"


@dataclass(frozen=True)
class ScriptedEngine:
    """A context whose model is a function: `ScriptedEngine(lambda chat: "[[A]]")`. Replies None by default.

    Args:
        reply: from a chat (messages) to the model's reply, or None for no reply.
        reward: from a conversation to its reward, or None for none.
    """

    reply: Callable[[Chat], str | None] = lambda chat: None
    reward: Callable[[Chat], float | None] = lambda chat: None
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))

    def generate(self, chats: Sequence[Chat], schema: str = "") -> Sequence[str | None]:
        return [self.reply(chat) for chat in chats]

    def rewards(self, chats: Sequence[Chat]) -> Sequence[float | None]:
        return [self.reward(chat) for chat in chats]

    def run_program(self, program: Program) -> Ran:
        raise LabelerError("a scripted engine starts no program")


def check(
    labeler: Labeler, ctx: Context | None = None, *, spec: LabelerSpec | None = None, worker: Worker | None = None
) -> list[Finding]:
    """What breaks the contract; nothing, when the labeler keeps it.

    Args:
        ctx: the tools it gets. Without, a model never replies; then a labeler that needs one must abstain throughout, and
            its examples are not ranked.
        spec: how the labeler was named. With it, the rule "can go to a worker process" builds it anew instead of pickling
            it, which is how the pipeline does it and the only way for a file plugin.
        worker: the same labeler in its confined process, which is then what is asked: what runs here alone is found too.
    """
    try:
        check_class(type(labeler), type(labeler).__qualname__)
        check_instance(labeler, type(labeler).__qualname__)
    except WrongShape as error:
        return [Finding("has the shape of a labeler", str(error))]
    without_engine = labeler.needs.engine and ctx is None
    context = ctx or ScriptedEngine()
    asked: Any = labeler if worker is None else through(worker, labeler)
    try:
        findings = _check_pickling(labeler, spec) + _check_nasty(asked, context)
        if not findings:
            findings += _check_neighbours(asked, context)
            findings += _check_silence(asked, context) if without_engine else _check_examples(asked, context)
    except WrongAnswers as error:
        return [Finding("answers with scores, verdicts or abstentions", str(error))]
    if not findings and not (labeler.needs.programs or labeler.needs.sandbox or labeler.needs.network):
        findings += _check_itself(labeler, asked, context)
    return findings


def through(worker: Worker, labeler: Labeler) -> Labeler:
    """The labeler as its confined worker answers for it; an item that crashes there raises here, with the reason."""
    found: Any = _Confined(worker, labeler.name, labeler.needs, labeler.examples)
    if worker.pairwise:
        found.compare = found.asked
    else:
        found.score = found.asked
    labeler_like: Labeler = found
    return labeler_like


@dataclass
class _Confined:
    worker: Worker
    name: str
    needs: Needs
    examples: Sequence[Example]

    def asked(self, batch: Sequence[Any], ctx: Context) -> Sequence[Outcome]:
        labels = self.worker.compare(batch) if self.worker.pairwise else self.worker.score(batch)
        if self.worker.crashes:
            raise RuntimeError(self.worker.crashes[0])
        return labels


def speed(labeler: Labeler, ctx: Context | None = None, *, seconds: float = 0.2) -> float:
    """Texts (or comparisons) judged per second, on the labeler's own examples; 0 when it has none."""
    items = [item for example in _example_items(labeler) for item in example]
    if not items:
        return 0.0
    context = ctx or ScriptedEngine()
    _answers(labeler, items, context)
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        _answers(labeler, items, context)
        count += len(items)
    return count / passed


def _answers(labeler: Any, items: Sequence[Any], ctx: Context) -> list[Outcome]:
    return list(labeler.compare(items, ctx) if hasattr(labeler, "compare") else labeler.score(items, ctx))


def _timed_answers(labeler: Any, items: Sequence[Any], ctx: Context) -> tuple[list[Outcome], float]:
    started = time.perf_counter()
    return _answers(labeler, items, ctx), time.perf_counter() - started


def _example_items(labeler: Any) -> list[tuple[Any, ...]]:
    """For each example what the labeler is asked: (better, worse), or the comparison in both orders."""
    found: list[tuple[Any, ...]] = []
    for example in labeler.examples:
        better, worse = (Completion.of(example.prompt, text) for text in (example.better, example.worse))
        if hasattr(labeler, "compare"):
            comparison = Comparison(example.prompt, better, worse)
            found.append((comparison, comparison.swap()))
        else:
            found.append((Candidate(example.prompt, better), Candidate(example.prompt, worse)))
    return found


def _nasty_items(labeler: Any) -> list[tuple[str, Any]]:
    if not labeler.examples:
        return []
    example = labeler.examples[0]
    items: list[tuple[str, Any]] = []
    for name, text in nasty_texts().items():
        nasty = Completion(f"nasty {name}", example.prompt.id, text)
        if hasattr(labeler, "compare"):
            items.append((name, Comparison(example.prompt, nasty, Completion.of(example.prompt, example.better))))
        else:
            items.append((name, Candidate(example.prompt, nasty)))
    return items


def _check_pickling(labeler: Labeler, spec: LabelerSpec | None) -> list[Finding]:
    rule = "can go to a worker process"
    try:
        if spec is not None:
            again = pickle.loads(pickle.dumps(spec)).build()
        else:
            again = pickle.loads(pickle.dumps(labeler))
    except (LabelerError, pickle.PicklingError, AttributeError, TypeError, ImportError) as error:
        return [
            Finding(rule, f"{type(error).__name__}: {error}; hint: fields of plain types, heavy state made when used")
        ]
    return [] if again == labeler else [Finding(rule, "what arrives is not equal to what was sent")]


def _check_nasty(labeler: Labeler, ctx: Context) -> list[Finding]:
    """Each text alone: an answer of the right type, the same twice, in time."""
    if not labeler.examples:
        return [Finding("has examples", "none; hint: give one pair that it must rank right")]
    findings = []
    for name, item in _nasty_items(labeler):
        try:
            (answers, first_s), (again, second_s) = (_timed_answers(labeler, [item], ctx) for _ in range(2))
        except Exception as error:
            findings.append(Finding("answers every text", f"{name!r} raised {type(error).__name__}: {error}"[:300]))
            continue
        if (wrong := _wrong_answers(labeler, answers, 1)) is not None:
            findings.append(Finding("answers with scores, verdicts or abstentions", f"{name!r}: {wrong}"))
        elif answers != again:
            findings.append(Finding("answers the same twice", f"{name!r}: {answers[0]}, then {again[0]}"))
        if min(first_s, second_s) > SLOW_ITEM_S:
            findings.append(Finding("answers in time", f"{name!r} took {first_s:.1f} s, over {SLOW_ITEM_S:g} s"))
    more = [Finding(findings[0].rule, f"and so on, {len(findings)} times")] if len(findings) > MOST_ALIKE else []
    return [*findings[:MOST_ALIKE], *more]


def _wrong_answers(labeler: Any, answers: Sequence[Any], expected: int) -> str | None:
    """What is wrong with the answers' number or types."""
    if len(answers) != expected:
        return f"{len(answers)} answers to {expected} items"
    right = Verdict | Abstain if hasattr(labeler, "compare") else Score | Abstain
    for answer in answers:
        if not isinstance(answer, right):
            return f"an answer is {type(answer).__name__}; hint: return Score(...), Verdict(...), Abstain(...)"
        if isinstance(answer, Score) and not math.isfinite(answer.value):
            return f"a score is {answer.value}, not finite; hint: return Abstain(kind, reason) for the unknown"
    return None


def _check_neighbours(labeler: Labeler, ctx: Context) -> list[Finding]:
    """Answers must not depend on order, batch size or neighbours."""
    items = [item for _, item in _nasty_items(labeler) if _n_chars(item) < 10_000]
    items += [item for pair in _example_items(labeler) for item in pair]
    alone = [_answers(labeler, [item], ctx)[0] for item in items]
    findings = []
    if (together := _answers(labeler, items, ctx)) != alone:
        findings.append(Finding("a batch and single texts get the same answers", _first_difference(alone, together)))
    order = list(range(len(items)))
    random.Random(0).shuffle(order)
    shuffled = _answers(labeler, [items[i] for i in order], ctx)
    if shuffled != [alone[i] for i in order]:
        seen = _first_difference([alone[i] for i in order], shuffled)
        findings.append(Finding("the order of a batch does not matter", seen))
    if _answers(labeler, [], ctx):
        findings.append(Finding("an empty batch gets an empty answer", "it does not"))
    return findings


def _check_itself(labeler: Labeler, asked: Labeler, ctx: Context) -> list[Finding]:
    """The labeler's own method in this process, watched: a boundary or a second try hides no wrong answer here."""
    items = [item for pair in _example_items(labeler) for item in pair]
    items += [item for _, item in _nasty_items(labeler) if _n_chars(item) < 100]
    if asked is not labeler:  # as in its worker: what its libraries do when they are first used is not its doing
        with contextlib.suppress(Exception):
            _answers(labeler, items, ctx)
    with tempfile.TemporaryDirectory(prefix="labeler-") as scratch, attempts(Path(scratch)) as tried:
        own = replace(ctx, scratch=Path(scratch)) if isinstance(ctx, ScriptedEngine) else ctx
        try:
            answers = _answers(labeler, items, own)
        except Exception as error:
            answers, said = [], f"{type(error).__name__}: {error}"[:300]
        else:
            said = _wrong_answers(labeler, answers, len(items)) or ""
    if tried:
        return [Finding("writes nowhere but scratch", tried[0])]
    if said:
        return [Finding("answers with scores, verdicts or abstentions", f"to {len(items)} items together: {said}")]
    if (confined := _answers(asked, items, ctx)) != answers:
        hint = "; hint: hash() and the time differ between processes"
        return [Finding("answers the same in another process", _first_difference(answers, confined) + hint)]
    return []


def _n_chars(item: Any) -> int:
    return len(item.completion.text) if isinstance(item, Candidate) else len(item.a.text)


def _first_difference(expected: Sequence[Outcome], seen: Sequence[Outcome]) -> str:
    if len(expected) != len(seen):
        return f"{len(seen)} answers to {len(expected)} items"
    first = next(i for i, (e, s) in enumerate(zip(expected, seen, strict=True)) if e != s)
    return f"alone {expected[first]}, with others {seen[first]}"[:300]


def _check_silence(labeler: Labeler, ctx: Context) -> list[Finding]:
    """Without a reply there is no judgement."""
    for pair in _example_items(labeler):
        for answer in _answers(labeler, pair, ctx):
            if not isinstance(answer, Abstain):
                return [Finding("abstains when the model gives no reply", str(answer))]
    return []


def _check_examples(labeler: Labeler, ctx: Context) -> list[Finding]:
    findings = []
    for example, pair in zip(labeler.examples, _example_items(labeler), strict=True):
        first, second = _answers(labeler, pair, ctx)
        if not _ranked_right(first, second):
            seen = f"{example.better[:60]!r} against {example.worse[:60]!r} gave {first} and {second}"
            findings.append(Finding("ranks its examples right", seen))
    return findings


def _ranked_right(first: Outcome, second: Outcome) -> bool:
    match first, second:
        case Score(), Score():
            return first.value > second.value
        case Verdict(), Verdict():
            return first.prefers == "a" and second.prefers == "b"
        case _:
            return False
