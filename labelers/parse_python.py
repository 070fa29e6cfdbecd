"""Python literals, as `ast.literal_eval` takes them; nothing is evaluated but the keys of dicts, which are literals too."""

from __future__ import annotations

import ast
import re
import warnings

from labelers.malformed import Malformed, Undecided, check_encodable, check_not_blank
from labelers.python_code import MAX_TOKENS

_TOKEN = re.compile(r"\w+|[^\w\s]")
_LIMITS = ("too many nested parentheses", "Exceeds the limit", "too complex", "too many levels")
"""What a SyntaxError says when the parser met its own limit and not the grammar's."""


def kind_of_python(text: str, *, allow_duplicate_keys: bool = False) -> str:
    """`object` (a dict), `array` (a list or tuple) or `scalar`, for text that is one Python literal.

    Raises:
        Malformed: it is none; a list, set or dict as a key; a key twice; a bare `...`.
        Undecided: over 200 brackets deep, over 200,000 tokens, an integer of over 4,300 digits.
    """
    check_encodable(text)
    check_not_blank(text)
    node = _parsed(text.strip())
    _check(node, allow_duplicate_keys)
    match node:
        case ast.Dict():
            return "object"
        case ast.List() | ast.Tuple():
            return "array"
        case ast.Constant(value=value) if value is Ellipsis:
            raise Malformed("a bare `...` says nothing")
        case _:
            return "scalar"


def _parsed(text: str) -> ast.expr:
    """Raises: Malformed, Undecided."""
    if "\0" in text:
        raise Malformed("a NUL character, which Python source cannot contain")
    if len(text) > MAX_TOKENS and sum(1 for _ in _TOKEN.finditer(text)) > MAX_TOKENS:
        raise Undecided(f"more than {MAX_TOKENS} tokens")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text, "<completion>", mode="eval").body
        except SyntaxError as error:
            if any(limit in (error.msg or "") for limit in _LIMITS):
                raise Undecided(f"beyond a limit of Python's parser: {error.msg}"[:120]) from None
            raise Malformed(f"line {error.lineno}: {error.msg}") from None


def _check(root: ast.expr, allow_duplicate_keys: bool) -> None:
    """Every node is a literal's. Not recursive: the tree may be deep."""
    waiting: list[tuple[ast.expr | None, bool]] = [(root, False)]
    while waiting:
        node, hashed = waiting.pop()
        match node:
            case ast.Constant():
                continue
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=ast.Constant(value=value)) if _is_number(value):
                continue
            case ast.BinOp(op=ast.Add() | ast.Sub(), left=left, right=ast.Constant(value=complex())) if _is_real(left):
                continue
            case ast.Tuple(elts=parts):
                waiting.extend((part, hashed) for part in parts)
            case ast.List() | ast.Set() | ast.Dict() if hashed:
                raise Malformed(f"line {node.lineno}: a list, set or dict as a key or in a set")
            case ast.List(elts=parts):
                waiting.extend((part, False) for part in parts)
            case ast.Set(elts=parts):
                waiting.extend((part, True) for part in parts)
            case ast.Dict(keys=keys, values=values):
                waiting.extend([*((key, True) for key in keys), *((value, False) for value in values)])
                if not allow_duplicate_keys:
                    _check_keys(node)
            case ast.Call(func=ast.Name(id="set"), args=[], keywords=[]) if not hashed:
                continue
            case _:
                raise Malformed(f"{type(node).__name__} is no literal" if node else "`**` is no literal")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | complex) and not isinstance(value, bool)


def _is_real(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _check_keys(node: ast.Dict) -> None:
    """Constant keys by their text: numbers that hash alike would be compared with each other one by one."""
    seen: set[str] = set()
    for key in node.keys:
        if isinstance(key, ast.Constant):
            said = repr(key.value)
            if said in seen:
                raise Malformed(f"line {key.lineno}: the key {said[:80]} is there twice")
            seen.add(said)
