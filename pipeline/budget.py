"""What judges may cost: counted in a ledger beside the run's shards, and a stop that nothing is asked beyond.

The ledger is a file, so that what an interrupted run spent counts in the next one as well.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.engines import Generation, Request, Sampling, Usage
from pipeline.errors import BudgetSpent

LEDGER = "judge-usage.jsonl"
CHARS_PER_TOKEN = 4.0
"""English under common tokenizers (mem); used where no engine says, and for the forecast."""
FEWEST_CHARS_PER_TOKEN = 2.5
"""Code and other scripts take more tokens: what a question is taken for before it is asked (own)."""
MOST_CHARS_PER_TOKEN = 6.0
"""Plain English in a large vocabulary: what a question surely takes (own)."""
TEMPLATE_TOKENS = 16
"""The chat template's own tokens around one message (own)."""


@dataclass(frozen=True)
class Budget:
    """What the judges of a run may cost, all its starts together.

    Args:
        tokens: of the judges' prompts and replies together; 0 is no limit.
        requests: questions asked; 0 is no limit.
    """

    tokens: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.requests < 0:
            raise ValueError("a budget is not negative; hint: 0 is no limit")


@dataclass(frozen=True)
class Asking:
    """How a labeler's questions to a model are asked.

    Args:
        max_tokens: tokens of a reply at most.
        votes: extra answers in each order to a contested comparison (pipeline/votes.py).
        ledger: the file in which requests are counted; None counts nothing.
    """

    max_tokens: int = 512
    votes: int = 0
    budget: Budget = field(default_factory=Budget)
    ledger: Path | None = None

    @property
    def sampling(self) -> Sampling:
        """Greedy: the same question gets the same answer."""
        return Sampling(n=1, temperature=0.0, max_tokens=self.max_tokens, logprobs=False)

    def meter(self, labeler: str) -> Meter | None:
        """What counts the requests of `labeler`; None where there is no ledger."""
        return Meter(labeler, self.ledger, self.budget) if self.ledger else None


@dataclass
class Spent:
    """What was asked so far."""

    requests: int = 0
    tokens: int = 0

    def add(self, requests: int, tokens: int) -> None:
        """Counts more (or, when negative, less)."""
        self.requests += requests
        self.tokens += tokens


class Ledger:
    """The spending of a run, shared by its threads. What a call may cost is set aside before it and settled after it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._offset = 0
        self._spent = Spent()
        self._aside = Spent()

    def spent(self) -> Spent:
        """What the file says, lines of other processes included."""
        with self._changed:
            self._catch_up()
            return Spent(self._spent.requests, self._spent.tokens)

    def fitting(self, costs: Sequence[int], budget: Budget) -> int:
        """How many of the next requests may be asked, and sets their cost aside; `settle` gives it back.

        Where others have set aside what is left, it waits for what they really take: 0 means that the budget is spent.

        Args:
            costs: tokens that each may take at most.
        """
        with self._changed:
            count = self._first(costs, budget)
            while count == 0 and self._aside.requests:
                self._changed.wait()
                count = self._first(costs, budget)
            self._aside.add(count, sum(costs[:count]))
            return count

    def settle(self, labeler: str, costs: Sequence[int], used: Sequence[Usage]) -> None:
        """Replaces what was set aside for `costs` by what the requests took."""
        prompt, completion = sum(u.prompt for u in used), sum(u.completion for u in used)
        line = {"labeler": labeler, "requests": len(used), "prompt_tokens": prompt, "reply_tokens": completion}
        with self._changed:
            self._aside.add(-len(costs), -sum(costs))
            if used:
                _append(self._path, line)
            self._changed.notify_all()

    def _first(self, costs: Sequence[int], budget: Budget) -> int:
        """How many requests from the front there is room for."""
        self._catch_up()
        requests = room(budget.requests, self._spent.requests + self._aside.requests)
        tokens = room(budget.tokens, self._spent.tokens + self._aside.tokens)
        count = total = 0
        while count < len(costs) and count < requests and total + costs[count] <= tokens:
            total += costs[count]
            count += 1
        return count

    def _catch_up(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for entry in entries(whole):
            self._spent.add(entry["requests"], entry["prompt_tokens"] + entry["reply_tokens"])


@dataclass(frozen=True)
class Meter:
    """Counts one labeler's requests in a run's ledger and keeps them within the budget.

    Args:
        ledger: the ledger's file.
    """

    labeler: str
    ledger: Path
    budget: Budget = field(default_factory=Budget)

    def slices(self, requests: Sequence[Request]) -> Iterator[tuple[Sequence[Request], list[Generation]]]:
        """The requests in slices that the budget allows, each with a list to lay the answers into: the whole batch where
        there is room for all it may take, else as many as there is room for.

        Raises:
            BudgetSpent: there is room for none, or at the start surely not for all: what is asked for half a shard is lost.
        """
        ledger = ledger_of(self.ledger)
        self._require_room(ledger.spent(), requests)
        while requests:
            costs = [most_tokens(request) for request in requests]
            count = ledger.fitting(costs, self.budget)
            if count == 0:
                raise BudgetSpent(self._message(ledger.spent(), f"the next question may take {costs[0]} tokens"))
            answers: list[Generation] = []
            try:
                yield requests[:count], answers
            finally:
                asked = {request.id: request for request in requests[:count]}
                used = [usage_of(asked[answer.request_id], answer) for answer in answers]
                ledger.settle(self.labeler, costs[:count], used)
            requests = requests[count:]

    def _require_room(self, spent: Spent, requests: Sequence[Request]) -> None:
        least = sum(least_tokens(request) for request in requests)
        lacks = len(requests) > room(self.budget.requests, spent.requests)
        if lacks or least > room(self.budget.tokens, spent.tokens):
            raise BudgetSpent(self._message(spent, f"the next {len(requests)} questions take {least} tokens at least"))

    def _message(self, spent: Spent, what: str) -> str:
        limits = [
            f"{n} {name}" for name, n in (("tokens", self.budget.tokens), ("requests", self.budget.requests)) if n
        ]
        return (
            f"labeler {self.labeler}: the judges' budget of {' and '.join(limits)} has no more room: {spent.tokens} tokens in "
            f"{spent.requests} requests are counted, and {what}; finished shards are kept; "
            "hint: raise [budget] in the config, and the same command goes on from there"
        )


_LEDGERS: dict[Path, Ledger] = {}
_LEDGERS_LOCK = threading.Lock()


def ledger_of(path: Path) -> Ledger:
    """This process's ledger of the file: one, so that threads set aside from the same account."""
    with _LEDGERS_LOCK:
        return _LEDGERS.setdefault(path.absolute(), Ledger(path.absolute()))


def most_tokens(request: Request) -> int:
    """The tokens that a request may take, its prompt estimated on the high side."""
    n_chars = sum(len(message.content) + len(message.role) for message in request.messages)
    prompt = math.ceil(n_chars / FEWEST_CHARS_PER_TOKEN) + TEMPLATE_TOKENS * len(request.messages)
    return prompt + request.sampling.n * request.sampling.max_tokens


def least_tokens(request: Request) -> int:
    """The tokens that a request takes at least, its prompt estimated on the low side."""
    n_chars = sum(len(message.content) for message in request.messages)
    return int(n_chars / MOST_CHARS_PER_TOKEN) + request.sampling.n


def usage_of(request: Request, answer: Generation) -> Usage:
    """What a request took: the engine's own count, else an estimate from the texts. A refused request takes nothing."""
    if answer.usage is not None:
        return answer.usage
    if answer.error is not None:
        return Usage(0, 0)
    prompt = sum(len(message.content) for message in request.messages) / CHARS_PER_TOKEN
    reply = sum(output.n_tokens or math.ceil(len(output.text) / CHARS_PER_TOKEN) for output in answer.outputs)
    return Usage(math.ceil(prompt) + TEMPLATE_TOKENS * len(request.messages), reply)


def entries(content: bytes) -> Iterator[dict[str, int]]:
    """The ledger's lines; one that a crash cut short is left out."""
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def told(run: Path, budget: Budget) -> str | None:
    """One line on what the judges of a run took so far; None where none was asked."""
    path = run / LEDGER
    if not path.is_file():
        return None
    by_labeler: Counter[str] = Counter()
    requests = 0
    for entry in entries(path.read_bytes()):
        by_labeler[str(entry["labeler"])] += entry["prompt_tokens"] + entry["reply_tokens"]
        requests += entry["requests"]
    of = f" of {budget.tokens}" if budget.tokens else ""
    parts = ", ".join(f"{name} {tokens}" for name, tokens in sorted(by_labeler.items()))
    return f"judges took {sum(by_labeler.values())}{of} tokens in {requests} requests ({parts})"


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _append(path: Path, line: dict[str, object]) -> None:
    """Adds the line in one write, so that lines of several processes never mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as descriptor:
        os.write(descriptor, json.dumps(line).encode() + b"\n")


def room(limit: int, taken: int) -> float:
    """What is left of a limit; 0 is no limit."""
    return max(0, limit - taken) if limit else math.inf
