"""Which language is a text in? Read from its letters by py3langid's model, which comes with the package."""

from __future__ import annotations

import functools
from typing import Any

MAX_CHARS = 20_000
"""More text makes the guess no better."""
SURE = 0.8
"""A guess below this is none. On ordinary prose of a line or more the model gives its guess 0.95 and above."""
_CHINESE = {"zh-cn": "zh", "zh-tw": "zh", "zh-hans": "zh", "zh-hant": "zh"}


def is_known(code: str) -> bool:
    """Whether the model knows the language, by its ISO 639-1 code (`zh-cn` and `zh-tw` are `zh`)."""
    return _code(code) in _model().labels


def is_in(text: str, code: str) -> bool | None:
    """Whether the text is in the language; None where the model is not sure. Text without letters is in every language.

    Text whose likeliest language is the one asked for is in it, sure or not; it is not, only if another is sure.
    """
    text = text[:MAX_CHARS]
    if not any(character.isalpha() for character in text):
        return True
    found, probability = _model().classify(text)
    if found == _code(code):
        return True
    return False if probability >= SURE else None


def _code(code: str) -> str:
    code = code.strip().lower().replace("_", "-")
    return _CHINESE.get(code, code)


@functools.cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
