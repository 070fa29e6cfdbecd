"""The stage that compares: a pairwise labeler is asked which of two completions is better, in both orders."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import pyarrow as pa

from labelers.discovery import LabelerSpec
from labelers.sandbox import Limits, Worker, opened
from labelers.types import Abstain, Candidate, Comparison, Completion, Needs, Prompt, Verdict, content_id
from pipeline.engines import Engine, EngineSpec
from pipeline.label import Tools, Where, asked, candidates, lent_tools, require_enough
from pipeline.pairing.cascade import After, settled
from pipeline.prompts import family_of, prompts_of
from pipeline.schema import COMPARISONS, COMPLETIONS, LABELS, PROMPTS
from pipeline.spending.budget import Asking
from pipeline.storage.shards import Counts
from pipeline.votes import contested, with_votes
from pipeline.work import Made, Transform

Outcome = Verdict | Abstain


@dataclass(frozen=True)
class Compare:
    """Asks a pairwise labeler about some match-ups of each prompt's completions, over all sources.

    Args:
        match_ups: comparisons per prompt; each is asked in both orders unless the labeler is symmetric.
        n_sources: completion shards that it reads.
        after: the labeler before it in a cascade; prompts that one settled are left out.
    """

    labeler: LabelerSpec
    name: str
    where: Where = ()
    max_abstained: float = 0.5
    match_ups: int = 4
    n_sources: int = 1
    engine: EngineSpec | None = None
    asking: Asking = Asking()
    limits: Limits = Limits()
    after: After | None = None

    version: ClassVar[str] = "1"
    writes: ClassVar[pa.Schema] = COMPARISONS

    @property
    def needs(self) -> Needs:
        """The labeler's own needs."""
        return self.labeler.build().needs

    @property
    def reads(self) -> tuple[pa.Schema, ...]:
        """Prompts, the completions of each source, and in a cascade the labels of the labeler before."""
        before = self.after.n_tables if self.after else 0
        return (PROMPTS, *([COMPLETIONS] * self.n_sources), *([LABELS] * before))

    @contextmanager
    def open(self, engine: Engine | None = None) -> Iterator[Transform]:
        """The transform, with the labeler in its own confined process."""
        with (
            lent_tools(self.name, engine, self.asking, self.needs) as ctx,
            opened(self.labeler, ctx, self.limits) as worker,
        ):
            yield lambda prompts, *tables: self._compare(worker, ctx, prompts_of(prompts), tables)

    def _compare(self, worker: Worker, ctx: Tools, prompts: dict[str, Prompt], tables: Sequence[pa.Table]) -> Made:
        completions = pa.concat_tables(tables[: self.n_sources])
        known = settled(tables[self.n_sources :], self.after.pass_at) if self.after else set()
        groups = groups_of([c for c in candidates(prompts, completions, self.where) if c.prompt.id not in known])
        questions = self._questions(groups)
        both = questions if worker.symmetric else [*questions, *(q.swap() for q in questions)]
        answers = asked(worker.compare, both)
        forward = answers[: len(questions)]
        backward = forward if worker.symmetric else [unswapped(answer) for answer in answers[len(questions) :]]
        votes = self.asking.votes if self.engine and not worker.symmetric else 0
        says = with_votes(
            lambda again, number: asked(worker.compare, again, ctx.voting(number)), questions, forward, backward, votes
        )
        merged = [merge(f, b) for f, b in zip(*says, strict=True)]
        require_enough(self.name, merged, self.max_abstained)
        rows = [self._row(worker.version, *row) for row in zip(questions, forward, backward, merged, strict=True)]
        return Made(pa.Table.from_pylist(rows, COMPARISONS), _counts(questions, forward, backward, merged))

    def _questions(self, groups: Sequence[Sequence[Candidate]]) -> list[Comparison]:
        """The match-ups of the stage's design, or those of a labeler that knows which were judged already."""
        judged = getattr(self.labeler.build(), "judged", None)
        if judged is None:
            return [question for group in groups for question in match_ups(group, self.match_ups)]
        known = judged()
        return [question for group in groups for question in every_match_up(group) if _sides(question) in known]

    def _row(self, version: str, q: Comparison, forward: Outcome, backward: Outcome, merged: Outcome) -> Any:
        return {
            "comparison_id": content_id(self.name, version, q.a.id, q.b.id),
            "prompt_id": q.prompt.id,
            "a_id": q.a.id,
            "b_id": q.b.id,
            "labeler": self.name,
            "labeler_version": version,
            "reason": merged.reason.encode("utf-8", "replace").decode(),
            "prefers": _prefers(merged),
            "prefers_forward": _prefers(forward),
            "prefers_backward": _prefers(backward),
            "abstain": merged.kind if isinstance(merged, Abstain) else None,
        }


def groups_of(batch: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates of each prompt together, whichever source they come from."""
    ordered = sorted(batch, key=lambda c: c.prompt.id)
    return [list(group) for _, group in groupby(ordered, key=lambda c: c.prompt.id)]


def match_ups(group: Sequence[Candidate], limit: int) -> list[Comparison]:
    """At most `limit` questions about a group: distinct finished texts, each asked about as equally often as can be.

    Who meets whom, and who is `a`, follows from the completions' ids, so that neither source nor rank decides it.
    """
    by_text: dict[str, Completion] = {}
    for candidate in group:
        if candidate.completion.finish_reason == "stop":
            by_text.setdefault(candidate.completion.text.strip(), candidate.completion)
    ring = sorted(by_text.values(), key=lambda c: content_id("match-up", c.id))
    found: dict[frozenset[str], Comparison] = {}
    for distance in range(1, len(ring)):
        for i, a in enumerate(ring):
            b = ring[(i + distance) % len(ring)]
            found.setdefault(frozenset((a.id, b.id)), Comparison(group[0].prompt, a, b))
    return list(found.values())[:limit]


def every_match_up(group: Sequence[Candidate]) -> list[Comparison]:
    """All questions about a group, cut texts and copies too: for verdicts that exist already."""
    ordered = sorted((candidate.completion for candidate in group), key=lambda c: c.id)
    return [Comparison(group[0].prompt, a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]]


def _sides(question: Comparison) -> tuple[str, str]:
    return min(question.a.id, question.b.id), max(question.a.id, question.b.id)


def unswapped(answer: Outcome) -> Outcome:
    """An answer to the swapped question in terms of the question itself."""
    match answer:
        case Verdict():
            return answer.swap()
        case Abstain():
            return answer


def merge(forward: Outcome, backward: Outcome) -> Outcome:
    """One outcome of both orders: a flip is a tie, and what was not judged in one order is not judged."""
    match forward, backward:
        case (Abstain() as abstention, _) | (_, Abstain() as abstention):
            return abstention
        case Verdict(first), Verdict(second) if first == second:
            return forward
        case Verdict(first), Verdict(second):
            return Verdict("tie", f"order decided: {first} when asked one way, {second} the other")
    raise AssertionError("an outcome is a verdict or an abstention")


def _prefers(outcome: Outcome) -> str | None:
    return outcome.prefers if isinstance(outcome, Verdict) else None


def _counts(
    questions: Sequence[Comparison], forward: Sequence[Outcome], backward: Sequence[Outcome], merged: Sequence[Outcome]
) -> Counts:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for q, f, b, m in zip(questions, forward, backward, merged, strict=True):
        family = counts[family_of(q.prompt.metadata)]
        match m:
            case Abstain(kind):
                family[f"abstained:{kind}"] += 1
            case Verdict(prefers):
                family["compared"] += 1
                family["tied"] += prefers == "tie"
                family["flipped"] += {_prefers(f), _prefers(b)} == {"a", "b"}
                family["settled"] += contested(f, b) and prefers != "tie"
    return {family: dict(kinds) for family, kinds in counts.items()}
