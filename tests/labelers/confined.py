"""Labelers for the tests of isolation: they do with a completion what no labeler should."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelers.types import Abstain, Candidate, Comparison, Completion, Example, Needs, Prompt, Score, Verdict

FILE = Path(__file__).resolve()
_HI = Prompt.of("Say hi")
_LEAKED: list[bytes] = []


def candidates(*texts: str, prompt: Prompt = _HI) -> list[Candidate]:
    """One candidate for each text."""
    return [Candidate(prompt, Completion.of(prompt, text)) for text in texts]


@dataclass(frozen=True)
class Executes:
    """Executes the completion, and scores 1 when `proof` is true afterwards: the place is all that protects."""

    name, version, needs = "executes", "1", Needs()
    examples = (Example(_HI, better="proof = 1", worse="proof = 0"),)

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Sequence[Score | Abstain]:
        return [self._one(c.completion.text) for c in batch]

    def _one(self, text: str) -> Score:
        space: dict[str, Any] = {}
        exec(text, space)
        return Score(float(bool(space.get("proof"))), repr(space.get("proof")))


@dataclass(frozen=True)
class Misbehaves:
    """Scores a completion's length; where its text names a way to misbehave, it does that instead."""

    name, version, needs = "misbehaves", "1", Needs()
    examples = (Example(_HI, better="hi there", worse="hi"),)

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Any:
        labels: list[Any] = []
        for candidate in batch:
            text = candidate.completion.text
            labels += WAYS[text]() if text in WAYS else [Score(float(len(text)))]
        return labels


def _raise() -> Any:
    raise KeyError("poison")


def _hang() -> Any:
    while True:
        continue


def _segfault() -> Any:
    return [Score(float(ctypes.string_at(0) == b""))]


def _leak() -> Any:
    while True:
        _LEAKED.append(
            bytes(1 << 24)
        )  # asked for and never touched: the limit is met at once, however slow the machine is


def _exit() -> Any:
    raise SystemExit(0)


def _exit_at_once() -> Any:
    os._exit(0)


def _fork() -> Any:
    return [Score(float(os.fork()))]


def _print() -> Any:
    print("noise " * 1000, flush=True)
    os.write(1, b'["answers", "", "s", [1e9], [""]]\n')
    return [Score(5.0)]


def _sleep() -> Any:
    time.sleep(600)


WAYS = {
    "raise": _raise,
    "hang": _hang,
    "segfault": _segfault,
    "leak": _leak,
    "exit": _exit,
    "exit at once": _exit_at_once,
    "fork": _fork,
    "print": _print,
    "wrong length": lambda: [Score(1.0), Score(2.0)],
    "wrong type": lambda: [1.0],
    "NaN": lambda: [Score(float("nan"))],
    "10 MB reply": lambda: [Score(1.0, "x" * 10_000_000)],
    "sleep": _sleep,
}
"""What a plugin can do wrong: the completion that causes it -> what happens."""


@dataclass(frozen=True)
class Slow:
    """Takes its time for each completion, and is right."""

    seconds: float = 0.1

    name, version, needs = "slow", "1", Needs()
    examples = (Example(_HI, better="hi there", worse="hi"),)

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Sequence[Score]:
        time.sleep(self.seconds * len(batch))
        return [Score(float(len(c.completion.text))) for c in batch]


@dataclass(frozen=True)
class Works:
    """Takes half a second of a processor for the completion `work`, and is right."""

    name, version, needs = "works", "1", Needs()
    examples = (Example(_HI, better="hi there", worse="hi"),)

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Sequence[Score]:
        until = time.process_time() + 0.5 * sum(c.completion.text == "work" for c in batch)
        while time.process_time() < until:
            continue
        return [Score(float(len(c.completion.text))) for c in batch]


@dataclass(frozen=True)
class Keeps:
    """Keeps each completion in its scratch folder and scores what it reads back."""

    name, version, needs = "keeps", "1", Needs()
    examples = (Example(_HI, better="hi there", worse="hi"),)

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Sequence[Score]:
        return [self._one(c.completion.text, ctx.scratch) for c in batch]

    def _one(self, text: str, scratch: Path) -> Score:
        place = Path(text) if text.startswith("/") else scratch / "kept"
        place.write_text(text)
        return Score(float(len(place.read_text())))


@dataclass(frozen=True)
class Asks:
    """Scores by what the model replies: its length."""

    name, version, needs = "asks", "1", Needs(engine=True)
    examples = (Example(_HI, better="hi there", worse="hi"),)

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Sequence[Score | Abstain]:
        replies = ctx.generate([c.prompt.messages for c in batch], '{"type": "object"}')
        return [Abstain("unavailable", "no reply") if r is None else Score(float(len(r))) for r in replies]


@dataclass(frozen=True)
class AsksUnasked(Asks):
    """Asks a model though its needs do not say so."""

    needs = Needs()


@dataclass(frozen=True)
class Longer:
    """Prefers the longer completion."""

    name, version, needs, symmetric = "longer", "1", Needs(), True
    examples = (Example(_HI, better="hi there", worse="hi"),)

    def compare(self, batch: Sequence[Comparison], ctx: Any) -> Sequence[Verdict]:
        return [Verdict("a" if len(c.a.text) > len(c.b.text) else "b") for c in batch]


@dataclass(frozen=True)
class Connects:
    """Says that it opens connections."""

    name, version, needs = "connects", "1", Needs(network=True)
    examples = (Example(_HI, better="hi there", worse="hi"),)

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Sequence[Score]:
        import socket

        with socket.socket() as made:
            return [Score(float(made.fileno() > 0)) for _ in batch]


@dataclass(frozen=True)
class DiesOnItsExamples(Slow):
    """Ends its process when it sees its own example."""

    def score(self, batch: Sequence[Candidate], ctx: Any) -> Sequence[Score]:
        if any(c.completion.text == "hi there" for c in batch):
            os._exit(1)
        return [Score(float(len(c.completion.text))) for c in batch]
