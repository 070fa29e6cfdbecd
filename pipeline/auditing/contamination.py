"""Prompts that an evaluation set holds too: found by word n-grams. Memory is bounded by the evaluation sets alone."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

from pipeline.errors import BadPrompts
from pipeline.rows import read_rows

N_WORDS = 13
"""Words of an n-gram. Source: GPT-3's and Llama's reports count 13-grams as overlap."""
_WORD = re.compile(r"\w+")


class EvaluationSets:
    """The n-grams of evaluation files: every text of every row, whatever its column.

    Raises:
        BadPrompts: a file cannot be read.
    """

    def __init__(self, paths: Iterable[str], n_words: int = N_WORDS) -> None:
        self._n = n_words
        self._grams: set[int] = set()
        for row in (row for path in paths for row in read_rows(path)):
            if row.error:
                raise BadPrompts(f"{row.where}: {row.error}")
            for text in _texts(dict(row.values)):
                self._grams.update(self._hashes(text))

    def overlap(self, texts: Iterable[str]) -> bool:
        """Whether one of the texts shares an n-gram with an evaluation set; a shorter text must be equal in all its words."""
        return any(gram in self._grams for text in texts for gram in self._hashes(text))

    def _hashes(self, text: str) -> Iterator[int]:
        words = _WORD.findall(text.lower())
        n = self._n if len(words) >= self._n else len(words)
        for i in range(len(words) - n + 1 if n else 0):
            gram = " ".join(words[i : i + n]).encode()
            yield zlib.crc32(gram) << 32 | zlib.adler32(gram)


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _texts(inner)
        case list() | tuple():
            for inner in value:
                yield from _texts(inner)
