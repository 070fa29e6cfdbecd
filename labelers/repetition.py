"""How much of a completion says again what it has said before?"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from labelers.protocol import Context
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

MIN_BYTES = 100
"""zlib's own frame and tables make shorter texts look incompressible: they count as not repeated."""

_WORD = re.compile(r"\w+|[^\w\s]")
_SEA = Prompt.of("Describe the sea.")
_EXAMPLES = (
    Example(
        _SEA,
        better="The sea is wide and blue. At dawn it lies still; by noon the wind has combed it into small white waves, "
        "and at night only its sound is left.",
        worse="The sea is wide and blue.\n" * 20,
    ),
)


@dataclass(frozen=True)
class Repetition:
    """Prefers completions that do not repeat themselves (score: minus the share that is repeated, from 0 down to -1).

    ## What it prefers
    With `measure = "ngrams"` the share of runs of `n` words that have been there before: a text without any scores 0, one word
    written a hundred times nearly -1. With `"lines"` the same for whole lines that are not blank. With `"compression"`, by how
    much zlib shrinks the text below `usual_ratio` of its bytes, which also finds repetition inside long words and in languages
    without spaces. Letters' case does not matter. A blank completion gets -1, so that silence never wins.

    ## Why
    Loops are the commonest way for sampled text to go wrong at low temperature or after too much training, and no other
    labeler sees them in prose. This is meant as a penalty: put it beside another labeler, with a weight.

    ## Example
    `n = 2`: `a b a b` has the runs `a b`, `b a`, `a b`: one of three was there before, the score is -0.333.

    ## Known problems
    - Tables, code, poems and lists repeat for good reasons; raise `n`, or leave it out for such prompts.
    - Text shorter than `n` words cannot repeat and scores 0.
    - Words are runs of letters and digits: Chinese and Japanese text is nearly one word; use `compression` there.
    """

    measure: Literal["ngrams", "lines", "compression"] = "ngrams"
    """What counts as repeated: runs of words, whole lines, or what zlib can take out."""
    n: int = 3
    """How many words make a run: 3, as in diversity measures of dialogue models (distinct-n)."""
    usual_ratio: float = 0.4
    """Compressed size of ordinary English by zlib, as a share: what lies above it is not repetition."""
    max_chars: int = 1_048_576
    """Longer text is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    name = "repetition"
    version = "1"
    needs = Needs()
    examples = _EXAMPLES

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_chars < 1 or not 0 < self.usual_ratio <= 1:
            raise ValueError("n and max_chars are whole numbers from 1, usual_ratio is above 0 and at most 1")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self._judge(candidate.completion.text) for candidate in batch]

    def _judge(self, text: str) -> Score | Abstain:
        if len(text) > self.max_chars:
            return Abstain("not_applicable", f"{len(text)} characters, more than max_chars={self.max_chars}")
        if not text.strip():
            return Score(-1.0, "it is blank")
        text = text.lower()
        match self.measure:
            case "ngrams":
                share = _repeated(_runs(_WORD.findall(text), self.n))
            case "lines":
                share = _repeated(line.strip() for line in text.split("\n") if line.strip())
            case "compression":
                share = _squeezed(text, self.usual_ratio)
        return Score(0.0 - share, f"{share:.1%} is repeated")


def _runs(words: list[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _repeated(parts: Iterable[object]) -> float:
    """The share of parts that are equal to an earlier one."""
    total, different = 0, set()
    for part in parts:
        total += 1
        different.add(part)
    return 1 - len(different) / total if total else 0.0


def _squeezed(text: str, usual_ratio: float) -> float:
    """By how much the compressed size is below the usual one, from 0 to 1."""
    data = text.encode(errors="surrogatepass")
    if len(data) < MIN_BYTES:
        return 0.0
    return max(0.0, 1 - len(zlib.compress(data, 6)) / len(data) / usual_ratio)
