"""The part of a completion that is judged: a fenced block or the whole text. One rule for every labeler that parses."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

Extract = Literal["auto", "whole", "fenced"]

_OPENING = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*$", re.MULTILINE)


def extract(text: str, rule: Extract, tags: Collection[str]) -> str | None:
    """The text to judge, or None where the rule asks for a fenced block and there is none.

    Args:
        rule: `whole` the text as it is; `fenced` the first fenced block; `auto` the first fenced block if there is one,
            else the whole text. A block with one of `tags` (or no tag) goes before blocks of other languages. A fence
            that is never closed runs to the end, as in CommonMark; the fence's own indentation is taken off its lines.
        tags: the language's names behind the opening fence, in lower case.
    """
    if rule == "whole":
        return text
    blocks = fenced_blocks(text)
    fitting = [body for tag, body in blocks if not tag or tag.lower() in tags]
    if blocks:
        return fitting[0] if fitting else blocks[0][1]
    return text if rule == "auto" else None


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(tag, body) of each fenced block, in order."""
    if "```" not in text and "~~~" not in text:  # most answers: a tenth of the pattern's time
        return []
    text = text.replace("\r\n", "\n")
    blocks, position = [], 0
    while opening := _OPENING.search(text, position):
        indent, fence, tag = opening.groups()
        start = min(opening.end() + 1, len(text))
        closing = _closing(fence).search(text, start)
        end, position = (closing.start(), closing.end()) if closing else (len(text), len(text))
        blocks.append((tag, _without_indent(text[start:end], indent)))
    return blocks


def _closing(fence: str) -> re.Pattern[str]:
    """The line that closes `fence`: the same character, at least as often, and nothing else."""
    return re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$", re.MULTILINE)


def _without_indent(body: str, indent: str) -> str:
    return re.sub(rf"^{re.escape(indent)}", "", body, flags=re.MULTILINE) if indent else body
