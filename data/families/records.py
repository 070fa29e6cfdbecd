"""JSON records. Judged by `json_schema` with the schema in the target: strict JSON, the right fields and types."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data.families.task import Spoil, Task, chatter, weighted

THINGS = (
    "book", "car", "city", "song", "plant", "phone", "recipe", "dog", "hotel", "film", "ship", "lamp", "chair",
    "watch", "bike", "game", "train", "house", "coat", "camera", "bag", "bird", "boat", "clock",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "black", "white", "yellow")
NAMES = ("Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jon", "Kim", "Lena", "Milo", "Nora")
PLACES = ("Rome", "Oslo", "Lima", "Paris", "Cairo", "Bern", "Kyoto", "Accra", "Quito", "Delhi")


@dataclass(frozen=True)
class Field:
    """One field: its words in the prompt, its schema, and how to draw a value."""

    words: str
    schema: dict[str, Any]
    value: Callable[[random.Random], Any]


def _one_of(*choices: str) -> Callable[[random.Random], Any]:
    return lambda rng: rng.choice(choices)


def _integer(low: int, high: int) -> Field:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Field(f"integer from {low} to {high}", schema, lambda rng: rng.randint(low, high))


def _text(*choices: str) -> Field:
    return Field("string", {"type": "string", "minLength": 1}, _one_of(*choices))


def _enum(*choices: str) -> Field:
    return Field(f"one of {', '.join(choices)}", {"enum": list(choices)}, _one_of(*choices))


def _boolean() -> Field:
    return Field("boolean", {"type": "boolean"}, lambda rng: rng.random() < 0.5)


def _number(high: int) -> Field:
    return Field("number", {"type": "number", "minimum": 0}, lambda rng: rng.randint(1, high * 2) / 2)


FIELDS = {
    "name": _text(*NAMES),
    "owner": _text(*NAMES),
    "maker": _text(*NAMES),
    "place": _text(*PLACES),
    "origin": _text(*PLACES),
    "color": _text(*COLOURS),
    "size": _enum("small", "medium", "large"),
    "state": _enum("new", "used", "broken"),
    "grade": _enum("low", "middle", "high"),
    "year": _integer(1950, 2020),
    "count": _integer(1, 99),
    "age": _integer(1, 60),
    "rank": _integer(1, 10),
    "price": _number(90),
    "weight": _number(50),
    "length": _number(20),
    "sold": _boolean(),
    "open": _boolean(),
    "rare": _boolean(),
}
OPENINGS = ("Write a JSON record", "Give a JSON object", "Make a JSON record", "Return a JSON object")
FLAWS = (
    ("chatter", 25), ("python_quotes", 20), ("bare_keys", 15), ("missing_field", 10), ("wrong_type", 10),
    ("no_brackets", 10), ("trailing_comma", 5), ("remark", 5),
)  # fmt: skip


def draw(rng: random.Random) -> Task:
    """A record to write, one that meets its schema, and one that does not."""
    names = rng.sample(sorted(FIELDS), rng.choice((2, 3, 3, 4)))
    listed = [f"{name} ({FIELDS[name].words})" for name in names]
    asked = ", ".join(listed[:-1]) + " and " + listed[-1]
    prompt = f"{rng.choice(OPENINGS)} of a {rng.choice(THINGS)} with {asked}."
    flaw = weighted(rng, FLAWS)
    return Task(prompt, _schema(names), _written(rng, _record(rng, names)), _spoiled(rng, names, flaw), flaw)


def _schema(names: list[str]) -> dict[str, Any]:
    properties = {name: FIELDS[name].schema for name in names}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _record(rng: random.Random, names: list[str]) -> dict[str, Any]:
    return {name: FIELDS[name].value(rng) for name in names}


def _written(rng: random.Random, record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2 if rng.random() < 0.15 else None)


def _spoiled(rng: random.Random, names: list[str], flaw: str) -> str:
    record = _record(rng, names)
    if flaw == "missing_field":
        del record[rng.choice(names)]
    if flaw == "wrong_type":
        record = {name: _other_type(name, value) for name, value in record.items()}
    text = _written(rng, record)
    return SPOIL[flaw](rng, text) if flaw in SPOIL else text


def _other_type(name: str, value: Any) -> Any:
    if "enum" in FIELDS[name].schema or isinstance(value, str):
        return [value]
    return str(value)


def _chatter(rng: random.Random, text: str) -> str:
    return chatter(rng) + text


def _python_quotes(rng: random.Random, text: str) -> str:
    return text.replace('"', "'").replace("true", "True").replace("false", "False")


def _bare_keys(rng: random.Random, text: str) -> str:
    for name in FIELDS:
        text = text.replace(f'"{name}":', f"{name}:")
    return text


def _no_brackets(rng: random.Random, text: str) -> str:
    return text.strip("{}\n ")


def _trailing_comma(rng: random.Random, text: str) -> str:
    return text.removesuffix("}").rstrip() + ",}"


def _remark(rng: random.Random, text: str) -> str:
    return text + "\n" + rng.choice(("Hope this helps!", "Tell me if you need more.", "This record is made up."))


SPOIL: dict[str, Spoil] = {
    "chatter": _chatter,
    "python_quotes": _python_quotes,
    "bare_keys": _bare_keys,
    "no_brackets": _no_brackets,
    "trailing_comma": _trailing_comma,
    "remark": _remark,
}
