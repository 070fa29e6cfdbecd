"""JSON lines in, labels out: a pointwise labeler on a reader's own rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from labelers.errors import LabelerError
from labelers.strict_json import NotJson, Undecided, read_json
from labelers.types import Abstain, Candidate, Completion, Message, Prompt, Score

BATCH_ROWS = 64
"""Rows per call; small, so that output follows input soon."""


class BadRow(LabelerError):
    """A line is not a row; the text names the line."""


def label_lines(
    lines: Iterable[bytes], score: Callable[[Sequence[Candidate]], Sequence[Score | Abstain]]
) -> Iterator[str]:
    """One JSON line per input line, in order. What was read before a bad line is still labelled.

    Args:
        score: labels a batch, one label a candidate (labelers.sandbox.Worker.score).

    Raises:
        BadRow: naming the line.
        WrongAnswers: see `score`.
    """
    rows = _rows(lines)
    failure: BadRow | None = None
    while failure is None:
        batch: list[Candidate] = []
        try:
            for row in itertools.islice(rows, BATCH_ROWS):
                batch.append(row)
        except BadRow as error:
            failure = error
        if not batch and failure is None:
            return
        yield from (_line(outcome) for outcome in score(batch))
    raise failure


def _rows(lines: Iterable[bytes]) -> Iterator[Candidate]:
    blank_at = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            blank_at = blank_at or number
            continue
        if blank_at:
            raise BadRow("the line is blank", where=f"line {blank_at}", hint="one JSON object a line; remove it")
        yield _row(line, number)


def _row(line: bytes, number: int) -> Candidate:
    where = f"line {number}"
    form = 'write {"prompt": text or messages, "completion": text, "target"?, "metadata"?}'
    try:
        row = read_json(line.decode("utf-8").strip())
    except (UnicodeDecodeError, NotJson, Undecided) as error:
        raise BadRow(f"not a JSON object: {error}", where=where, hint=form) from error
    if not isinstance(row, dict):
        raise BadRow(f"it is {type(row).__name__}, not an object", where=where, hint=form)
    if missing := [key for key in ("prompt", "completion") if key not in row]:
        raise BadRow(f"{missing[0]!r} is missing", where=where, hint=form)
    if not isinstance(row["completion"], str):
        raise BadRow(f"completion is {type(row['completion']).__name__}, not text", where=where, hint=form)
    try:
        prompt = _prompt(row)
    except (TypeError, ValueError, KeyError) as error:
        raise BadRow(f"the prompt is wrong: {error}", where=where, hint=form) from error
    return Candidate(prompt, Completion.of(prompt, row["completion"]))


def _prompt(row: dict[str, Any]) -> Prompt:
    """Raises: TypeError, ValueError, KeyError when it is neither text nor messages."""
    given = row["prompt"]
    if isinstance(given, str):
        messages = [Message("user", given)]
    elif isinstance(given, list) and all(isinstance(m, dict) for m in given):
        messages = [Message(m["role"], m["content"]) for m in given]
    else:
        raise TypeError(f"{type(given).__name__}; hint: text, or a list of {{role, content}}")
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise TypeError("metadata is not an object")
    return Prompt.make(messages, row.get("target"), metadata)


def _line(outcome: Score | Abstain) -> str:
    value, abstain = (outcome.value, None) if isinstance(outcome, Score) else (None, outcome.kind)
    return json.dumps({"value": value, "abstain": abstain, "reason": outcome.reason}, ensure_ascii=True)
