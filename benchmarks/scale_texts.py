"""Prompts and completions by the million for benchmarks/scale.py: written by a program, varied, the same for the same seed.

Five families, judged by five labelers. A completion has 100 to 400 characters, as sampled ones of these tasks have; about two in
five are wrong, in ways that models err, and one in twenty repeats an earlier one of its prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PER_PROMPT = 8
WRONG = 0.4
REPEATED = 0.05
ROWS_PER_GROUP = 1000

NOUNS = (
    "orders", "prices", "visits", "scores", "ages", "weights", "lengths", "levels", "points", "counts", "rates", "sizes",
    "speeds", "costs", "hours", "steps", "grades", "sales", "votes", "depths",
)  # fmt: skip
VERBS = (
    "collect",
    "select",
    "gather",
    "filter",
    "measure",
    "total",
    "average",
    "rank",
    "trim",
    "scale",
    "merge",
    "split",
)
NAMES = ("value", "item", "each", "x", "entry", "number", "element", "v", "one", "current")
THINGS = (
    "book",
    "car",
    "city",
    "song",
    "plant",
    "phone",
    "recipe",
    "dog",
    "hotel",
    "film",
    "ship",
    "lamp",
    "chair",
    "bag",
)
PEOPLE = ("Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jon", "Kim", "Lena", "Milo", "Nora")
TOPICS = (
    "tea", "rain", "bread", "rivers", "snow", "music", "trains", "gardens", "horses", "coffee", "birds", "winter", "soup",
    "boats", "stars", "books", "forests", "islands", "apples", "bridges", "clocks", "lakes", "dogs", "cheese", "markets",
)  # fmt: skip
WORDS = (
    "quiet", "green", "warm", "morning", "light", "water", "road", "table", "sugar", "paper", "stone", "window", "summer",
    "small", "gold", "bright", "letter", "silver", "corner", "basket", "family", "kitchen", "village", "purple", "old",
    "gentle", "narrow", "early", "distant", "familiar", "heavy", "clear", "simple", "patient", "hidden", "steady", "open",
)  # fmt: skip
SENTENCES = (
    "{p} remembers the {a} {t} of {b} days.", "In the {a} {b} there is always room for {t}.",
    "Nobody in the {a} street forgets {t} near the {b}.", "People say that {t} makes a {a} {b} feel {c}.",
    "A {a} {b} and some {t} are enough for {p}.", "What {p} likes about {t} is the {a} {b}.",
    "Between the {a} {b} and the {c} there is {t}.", "For {p} all {t} begins with something {a} and {b}.",
)  # fmt: skip
FIELDS: dict[str, tuple[dict[str, Any], Callable[[random.Random], Any]]] = {
    "name": ({"type": "string", "minLength": 1}, lambda r: r.choice(PEOPLE)),
    "owner": ({"type": "string", "minLength": 1}, lambda r: r.choice(PEOPLE)),
    "note": (
        {"type": "string", "minLength": 10},
        lambda r: f"a {r.choice(WORDS)} {r.choice(WORDS)} {r.choice(THINGS)}",
    ),
    "about": (
        {"type": "string", "minLength": 10},
        lambda r: f"{r.choice(WORDS)} {r.choice(TOPICS)} for {r.choice(PEOPLE)}",
    ),
    "size": ({"enum": ["small", "medium", "large"]}, lambda r: r.choice(("small", "medium", "large"))),
    "state": ({"enum": ["new", "used", "broken"]}, lambda r: r.choice(("new", "used", "broken"))),
    "year": ({"type": "integer", "minimum": 1950, "maximum": 2030}, lambda r: 1950 + int(r.random() * 81)),
    "count": ({"type": "integer", "minimum": 1, "maximum": 999}, lambda r: 1 + int(r.random() * 999)),
    "price": ({"type": "number", "minimum": 0}, lambda r: int(r.random() * 20000) / 100),
    "weight": ({"type": "number", "minimum": 0}, lambda r: int(r.random() * 900) / 10),
    "sold": ({"type": "boolean"}, lambda r: r.random() < 0.5),
    "tags": (
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        lambda r: [r.choice(WORDS) for _ in range(1 + int(r.random() * 3))],
    ),
}
LABELERS: dict[str, tuple[str, dict[str, Any]]] = {
    "functions": ("compiles", {}),
    "records": ("json_schema", {}),
    "objects": ("parses", {"format": "json", "top_level": "object"}),
    "estimates": ("regression", {"error": "relative"}),
    "texts": ("format", {}),
}
"""Family -> its labeler's name and options."""


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt, what its labeler has to know, and its completions."""

    prompt: str
    target: Any
    family: str
    completions: list[str]


def groups(start: int, stop: int) -> Iterator[Group]:
    """The groups of these numbers; each has its own seed, and the families take turns."""
    kinds = list(KINDS.items())
    for number in range(start, stop):
        family, kind = kinds[number % len(kinds)]
        rng = random.Random(number)
        prompt, target, write = kind(rng, number)
        texts: list[str] = []
        for _ in range(PER_PROMPT):
            repeats = texts and rng.random() < REPEATED
            texts.append(rng.choice(texts) if repeats else write(rng.random() < WRONG))
        yield Group(prompt, target, family, texts)


def write_files(folder: Path, start: int, stop: int, part: int) -> int:
    """Writes the prompts and the completions of these numbers as files of their own. Returns characters of the completions."""
    schema = pa.schema({"prompt": pa.string(), "completion": pa.list_(pa.string())})
    chars = 0
    with (
        (folder / f"prompts-{part:02d}.jsonl").open("w", encoding="utf-8") as prompts,
        pq.ParquetWriter(folder / f"completions-{part:02d}.parquet", schema, compression="zstd") as completions,
    ):
        for first in range(start, stop, ROWS_PER_GROUP):
            made = list(groups(first, min(first + ROWS_PER_GROUP, stop)))
            prompts.writelines(_line(group) for group in made)
            columns = {"prompt": [g.prompt for g in made], "completion": [g.completions for g in made]}
            completions.write_table(pa.table(columns, schema))
            chars += sum(len(text) for group in made for text in group.completions)
    return chars


def _line(group: Group) -> str:
    return json.dumps({"prompt": group.prompt, "target": group.target, "family": group.family}) + "\n"


Writer = Callable[[bool], str]


def _functions(rng: random.Random, number: int) -> tuple[str, Any, Writer]:
    verb, noun, n = rng.choice(VERBS), rng.choice(NOUNS), 2 + int(rng.random() * 90)
    name = f"{verb}_{noun}_{number}"
    prompt = (
        f"Write a Python function {name}({noun}, limit={n}) that {verb}s the {noun} above the limit; say what it does."
    )

    def write(wrong: bool) -> str:
        x, kept, k = rng.choice(NAMES), rng.choice(("found", "kept", "result", "out")), int(rng.random() * 50)
        code = (
            f'def {name}({noun}, limit={n}):\n    """The {rng.choice(WORDS)} {noun} that {verb} gives above {k}."""\n'
            f"    {kept} = []\n    for {x} in {noun}:\n        if {x} > limit + {k}:\n"
            f"            {kept}.append({x} * {1 + k % 7} - {n})\n"
        )
        if rng.random() < 0.5:
            code += f"    if not {kept}:\n        return {{'{noun}': 0, 'limit': limit}}\n"
        code += f"    return sorted({kept})[:{n}]\n" if k % 2 else f"    return sum({kept}) / max(len({kept}), {n})\n"
        return _spoiled_code(rng, code) if wrong else code

    return prompt, None, write


def _spoiled_code(rng: random.Random, code: str) -> str:
    match int(rng.random() * 4):
        case 0:
            return code.replace("):\n", ")\n", 1)
        case 1:
            return f"Sure! Here is a {rng.choice(WORDS)} function that does it:\n{code}"
        case 2:
            at = code.rfind(")")
            return code[:at] + code[at + 1 :]
        case _:
            return code.replace("        if", "      if", 1).replace("def ", "function ", 1)


def _records(rng: random.Random, number: int) -> tuple[str, Any, Writer]:
    names = rng.sample(sorted(FIELDS), 7 + int(rng.random() * 4))
    schema = {
        "type": "object",
        "properties": {name: FIELDS[name][0] for name in names},
        "required": names,
        "additionalProperties": False,
    }
    prompt = f"Write a JSON record of {rng.choice(THINGS)} number {number} with {', '.join(names)}."

    def write(wrong: bool) -> str:
        record = {name: FIELDS[name][1](rng) for name in names}
        kind = int(rng.random() * 4) if wrong else -1
        if kind == 0:
            del record[rng.choice(names)]
        if kind == 1:
            record[rng.choice(names)] = {"value": None}
        text = json.dumps(record, indent=2 if rng.random() < 0.5 else None)
        if kind == 2:
            return text.replace('"', "'")
        return f"Here is the {rng.choice(WORDS)} record: {text}" if kind == 3 else text

    return prompt, schema, write


def _estimates(rng: random.Random, number: int) -> tuple[str, Any, Writer]:
    boxes, each, days = 2 + int(rng.random() * 80), 2 + int(rng.random() * 60), 1 + int(rng.random() * 9)
    thing, who, target = rng.choice(THINGS), rng.choice(PEOPLE), boxes * each * days
    prompt = (
        f"Order {number}: {who} fills {boxes} boxes a day with {each} {thing}s each. How many {thing}s in {days} days?"
    )

    def write(wrong: bool) -> str:
        blur = 0.3 + rng.random() if wrong else 1 + (rng.random() - 0.5) / 8
        answer = max(1, round(target * (blur if rng.random() < 0.7 or wrong else 1)))
        how = rng.choice(("Let us count", "First I multiply", "We know the boxes", "Step by step", "Think of one day"))
        return (
            f"{how}: {who} fills {boxes} boxes with {each} {thing}s, which is {boxes * each} {thing}s on a {rng.choice(WORDS)}"
            f" day.\nOver {days} days, the {rng.choice(WORDS)} work comes to about {answer:,} {thing}s in all.\n"
            f"So the answer is {answer}."
        )

    return prompt, target, write


def _texts(rng: random.Random, number: int) -> tuple[str, Any, Writer]:
    topic, word, n = rng.choice(TOPICS), rng.choice(WORDS), 3 + int(rng.random() * 3)
    target = [
        {"id": "detectable_format:number_bullet_lists", "num_bullets": n},
        {"id": "keywords:existence", "keywords": [word]},
        {"id": "length_constraints:number_words", "relation": "less than", "num_words": 70},
    ]
    prompt = (
        f"Note {number}: list {n} things about {topic} as bullet points, with the word {word}, in less than 70 words."
    )

    def write(wrong: bool) -> str:
        kind = int(rng.random() * 3) if wrong else -1
        items = [_sentence(rng, topic) for _ in range(n + (kind == 0))]
        if kind != 1:
            items[-1] = (
                items[-1].replace("the ", f"the {word} ", 1) if "the " in items[-1] else f"{items[-1]} So {word}!"
            )
        text = "\n".join(f"* {item}" for item in items)
        return text.replace("* ", "- ", 1).replace("* ", "", 1) if kind == 2 else text

    return prompt, target, write


def _objects(rng: random.Random, number: int) -> tuple[str, Any, Writer]:
    _, _, write = _records(rng, number)
    return f"Describe {rng.choice(THINGS)} number {number} as a JSON object, with as much as you know.", None, write


def _sentence(rng: random.Random, topic: str) -> str:
    a, b, c = rng.choice(WORDS), rng.choice(WORDS), rng.choice(WORDS)
    return rng.choice(SENTENCES).format(p=rng.choice(PEOPLE), a=a, b=b, c=c, t=topic)


KINDS: dict[str, Callable[[random.Random, int], tuple[str, Any, Writer]]] = {
    "functions": _functions,
    "records": _records,
    "objects": _objects,
    "estimates": _estimates,
    "texts": _texts,
}
"""Family -> what draws its prompt, its target and what writes its completions."""
