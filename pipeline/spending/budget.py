"""What a run may cost, in tokens and in money: a stop that nothing is asked beyond."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.engines import Engine, Generation, Request, Sampling, Usage
from pipeline.engines.kept import recalled
from pipeline.errors import BudgetSpent
from pipeline.spending.ledger import Kind, Ledger, Spending, ledger_of

CHARS_PER_TOKEN = 4.0
"""English under common tokenizers (mem); used where no engine says, and for the forecast."""
FEWEST_CHARS_PER_TOKEN = 2.5
"""Code and other scripts take more tokens: what a question is taken for before it is asked (own)."""
MOST_CHARS_PER_TOKEN = 6.0
"""Plain English in a large vocabulary: what a question surely takes (own)."""
TEMPLATE_TOKENS = 16
"""The chat template's own tokens around one message (own)."""
UNITS = {"requests": "requests", "tokens": "tokens", "sampled_tokens": "tokens of the sources", "money": "of money"}


@dataclass(frozen=True)
class Price:
    """What a model's tokens cost, in any one currency.

    Args:
        input: a million tokens of prompts.
        output: a million tokens of completions or replies.
    """

    input: float = 0.0
    output: float = 0.0

    def __post_init__(self) -> None:
        if self.input < 0 or self.output < 0:
            raise ValueError("a price is not negative")

    def of(self, prompt: float, reply: float) -> float:
        """What so many tokens cost."""
        return (prompt * self.input + reply * self.output) / 1e6


@dataclass(frozen=True)
class Budget:
    """What a run may cost, all its starts together; 0 is no limit.

    Args:
        tokens: of the judges' prompts and replies together.
        requests: questions asked of judges.
        sampled_tokens: of the sources' prompts and completions together.
        money: what sources and judges with a `price` cost together, in the currency of the prices.
    """

    tokens: int = 0
    requests: int = 0
    sampled_tokens: int = 0
    money: float = 0.0

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0:
            raise ValueError("a budget is not negative; hint: 0 is no limit")

    def __str__(self) -> str:
        limits = [f"{number(n)} {UNITS[name]}" for name, n in asdict(self).items() if n]
        return " and ".join(limits) or "no limit"


@dataclass(frozen=True)
class Asking:
    """How a labeler's questions to a model are asked.

    Args:
        max_tokens: tokens of a reply at most.
        votes: extra answers in each order to a contested comparison (pipeline/votes.py).
        ledger: the file in which requests are counted; None counts nothing.
        price: what the model's tokens cost.
    """

    max_tokens: int = 512
    votes: int = 0
    budget: Budget = field(default_factory=Budget)
    ledger: Path | None = None
    price: Price = field(default_factory=Price)

    @property
    def sampling(self) -> Sampling:
        """Greedy: the same question gets the same answer."""
        return Sampling(n=1, temperature=0.0, max_tokens=self.max_tokens, logprobs=False)

    def meter(self, labeler: str) -> Meter | None:
        """What counts the requests of `labeler`; None where there is no ledger."""
        return Meter(labeler, self.ledger, self.budget, self.price) if self.ledger else None


@dataclass(frozen=True)
class Meter:
    """Counts the requests of one labeler or source in a run's ledger and keeps them within the budget.

    Args:
        ledger: the ledger's file.
    """

    name: str
    ledger: Path
    budget: Budget = field(default_factory=Budget)
    price: Price = field(default_factory=Price)
    kind: Kind = "labeler"

    def slices(self, requests: Sequence[Request]) -> Iterator[tuple[Sequence[Request], list[Generation]]]:
        """The requests in slices that the budget allows, each with a list to lay the answers into: the whole batch where
        there is room for all it may take. Else a judge's as many as there is room for, a source's none: completions of half
        a shard would be paid and lost.

        Raises:
            BudgetSpent: there is room for none, or at the start surely not for all.
        """
        ledger = ledger_of(self.ledger)
        self._require_room(ledger.spent(), requests)
        while requests:
            costs = [self._most(request) for request in requests]
            count = ledger.fitting(costs, self.budget, len(costs) if self.kind == "source" else 1)
            if count == 0:
                raise BudgetSpent(self._message(ledger.spent(), costs))
            answers: list[Generation] = []
            try:
                yield requests[:count], answers
            finally:
                self._settle(ledger, requests[:count], costs[:count], answers)
            requests = requests[count:]

    def _settle(
        self, ledger: Ledger, requests: Sequence[Request], costs: Sequence[Spending], answers: Sequence[Generation]
    ) -> None:
        asked = {request.id: request for request in requests}
        used = [usage_of(asked[answer.request_id], answer) for answer in answers]
        prompt, reply = sum(u.prompt for u in used), sum(u.completion for u in used)
        line = {"kind": self.kind, "name": self.name, "requests": len(used), "prompt_tokens": prompt}
        line |= {"reply_tokens": reply, "money": self.price.of(prompt, reply)}
        ledger.settle(sum(costs, Spending()), line if used else None)

    def _most(self, request: Request) -> Spending:
        return self._cost(most_prompt_tokens(request), request.sampling.n * request.sampling.max_tokens)

    def _least(self, request: Request) -> Spending:
        return self._cost(least_prompt_tokens(request), request.sampling.n)

    def _cost(self, prompt: int, reply: int) -> Spending:
        money = self.price.of(prompt, reply)
        if self.kind == "source":
            return Spending(sampled_tokens=prompt + reply, money=money)
        return Spending(1, prompt + reply, money=money)

    def _require_room(self, spent: Spending, requests: Sequence[Request]) -> None:
        least = [self._least(request) for request in requests]
        if not (spent + sum(least, Spending())).is_within(self.budget):
            raise BudgetSpent(self._message(spent, least, "at least"))

    def _message(self, spent: Spending, costs: Sequence[Spending], bound: str = "perhaps") -> str:
        whole = bound == "at least" or self.kind == "source"
        next_one = sum(costs, Spending()) if whole else costs[0]
        what = f"the next {len(costs)} requests take" if whole else "the next question takes"
        return (
            f"{self.kind} {self.name}: the budget of {self.budget} has no more room: {told_of(spent, self.budget)} are spent, "
            f"and {what} {bound} {told_of(next_one, self.budget)}; finished shards are kept; "
            "hint: raise [budget] in the config, and the same command goes on from there"
        )


def told_of(spending: Spending, budget: Budget) -> str:
    """What was or may be spent, in the units that have a limit."""
    limits = asdict(budget)
    return " and ".join(f"{number(n)} {UNITS[name]}" for name, n in asdict(spending).items() if limits[name])


def number(value: float) -> str:
    """Thousands with commas, at most four decimals."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}".rstrip("0").rstrip(".")


def most_prompt_tokens(request: Request) -> int:
    """The tokens of a request's prompt, estimated on the high side."""
    n_chars = sum(len(message.content) + len(message.role) for message in request.messages)
    return math.ceil(n_chars / FEWEST_CHARS_PER_TOKEN) + TEMPLATE_TOKENS * len(request.messages)


def least_prompt_tokens(request: Request) -> int:
    """The tokens of a request's prompt, estimated on the low side."""
    return int(sum(len(message.content) for message in request.messages) / MOST_CHARS_PER_TOKEN)


def usage_of(request: Request, answer: Generation) -> Usage:
    """What a request took: the engine's own count, else an estimate from the texts. A refused request takes nothing."""
    if answer.usage is not None:
        return answer.usage
    if answer.error is not None:
        return Usage(0, 0)
    prompt = sum(len(message.content) for message in request.messages) / CHARS_PER_TOKEN
    reply = sum(output.n_tokens or math.ceil(len(output.text) / CHARS_PER_TOKEN) for output in answer.outputs)
    return Usage(math.ceil(prompt) + TEMPLATE_TOKENS * len(request.messages), reply)


def room(limit: float, taken: float) -> float:
    """What is left of a limit; 0 is no limit."""
    return max(0, limit - taken) if limit else math.inf


def ask(engine: Engine, requests: Sequence[Request], meter: Meter | None) -> dict[str, Generation]:
    """The engine's answer to each request, by its id; within the budget and counted, where there is a meter. What was answered
    before a run was stopped is taken as it is, and costs nothing.

    Raises:
        BudgetSpent: there is no room for the next request.
        EngineFailed: the engine died; what it answered before is counted.
    """
    found = {answer.request_id: answer for answer in recalled(engine, requests)}
    left = [request for request in requests if request.id not in found]
    if not left:
        return found
    for part, answers in meter.slices(left) if meter else [(left, [])]:
        answers += engine.generate(part)
        found |= {answer.request_id: answer for answer in answers}
    return found


def metered(source: Any, budget: Budget, ledger: Path) -> Meter | None:
    """What counts a source's requests: where they are paid for or limited. None elsewhere."""
    if source.engine.use != "http" and not budget.sampled_tokens and source.price == Price():
        return None
    return Meter(source.name, ledger, budget, source.price, "source")
