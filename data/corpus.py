"""What is written from the families: the prompts of the quick start, and the documents that the tiny model learns from.

The same seed gives the same bytes; `stdlib` also depends on the Python whose library is cut (its rows name it).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from data.families import FAMILIES, Task

Split = Literal["train", "heldout"]

HELDOUT_SHARE = 10  # one prompt in so many is held out


@dataclass(frozen=True)
class Share:
    """How much of a family is in the corpus, and how much of that is spoiled."""

    documents: int
    bad: float


SHARES = {
    "functions": Share(10_000, 0.42),
    "records": Share(12_000, 0.38),
    "estimates": Share(38_000, 0.35),
    "texts": Share(15_000, 0.34),
    "stdlib": Share(18_000, 0.22),
}


def split_of(prompt: str) -> Split:
    """Where a prompt belongs: decided by its text alone, so that it can never be on both sides."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") % HELDOUT_SHARE == 0 else "train"


def tasks(family: str, split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless tasks of one family on one side of the split."""
    while True:
        task = FAMILIES[family](rng)
        if split_of(task.prompt) == split:
            yield task


def prompt_rows(split: Split, per_family: int, seed: int = 0) -> list[dict[str, Any]]:
    """Distinct prompts, `per_family` of each, families in turn."""
    columns = []
    for family in FAMILIES:
        found: dict[str, dict[str, Any]] = {}
        for task in tasks(family, split, random.Random(f"prompts {family} {split} {seed}")):
            row = {"prompt": task.prompt, "target": task.target, "family": family}
            found.setdefault(task.prompt, row | ({"origin": task.origin} if task.origin else {}))
            if len(found) == per_family:
                break
        columns.append(list(found.values()))
    return [row for rows in zip(*columns, strict=True) for row in rows]


def documents(seed: int = 0, scale: float = 1.0) -> list[dict[str, Any]]:
    """The corpus, shuffled: prompts of the training side alone, a stated share of the answers spoiled.

    Args:
        scale: multiplies every family's number of documents; below 1 for a quick try.
    """
    made = []
    for family, share in SHARES.items():
        rng = random.Random(f"corpus {family} {seed}")
        source = tasks(family, "train", rng)
        for _ in range(round(share.documents * scale)):
            task = next(source)
            bad = rng.random() < share.bad
            made.append({"prompt": task.prompt, "completion": task.bad if bad else task.good})
    random.Random(f"corpus order {seed}").shuffle(made)
    return made
