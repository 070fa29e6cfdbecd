"""Does a completion parse as JSON?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelers.fences import Extract, extract
from labelers.protocol import Context
from labelers.strict_json import NotJson, Undecided, read_json
from labelers.types import Abstain, Candidate, Example, Needs, Prompt, Score

_CITY = Prompt.of("Give me the name and the population of Paris as JSON.")
_EXAMPLES = (
    Example(_CITY, better='{"name": "Paris", "population": 2100000}', worse="{'name': 'Paris', 'population': 2100000}"),
    Example(_CITY, better='{"name": "Paris"}', worse='{"name": "Paris", "population": NaN}'),
)


@dataclass(frozen=True)
class Parses:
    """Prefers completions that are valid JSON (score 1) to those that are not (score 0).

    ## What it prefers
    One JSON value (RFC 8259) and nothing else: no NaN or Infinity, no key twice, no text behind it, no lone surrogate.
    Each of these can be allowed by an option.

    ## Why
    `json.loads` accepts NaN, Infinity and duplicate keys, and what it accepts another parser refuses. A program that
    reads the answer needs all of it to parse, so one superfluous word is a failure.

    ## Example
    `{"a": 1}` scores 1; `{'a': 1}`, `{"a": NaN}`, `{"a": 1, "a": 2}` and `Sure! {"a": 1}` score 0.

    ## Known problems
    - A lone number or word (`42`, `true`) is valid JSON; ask for an object with `top_level = "object"`.
    - Nested deeper than 200 levels is not judged (abstains), unless its brackets do not match: then it scores 0.
    - A byte order mark at the start scores 0, as RFC 8259 forbids senders to write one.
    """

    format: Literal["json"] = "json"
    """The format; only JSON for now."""
    extract: Extract = "auto"
    """Where the text is: `auto` the first fenced block, else all of it; `whole`; `fenced` (no block scores 0)."""
    top_level: Literal["any", "object", "array"] = "any"
    """What the outermost value must be."""
    allow_nan: bool = False
    """Accept NaN, Infinity and -Infinity."""
    allow_duplicate_keys: bool = False
    """Accept a key that is there twice in one object."""
    allow_trailing_text: bool = False
    """Accept text behind the first value."""
    max_chars: int = 1_048_576
    """Longer text is not judged: 1 MiB, the size cap in isolation.md, layer L0."""

    name = "parses"
    version = "1"
    needs = Needs()
    examples = _EXAMPLES
    pass_at = 1.0

    def __post_init__(self) -> None:
        if self.max_chars < 1:
            raise ValueError(f"max_chars is {self.max_chars}; hint: at least 1")

    def score(self, batch: Sequence[Candidate], ctx: Context) -> Sequence[Score | Abstain]:
        return [self._judge(candidate.completion.text) for candidate in batch]

    def _judge(self, completion: str) -> Score | Abstain:
        text = extract(completion, self.extract, ("json",))
        if text is None:
            return Score(0.0, "there is no fenced block")
        if len(text) > self.max_chars:
            return Abstain("not_applicable", f"{len(text)} characters, more than max_chars={self.max_chars}")
        try:
            value = self._read(text)
        except NotJson as error:
            return Score(0.0, str(error))
        except Undecided as error:
            return Abstain("not_applicable", str(error))
        if self.top_level != "any" and not isinstance(value, dict if self.top_level == "object" else list):
            return Score(0.0, f"the outermost value is not an {self.top_level}")
        return Score(1.0, "it parses")

    def _read(self, text: str) -> Any:
        return read_json(
            text,
            allow_nan=self.allow_nan,
            allow_duplicate_keys=self.allow_duplicate_keys,
            allow_trailing_text=self.allow_trailing_text,
            need_numbers=False,
        )
