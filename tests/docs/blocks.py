"""The code blocks of the pages, and what a page says of each in a comment above it.

`<!-- not run: WHY -->` why a block is not run or checked; `<!-- file: NAME -->` the reader is to save it under this name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ("README.md", "CONTRIBUTING.md", "data/README.md")
COMMENT = re.compile(r"<!--\s*(not run|file):\s*(.+?)\s*-->")


@dataclass(frozen=True)
class Block:
    """A block of code as it stands on a page.

    Args:
        language: the word behind the fence; empty where there is none.
        not_run: why it is not run; empty: it is.
        file: the name under which the reader is told to save it.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""
    file: str = ""

    @property
    def where(self) -> str:
        """For messages: the page and the line."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page that a reader is meant to read, by its path in the repository."""
    return [*WRITTEN, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    return blocks_of((ROOT / page).read_text(encoding="utf-8"), page)


def blocks_of(text: str, page: str = "") -> list[Block]:
    """The blocks of a page's text, in order."""
    found, said = [], {}
    for token in MarkdownIt().parse(text):
        if token.type in ("fence", "code_block"):
            line = (token.map or [0])[0] + 1
            why, file = said.get("not run", ""), said.get("file", "")
            found.append(Block(page, line, token.info.strip(), token.content, why, file))
        said = dict(COMMENT.findall(token.content)) if token.type == "html_block" else {}
    return found
