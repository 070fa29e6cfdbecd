"""What the judges of a run will still be asked, and what that will take: before anything is asked.

Lengths are known where completions exist and bounded by the sources' settings where they do not. A labeler's own words around
them are measured on its first example.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labelers.protocol import Chat, Program, Ran
from labelers.types import Candidate, Comparison, Completion, Prompt
from pipeline.budget import (
    FEWEST_CHARS_PER_TOKEN,
    LEDGER,
    MOST_CHARS_PER_TOKEN,
    TEMPLATE_TOKENS,
    Budget,
    Spent,
    ledger_of,
    room,
)
from pipeline.config import Config, LabelerEntry, Source
from pipeline.label import selects
from pipeline.plan import Plan, Step
from pipeline.prompts import prompts_of
from pipeline.schema import COMPLETIONS, PROMPTS
from pipeline.shards import read_receipt, read_shard
from pipeline.work import finished

LOOKED_AT = 32
"""Shards whose prompts and completions are read; the others are taken to be like them."""
OVERHEAD_CHARS = 1000
"""A judge's own words, where they cannot be measured: about those of our own templates."""


@dataclass(frozen=True)
class Range:
    """At least and at most."""

    least: float = 0
    most: float = 0

    def __add__(self, other: Range) -> Range:
        return Range(self.least + other.least, self.most + other.most)

    def __mul__(self, factor: float) -> Range:
        return Range(self.least * factor, self.most * factor)

    def __str__(self) -> str:
        least, most = math.floor(self.least), math.ceil(self.most)
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"


@dataclass(frozen=True)
class Forecast:
    """What one labeler will still ask its model.

    Args:
        requests: questions.
        tokens: of questions and replies; None for models that write none.
    """

    labeler: str
    requests: Range
    tokens: Range | None


@dataclass
class Measured:
    """A context that notes what a labeler asks, and answers nothing."""

    scratch: Path = Path()
    chars: list[int] = field(default_factory=list)

    def generate(self, chats: Sequence[Chat], schema: str = "") -> list[str | None]:
        self.chars += [sum(len(message.content) for message in chat) for chat in chats]
        return [None for _ in chats]

    def rewards(self, chats: Sequence[Chat]) -> list[float | None]:
        return [None for _ in chats]

    def run_program(self, program: Program) -> Ran:
        return Ran("exited", 1)


@dataclass(frozen=True)
class Group:
    """A prompt's characters, how many completions it has, and the tokens of one of them."""

    prompt_chars: int
    size: int
    tokens: Range


def forecasts(config: Config, plan: Plan, shards: Sequence[Path]) -> list[Forecast]:
    """A forecast for each labeler that asks a model, over the shards that it has not judged yet."""
    sources = {step.folder: source for step, source in zip(plan.of_kind("completions"), config.sources, strict=True)}
    found: dict[str, Forecast] = {}
    for entry in (e for e in config.labelers if e.engine is not None):
        steps = [s for s in plan.steps if s.kind in ("labels", "comparisons") and s.name == entry.label]
        parts = [_of_step(entry, step, sources, shards) for step in steps]
        writes = getattr(entry.spec.build(), "asks", "replies") == "replies"
        requests = sum((r for r, _ in parts), Range())
        found[entry.label] = Forecast(entry.label, requests, sum((t for _, t in parts), Range()) if writes else None)
    return list(found.values())


def _of_step(
    entry: LabelerEntry, step: Step, sources: dict[Path, Source], shards: Sequence[Path]
) -> tuple[Range, Range]:
    """Requests and tokens of one step."""
    labeler: Any = entry.spec.build()
    calls, overhead = _asked_of_itself(labeler)
    requests = tokens = Range()
    todo = [shard for shard in shards if not finished(step.work(shard))]
    looked_at = spread(todo)
    for shard in looked_at:
        for group in _groups(entry, step, sources, shard):
            asked = _questions(entry, labeler, group.size) * calls
            shown = 2 if hasattr(labeler, "compare") else 1
            chars = group.prompt_chars + overhead
            question = Range(chars / MOST_CHARS_PER_TOKEN, chars / FEWEST_CHARS_PER_TOKEN + TEMPLATE_TOKENS)
            each = question + group.tokens * shown + Range(1, entry.reply_tokens)
            requests += asked
            tokens += Range(asked.least * each.least, asked.most * each.most)
    share = len(todo) / max(1, len(looked_at))
    return requests * share, tokens * share


def spread(shards: Sequence[Path]) -> list[Path]:
    """At most LOOKED_AT of the shards, at even distances."""
    count = min(len(shards), LOOKED_AT)
    return [shards[i * len(shards) // count] for i in range(count)]


def _questions(entry: LabelerEntry, labeler: Any, size: int) -> Range:
    """Questions about one group: at most, when every comparison is contested and voted on."""
    if not hasattr(labeler, "compare"):
        return Range(size, size)
    match_ups = min(entry.match_ups, size * (size - 1) // 2)
    if labeler.symmetric:
        return Range(match_ups, match_ups)
    return Range(2 * match_ups, 2 * match_ups * (1 + entry.votes))


def _groups(entry: LabelerEntry, step: Step, sources: dict[Path, Source], shard: Path) -> Iterable[Group]:
    """The groups that a step judges in a shard, as they are or as they will be."""
    prompts = prompts_of(read_shard(shard, PROMPTS))
    selected = {i: p for i, p in prompts.items() if selects(entry.selection, p)}
    known = [folder / shard.name for folder in step.inputs if folder in sources]
    if all(read_receipt(path) for path in known):
        return _known(selected, known)
    settings = [sources[folder] for folder in step.inputs if folder in sources]
    size = sum(source.n for source in settings)
    longest = sum(source.n * source.max_tokens for source in settings) / size
    return [Group(_n_chars(prompt), size, Range(1, longest)) for prompt in selected.values()]


def _known(selected: dict[str, Prompt], shards: Sequence[Path]) -> list[Group]:
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for shard in shards:
        table = read_shard(shard, COMPLETIONS).select(["prompt_id", "text", "finish_reason", "error"])
        for row in table.to_pylist():
            if row["prompt_id"] in selected and row["error"] is None:
                texts[row["prompt_id"]].add(row["text"])
    return [_group(selected[prompt_id], found) for prompt_id, found in texts.items()]


def _group(prompt: Prompt, texts: set[str]) -> Group:
    chars = sum(map(len, texts)) / len(texts)
    return Group(_n_chars(prompt), len(texts), Range(chars / MOST_CHARS_PER_TOKEN, chars / FEWEST_CHARS_PER_TOKEN))


def _n_chars(prompt: Prompt) -> int:
    return sum(len(message.content) for message in prompt.messages)


def _asked_of_itself(labeler: Any) -> tuple[int, float]:
    """How many chats a labeler makes of one question, and its own characters in each, measured on its first example."""
    if not labeler.examples:
        return 1, OVERHEAD_CHARS
    example, noted = labeler.examples[0], Measured()
    better, worse = (Completion.of(example.prompt, text) for text in (example.better, example.worse))
    try:
        if hasattr(labeler, "compare"):
            labeler.compare([Comparison(example.prompt, better, worse)], noted)
        else:
            labeler.score([Candidate(example.prompt, better)], noted)
    except Exception:  # a plugin that cannot bear to hear nothing; it is judged in its run, not here
        return 1, OVERHEAD_CHARS
    own = sum(noted.chars) / max(1, len(noted.chars)) - _n_chars(example.prompt)
    return max(1, len(noted.chars)), max(0.0, own)


def lines(found: Sequence[Forecast], run: Path, budget: Budget) -> list[str]:
    """The forecasts for a person, a line each, and whether the budget lasts."""
    if not found:
        return []
    spent = ledger_of(run / LEDGER).spent()
    told = [
        f"{f.labeler} asks its model {f.requests} questions"
        + (f", {f.tokens} tokens in all" if f.tokens else " and reads a number")
        for f in found
    ]
    if spent.requests:
        told.append(f"asked so far: {spent.requests:,} questions, {spent.tokens:,} tokens")
    if budget.tokens or budget.requests:
        told.append(_lasts(found, spent, budget))
    return told


def _lasts(found: Sequence[Forecast], spent: Spent, budget: Budget) -> str:
    judges = [f for f in found if f.tokens is not None]
    requests = sum((f.requests for f in judges), Range())
    tokens = sum((f.tokens or Range() for f in judges), Range())
    left = room(budget.requests, spent.requests), room(budget.tokens, spent.tokens)
    if requests.most <= left[0] and tokens.most <= left[1]:
        word = "the budget lasts"
    elif requests.least > left[0] or tokens.least > left[1]:
        word = "the budget does not last; hint: raise [budget], or lower match_ups, votes or limit"
    else:
        word = "the budget may not last"
    limits = [f"{n:,} {name}" for name, n in (("tokens", budget.tokens), ("requests", budget.requests)) if n]
    return f"{word}: {' and '.join(limits)}"
