"""Texts of models as HTML: escaped, coloured where they are code or JSON, and compared word by word."""

from __future__ import annotations

import difflib
import html
import json
import re

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from labelers.printable import printable

LONGEST = 20_000
"""Characters of a text that a page shows at once; the rest is a link away."""
LONGEST_COLOURED = 8_000
"""Characters that are coloured: lexers are regular expressions, and the text is a stranger's."""
MOST_WORDS = 3_000
"""Words of both texts that are compared: the time grows with their product."""
LANGUAGES = frozenset(
    {
        "python",
        "py",
        "javascript",
        "js",
        "typescript",
        "ts",
        "json",
        "c",
        "cpp",
        "java",
        "go",
        "rust",
        "bash",
        "sh",
        "sql",
    }
    | {"yaml", "toml", "xml", "html", "css", "ruby", "php"}
)
FENCE = re.compile(r"^```([A-Za-z+]*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^\s*(def |class |import |from \w+ import |return |if .*:$|for .*:$|while .*:$|@\w)", re.MULTILINE)
WORD = re.compile(r"\w+|\s+|[^\w\s]")
_FORMATTER: HtmlFormatter[str] = HtmlFormatter(nowrap=True, classprefix="c-")


def coloured(text: str) -> str:
    """The text as HTML: JSON printed prettily and coloured, code coloured, the rest as it is."""
    if len(text) > LONGEST_COLOURED:
        return escaped(text)
    if (pretty := _pretty(text)) is not None:
        return _highlighted(pretty, "json")
    if FENCE.search(text):
        return _fenced(text)
    return _highlighted(text, "python") if CODE.search(text) else escaped(text)


def compared(left: str, right: str) -> tuple[str, str]:
    """Both texts as HTML with the words marked that the other does not have."""
    words = WORD.findall(left), WORD.findall(right)
    if len(words[0]) + len(words[1]) > MOST_WORDS:
        words = left[:LONGEST].splitlines(keepends=True), right[:LONGEST].splitlines(keepends=True)
    if len(words[0]) + len(words[1]) > MOST_WORDS:
        return escaped(left), escaped(right)
    matcher = difflib.SequenceMatcher(None, *words, autojunk=False)
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, i, j, k, m in matcher.get_opcodes():
        for side, (part, tag) in zip(sides, ((words[0][i:j], "del"), (words[1][k:m], "ins")), strict=True):
            shown = escaped("".join(part))
            side.append(shown if kind == "equal" or not part else f"<{tag}>{shown}</{tag}>")
    return "".join(sides[0]), "".join(sides[1])


def escaped(text: str) -> str:
    """The text as HTML and nothing else: no markup of its own, nothing invisible or reordering, not endless."""
    shown = html.escape(printable(text[:LONGEST]))
    return shown if len(text) <= LONGEST else f"{shown}\n… ({len(text):,} characters)"


def _highlighted(text: str, language: str) -> str:
    made = str(highlight(printable(text), get_lexer_by_name(language, stripnl=False, ensurenl=False), _FORMATTER))
    return made if text.endswith("\n") else made.removesuffix("\n")


def _fenced(text: str) -> str:
    parts, end = [], 0
    for found in FENCE.finditer(text):
        language = found[1].lower()
        body = _highlighted(found[2], language) if language in LANGUAGES else escaped(found[2])
        parts += [escaped(text[end : found.start()]), f'<span class="fence">{body}</span>']
        end = found.end()
    return "".join([*parts, escaped(text[end:])])


def _pretty(text: str) -> str | None:
    """The text as indented JSON; None where it is no object or array."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
