"""Does a completion shout?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score


@dataclass(frozen=True)
class Shouting:
    """Prefers completions in which few words are written in capitals.

    ## What it prefers
    The score is 1 minus the share of words of two letters or more that are all capitals. `allowed` of them cost nothing.

    ## Why
    It is an example: copy this folder, rename it, and write your own `score`.

    ## Known problems
    - An abbreviation counts as shouting.
    """

    allowed: int = 2
    """So many words in capitals cost nothing: abbreviations."""

    name, version, needs = "shouting", "1", Needs()
    examples = (Example(Prompt.of("Say hi"), better="Hi, NASA!", worse="HI THERE, MY FRIEND"),)
    pass_at = 1.0

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self.calm(c.completion.text) for c in batch]

    def calm(self, text: str) -> Score:
        words = [word for word in text.split() if sum(map(str.isalpha, word)) > 1]
        loud = sum(word.isupper() for word in words)
        return Score(1.0 - max(0, loud - self.allowed) / max(1, len(words)), f"{loud} words in capitals")
