"""What `compile()` says about Python source, without executing it and without its known ways to hang or to crash.

The limits are conservative: what they stop is undecided, never bad. Measured on Python 3.11.7 and 3.12.1 on a 2-core
Linux VM: within them, compiling 1 MiB stays under 2 s; see the constants. A process of its own for this comes later.
"""

from __future__ import annotations

import ast
import inspect
import io
import opcode
import re
import tokenize
import types
import warnings

MAX_TOKENS = 200_000
"""`a;` half a million times takes 3.6 s and 812 MB; 200,000 tokens take a fifth of that."""
MAX_FIELDS = 10_000
"""An f-string of 30,000 fields takes 0.8 s on 3.11, one of 100,000 takes 15 s: the time grows with the square."""
MAX_COMPREHENSION_DEPTH = 15
"""30 comprehensions in each other's element end the process on 3.12 and 3.13; 20 do not."""
MAX_COPIED_STATEMENTS = 300_000
"""`finally` bodies are compiled once for each way out: 19 nested ones take 3 s and 1.1 GB; these take 0.3 s."""
MAX_DEFINITIONS = 5_000
"""Equal functions are compared with each other on 3.11: 10,000 take 2.2 s, 5,000 take 0.6 s."""
MAX_KEYWORDS = 5_000
"""Keyword arguments of one call are compared with each other: 20,000 take over 3 s, 5,000 take 0.2 s."""

SHORT = 2_000
"""So few characters nest less deep than any limit of the parser or the compiler: both paths below refuse the same."""

_TOKEN = re.compile(r"\w+|[^\w\s]")
_F_STRING = re.compile(r"\b[rR]?[fF][rR]?['\"]")
_SUSPICIOUS = re.compile(r"\b(?:for|finally|def|lambda)\b|=")
_FEW = 15
_SIGNS = ("=", "for", "def", "lambda")
"""What the pattern above finds, and more often: counting them takes a tenth of its time."""
_RETURN = opcode.opmap["RETURN_VALUE"]
_CONSTANTS = {number for name, number in opcode.opmap.items() if name.startswith(("LOAD_CONST", "LOAD_SMALL_INT"))}
_EFFECTS = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
_DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class TooHard(Exception):
    """The source may hang or crash the compiler; nothing is known about it."""


def does_something(source: str, after: tuple[int, int] = (1, 0)) -> bool:
    """Whether source that compiles says something behind `after`; see `says_something`. Raises: as `compiled`."""
    if after == (1, 0) and len(source) <= SHORT and _is_harmless(source):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, "<completion>", "exec", dont_inherit=True)
        if _returns_a_value(code):  # most code that models write; a tree would take as long again as the compiler
            return True
    return says_something(compiled(source), after)


def _is_harmless(source: str) -> bool:
    """Whether the compiler may be given the source before its tree was looked at."""
    if "finally" in source or source.count("{") > MAX_FIELDS:
        return False
    return sum(map(source.count, _SIGNS)) <= _FEW or len(_SUSPICIOUS.findall(source)) <= _FEW


def _returns_a_value(code: types.CodeType) -> bool:
    """Whether a function in the code has a `return` with more than a constant: that is a statement which does something."""
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType) and not inner.co_name.startswith(("<", "__annotate")):
            if inner.co_flags & inspect.CO_OPTIMIZED and _has_return(inner.co_code[::2]):
                return True
            if _returns_a_value(inner):
                return True
    return False


def _has_return(operations: bytes) -> bool:
    """Whether a value is returned that no constant was loaded for; what a function returns at its end is the constant None."""
    place = operations.find(_RETURN)
    while place > 0:
        if operations[place - 1] not in _CONSTANTS:
            return True
        place = operations.find(_RETURN, place + 1)
    return False


def compiled(source: str) -> ast.Module:
    """The syntax tree of source that compiles.

    Raises:
        SyntaxError: it does not compile.
        TooHard: it is beyond a limit above; or the compiler gave up on it (MemoryError, RecursionError).
    """
    _check_text(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source, "<completion>")
        if len(_SUSPICIOUS.findall(source)) > _FEW or "finally" in source:
            _check_tree(tree)
        compile(
            tree, "<completion>", "exec", dont_inherit=True
        )  # the tree alone accepts `return` outside a function ...
    return tree


def stage(source: str) -> float:
    """How far source that does not compile got: 0 not even into tokens, 1 it falls into tokens, 2 it parses."""
    try:
        ast.parse(source)
    except (SyntaxError, MemoryError, RecursionError):
        try:
            kinds = {token.type for token in tokenize.generate_tokens(io.StringIO(source).readline)}
        except (tokenize.TokenError, SyntaxError) as error:
            return float("multi-line statement" in str(error))  # a bracket is missing, no token
        return float(tokenize.ERRORTOKEN not in kinds)
    return 2.0


def _check_text(source: str) -> None:
    n_tokens = len(_TOKEN.findall(source)) if len(source) > MAX_TOKENS else 0
    if n_tokens > MAX_TOKENS:
        raise TooHard(f"{n_tokens} tokens, more than {MAX_TOKENS}")
    if source.count("{") > MAX_FIELDS and _F_STRING.search(source):
        raise TooHard(f"an f-string beside more than {MAX_FIELDS} braces")


def _check_tree(tree: ast.Module) -> None:
    definitions = 0
    for node in ast.walk(tree):
        definitions += isinstance(node, _DEFINITIONS)
        keywords = len(node.keywords) if isinstance(node, ast.Call) else 0
        keywords = len(node.kwd_attrs) if isinstance(node, ast.MatchClass) else keywords
        if keywords > MAX_KEYWORDS:
            raise TooHard(f"{keywords} keyword arguments in one call, more than {MAX_KEYWORDS}")
    if definitions > MAX_DEFINITIONS:
        raise TooHard(f"{definitions} functions and comprehensions, more than {MAX_DEFINITIONS}")
    if _comprehension_depth(tree) > MAX_COMPREHENSION_DEPTH:
        raise TooHard(f"comprehensions nested deeper than {MAX_COMPREHENSION_DEPTH}")
    if _copied_statements(tree.body) > MAX_COPIED_STATEMENTS:
        raise TooHard(f"`finally` bodies copied to more than {MAX_COPIED_STATEMENTS} statements")


def _comprehension_depth(tree: ast.AST) -> int:
    """How many comprehensions lie in each other at most. Not recursive: the tree may be deep."""
    deepest, waiting = 0, [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        depth += isinstance(node, _COMPREHENSIONS)
        deepest = max(deepest, depth)
        waiting.extend((child, depth) for child in ast.iter_child_nodes(node))
    return deepest


def _copied_statements(body: list[ast.stmt]) -> int:
    """About how many statements the compiler writes: a `finally` body counts once for each way into it."""
    total = 0
    for statement in body:
        final = getattr(statement, "finalbody", [])
        total += 1 + sum(_copied_statements(block) for block in _blocks(statement) if block is not final)
        if final:
            ways = 2 + sum(isinstance(n, ast.Return | ast.Break | ast.Continue) for n in ast.walk(statement))
            total += ways * _copied_statements(final)
    return total


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks of statements directly inside a statement; none for a simple statement."""
    blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
    blocks += [handler.body for handler in getattr(statement, "handlers", [])]
    blocks += [case.body for case in getattr(statement, "cases", [])]
    return [block for block in blocks if block]


def says_something(tree: ast.Module, after: tuple[int, int] = (1, 0)) -> bool:
    """Whether a statement that does something ends behind `after` (line, byte in the line).

    `pass`, `...`, docstrings and expressions without a call (prose like `yes or no` is one) do nothing; `if`, `for`,
    `try`, `def`, `class` ... do what is inside them; a class with a base does something.
    """
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop()
        end = (statement.end_lineno or 0, statement.end_col_offset or 0)
        if end <= after:
            continue
        blocks = _blocks(statement)
        for block in blocks:
            waiting.extend(block)
        if _does_something(statement, is_block=bool(blocks)):
            return True
    return False


def _does_something(statement: ast.stmt, *, is_block: bool) -> bool:
    if isinstance(statement, ast.ClassDef):
        return bool(statement.bases or statement.keywords)
    if isinstance(statement, ast.Expr):
        return any(isinstance(node, _EFFECTS) for node in ast.walk(statement))
    return not is_block and not isinstance(statement, ast.Pass)
