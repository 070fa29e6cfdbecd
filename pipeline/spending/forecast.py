"""What the judges and the paid sources of a run will still be asked, and what that will take: before anything is asked.

Lengths are known where completions exist and bounded by the sources' settings where they do not. A labeler's own words around
them are measured on its first example.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labelers.protocol import Chat, Program, Ran
from labelers.types import Candidate, Comparison, Completion, Prompt
from pipeline.config import Config, LabelerEntry, Source
from pipeline.label import selects
from pipeline.plan import Plan, Step
from pipeline.prompts import prompts_of
from pipeline.sample import Sample
from pipeline.schema import COMPLETIONS, PROMPTS
from pipeline.spending.budget import (
    FEWEST_CHARS_PER_TOKEN,
    MOST_CHARS_PER_TOKEN,
    TEMPLATE_TOKENS,
    Budget,
    Price,
    number,
)
from pipeline.spending.ledger import LEDGER, Kind, Spending, ledger_of
from pipeline.storage.shards import read_receipt, read_shard
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
class Tokens:
    """What requests take: of prompts, and of replies."""

    prompt: Range = field(default_factory=Range)
    reply: Range = field(default_factory=Range)

    @property
    def total(self) -> Range:
        """Both together."""
        return self.prompt + self.reply

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.reply + other.reply)

    def times(self, requests: Range) -> Tokens:
        """What so many requests take."""
        return Tokens(*(Range(requests.least * t.least, requests.most * t.most) for t in (self.prompt, self.reply)))


@dataclass(frozen=True)
class Forecast:
    """What one labeler or source will still ask its model.

    Args:
        requests: questions.
        used: tokens of questions and replies; None for models that write none.
        price: of these tokens.
    """

    kind: Kind
    name: str
    requests: Range
    used: Tokens | None
    price: Price = field(default_factory=Price)

    @property
    def tokens(self) -> Range | None:
        """Of questions and replies together."""
        return self.used.total if self.used else None

    @property
    def money(self) -> Range:
        """What they cost; 0 without a price."""
        used = self.used or Tokens()
        return Range(
            self.price.of(used.prompt.least, used.reply.least), self.price.of(used.prompt.most, used.reply.most)
        )

    @property
    def bounds(self) -> tuple[Spending, Spending]:
        """At least and at most, as the budget counts."""
        tokens = self.tokens or Range()
        if self.used is None:  # rewards are not metered
            return Spending(), Spending()
        if self.kind == "source":
            return Spending(0, 0, int(tokens.least), self.money.least), Spending(
                0, 0, math.ceil(tokens.most), self.money.most
            )
        return (
            Spending(math.floor(self.requests.least), int(tokens.least), 0, self.money.least),
            Spending(math.ceil(self.requests.most), math.ceil(tokens.most), 0, self.money.most),
        )


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
    """A forecast for each source that is metered and each labeler that asks a model, over the shards that they have not done."""
    sources = {step.folder: source for step, source in zip(plan.of_kind("completions"), config.sources, strict=True)}
    found = [
        _of_source(source, step, shards)
        for step, source in zip(plan.of_kind("completions"), config.sources, strict=True)
        if isinstance(step.stage, Sample) and step.stage.meter
    ]
    for entry in (e for e in config.labelers if e.engine is not None):
        steps = [s for s in plan.steps if s.kind in ("labels", "comparisons") and s.name == entry.label]
        parts = [_of_step(entry, step, sources, shards) for step in steps]
        writes = getattr(entry.spec.build(), "asks", "replies") == "replies"
        requests, used = sum((r for r, _ in parts), Range()), sum((t for _, t in parts), Tokens())
        found.append(Forecast("labeler", entry.label, requests, used if writes else None, entry.price))
    return found


def _of_source(source: Source, step: Step, shards: Sequence[Path]) -> Forecast:
    """What a source's prompts and completions will take: lengths up to what its settings allow."""
    todo = [shard for shard in shards if not finished(step.work(shard))]
    looked_at = spread(todo)
    requests, used = Range(), Tokens()
    for shard in looked_at:
        for prompt in prompts_of(read_shard(shard, PROMPTS)).values():
            requests += Range(1, 1)
            used += Tokens(_prompt_tokens(_n_chars(prompt)), Range(source.n, source.n * source.max_tokens))
    share = len(todo) / max(1, len(looked_at))
    scaled = Tokens(used.prompt * share, used.reply * share)
    return Forecast("source", source.name, requests * share, scaled, source.price)


def _prompt_tokens(n_chars: float) -> Range:
    return Range(n_chars / MOST_CHARS_PER_TOKEN, n_chars / FEWEST_CHARS_PER_TOKEN + TEMPLATE_TOKENS)


def _of_step(
    entry: LabelerEntry, step: Step, sources: dict[Path, Source], shards: Sequence[Path]
) -> tuple[Range, Tokens]:
    """Requests and tokens of one step."""
    labeler: Any = entry.spec.build()
    calls, overhead = _asked_of_itself(labeler)
    requests, used = Range(), Tokens()
    todo = [shard for shard in shards if not finished(step.work(shard))]
    looked_at = spread(todo)
    for shard in looked_at:
        for group in _groups(entry, step, sources, shard):
            asked = _questions(entry, labeler, group.size) * calls
            shown = 2 if hasattr(labeler, "compare") else 1
            question = _prompt_tokens(group.prompt_chars + overhead) + group.tokens * shown
            requests += asked
            used += Tokens(question, Range(1, entry.reply_tokens)).times(asked)
    share = len(todo) / max(1, len(looked_at))
    return requests * share, Tokens(used.prompt * share, used.reply * share)


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
    told = [_line(forecast) for forecast in found]
    if spent.requests:
        told.append(f"asked so far: {spent.requests:,} questions, {spent.tokens:,} tokens")
    if spent.sampled_tokens:
        told.append(f"sampled so far: {spent.sampled_tokens:,} tokens")
    money = sum((f.money for f in found), Range())
    if money.most or spent.money:
        told.append(f"costs {number(money.least)} to {number(money.most)} more, and {number(spent.money)} so far")
    if budget != Budget():
        told.append(_lasts(found, spent, budget))
    return told


def _line(forecast: Forecast) -> str:
    cost = f", {number(forecast.money.least)} to {number(forecast.money.most)} of money" if forecast.money.most else ""
    if forecast.kind == "source":
        return f"{forecast.name} samples {forecast.requests} prompts, {forecast.tokens} tokens in all{cost}"
    what = f", {forecast.tokens} tokens in all{cost}" if forecast.tokens else " and reads a number"
    return f"{forecast.name} asks its model {forecast.requests} questions{what}"


def _lasts(found: Sequence[Forecast], spent: Spending, budget: Budget) -> str:
    least = sum((f.bounds[0] for f in found), spent)
    most = sum((f.bounds[1] for f in found), spent)
    if most.is_within(budget):
        word = "the budget lasts"
    elif not least.is_within(budget):
        word = "the budget does not last; hint: raise [budget], or lower n, max_tokens, match_ups, votes or limit"
    else:
        word = "the budget may not last"
    return f"{word}: {budget}"


def as_json(found: Sequence[Forecast]) -> list[dict[str, Any]]:
    """The forecasts for scripts."""
    return [
        {
            "kind": f.kind,
            "name": f.name,
            "requests": asdict(f.requests),
            "tokens": asdict(f.tokens) if f.tokens else None,
            "money": asdict(f.money),
        }
        for f in found
    ]
