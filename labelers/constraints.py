"""The constraints of a prompt, out of its target or its metadata: our own form, IFEval's, and RLVR-IF's."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

from labelers.strict_json import NotJson, Undecided, read_json
from labelers.types import Prompt

MAX_TEXT = 100_000
"""A target that is text is read as JSON, or as Python's literal (open-instruct writes those), up to this many characters."""
Constraint = tuple[str, dict[str, Any]]
"""An id and the arguments that are not null."""


class UnreadableConstraints(ValueError):
    """They are meant as constraints but cannot be read."""


def constraints_of(prompt: Prompt) -> list[Constraint]:
    """The constraints of the target, else those of the metadata; none where both are of another kind.

    Raises:
        UnreadableConstraints: lists of different lengths, an id that is no text ...
    """
    return _read(prompt.target) or _read(dict(prompt.metadata)) or _read(prompt.metadata.get("ground_truth"))


def split(constraint: Any) -> Constraint:
    """The id and the arguments that are not null; whole floats (Parquet makes them of integers) as integers."""
    match constraint:
        case {"id": str(identifier), **others} | {"func_name": str(identifier), **others}:
            return identifier, {str(name): _whole(value) for name, value in others.items() if value is not None}
        case _:
            raise UnreadableConstraints('a constraint is {"id": text, ...} or {"func_name": text, ...}')


def _read(given: Any) -> list[Constraint]:
    if isinstance(given, str):
        given = _from_text(given)
    match given:
        case {"instruction_id_list": identifiers, **others} | {"instruction_id": list() as identifiers, **others}:
            return _listed(identifiers, others.get("kwargs"))
        case {"func_name": _} | {"id": _}:
            return [split(given)]
        case list():
            return [constraint for each in given for constraint in _read_one(each)]
        case _:
            return []


def _read_one(given: Any) -> list[Constraint]:
    """One of a list: a constraint, IFEval's lists, or either as text."""
    found = _read(given) if isinstance(given, str | Mapping) else []
    return found or [split(given)]


def _listed(identifiers: Any, arguments: Any) -> list[Constraint]:
    if not isinstance(identifiers, list) or not isinstance(arguments, list):
        raise UnreadableConstraints("instruction_id_list and kwargs are not both lists")
    if len(identifiers) != len(arguments):
        raise UnreadableConstraints(f"{len(identifiers)} ids but {len(arguments)} kwargs")
    if not all(each is None or isinstance(each, Mapping) for each in arguments):
        raise UnreadableConstraints("kwargs is not a list of objects")
    return [split({**(a or {}), "id": i}) for i, a in zip(identifiers, arguments, strict=True)]


def _from_text(text: str) -> Any:
    """The object or list that the text is, as JSON or as a Python literal; None for any other text."""
    text = text.strip()
    if not text.startswith(("{", "[")) or len(text) > MAX_TEXT:
        return None
    for read, refusals in (
        (read_json, (NotJson, Undecided)),
        (ast.literal_eval, (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)),
    ):
        with contextlib.suppress(*refusals):
            return read(text)
    return None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
