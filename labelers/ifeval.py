"""IFEval's verifiable instructions, by their published ids and argument names (Zhou et al. 2023, arXiv 2311.07911).

Written anew from the published definitions; linear time on any text. Where the original needs a library (sentence and
word splitters, language detection) and ours is another, a rule that cannot be sure answers None: undecided.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labelers import language as languages
from labelers import text_rules as count
from labelers.strict_json import is_json

Check = Callable[..., bool | None]
"""check(text, **arguments): followed, not followed, or None for undecided."""

CHECKS: dict[str, Check] = {}


class BadConstraint(ValueError):
    """An argument is missing, unknown or of the wrong type."""


def run_check(identifier: str, text: str, arguments: Mapping[str, Any]) -> bool | None:
    """Whether `text` follows the instruction; None where that cannot be told. A blank text follows nothing, as in IFEval.

    Args:
        arguments: what `bind` let through.

    Raises:
        BadConstraint: a value is one that the instruction does not know.
    """
    return bool(text.strip()) and CHECKS[identifier](text, **arguments)


def bind(identifier: str, arguments: Mapping[str, Any]) -> None:
    """Nothing, when the instruction takes these arguments. Raises: BadConstraint."""
    names, needed = _parameters(CHECKS[identifier])
    for name, value in arguments.items():
        if name not in names:
            raise BadConstraint(f"{identifier} takes no {name!r}; hint: {', '.join(names) or 'no argument'}")
        if not _fits(value, names[name]):
            raise BadConstraint(f"{identifier}: {name} is {value!r}; expected {_EXPECTED[names[name]]}")
        if name.endswith("relation") and value not in ("at least", "less than"):
            raise BadConstraint(f"{identifier}: {name} is {value!r}; expected 'at least' or 'less than'")
    for name in needed:
        if name not in arguments:
            raise BadConstraint(f"{identifier} needs {name!r}")


@functools.cache
def _parameters(check: Check) -> tuple[dict[str, str], list[str]]:
    """The kind of each argument, and those without a default. Read once: it takes as long as most checks."""
    parameters = list(inspect.signature(check).parameters.values())[1:]
    return {p.name: str(p.annotation) for p in parameters}, [p.name for p in parameters if p.default is p.empty]


_EXPECTED = {"int": "a whole number from 0", "str": "text that is not empty", "Sequence[str]": "a list of texts"}


def _fits(value: Any, kind: str) -> bool:
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if kind == "str":
        return isinstance(value, str) and bool(value.strip())
    return isinstance(value, list | tuple) and bool(value) and all(_fits(v, "str") for v in value)


def check(identifier: str) -> Callable[[Check], Check]:
    """A decorator that enters a check under its published id."""

    def register(function: Check) -> Check:
        CHECKS[identifier] = function
        return function

    return register


def _related(number: int, relation: str, limit: int) -> bool:
    return number < limit if relation == "less than" else number >= limit


def _related_bounds(bounds: tuple[int, int], relation: str, limit: int) -> bool | None:
    """The answer where the fewest and the most agree on it."""
    low, high = (_related(number, relation, limit) for number in bounds)
    return low if low == high else None


def _occurrences(text: str, keyword: str) -> int:
    return len(re.findall(re.escape(keyword), text, flags=re.IGNORECASE))


def in_language(text: str, language: str) -> bool | None:
    """Whether the text is in the language of this code; None where that is not sure. Raises: BadConstraint."""
    if not languages.is_known(language):
        raise BadConstraint(f"language is {language!r}; hint: an ISO 639-1 code, as en, de, zh")
    return languages.is_in(text, language)


@check("language:response_language")
def _language(text: str, language: str) -> bool | None:
    return in_language(text, language)


@check("keywords:existence")
def _existence(text: str, keywords: Sequence[str]) -> bool:
    return all(_occurrences(text, keyword) for keyword in keywords)


@check("keywords:frequency")
def _frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _related(_occurrences(text, keyword.strip()), relation, frequency)


@check("keywords:forbidden_words")
def _forbidden(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text, flags=re.IGNORECASE) for w in forbidden_words)


@check("keywords:letter_frequency")
def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    if len(letter) != 1:
        raise BadConstraint(f"letter is {letter!r}; expected one character")
    return _related(text.lower().count(letter.lower()), let_relation, let_frequency)


@check("length_constraints:number_words")
def _number_words(text: str, num_words: int, relation: str) -> bool:
    return _related(count.count_words(text), relation, num_words)


@check("length_constraints:number_sentences")
def _number_sentences(text: str, num_sentences: int, relation: str) -> bool | None:
    return _related_bounds(count.sentence_bounds(text), relation, num_sentences)


@check("length_constraints:number_paragraphs")
def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    return count.count_dividers(text, "***") == num_paragraphs


@check("length_constraints:nth_paragraph_first_word")
def _nth_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = count.split_paragraphs(text)
    n_filled = sum(bool(p.strip()) for p in paragraphs)
    if not 1 <= nth_paragraph <= num_paragraphs:
        raise BadConstraint(f"nth_paragraph is {nth_paragraph}; expected 1 to num_paragraphs={num_paragraphs}")
    if n_filled != num_paragraphs:
        return False
    return count.first_word(paragraphs[nth_paragraph - 1]) == first_word.lower()


@check("detectable_content:number_placeholders")
def _placeholders(text: str, num_placeholders: int) -> bool:
    return count.count_placeholders(text) >= num_placeholders


@check("detectable_content:postscript")
def _postscript(text: str, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return bool(re.search(known.get(marker, re.escape(marker.lower())), text.lower()))


@check("detectable_format:number_bullet_lists")
def _bullets(text: str, num_bullets: int) -> bool:
    return count.count_bullets(text) == num_bullets


@check("detectable_format:constrained_response")
def _constrained(text: str) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


@check("detectable_format:number_highlighted_sections")
def _highlights(text: str, num_highlights: int) -> bool:
    return count.count_highlights(text) >= num_highlights


@check("detectable_format:multiple_sections")
def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", text)) >= num_sections


@check("detectable_format:json_format")
def _json_format(text: str) -> bool | None:
    text = re.sub(r"^```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```").strip()
    return is_json(text)


@check("detectable_format:title")
def _title(text: str) -> bool:
    return count.has_title(text)


@check("combination:two_responses")
def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******") if part.strip()]
    return count.count_dividers(text, "******") == 2 and parts[0] != parts[1]


@check("combination:repeat_prompt")
def _repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


@check("startend:end_checker")
def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@check("startend:quotation")
def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@check("change_case:english_capital")
def _capital(text: str) -> bool:
    return text.isupper() and _may_be_english(text)


@check("change_case:english_lowercase")
def _lowercase(text: str) -> bool:
    return text.islower() and _may_be_english(text)


def _may_be_english(text: str) -> bool:
    """No letter beyond Latin Extended-A, and not surely another language: a title of three words is sure of none."""
    if any(character > "\u017f" and character.isalpha() for character in text):
        return False
    return languages.is_in(text, "en") is not False


@check("change_case:capital_word_frequency")
def _capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool | None:
    return _related_bounds(count.capital_word_bounds(text), capital_relation, capital_frequency)


@check("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    return "," not in text
