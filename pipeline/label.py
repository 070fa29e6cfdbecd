"""The stage that labels: each completion of a shard under one pointwise labeler."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from labelers.discovery import LabelerSpec
from labelers.errors import WrongAnswers
from labelers.printable import printable
from labelers.sandbox import Limits, RunProgram, Worker, lent, no_program, opened
from labelers.types import Abstain, Candidate, Completion, Message, Needs, Prompt, Score
from pipeline.engines import Engine, EngineSpec, Generation, Request, RewardEngine, Sampling
from pipeline.errors import BrokenLabeler
from pipeline.pairing.cascade import After, settled
from pipeline.prompts import family_of, prompts_of
from pipeline.schema import COMPLETIONS, LABELS, PROMPTS
from pipeline.spending.budget import Asking, Meter, ask
from pipeline.storage.shards import Counts
from pipeline.work import Made, Transform

BATCH_SIZE = 256
TOO_FEW_TO_TELL = 10
COMPLETION = ["completion_id", "prompt_id", "text", "finish_reason", "source", "n_tokens"]
"""The columns that make a Completion, in the order of its fields."""

Where = tuple[tuple[str, tuple[str, ...]], ...]
"""Which prompts: metadata key -> the values that are meant."""


@dataclass(frozen=True)
class Label:
    """Scores every completion whose prompt `where` selects.

    Args:
        labeler: what judges.
        name: its name in this run.
        where: metadata that a prompt must have; empty selects all.
        max_abstained: the share of a shard's labels that may be abstentions before the run stops.
        after: the labeler before it in a cascade; prompts that one settled are left out.
    """

    labeler: LabelerSpec
    name: str
    where: Where = ()
    max_abstained: float = 0.5
    pass_at: float | None = None
    engine: EngineSpec | None = None
    asking: Asking = Asking()
    limits: Limits = Limits()
    after: After | None = None

    version: ClassVar[str] = "1"
    writes: ClassVar[pa.Schema] = LABELS

    @property
    def needs(self) -> Needs:
        """The labeler's own needs."""
        return self.labeler.build().needs

    @property
    def reads(self) -> tuple[pa.Schema, ...]:
        """Prompts, one source's completions, and in a cascade the labels of the labeler before."""
        return (PROMPTS, COMPLETIONS, *([LABELS] * (self.after.n_tables if self.after else 0)))

    @contextmanager
    def open(self, engine: Engine | None = None) -> Iterator[Transform]:
        """The transform, with the labeler in its own confined process."""
        with (
            lent_tools(self.name, engine, self.asking, self.needs) as ctx,
            opened(self.labeler, ctx, self.limits) as worker,
        ):
            yield lambda prompts, completions, *before: self._label(worker, prompts, completions, before)

    def _label(self, worker: Worker, prompts: pa.Table, completions: pa.Table, before: Sequence[pa.Table]) -> Made:
        known = settled(before, self.after.pass_at) if self.after else set()
        asked_about = prompts_of(where_selects(self.where, prompts))
        batch = [c for c in candidates(asked_about, completions, ()) if c.prompt.id not in known]
        labels = [
            label for i in range(0, len(batch), BATCH_SIZE) for label in asked(worker.score, batch[i : i + BATCH_SIZE])
        ]
        require_enough(self.name, labels, self.max_abstained)
        return Made(_table(batch, labels, self.name, worker.version), _counts(batch, labels, self.pass_at))


@dataclass(frozen=True)
class Tools:
    """What a labeler is handed: see labelers.protocol.Context."""

    scratch: Path
    engine: Engine | None = None
    sampling: Sampling = Asking().sampling
    seed: int = 0
    meter: Meter | None = None
    run_program: RunProgram = no_program

    def generate(self, chats: Sequence[Sequence[Message]], schema: str = "") -> list[str | None]:
        """The engine's reply to each chat; None where it gave none.

        Raises:
            BrokenLabeler: the labeler asks a model and the config names none.
            BudgetSpent: the run's budget has no room for the next question.
        """
        if self.engine is None:
            raise BrokenLabeler(
                "the labeler asks a model and has none; hint: give it engine = { use = ..., model = ... }"
            )
        requests = [Request(str(i), tuple(chat), self.sampling, self.seed, schema) for i, chat in enumerate(chats)]
        replies = ask(self.engine, requests, self.meter)
        return [_reply(replies[request.id]) for request in requests]

    def rewards(self, chats: Sequence[Sequence[Message]]) -> list[float | None]:
        """The engine's number for each finished conversation; None where it has none.

        Raises:
            BrokenLabeler: the config names no engine that gives rewards.
        """
        engine: object = self.engine
        if not isinstance(engine, RewardEngine):
            raise BrokenLabeler(
                'the labeler asks for rewards; hint: give it engine = { use = "reward_model", model = ... }'
            )
        return list(engine.rewards(chats)) if chats else []

    def voting(self, number: int) -> Tools:
        """The same tools, with replies drawn at temperature 1: what the vote of this number is asked with."""
        return replace(self, sampling=replace(self.sampling, temperature=1.0), seed=number)


def asked(ask: Callable[..., list[Any]], *question: Any) -> list[Any]:
    """What a worker answers. Raises: BrokenLabeler where nearly no answer is a label."""
    try:
        return ask(*question)
    except WrongAnswers as error:
        raise BrokenLabeler(str(error)) from error


@contextmanager
def lent_tools(name: str, engine: Engine | None, asking: Asking, needs: Needs) -> Iterator[Tools]:
    """The tools of one labeler while its stage is open; its scratch folder and its launcher go with them."""

    def tools(scratch: Path, run_program: RunProgram) -> Tools:
        return Tools(scratch, engine, asking.sampling, meter=asking.meter(name), run_program=run_program)

    with lent(tools, name, needs) as ctx:
        yield ctx


def _reply(answer: Generation) -> str | None:
    """The text of an answer; None where there is none, or where the engine gave it up half-way."""
    whole = [output.text for output in answer.outputs if output.finish_reason != "error"]
    return whole[0] if whole else None


def candidates(prompts: Mapping[str, Prompt], completions: pa.Table, where: Where) -> list[Candidate]:
    """The completions to judge: those that exist, of the prompts that `where` selects, in the table's order."""
    selected = pa.array([id for id, prompt in prompts.items() if selects(where, prompt)], pa.string())
    ours = pc.and_(pc.is_in(completions["prompt_id"], value_set=selected), pc.is_null(completions["error"]))
    # Sifted as arrow, and only then made into objects: of a shard's completions each labeler judges few.
    columns = [column.to_pylist() for column in completions.select(COMPLETION).filter(ours).columns]
    return [Candidate(prompts[row[1]], Completion(*row)) for row in zip(*columns, strict=True)]


def where_selects(where: Where, prompts: pa.Table) -> pa.Table:
    """The rows of a table of prompts that `where` selects."""
    if not where:
        return prompts
    said = prompts["metadata"].to_pylist()
    chosen = {metadata: _matches(where, json.loads(metadata)) for metadata in set(said)}  # mostly the same few texts
    return prompts.filter(pa.array([chosen[metadata] for metadata in said], pa.bool_()))


def selects(where: Where, prompt: Prompt) -> bool:
    """Whether the prompt's metadata has one of the values meant for each key."""
    return _matches(where, prompt.metadata)


def _matches(where: Where, metadata: Mapping[str, Any]) -> bool:
    return all(str(metadata.get(key)) in values for key, values in where)


def require_enough(name: str, labels: Sequence[object], max_abstained: float) -> None:
    """Raises BrokenLabeler when more than the allowed share abstained: so few labels say little, and why is worth knowing."""
    abstained = [label for label in labels if isinstance(label, Abstain)]
    if len(labels) < TOO_FEW_TO_TELL or len(abstained) <= max_abstained * len(labels):
        return
    (kind, reason), times = Counter((a.kind, a.reason) for a in abstained).most_common(1)[0]
    raise BrokenLabeler(
        f"labeler {name}: abstained on {len(abstained)} of {len(labels)} items of a shard, "
        f"{times} times as {kind}: {printable(reason)}; "
        "hint: select the prompts it is for with where, mend the labeler, or raise its max_abstained"
    )


def _table(batch: Sequence[Candidate], labels: Sequence[Score | Abstain], name: str, version: str) -> pa.Table:
    """A row for each label, made by columns."""
    columns = {
        "completion_id": [candidate.completion.id for candidate in batch],
        "prompt_id": [candidate.prompt.id for candidate in batch],
        "labeler": pa.repeat(pa.scalar(name), len(batch)),
        "labeler_version": pa.repeat(pa.scalar(version), len(batch)),
        "reason": [label.reason.encode("utf-8", "replace").decode() for label in labels],
        "value": [float(label.value) if isinstance(label, Score) else None for label in labels],
        "abstain": [label.kind if isinstance(label, Abstain) else None for label in labels],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in LABELS], LABELS)


def _counts(batch: Sequence[Candidate], labels: Sequence[Score | Abstain], pass_at: float | None) -> Counts:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    of_prompt: dict[str, str] = {}
    for candidate, label in zip(batch, labels, strict=True):
        prompt = candidate.prompt
        if prompt.id not in of_prompt:
            of_prompt[prompt.id] = family_of(prompt.metadata)
        family = counts[of_prompt[prompt.id]]
        match label:
            case Abstain(kind):
                family[f"abstained:{kind}"] += 1
            case Score(value):
                family["scored"] += 1
                if pass_at is not None:
                    family["passed"] += value >= pass_at
    return {family: dict(kinds) for family, kinds in counts.items()}
