"""Whether a class has the shape of a labeler, and if not, which part is missing."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from labelers.errors import WrongShape
from labelers.types import Example, Needs

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PARTS = {
    "name": 'name = "short"',
    "version": 'version = "1"',
    "needs": "needs = Needs()",
    "examples": 'examples = [Example(Prompt.of("..."), better="...", worse="...")]',
}


def check_class(labeler: Any, use: str) -> None:
    """Nothing, for a frozen dataclass with name, version, needs, examples and one of score, compare.

    Raises:
        WrongShape: naming the first part that is missing or wrong, and the line to add.
    """
    if not isinstance(labeler, type):
        raise WrongShape(f"it is {type(labeler).__name__}, not a class", where=use, hint="name a class")
    if not dataclasses.is_dataclass(labeler):
        raise WrongShape("it is not a dataclass", where=use, hint="put @dataclass(frozen=True) above the class")
    if not labeler.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise WrongShape("it is not frozen", where=use, hint="write @dataclass(frozen=True)")
    own = {f.name for f in dataclasses.fields(labeler)}
    for part, line in _PARTS.items():
        if part not in own and not hasattr(labeler, part):
            raise WrongShape(f"it has no {part}", where=use, hint=f"add: {line}")
    _check_methods(labeler, use)


def _check_methods(labeler: type, use: str) -> None:
    scores, compares = callable(getattr(labeler, "score", None)), callable(getattr(labeler, "compare", None))
    if scores and compares:
        raise WrongShape("it has both score and compare", where=use, hint="make two labelers of it")
    if not scores and not compares:
        raise WrongShape(
            "it has no method score (grades one completion) or compare (says which of two is better)",
            where=use,
            hint="add: def score(self, batch, ctx): return [Score(...) for c in batch]",
        )
    if compares and not hasattr(labeler, "symmetric"):
        raise WrongShape(
            "it has compare but no symmetric", where=use, hint="add: symmetric = False (both orders are asked)"
        )


def check_instance(labeler: Any, use: str) -> None:
    """Nothing, when the attributes have their types.

    Raises:
        WrongShape: naming the attribute, its type and the right one.
    """
    for part in ("name", "version"):
        if not isinstance(getattr(labeler, part), str):
            raise WrongShape(f"{part} is {type(getattr(labeler, part)).__name__}", where=use, hint="make it text")
    if not _NAME.fullmatch(labeler.name):
        raise WrongShape(
            f"name is {labeler.name!r}", where=use, hint="letters, digits, - and _: folders are named by it"
        )
    if not isinstance(labeler.needs, Needs):
        raise WrongShape(f"needs is {type(labeler.needs).__name__}", where=use, hint="write needs = Needs()")
    examples = labeler.examples
    if not isinstance(examples, Sequence) or not all(isinstance(e, Example) for e in examples):
        raise WrongShape("examples is not a list of Example", where=use, hint=f"write {_PARTS['examples']}")
    if hasattr(labeler, "compare") and not isinstance(labeler.symmetric, bool):
        raise WrongShape("symmetric is not True or False", where=use, hint="write symmetric = False")
    _check_pass_at(getattr(labeler, "pass_at", None), use)


def _check_pass_at(pass_at: Any, use: str) -> None:
    if pass_at is None:
        return
    is_number = isinstance(pass_at, int | float) and not isinstance(pass_at, bool)
    if not is_number or not math.isfinite(pass_at):
        raise WrongShape(f"pass_at is {pass_at!r}", where=use, hint="a finite number, or leave it out")
