"""How long is a completion, and how far from what was wanted?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Completion, Example, Needs, Prompt, Score

Unit = Literal["characters", "words", "lines", "tokens"]

_WORD = re.compile(r"\S+")
_HI = Prompt.of("Say hi.")
_EXAMPLES = (
    Example(_HI, better="Hi!", worse="Hi there, and a very good morning to you and to all of yours!"),
    Example(_HI, better="Hello, you.", worse="Hello, hello, hello to everybody who is here today or was here before."),
)


@dataclass(frozen=True)
class Length:
    """Prefers shorter completions, or those near a `goal` (score: from 0, the best, down to -1).

    ## What it prefers
    The length n is counted in `unit`. Without a goal the score is -n/(n + scale): longer is always worse, by less and less.
    With a `goal` it is -d/(d + scale), where d is how far n lies outside goal - slack ... goal + slack. `per_prompt` reads
    the goal from the prompt's target (a whole number) or from its metadata key `length_goal`. A blank completion gets -1, so
    that silence never wins.

    ## Why
    Trained on pairs, a policy learns to be long, as judges and most sets favour length. This is meant as a penalty: put it
    beside another labeler, with a weight. The score is bounded, so that one endless text cannot outweigh all else.

    ## Example
    With `goal = 100, unit = "words", scale = 50`: 100 words score 0, 150 words -0.5, 50 words -0.5.

    ## Known problems
    - Words are runs without white space: Chinese and Japanese text is nearly one word; count characters there.
    - `tokens` are those that were sampled, the end token too; completions by people have none and abstain.
    - Alone it says nothing about quality.
    """

    unit: Unit = "characters"
    """What is counted: `characters`, `words` (between white space), `lines` that are not blank, sampled `tokens`."""
    goal: int | None = None
    """The wanted length; null: the shorter the better."""
    slack: int = 0
    """How far from the goal is still perfect."""
    scale: float = 1000.0
    """The length, or distance from the goal, that scores -0.5: a page of text, in characters."""
    per_prompt: bool = False
    """Read the goal from each prompt: its target, a whole number, or its metadata's `length_goal`."""

    name = "length"
    version = "1"
    needs = Needs()
    examples = _EXAMPLES

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.slack < 0 or (self.goal is not None and self.goal < 0):
            raise ValueError("scale must be above 0, slack and goal from 0")
        if self.per_prompt and self.goal is not None:
            raise ValueError("goal and per_prompt exclude each other; hint: set one")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self._judge(candidate) for candidate in batch]

    def _judge(self, candidate: Candidate) -> Score | Abstain:
        goal = _goal_of(candidate.prompt) if self.per_prompt else self.goal
        if self.per_prompt and goal is None:
            return Abstain("not_applicable", "the prompt has no goal: a whole number as target or metadata.length_goal")
        length = _length(candidate.completion, self.unit)
        if length is None:
            return Abstain("not_applicable", "the number of tokens is not known")
        if not candidate.completion.text.strip():
            return Score(-1.0, "it is blank")
        away = length if goal is None else max(0, abs(length - goal) - self.slack)
        return Score(0.0 - away / (away + self.scale), f"{length} {self.unit}")


def _length(completion: Completion, unit: Unit) -> int | None:
    text = completion.text
    match unit:
        case "characters":
            return len(text)
        case "words":
            return sum(1 for _ in _WORD.finditer(text))
        case "lines":
            return sum(1 for line in text.split("\n") if line.strip())
        case "tokens":
            return completion.n_tokens or None


def _goal_of(prompt: Prompt) -> int | None:
    """A whole number from 0, as target or metadata; None otherwise."""
    for given in (prompt.metadata.get("length_goal"), prompt.target):
        goal: Any = int(given) if isinstance(given, float) and given.is_integer() else given
        if isinstance(goal, int) and not isinstance(goal, bool) and 0 <= goal < 10**9:
            return goal
    return None
