"""RLVR-IF's verifiable instructions (allenai/RLVR-IFeval), by the published names and arguments of their functions.

They ask for the same 25 things as IFEval, but by other rules: exact numbers instead of "at least", `* * *` between
paragraphs, letters with their case. Written anew from the published definitions; linear time on any text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from labelers import text_rules as count
from labelers.ifeval import BadConstraint, check, in_language
from labelers.strict_json import is_json

_SENTENCE_END = re.compile(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=\.|\?|!)\s")
_CAPITALS = re.compile(r"\b[A-Z]+\b")


def _about(number: int, quantifier: str, n: int, tolerance: int) -> bool:
    match quantifier:
        case "at least":
            return number >= n
        case "at most":
            return number <= n
        case "around":
            return abs(number - n) <= tolerance
        case _:
            raise BadConstraint(f"quantifier is {quantifier!r}; expected 'at least', 'around' or 'at most'")


@check("verify_keywords")
def _keywords(text: str, keyword_list: Sequence[str]) -> bool:
    return all(keyword.lower() in text.lower() for keyword in keyword_list)


@check("verify_keyword_frequency")
def _keyword_frequency(text: str, word: str, N: int) -> bool:
    return sum(found == word.lower() for found in re.findall(r"\b\w+\b", text.lower())) == N


@check("validate_forbidden_words")
def _forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(word.lower() in text.lower() for word in forbidden_words)


@check("verify_letter_frequency")
def _letter_frequency(text: str, letter: str, N: int) -> bool:
    if len(letter) != 1:
        raise BadConstraint(f"letter is {letter!r}; expected one character")
    return text.count(letter) == N


@check("validate_response_language")
def _language(text: str, language: str) -> bool | None:
    return in_language(text, language)


@check("verify_paragraph_count")
def _paragraph_count(text: str, N: int) -> bool:
    clean = "\n".join(line.strip() for line in text.splitlines())
    parts = clean.split("* * *")
    return len(parts) == N and all(part.strip() for part in parts)


@check("validate_word_constraint")
def _words(text: str, N: int, quantifier: str) -> bool:
    return _about(len(text.split()), quantifier, N, max(round(N * 0.1), 1))


@check("verify_sentence_constraint")
def _sentences(text: str, N: int, quantifier: str) -> bool:
    return _about(1 + sum(1 for _ in _SENTENCE_END.finditer(text)), quantifier, N, 1)


@check("validate_paragraphs")
def _paragraphs(text: str, N: int, first_word: str, i: int) -> bool:
    paragraphs = text.split("\n\n")
    if not 1 <= i <= N:
        raise BadConstraint(f"i is {i}; expected 1 to N={N}")
    return len(paragraphs) == N and paragraphs[i - 1].strip().startswith(first_word)


@check("verify_postscript")
def _postscript(text: str, postscript_marker: str) -> bool:
    _, found, behind = text.partition(postscript_marker)
    return bool(found) and bool(behind.strip())


@check("validate_placeholders")
def _placeholders(text: str, N: int) -> bool:
    return count.count_placeholders(text) >= N


@check("verify_bullet_points")
def _bullet_points(text: str, N: int) -> bool:
    return sum(line.strip().startswith(("*", "-")) for line in text.split("\n")) == N


@check("validate_title")
def _title(text: str) -> bool:
    return any(">>" in line.partition("<<")[2] for line in text.split("\n"))


@check("validate_choice")
def _choice(text: str, options: Sequence[str]) -> bool:
    return any(option in text for option in options)


@check("validate_highlighted_sections")
def _highlighted(text: str, N: int) -> bool:
    return sum(line.count("*") // 2 for line in text.split("\n")) >= N


@check("validate_sections")
def _sections(text: str, N: int, section_splitter: str) -> bool:
    parts = text.split(section_splitter)
    return len(parts) - (parts[0] == "") == N


@check("validate_json_format")
def _json(text: str) -> bool | None:
    return is_json(text)


@check("validate_repeat_prompt")
def _repeat_prompt(text: str, original_prompt: str) -> bool:
    return text.startswith(original_prompt)


@check("validate_two_responses")
def _two_responses(text: str) -> bool:
    first, _, second = text.partition("******")
    return text.count("******") == 1 and first.strip() != second.strip()


@check("validate_uppercase")
def _uppercase(text: str) -> bool:
    return text == text.upper()


@check("validate_lowercase")
def _lowercase(text: str) -> bool:
    return text == text.lower()


@check("validate_frequency_capital_words")
def _capital_words(text: str, N: int, quantifier: str) -> bool:
    return _about(sum(1 for _ in _CAPITALS.finditer(text)), quantifier, N, max(round(N * 0.1), 1))


@check("validate_end")
def _end(text: str, end_phrase: str) -> bool:
    return text.endswith(end_phrase)


@check("validate_quotation")
def _quotation(text: str) -> bool:
    return text.startswith('"') and text.endswith('"')


@check("validate_no_commas")
def _no_commas(text: str) -> bool:
    return "," not in text
