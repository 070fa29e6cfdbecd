"""Counting in prose for the format labeler: words, sentences, paragraphs. Every function takes linear time."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|St|Prof|Capt|Lt|Inc|Ltd|Jr|Sr|Co|vs|etc|e\.g|i\.e|Ph\.D|U\.S|[0-9]+)$"
)
_TERMINATOR = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]*_]*(?=\s|$)")


def count_words(text: str) -> int:
    """How many runs of letters, digits and underscores (IFEval's rule, `\\w+`)."""
    return len(_WORD.findall(text))


def sentence_bounds(text: str) -> tuple[int, int]:
    """The fewest and the most sentences that a sensible reader counts.

    The most: a sentence ends at each . ! ? before white space, and at each line end. The fewest: it does not end there
    when a small letter follows, behind an abbreviation, an initial or a number (`1.`), nor at a line end.
    """
    fewest = most = 0
    for line in text.split("\n"):
        ends = list(_TERMINATOR.finditer(line))
        tail = line[ends[-1].end() :] if ends else line
        most += len(ends) + bool(_WORD.search(tail))
        fewest += sum(_surely_ends(line, end) for end in ends)
    return min(max(fewest, int(bool(text.strip()))), most), most


def _surely_ends(line: str, end: re.Match[str]) -> bool:
    following = line[end.end() : end.end() + 40].lstrip()
    if following[:1].islower():
        return False
    is_full_stop = end.group().startswith(".") and not end.group().startswith("..")
    return not (is_full_stop and _ABBREVIATION.search(line[max(0, end.start() - 12) : end.start()]))


def capital_word_bounds(text: str) -> tuple[int, int]:
    """The fewest and the most words in capitals: compounds (`A-B`, `I'M`, `U.S.`) as one word, or as their parts."""
    compounds = [word for word in text.split() if word.isupper()]
    return len(compounds), max(len(compounds), sum(part.isupper() for part in _WORD.findall(text)))


def count_bullets(text: str) -> int:
    """Lines that start with `*` (not `**`) or `-`, as IFEval counts them (a rule `---` is one)."""
    stars = re.findall(r"^[^\S\n]*\*[^*].*$", text, flags=re.MULTILINE) if "*" in text else []
    dashes = re.findall(r"^[^\S\n]*-.*$", text, flags=re.MULTILINE) if "-" in text else []
    return len(stars) + len(dashes)


def count_highlights(text: str) -> int:
    """Non-empty `*parts*` and `**parts**`; IFEval counts the latter under both rules."""
    single = re.findall(r"\*[^\n*]*\*", text)
    double = re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(h.strip("*").strip()) for h in single) + sum(
        bool(h.removeprefix("**").removesuffix("**").strip()) for h in double
    )


def count_placeholders(text: str) -> int:
    """Square brackets with anything between them on one line: `[name]`."""
    return sum(_count_placeholders_in(line) for line in text.split("\n"))


def _count_placeholders_in(line: str) -> int:
    count = position = 0
    while (start := line.find("[", position)) >= 0 and (end := line.find("]", start)) >= 0:
        count, position = count + 1, end + 1
    return count


def has_title(text: str) -> bool:
    """Whether a line has `<<something>>`."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and end > start + 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def count_dividers(text: str, divider: str) -> int | None:
    """How many non-empty parts `divider` makes, where only the first and the last may be empty; None where another is."""
    parts = [bool(part.strip()) for part in text.split(divider)]
    return sum(parts) if all(parts[1:-1]) else None


def split_paragraphs(text: str) -> list[str]:
    """The parts between empty lines (`\\n\\n`), empty ones included."""
    return text.split("\n\n")


def first_word(paragraph: str) -> str:
    """The first word in small letters, without leading quotes, up to its first punctuation mark."""
    words = paragraph.split(maxsplit=1)
    word = words[0].lstrip("'").lstrip('"') if words else ""
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower()
