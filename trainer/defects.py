"""Why a row would teach nothing, or something wrong. Every kind has one wording, under which it is counted and named."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint import write_text
from trainer.data import UNREADABLE, Encoded, as_messages
from trainer.model import Loaded
from trainer.runlog import say

NOT_UNICODE = "its text is not valid Unicode"
CONTROL = "a control token stands in its text"
MISSING = "prompt, chosen or rejected is missing"
CUT_PROMPT = "the prompt's beginning was cut off to fit max_length (trained on)"
SHOWN = 3  # rows named in a message; refused.jsonl has all


@dataclass
class Refused:
    """How many rows were refused by reason, and each of them: (reason, row, id)."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, reason: str, row: str, name: str = "") -> None:
        """Notes one."""
        self.counts[reason] += 1
        self.rows.append((reason, row, name))

    def tell(self) -> None:
        """Says how many there are of each kind, and which."""
        for reason, count in sorted(self.counts.items()):
            named = [row for kind, row, _ in self.rows if kind == reason]
            more = f" and {count - SHOWN} more (refused.jsonl)" if count > SHOWN else ""
            say(f"{'cut' if reason == CUT_PROMPT else 'refused'} {count}: {reason}; {', '.join(named[:SHOWN])}{more}")

    def write(self, path: Path) -> None:
        """All of them as JSON lines: reason, row, id. Of torchrun's processes the first one writes."""
        if os.environ.get("RANK", "0") != "0":
            return
        lines = [json.dumps({"reason": reason, "row": row, "id": name}) for reason, row, name in self.rows]
        write_text(path, "".join(line + "\n" for line in lines))


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches any text that the tokenizer would turn into a control token."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    names = sorted({*special, *tokenizer.all_special_tokens}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")


def text_defect(texts: Iterable[str], control: re.Pattern[str] | None) -> str | None:
    """Why texts cannot be tokenised as they are meant; None when they can."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            return NOT_UNICODE
        if control is not None and control.search(text):
            return CONTROL
    return None


def contents(value: Any, role: str) -> list[str]:
    """The texts of a conversation's messages."""
    return [message["content"] for message in as_messages(value, role) if isinstance(message.get("content"), str)]


def is_answer(value: Any) -> bool:
    """Whether a completion is a text or one message of the assistant's: what a model learns to say."""
    return isinstance(value, str) or (len(value) == 1 and value[0].get("role") == "assistant")


def row_defect(row: dict[str, Any], control: re.Pattern[str] | None) -> str | None:
    """Why a pair's texts cannot be used; None when they can.

    Args:
        control: what may not stand in them; None when the row's own token ids are used.
    """
    if UNREADABLE in row:
        return NOT_UNICODE
    if not (row["prompt"] and row["chosen"] and row["rejected"]):
        return MISSING
    if not (is_answer(row["chosen"]) and is_answer(row["rejected"])):
        return "a completion is not one assistant message"
    chosen, rejected = contents(row["chosen"], "assistant"), contents(row["rejected"], "assistant")
    if not (chosen and rejected):
        return MISSING
    if chosen == rejected:
        return "chosen and rejected are equal"
    if any(text and not text.strip() for text in (*chosen, *rejected)):
        return "a completion is blank"
    if not any(message.get("role") == "user" for message in as_messages(row["prompt"], "user")):
        return "the prompt has no user message"
    return text_defect([*contents(row["prompt"], "user"), *chosen, *rejected], control)


def weight_of(row: dict[str, Any]) -> float:
    """The pair's weight in the loss; 1 where the file has none."""
    weight = row.get("weight")
    return 1.0 if weight is None else float(weight)


def pair_defect(sides: tuple[Encoded, Encoded], weight: float, loaded: Loaded, max_length: int) -> str | None:
    """Why a pair's token ids cannot be trained on; None when they can."""
    chosen, rejected = sides
    if not all(any(token not in loaded.end_ids for token in side.completion) for side in sides):
        return "a completion is empty"
    if chosen.completion == rejected.completion:
        return "chosen and rejected are equal"
    if not len(chosen.prompt):
        return "the prompt is empty"
    if len(chosen.prompt) + max(len(side.completion) for side in sides) > max_length:
        return "longer than max_length"
    if max(*chosen.prompt, *chosen.completion, *rejected.completion) >= loaded.model.config.vocab_size:
        return "a token id is outside the vocabulary"
    if any(ends_inside(side.completion, loaded.end_ids) for side in sides):
        return "an end token stands inside a completion"
    if all(side.completion[-1] not in loaded.end_ids for side in sides):
        return "both completions are cut off"
    if not (math.isfinite(weight) and weight > 0):
        return "its weight is not positive"
    return None


def ends_inside(completion: Sequence[int], end_ids: Sequence[int]) -> bool:
    """Whether tokens follow an end token."""
    return any(token in end_ids for token in completion[:-1])
