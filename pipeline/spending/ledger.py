"""What a run has spent, in a file beside its shards: what an interrupted run spent counts in the next one as well."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.storage.journal import Journal

if TYPE_CHECKING:  # budget.py imports this module
    from pipeline.spending.budget import Budget

LEDGER = "usage.jsonl"
Kind = Literal["source", "labeler"]


@dataclass(frozen=True)
class Spending:
    """What was asked, or may be.

    Args:
        requests: questions to judges.
        tokens: of judges' prompts and replies.
        sampled_tokens: of sources' prompts and completions.
        money: of both, in the currency of the prices.
    """

    requests: int = 0
    tokens: int = 0
    sampled_tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def is_within(self, budget: Budget) -> bool:
        """Whether no limit is exceeded; 0 is no limit."""
        limits = asdict(budget)
        return all(not limits[name] or spent <= limits[name] for name, spent in asdict(self).items())


class Ledger:
    """The spending of a run, shared by its threads. What a call may cost is set aside before it and settled after it."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._changed = threading.Condition()
        self._spent = Spending()
        self._aside = Spending()
        self._calls = 0

    def spent(self) -> Spending:
        """What the file says, lines of other processes included."""
        with self._changed:
            self._catch_up()
            return self._spent

    def fitting(self, costs: Sequence[Spending], budget: Budget, least: int = 1) -> int:
        """How many of the next requests may be asked, and sets their cost aside; `settle` gives it back.

        Where others have set aside what is left, it waits for what they really take.

        Args:
            costs: what each may take at most.
            least: fewer than these are of no use.

        Returns:
            0 where there is no room for `least` of them.
        """
        with self._changed:
            while (count := self._first(costs, budget)) < least and self._calls:
                self._changed.wait()
            if count < least:
                return 0
            self._aside += sum(costs[:count], Spending())
            self._calls += 1
            return count

    def settle(self, aside: Spending, line: dict[str, Any] | None) -> None:
        """Replaces what was set aside by what the requests took: a line for the file, None where none was asked."""
        with self._changed:
            self._calls -= 1
            self._aside = self._aside - aside if self._calls else Spending()  # sums of money leave dust
            if line:
                self._journal.add(json.dumps(line).encode())
            self._changed.notify_all()

    def _first(self, costs: Sequence[Spending], budget: Budget) -> int:
        """How many requests from the front there is room for."""
        self._catch_up()
        total = self._spent + self._aside
        for count, cost in enumerate(costs):
            total += cost
            if not total.is_within(budget):
                return count
        return len(costs)

    def _catch_up(self) -> None:
        self._spent = sum(map(spending, entries(self._journal.news())), self._spent)


_LEDGERS: dict[Path, Ledger] = {}
_LEDGERS_LOCK = threading.Lock()


def ledger_of(path: Path) -> Ledger:
    """This process's ledger of the file: one, so that threads set aside from the same account."""
    with _LEDGERS_LOCK:
        return _LEDGERS.setdefault(path.absolute(), Ledger(path.absolute()))


def spending(entry: dict[str, Any]) -> Spending:
    """What a line of the file says."""
    tokens = entry["prompt_tokens"] + entry["reply_tokens"]
    if entry["kind"] == "source":
        return Spending(sampled_tokens=tokens, money=entry["money"])
    return Spending(entry["requests"], tokens, money=entry["money"])


def entries(content: bytes) -> Iterator[dict[str, Any]]:
    """The ledger's lines; one that a crash cut short is left out."""
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def told(run: Path, budget: Budget) -> list[str]:
    """What a run took so far, a line each for its judges, its sources and the money; none where nothing was metered."""
    lines = list(entries(Journal(run / LEDGER).news()))
    total = sum(map(spending, lines), Spending())
    said = []
    if judged := _by_name(lines, "labeler"):
        of = f" of {budget.tokens}" if budget.tokens else ""
        said.append(f"judges took {total.tokens}{of} tokens in {total.requests} requests ({judged})")
    if sampled := _by_name(lines, "source"):
        of = f" of {budget.sampled_tokens}" if budget.sampled_tokens else ""
        said.append(f"sources took {total.sampled_tokens}{of} tokens ({sampled})")
    if total.money:
        said.append(f"that cost {total.money:.4g}{f' of {budget.money:g}' if budget.money else ''}")
    return said


def _by_name(lines: Sequence[dict[str, Any]], kind: Kind) -> str:
    tokens: Counter[str] = Counter()
    for entry in lines:
        if entry["kind"] == kind:
            tokens[str(entry["name"])] += entry["prompt_tokens"] + entry["reply_tokens"]
    return ", ".join(f"{name} {n}" for name, n in sorted(tokens.items()))
