"""What every family gives: a question, its target, and one answer of each kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """One question and two answers to it.

    Args:
        target: what the family's labeler needs to judge an answer; any JSON value.
        good: an answer that passes.
        bad: an answer that fails, in one of the ways models err.
        flaw: the name of that way.
        origin: where the text was cut from; empty when this project wrote it.
    """

    prompt: str
    target: Any
    good: str
    bad: str
    flaw: str
    origin: str = ""


Family = Callable[[random.Random], Task]
Spoil = Callable[[random.Random, str], str]

CHATTER = (
    "Sure! Here it is:\n",
    "Sure, here you go:\n",
    "Of course! This should work:\n",
    "Certainly. Here is what you asked for:\n",
    "Great question! Let me help.\n",
    "I would be happy to help.\n",
)


def chatter(rng: random.Random) -> str:
    """The polite opening that a program cannot read."""
    return rng.choice(CHATTER)


def weighted(rng: random.Random, choices: Sequence[tuple[str, int]]) -> str:
    """One name, drawn by its weight."""
    return rng.choices([name for name, _ in choices], [weight for _, weight in choices])[0]
