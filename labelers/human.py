"""Which of two completions did people prefer?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labelers.protocol import Context
from labelers.types import Abstain, Comparison, Completion, Example, Needs, Prompt, Verdict

Sides = tuple[str, str]
"""Two completions' ids, the smaller first."""
_EXAMPLE = Example(Prompt.of("Say hi"), better="hi", worse="x" * 200)


@dataclass(frozen=True)
class Human:
    """Prefers what most of the people who compared the two completions preferred; it asks nobody.

    ## What it prefers
    Verdicts are read from `path`: JSON lines as docs/format.md, "Human verdicts", lays them out. Of one reviewer's verdicts on
    two completions the last counts. More than half of the reviewers decide; without such a majority it is a tie. Only
    completions that people compared are matched up, and one that nobody compared is an abstention.

    ## Why
    People are what the other labelers are measured against, and some hundred verdicts show whether a judge can be trusted.

    ## Example
    Two of three reviewers prefer a, one prefers b: a.

    ## Known problems
    - Ids are hashes of prompt, source, seed and text: verdicts fit the very completions that were shown, no others.
    - Reviewers are told apart by name alone, and nothing here knows a careless one.
    """

    path: str = ""
    """The file of verdicts; empty: none but the checked example's."""

    name = "human"
    version = "1"
    needs = Needs()
    symmetric = True
    examples = (_EXAMPLE,)
    _votes: Mapping[Sides, Counter[str]] = field(
        init=False, repr=False, compare=False, hash=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        # Read here, not when asked: a labeler answers where it can open no file.
        object.__setattr__(self, "_votes", _read(Path(self.path)) if self.path else _of_example())

    @property
    def reads(self) -> tuple[Path, ...]:
        """The file that decides the verdicts, for the fingerprint."""
        return (Path(self.path),) if self.path else ()

    def judged(self) -> frozenset[Sides]:
        """The match-ups that people judged: the pipeline asks about these and no others."""
        return frozenset(self._votes)

    def compare(self, batch: Sequence[Comparison], ctx: Context) -> Sequence[Verdict | Abstain]:
        return [self._verdict(comparison.a.id, comparison.b.id) for comparison in batch]

    def _verdict(self, a: str, b: str) -> Verdict | Abstain:
        votes = self._votes.get(_sides(a, b))
        if not votes:
            return Abstain("not_applicable", "nobody compared these two")
        said = ", ".join(f"{n} of {votes.total()} {_word(best, a)}" for best, n in sorted(votes.items()))
        for best, n in votes.items():
            if best and 2 * n > votes.total():
                return Verdict("a" if best == a else "b", said)
        return Verdict("tie", said)


def _of_example() -> dict[Sides, Counter[str]]:
    better, worse = (Completion.of(_EXAMPLE.prompt, text).id for text in (_EXAMPLE.better, _EXAMPLE.worse))
    return {_sides(better, worse): Counter({better: 1})}


def _word(best: str, a: str) -> str:
    return "tie" if not best else "for a" if best == a else "for b"


def _sides(a: str, b: str) -> Sides:
    return (a, b) if a <= b else (b, a)


def _read(path: Path) -> dict[Sides, Counter[str]]:
    """The last verdict of each reviewer on each two completions, counted: the preferred id, or empty for a tie."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"path {str(path)!r} cannot be read: {error}; hint: a file of JSON lines") from error
    last: dict[tuple[Sides, str], str] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            sides, reviewer, best = _row(line, f"{path}:{number}")
            last[sides, reviewer] = best
    votes: dict[Sides, Counter[str]] = {}
    for (sides, _), best in last.items():
        votes.setdefault(sides, Counter())[best] += 1
    return votes


def _row(line: str, where: str) -> tuple[Sides, str, str]:
    try:
        row = json.loads(line)
        a, b, prefers = row["a_id"], row["b_id"], row["prefers"]
        reviewer = row.get("reviewer", "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: is no verdict ({error}); hint: docs/format.md, Human verdicts") from error
    if not all(isinstance(value, str) for value in (a, b, reviewer)) or a == b:
        raise ValueError(f"{where}: a_id, b_id and reviewer are texts, and the ids of two completions")
    if prefers not in ("a", "b", "tie"):
        raise ValueError(f"{where}: prefers is {prefers!r}; hint: one of a, b, tie")
    return _sides(a, b), reviewer, {"a": a, "b": b, "tie": ""}[prefers]
