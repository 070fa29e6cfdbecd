"""Whether training prompts repeat held-out ones, word for word or nearly."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from labelers.types import Message
from pipeline.auditing.limits import Audit, Finding
from pipeline.prompts import Prompts
from pipeline.rows import chat, read_rows

WORDS = 5
"""Of a shingle. Source: 2107.06499 deduplicates with 5-grams."""
SMALL = 1_000_000
"""Up to so many (training, held-out) pairs every shared shingle is counted exactly; beyond, a MinHash index finds candidates."""
PERMUTATIONS = 128
SHOWN = 3


def repeated(train: Mapping[str, str], settings: Audit, prompts: Prompts) -> Finding:
    """How many held-out prompts the training prompts repeat.

    Args:
        train: prompt id -> its text.
        prompts: says which column of a held-out file is the prompt.
    """
    if not settings.heldout:
        return Finding("held-out", "skipped", 'no held-out prompts are named; hint: [audit] heldout = "eval.jsonl"')
    held = list(read_heldout(settings.heldout, prompts))
    found = repeats(list(train.values()), held, settings.near)
    ids = list(train)
    share = len({held_at for _, held_at, _ in found}) / len(held) if held else 0.0
    exact = sum(likeness == 1.0 for _, _, likeness in found)
    state = "FAIL" if share > settings.max_heldout else "ok"
    seen = f"{len(found)} training prompts repeat one of {len(held)} held-out ones ({exact} word for word)"
    seen += "" if state == "ok" else "; hint: take them out of prompts.path"
    rows = tuple(ids[at] for at, _, _ in found[:SHOWN])
    return Finding(
        "held-out", "FAIL" if state == "FAIL" else "ok", seen, share, settings.max_heldout, None, len(held), rows
    )


def text_of(messages: Iterable[Message]) -> str:
    """A prompt's words as they are compared: what the user says."""
    return "\n".join(message.content for message in messages if message.role == "user")


def read_heldout(paths: str | Sequence[str], prompts: Prompts) -> Iterator[str]:
    """The held-out prompts' texts. Raises: BadPrompts when a file is missing or has no such column."""
    for path in (paths,) if isinstance(paths, str) else paths:
        for row in read_rows(path, prompts.split, prompts.subset):
            value: Any = row.values.get(prompts.fields.prompt)
            if value is not None:
                yield text_of(chat(value))


def repeats(train: Sequence[str], held: Sequence[str], near: float) -> list[tuple[int, int, float]]:
    """(training place, held-out place, Jaccard similarity of shingles) of each training prompt that repeats a held-out one."""
    shingles_train, shingles_held = [shingles(t) for t in train], [shingles(t) for t in held]
    candidates = _shared if len(train) * len(held) <= SMALL else _indexed
    found = []
    for place, likely in candidates(shingles_train, shingles_held, near):
        own = shingles_train[place]
        likeness = [(len(own & shingles_held[at]) / len(own | shingles_held[at]), -at) for at in likely]
        best, at = max(likeness, default=(0.0, 0))
        if best >= near:
            found.append((place, -at, best))
    return found


def shingles(text: str) -> frozenset[str]:
    """The text's runs of five words, case and punctuation apart; a shorter text is one run."""
    words = re.findall(r"\w+", text.casefold())
    return frozenset(" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1)))


Shingles = Sequence[frozenset[str]]


def _shared(train: Shingles, held: Shingles, near: float) -> Iterator[tuple[int, list[int]]]:
    """For each training prompt those held-out ones that share enough shingles to be near."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, own in enumerate(held):
        for shingle in own:
            places[shingle].append(at)
    for place, own in enumerate(train):
        counted = Counter(at for shingle in own for at in places.get(shingle, ()))
        yield place, [at for at, n in counted.items() if n >= near * len(own)]


def _indexed(train: Shingles, held: Shingles, near: float) -> Iterator[tuple[int, list[int]]]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=max(0.1, near - 0.1), num_perm=PERMUTATIONS)
    sets = ([s.encode() for s in own] for own in held)
    for at, sketch in enumerate(MinHash.generator(sets, num_perm=PERMUTATIONS)):
        index.insert(at, sketch)
    sets = ([s.encode() for s in own] for own in train)
    for place, sketch in enumerate(MinHash.generator(sets, num_perm=PERMUTATIONS)):
        yield place, list(index.query(sketch))
