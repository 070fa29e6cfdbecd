"""Python functions to a described filter and aggregate. Judged by `compiles`: is the answer Python at all?"""

from __future__ import annotations

import random

from data.families.task import Spoil, Task, chatter, weighted

NUMBERS = ("numbers", "values", "scores", "prices", "ages", "sizes", "weights", "points")
STRINGS = ("words", "names", "lines", "titles", "cities", "labels")
NUMBER_TESTS = (
    ("are even", "{x} % 2 == 0"),
    ("are odd", "{x} % 2 == 1"),
    ("are positive", "{x} > 0"),
    ("are negative", "{x} < 0"),
    ("are greater than {n}", "{x} > {n}"),
    ("are less than {n}", "{x} < {n}"),
    ("are at least {n}", "{x} >= {n}"),
    ("are at most {n}", "{x} <= {n}"),
    ("can be divided by {n}", "{x} % {n} == 0"),
    ("are not equal to {n}", "{x} != {n}"),
)
STRING_TESTS = (
    ("start with '{c}'", "{x}.startswith('{c}')"),
    ("end with '{c}'", "{x}.endswith('{c}')"),
    ("contain '{c}'", "'{c}' in {x}"),
    ("do not contain '{c}'", "'{c}' not in {x}"),
    ("are longer than {n}", "len({x}) > {n}"),
    ("are shorter than {n}", "len({x}) < {n}"),
)
# What is asked, the verb in the function's name, the expression over the chosen items.
NUMBER_RESULTS = (
    ("the sum of the {items} that {test}", "sum", "sum({chosen})"),
    ("how many of the {items} {test}", "count", "len([{chosen}])"),
    ("a list of the {items} that {test}", "pick", "[{chosen}]"),
    ("the largest of the {items} that {test}", "max", "max({chosen})"),
    ("the smallest of the {items} that {test}", "min", "min({chosen})"),
    ("the {items} that {test} in order", "sort", "sorted({chosen})"),
)
STRING_RESULTS = (
    ("how many of the {items} {test}", "count", "len([{chosen}])"),
    ("a list of the {items} that {test}", "find", "[{chosen}]"),
    ("the {items} that {test} in order", "sort", "sorted({chosen})"),
    ("the set of the {items} that {test}", "set", "set({chosen})"),
    ("the {items} that {test} joined by spaces", "join", "' '.join({chosen})"),
)
NAMES = ("x", "n", "v", "item", "each", "a", "i", "value", "k", "one")
RESULTS = ("result", "found", "out", "kept")
FLAWS = (("chatter", 30), ("other_language", 25), ("no_colon", 15), ("flat", 15), ("open_bracket", 8), ("remark", 7))


def draw(rng: random.Random) -> Task:
    """A function to write, one that compiles, and one that does not."""
    numeric = rng.random() < 0.6
    items = rng.choice(NUMBERS if numeric else STRINGS)
    wording, verb, result = rng.choice(NUMBER_RESULTS if numeric else STRING_RESULTS)
    phrase, test = rng.choice(NUMBER_TESTS if numeric else STRING_TESTS)
    fill = {"n": str(rng.randint(2, 20)), "c": rng.choice("abcdefghilmnoprst")}
    name = f"{verb}_{items}"
    asked = wording.format(items=items, test=phrase.format(**fill))
    prompt = f"Write a Python function {name}({items}) that returns {asked}."
    code = _function(rng, name, items, test, result, fill)
    flaw = weighted(rng, FLAWS)
    spoiled = SPOIL[flaw](rng, _function(rng, name, items, test, result, fill))
    return Task(prompt, None, code, spoiled, flaw)


def _function(rng: random.Random, name: str, items: str, test: str, result: str, fill: dict[str, str]) -> str:
    x = rng.choice(NAMES)
    condition = test.format(x=x, **fill)
    if rng.random() < 0.7:
        chosen = f"{x} for {x} in {items} if {condition}"
        body = _returned(rng, result.format(chosen=chosen))
    else:
        kept = rng.choice(RESULTS)
        body = f"    {kept} = [{x} for {x} in {items} if {condition}]\n"
        body += f"    return {result.format(chosen=kept).replace(f'[{kept}]', kept)}"
    return f"def {name}({items}):\n{body}"


def _returned(rng: random.Random, expression: str) -> str:
    if rng.random() < 0.8:
        return f"    return {expression}"
    kept = rng.choice(RESULTS)
    return f"    {kept} = {expression}\n    return {kept}"


def _chatter(rng: random.Random, code: str) -> str:
    return chatter(rng) + code


def _other_language(rng: random.Random, code: str) -> str:
    word = rng.choice(("function", "func", "fn", "define"))
    return code.replace("def ", f"{word} ", 1).replace("):\n", ") {\n", 1) + "\n}"


def _no_colon(rng: random.Random, code: str) -> str:
    return code.replace("):\n", ")\n", 1)


def _flat(rng: random.Random, code: str) -> str:
    return code.replace("\n    ", "\n")


def _open_bracket(rng: random.Random, code: str) -> str:
    at = max(code.rfind(")"), code.rfind("]"))
    return code[:at] + code[at + 1 :]


def _remark(rng: random.Random, code: str) -> str:
    return code + "\n\n" + rng.choice(("Hope this helps!", "This returns the result.", "Let me know if it works."))


SPOIL: dict[str, Spoil] = {
    "chatter": _chatter,
    "other_language": _other_language,
    "no_colon": _no_colon,
    "flat": _flat,
    "open_bracket": _open_bracket,
    "remark": _remark,
}
