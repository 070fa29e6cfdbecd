"""Our own constraints beside the published ones: counts between two bounds, a start, headings, numbered lists."""

from __future__ import annotations

import re

from labelers import text_rules as count
from labelers.ifeval import check

NO_LIMIT = 1_000_000_000
"""`at_most` where none is given: more than any text has."""

_HEADING = re.compile(r"^ {0,3}#{1,6}(?:[ \t]+\S|$)", re.MULTILINE)
_NUMBERED = re.compile(r"^[ \t]*\d{1,9}[.)][ \t]+\S", re.MULTILINE)


@check("count:characters")
def _characters(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool:
    return at_least <= len(text) <= at_most


@check("count:words")
def _words(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool:
    return at_least <= count.count_words(text) <= at_most


@check("count:sentences")
def _sentences(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool | None:
    fewest, most = count.sentence_bounds(text)
    if at_least <= fewest and most <= at_most:
        return True
    return None if at_least <= most and fewest <= at_most else False


@check("count:lines")
def _lines(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool:
    return at_least <= sum(bool(line.strip()) for line in text.split("\n")) <= at_most


@check("count:paragraphs")
def _paragraphs(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool:
    return at_least <= sum(bool(part.strip()) for part in re.split(r"\n[ \t\r]*+\n", text)) <= at_most


@check("count:bullets")
def _bullets(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool:
    return at_least <= count.count_bullets(text) <= at_most


@check("count:numbered_items")
def _numbered_items(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool:
    return at_least <= sum(1 for _ in _NUMBERED.finditer(text)) <= at_most


@check("count:headings")
def _headings(text: str, at_least: int = 0, at_most: int = NO_LIMIT) -> bool:
    return at_least <= sum(1 for _ in _HEADING.finditer(text)) <= at_most


@check("startend:start_checker")
def _start(text: str, start_phrase: str) -> bool:
    return text.lstrip().startswith(start_phrase)
