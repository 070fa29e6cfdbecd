"""Short texts under constraints. Judged by `format`; the target lists them under IFEval's ids and argument names."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data.families.task import Task

TOPICS = (
    "tea", "rain", "bread", "rivers", "snow", "music", "trains", "gardens", "horses", "coffee", "birds", "winter",
    "soup", "boats", "stars", "books", "forests", "islands", "apples", "bridges", "clocks", "lakes", "dogs", "cheese",
    "markets", "roses", "storms", "towns", "wool", "honey",
)  # fmt: skip
KEYWORDS = (  # none is part of another word that the sentences use
    "green", "warm", "morning", "light", "water", "quiet", "road", "table", "sugar", "paper", "stone", "window",
    "summer", "small", "gold", "bright", "letter", "silver", "corner", "basket", "family", "kitchen", "village", "purple",
)  # fmt: skip
ADJECTIVES = ("calm", "cold", "simple", "lovely", "rare", "sweet", "wild", "useful", "slow", "pleasant", "rich", "tidy")
TIMES = ("spring", "autumn", "the evening", "the city", "the hills", "the north", "our street", "the old days")
VERBS = ("like", "enjoy", "miss", "love", "study", "remember", "share", "want")
PEOPLE = ("Many people", "Children", "My friends", "Old people", "Farmers", "Some people", "Travellers", "Artists")
SENTENCES = (
    "{people} {verb} {topic} in {time}.", "I {verb} {topic} very much.", "We {verb} {topic} in {time}.",
    "In {time} {topic} can be {adjective}.", "{people} say that {topic} can be {adjective}.",
    "{people} {verb} {topic} every day.", "There is something {adjective} about {topic}.",
    "I think {topic} can be {adjective} and {adjective2}.",
)  # fmt: skip
COMMA_SENTENCES = (
    "In {time}, {topic} can be {adjective}.", "For me, {topic} can be {adjective}, {adjective2} and good.",
    "Well, {people_lower} {verb} {topic}.", "Of course, we {verb} {topic} in {time}.",
)  # fmt: skip
KEYWORD_SENTENCES = (
    "The {word} is part of it.", "It makes me think of {word}.", "Then comes the word {word}.", "I also like {word}.",
)  # fmt: skip
ENDINGS = ("That is all.", "The end.", "See you soon.", "Thank you.", "Is that not nice?", "So it is.")
CHATTER = ("Sure! Here is a text about {topic}:", "Here is a short text about {topic}:", "Of course! About {topic}:")
AFTERWORDS = ("Let me know if you need more.", "I hope that helps.", "Was this good?")


@dataclass
class Draft:
    """A text in the making. Each constraint changes some of this, once to meet it and once to break it."""

    topic: str
    sentences: list[str] = field(default_factory=list)
    n_sentences: int = 2
    commas: bool = False
    words: list[str] = field(default_factory=list)
    bullet: str = ""
    before: str = ""
    after: str = ""
    ending: str = ""
    case: str = "as_is"
    quoted: bool = False


@dataclass(frozen=True)
class Constraint:
    """One constraint: its words in the prompt, its entry in the target, and what meeting or breaking it takes.

    Args:
        excludes: names of constraints that cannot stand beside it.
    """

    name: str
    words: str
    entry: dict[str, Any]
    meet: Callable[[random.Random, Draft], None]
    flout: Callable[[random.Random, Draft], None]


def draw(rng: random.Random) -> Task:
    """A text to write, one that meets every constraint, and one that breaks one of them."""
    topic = rng.choice(TOPICS)
    names = rng.choice(PAIRS)
    constraints = [MAKERS[name](rng, topic) for name in names]
    asked = " ".join(constraint.words for constraint in constraints)
    prompt = f"{rng.choice(('Write', 'Give me', 'Make'))} a short text about {topic}. {asked}"
    broken = rng.choice(constraints)
    good, bad = (_write(rng, topic, constraints, flaw) for flaw in (None, broken))
    return Task(prompt, [constraint.entry for constraint in constraints], good, bad, broken.name)


def _write(rng: random.Random, topic: str, constraints: list[Constraint], flaw: Constraint | None) -> str:
    draft = Draft(topic, n_sentences=rng.choice((1, 2, 2, 3)), commas=rng.random() < 0.3)
    for constraint in constraints:
        if constraint is not flaw:
            constraint.meet(rng, draft)
    if flaw is not None:
        flaw.flout(rng, draft)
    return _assembled(rng, draft)


def _sentence(rng: random.Random, draft: Draft, comma: bool) -> str:
    people = rng.choice(PEOPLE)
    adjective, adjective2 = rng.sample(ADJECTIVES, 2)
    text = rng.choice(COMMA_SENTENCES if comma else SENTENCES).format(
        topic=draft.topic, people=people, people_lower=people[0].lower() + people[1:], verb=rng.choice(VERBS),
        time=rng.choice(TIMES), adjective=adjective, adjective2=adjective2,
    )  # fmt: skip
    return text[0].upper() + text[1:]


def _assembled(rng: random.Random, draft: Draft) -> str:
    count = max(0, draft.n_sentences - len(draft.words))
    plain = [_sentence(rng, draft, draft.commas and at == 0) for at in range(count)]
    keyed = [rng.choice(KEYWORD_SENTENCES).format(word=word) for word in draft.words]
    sentences = plain[:1] + keyed + plain[1:]
    if draft.bullet:
        lines = [draft.bullet.format(n=at + 1) + sentence for at, sentence in enumerate(sentences)]
        body = "\n".join([*filter(None, [draft.before]), *lines, *filter(None, [draft.ending, draft.after])])
    else:
        parts = [*sentences, draft.ending, draft.after]
        body = (draft.before + "\n" if draft.before else "") + " ".join(part for part in parts if part)
    if draft.quoted:
        body = f'"{body}"'
    return {"lower": body.lower(), "upper": body.upper(), "as_is": body}[draft.case]


def _chatter(rng: random.Random, draft: Draft) -> None:
    draft.before = rng.choice(CHATTER).format(topic=draft.topic)


def _bullets(rng: random.Random, topic: str) -> Constraint:
    count = rng.randint(2, 4)

    def meet(rng: random.Random, draft: Draft) -> None:
        draft.bullet, draft.n_sentences = "* ", count

    def flout(rng: random.Random, draft: Draft) -> None:
        draft.bullet = rng.choice(("{n}. ", "{n}) ", "", "* "))
        draft.n_sentences = count + (1 if draft.bullet == "* " else 0)

    entry = {"id": "detectable_format:number_bullet_lists", "num_bullets": count}
    return Constraint("bullets", f"Use exactly {count} bullet points.", entry, meet, flout)


def _keyword(rng: random.Random, topic: str) -> Constraint:
    word = rng.choice(KEYWORDS)

    def meet(rng: random.Random, draft: Draft) -> None:
        draft.words.append(word)

    def flout(rng: random.Random, draft: Draft) -> None:
        _chatter(rng, draft)

    entry = {"id": "keywords:existence", "keywords": [word]}
    return Constraint("keyword", f"Use the word {word}.", entry, meet, flout)


def _forbidden(rng: random.Random, topic: str) -> Constraint:
    word = rng.choice(KEYWORDS)

    def meet(rng: random.Random, draft: Draft) -> None:
        return None

    def flout(rng: random.Random, draft: Draft) -> None:
        draft.words.append(word)

    entry = {"id": "keywords:forbidden_words", "forbidden_words": [word]}
    return Constraint("forbidden", f"Do not use the word {word}.", entry, meet, flout)


def _cased(name: str, words: str, constraint_id: str) -> Callable[[random.Random, str], Constraint]:
    def meet(rng: random.Random, draft: Draft) -> None:
        draft.case = name

    def flout(rng: random.Random, draft: Draft) -> None:
        draft.case = "as_is"
        if rng.random() < 0.5:
            _chatter(rng, draft)

    return lambda rng, topic: Constraint(name, words, {"id": constraint_id}, meet, flout)


def _no_comma(rng: random.Random, topic: str) -> Constraint:
    def meet(rng: random.Random, draft: Draft) -> None:
        draft.commas = False

    def flout(rng: random.Random, draft: Draft) -> None:
        draft.commas, draft.n_sentences = True, max(draft.n_sentences, 1 + len(draft.words))

    return Constraint("no_comma", "Do not use commas.", {"id": "punctuation:no_comma"}, meet, flout)


def _ending(rng: random.Random, topic: str) -> Constraint:
    phrase = rng.choice(ENDINGS)

    def meet(rng: random.Random, draft: Draft) -> None:
        draft.ending = phrase

    def flout(rng: random.Random, draft: Draft) -> None:
        if rng.random() < 0.6:
            draft.after = rng.choice(AFTERWORDS)
        if rng.random() < 0.5:
            _chatter(rng, draft)

    entry = {"id": "startend:end_checker", "end_phrase": phrase}
    return Constraint("ending", f"End with: {phrase}", entry, meet, flout)


def _few_words(rng: random.Random, topic: str) -> Constraint:
    limit = rng.choice((20, 25, 30))

    def meet(rng: random.Random, draft: Draft) -> None:
        draft.n_sentences = min(draft.n_sentences, 2)

    def flout(rng: random.Random, draft: Draft) -> None:
        _chatter(rng, draft)
        draft.n_sentences = limit // 4

    entry = {"id": "length_constraints:number_words", "relation": "less than", "num_words": limit}
    return Constraint("few_words", f"Use less than {limit} words.", entry, meet, flout)


def _quotation(rng: random.Random, topic: str) -> Constraint:
    def meet(rng: random.Random, draft: Draft) -> None:
        draft.quoted = True

    def flout(rng: random.Random, draft: Draft) -> None:
        if rng.random() < 0.5:
            _chatter(rng, draft)

    return Constraint("quotation", "Put it all in double quotes.", {"id": "startend:quotation"}, meet, flout)


def _title(rng: random.Random, topic: str) -> Constraint:
    def meet(rng: random.Random, draft: Draft) -> None:
        draft.before = f"<<{topic.capitalize()}>>"

    def flout(rng: random.Random, draft: Draft) -> None:
        draft.before = rng.choice(("# {topic}", "**{topic}**", "Title: {topic}")).format(topic=topic.capitalize())

    return Constraint("title", "Add a title in << >>.", {"id": "detectable_format:title"}, meet, flout)


MAKERS: dict[str, Callable[[random.Random, str], Constraint]] = {
    "bullets": _bullets,
    "keyword": _keyword,
    "forbidden": _forbidden,
    "lower": _cased("lower", "Use lowercase letters only.", "change_case:english_lowercase"),
    "upper": _cased("upper", "Use capital letters only.", "change_case:english_capital"),
    "no_comma": _no_comma,
    "ending": _ending,
    "few_words": _few_words,
    "quotation": _quotation,
    "title": _title,
}
# Every pair of constraints that one text can meet. The order is the order in which they are asked.
PAIRS = (
    ("bullets", "keyword"), ("bullets", "lower"), ("bullets", "no_comma"), ("bullets", "ending"), ("bullets", "title"),
    ("keyword", "lower"), ("keyword", "no_comma"), ("keyword", "ending"), ("keyword", "few_words"),
    ("keyword", "quotation"), ("keyword", "title"), ("forbidden", "lower"), ("forbidden", "quotation"),
    ("lower", "no_comma"), ("lower", "quotation"), ("lower", "few_words"), ("lower", "title"), ("upper", "no_comma"),
    ("upper", "few_words"), ("upper", "quotation"), ("no_comma", "ending"), ("no_comma", "quotation"),
    ("no_comma", "title"), ("ending", "title"), ("ending", "few_words"), ("title", "few_words"), ("bullets", "upper"),
)  # fmt: skip
