"""Numeric estimates of five kinds. Judged by `regression`: within 20 % of the target passes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from data.families.task import Task, weighted

TOLERANCE = 0.2
GOOD_BLUR = 0.06  # relative spread of those right answers that are not exact
EXACT = 0.5  # share of the right answers that are


@dataclass(frozen=True)
class Question:
    """One question: its true value, the unit of the answer, and a larger unit that models slip into."""

    text: str
    value: float
    unit: str
    large_unit: str
    scale: int


Kind = Callable[[random.Random], Question]

CONTENTS = ("pens", "eggs", "cards", "books", "balls", "cups", "coins", "apples", "keys", "nails")
HOLDERS = ("boxes", "bags", "crates", "rows", "jars")
MINUTES_PER_KM = {"on foot": 12.0, "by bike": 4.0, "by bus": 2.0, "by car": 1.0, "by train": 0.5}
DISTANCES = {
    "on foot": (1, 2, 3, 4, 5, 6, 8, 10), "by bike": (2, 3, 5, 6, 8, 10, 12, 15, 20), "by bus": (4, 5, 8, 10, 15, 20, 30),
    "by car": (10, 20, 30, 40, 50, 60, 80, 90), "by train": (20, 40, 60, 80, 100, 120),
}  # fmt: skip
PRICES = {
    "shirts": 20, "pens": 2, "books": 15, "chairs": 40, "shoes": 50, "cakes": 10, "plates": 5, "phones": 200,
    "tables": 100,
}  # fmt: skip
NAMES = ("Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jon")

OPENINGS = (
    "{n} {u}.", "About {n} {u}.", "Around {n} {u}.", "Roughly {n} {u}.", "I would say {n} {u}.", "My guess is {n} {u}.",
    "It should be {n} {u}.", "Close to {n} {u}.", "I think {n} {u}.", "The answer is {n} {u}.", "Probably {n} {u}.",
    "Answer: {n} {u}.", "I get {n} {u}.", "Nearly {n} {u}.", "That makes {n} {u}.", "Estimate: {n} {u}.",
)  # fmt: skip
OVER = ("Easily over {n} {u}!", "Way more than {n} {u}!", "At least {n} {u}!", "Up to {n} {u}!", "Not under {n} {u}!")
NO_NUMBER = (
    "It depends on many things.", "That is hard to say.", "I cannot know that.", "Sorry, I am not sure.",
    "It depends on the details.", "There is no way to tell.", "That is a good question.", "You should ask an expert.",
)  # fmt: skip
LARGE = ("In {u}: {n}", "In {u} that is {n}.", "Counted in {u}, {n}.", "Measured in {u}: {n}.")
FLAWS = (("no_number", 30), ("over", 35), ("large_unit", 25), ("blur", 10))


def draw(rng: random.Random) -> Task:
    """A quantity to estimate, an answer within the tolerance, and one outside it."""
    question = rng.choice(KINDS)(rng)
    flaw = weighted(rng, FLAWS)
    good = _say(rng.choice(OPENINGS), _near(rng, question.value), question.unit)
    return Task(question.text, question.value, good, _spoiled(rng, question, flaw), flaw)


def _sum(rng: random.Random) -> Question:
    a, b = rng.randint(2, 30), rng.choice((5, 10, 15, 20, 25, 30))
    a, b = (a, b) if rng.random() < 0.5 else (b, a)
    asked = rng.choice(("What is {a} + {b}?", "Add {a} and {b}.", "Estimate {a} + {b}.", "How much is {a} plus {b}?"))
    return Question(asked.format(a=a, b=b), a + b, "", "tens", 10)


def _boxes(rng: random.Random) -> Question:
    boxes, each = rng.randint(2, 6), rng.choice((2, 3, 4, 5, 6, 8, 10, 12))
    content = rng.choice(CONTENTS)
    text = f"There are {boxes} {rng.choice(HOLDERS)} with {each} {content} each. How many {content} are there?"
    return Question(text, boxes * each, content, "dozens", 12)


def _rent(rng: random.Random) -> Question:
    area, rooms, age = rng.randrange(20, 121, 5), rng.randint(1, 5), rng.randrange(0, 61, 10)
    text = f"What is the rent in euros of a flat of {area} square metres with {rooms} rooms, {age} years old?"
    return Question(text, 10 * area + 40 * rooms - 2 * age, "euros", "thousands of euros", 1000)


def _minutes(rng: random.Random) -> Question:
    way = rng.choice(sorted(DISTANCES))
    distance = rng.choice(DISTANCES[way])
    asked = rng.choice(
        ("How many minutes does {who} need for {d} km {way}?", "{who} goes {d} km {way}. How many minutes?")
    )
    text = asked.format(who=rng.choice(NAMES), d=distance, way=way)
    return Question(text, round(distance * MINUTES_PER_KM[way]), "minutes", "hours", 60)


def _purchase(rng: random.Random) -> Question:
    item, count = rng.choice(sorted(PRICES)), rng.choice((2, 3, 4, 5, 6, 8, 10))
    asked = rng.choice(("{who} buys {n} {item}. Total?", "What does {who} pay for {n} {item}?"))
    text = asked.format(who=rng.choice(NAMES), n=count, item=item)
    return Question(text, count * PRICES[item], "euros", "thousands of euros", 1000)


KINDS: tuple[Kind, ...] = (_sum, _boxes, _rent, _minutes, _purchase)


def _say(template: str, number: float, unit: str) -> str:
    return template.format(n=f"{number:g}", u=unit).replace(" .", ".").replace(" !", "!")


def _near(rng: random.Random, value: float) -> int:
    blurred = round(value * (1 + (0 if rng.random() < EXACT else rng.gauss(0, GOOD_BLUR))))
    return blurred if abs(blurred - value) <= 0.9 * TOLERANCE * value else round(value)


def _far(rng: random.Random, value: float) -> int:
    factor = rng.choice((0.5, 0.6, 0.7, 1.35, 1.5, 1.7))
    blurred = round(value * factor)
    return blurred if abs(blurred - value) > 1.2 * TOLERANCE * value else round(value) * 2 + 3


def _spoiled(rng: random.Random, question: Question, flaw: str) -> str:
    if flaw == "no_number":
        return rng.choice(NO_NUMBER)
    if flaw == "over":
        return _say(rng.choice(OVER), round(question.value * rng.uniform(1.6, 3)) + 2, question.unit)
    if flaw == "large_unit":
        return _say(rng.choice(LARGE), round(question.value / question.scale, 1), question.large_unit)
    return _say(rng.choice(OPENINGS), _far(rng, question.value), question.unit)
