"""Function bodies cut from the standard library of the running Python. Judged by `compiles` with `before="target"`.

Functions are parsed and written out again by `ast`, without decorators, comments or type hints, with one line of the
docstring: the same function always looks the same, so that a tiny model can learn its shape.
"""

from __future__ import annotations

import ast
import platform
import random
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data.families.task import Spoil, Task, chatter, weighted

# Tests, other people's code, and modules that are not in every build of Python.
LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "ensurepip", "idlelib", "lib2to3", "turtledemo", "pip"}
SHOWN_CHARS = (20, 240)
BODY_CHARS = (14, 90)
BODY_LINES = 3
FLAWS = (("chatter", 35), ("flat", 30), ("no_colon", 10), ("misspelt", 15), ("remark", 10))
MISSPELT = (("return", "retrun"), ("self.", "self->"), ("if ", "fi "), (" = ", " =: "), ("for ", "fro "), ("(", "(("))


@dataclass(frozen=True, order=True)
class Cut:
    """A function in two parts: what the prompt shows and what is to be written."""

    shown: str
    body: str
    origin: str


def draw(rng: random.Random) -> Task:
    """A function to finish, the body that stands in the standard library, and one that does not compile."""
    cut = rng.choice(cuts())
    flaw = weighted(rng, FLAWS)
    bad = SPOIL[flaw](rng, cut.body)
    if _compiles(cut.shown + bad):  # `retrun` alone is a name, `self->` may stand in a text
        flaw, bad = "chatter", chatter(rng) + cut.body
    return Task(f"Finish this Python function.\n{cut.shown}", cut.shown, cut.body, bad, flaw, cut.origin)


@cache
def cuts() -> tuple[Cut, ...]:
    """Every function of fitting size, sorted; the first of those that show the same text."""
    found: dict[str, Cut] = {}
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if LEFT_OUT.isdisjoint(parts):
            for cut in _cuts_of(path, f"cpython {platform.python_version()} Lib/{'/'.join(parts)}"):
                found.setdefault(cut.shown, cut)
    return tuple(sorted(found.values()))


def _cuts_of(path: Path, origin: str) -> Iterator[Cut]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in old modules
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            cut = _cut(node, f"{origin} {node.name}")
            if cut is not None and _fits(cut):
                yield cut


def _cut(function: ast.FunctionDef, origin: str) -> Cut | None:
    """The function, cut before its last statements: as many as fit in `BODY_LINES` lines."""
    function = _plain(function)
    if not function.body:
        return None
    first = 1 if ast.get_docstring(function) is not None else 0
    statements = [ast.unparse(statement).split("\n") for statement in function.body]
    at = len(statements)
    while at > first and sum(map(len, statements[at - 1 :])) <= BODY_LINES:
        at -= 1
    head = ast.unparse(ast.fix_missing_locations(_only_head(function))).rsplit("\n", 1)[0]
    lines = [f"    {line}" for statement in statements for line in statement]
    n_shown = sum(map(len, statements[:at]))
    return Cut("\n".join([head, *lines[:n_shown]]) + "\n", "\n".join(lines[n_shown:]), origin)


def _only_head(function: ast.FunctionDef) -> ast.FunctionDef:
    return ast.FunctionDef(function.name, function.args, [ast.Pass()], [])


def _plain(function: ast.FunctionDef) -> ast.FunctionDef:
    """Without decorators and type hints, and with the first line of the docstring alone."""
    arguments = function.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    text = ast.get_docstring(function)
    body = function.body if text is None else function.body[1:]
    line = (text or "").strip().split("\n")[0]
    if line.isascii() and 0 < len(line) <= 70 and not set(line) & set("\"'\\"):
        body = [ast.Expr(ast.Constant(line)), *body]
    return ast.fix_missing_locations(ast.FunctionDef(function.name, arguments, body, []))


def _fits(cut: Cut) -> bool:
    sizes = SHOWN_CHARS[0] <= len(cut.shown) <= SHOWN_CHARS[1] and BODY_CHARS[0] <= len(cut.body) <= BODY_CHARS[1]
    return sizes and (cut.shown + cut.body).isascii() and _compiles(cut.shown + cut.body)


def _compiles(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<cut>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):  # a body that needs its surroundings: nonlocal, a class cell
        return False
    return True


def _chatter(rng: random.Random, body: str) -> str:
    return chatter(rng) + body


def _flat(rng: random.Random, body: str) -> str:
    return body[4:] if rng.random() < 0.5 else "  " + body


def _no_colon(rng: random.Random, body: str) -> str:
    return body.replace(":\n", "\n") if ":\n" in body else body + " ="


def _misspelt(rng: random.Random, body: str) -> str:
    for right, wrong in rng.sample(MISSPELT, len(MISSPELT)):
        if right in body:
            return body.replace(right, wrong, 1)
    return body + ")"


def _remark(rng: random.Random, body: str) -> str:
    return body + "\n" + rng.choice(("Hope this helps!", "That is the whole body.", "Let me know if it works."))


SPOIL: dict[str, Spoil] = {
    "chatter": _chatter,
    "flat": _flat,
    "no_colon": _no_colon,
    "misspelt": _misspelt,
    "remark": _remark,
}
