"""Tables of GitHub's Markdown, by markdown-it; only blocks are parsed, the text inside the cells is not."""

from __future__ import annotations

import functools
import re
from typing import Any

from labelers.malformed import Malformed, Undecided, check_encodable, check_not_blank

MAX_PIPES = 100_000
"""150,000 rows of three pipes take 4 s."""
_PIPE = re.compile(r"(?<!\\)\|")


def kind_of_markdown_table(text: str, *, allow_other_text: bool = False) -> str:
    """`table`, for text that is one table whose rows all have as many cells as its header.

    Args:
        allow_other_text: other blocks may stand around; then the first table is the one that counts.

    Raises:
        Malformed: there is no table, or something else beside it, or a row of another length (Markdown cuts or fills those).
        Undecided: over 100,000 pipes.
    """
    check_encodable(text)
    check_not_blank(text)
    if text.count("|") > MAX_PIPES:
        raise Undecided(f"over {MAX_PIPES} pipes")
    tokens = [token for token in _parser().parse(text) if token.level == 0 and token.nesting != -1]
    tables = [token for token in tokens if token.type == "table_open"]
    if not tables:
        raise Malformed("there is no table")
    if len(tokens) > 1 and not allow_other_text:
        raise Malformed("there is something beside the table")
    first, last = tables[0].map
    lines = text.split("\n")[first:last]
    n_cells = _count_cells(lines[0])
    for number, line in enumerate(lines, start=first + 1):
        if _count_cells(line) != n_cells:
            raise Malformed(f"line {number} has {_count_cells(line)} cells, the header has {n_cells}")
    return "table"


def _count_cells(line: str) -> int:
    """Cells between pipes that no backslash stands before; a pipe at either end is a frame."""
    cells = _PIPE.split(line.strip())
    return len(cells) - (len(cells) > 1 and not cells[0]) - (len(cells) > 1 and not cells[-1])


@functools.cache
def _parser() -> Any:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("zero").enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser
