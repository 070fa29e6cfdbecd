"""Takes an assert apart: what the completion computes goes to the child, what is expected of it stays here.

Of `assert f(3) == 9` the child is asked for `f(3)`; `== 9` is decided here, on the value that comes back. So is
`abs(f(x) - 1.5) < 1e-6`, `len(f(x)) == 3 and f(y) is None`, `f(x) in (1, 2)`. What is not of this kind is not guessed.
"""

from __future__ import annotations

import ast
import copy
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_CASES = 400
_MAX_BITS = 20_000


class NotApart(Exception):
    """This test cannot be taken apart; the text shows it."""


@dataclass(frozen=True)
class Case:
    """One test: expressions for the child, and whether their values are right."""

    expressions: tuple[str, ...]
    holds: Callable[[Sequence[Any]], bool]
    text: str


def cases_of(
    statements: Sequence[ast.stmt],
    names: Mapping[str, ast.expr] | None = None,
    library: frozenset[str] = frozenset(),
) -> list[Case]:
    """The cases of a test's body: asserts, with plain assignments and loops over literals put in their place.

    Args:
        names: what stands for what, for example `candidate` for the function that is asked for.
        library: names that the test imports: what they compute is expected, not the completion's.

    Raises:
        NotApart: a statement is of another kind.
    """
    known, found = dict(names or {}), list[Case]()
    library |= imported(statements)
    for statement in statements:
        match statement:
            case ast.Assert(test=test):
                found += _case(_replaced(test, known), library)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                known[name] = _replaced(value, known)
            case ast.For(target=target, iter=iterable, body=body, orelse=[]):
                for value in _iterated(_replaced(iterable, known)):
                    found += cases_of(body, {**known, **_bound(target, value)}, library)
            case ast.Pass() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                continue
            case _:
                raise NotApart(shown(statement))
        if len(found) > MAX_CASES:
            raise NotApart(f"more than {MAX_CASES} asserts")
    return found


def imported(statements: Sequence[ast.stmt]) -> frozenset[str]:
    """The names that imports in these statements make."""
    nodes = [node for each in statements for node in ast.walk(each) if isinstance(node, ast.Import | ast.ImportFrom)]
    return frozenset((alias.asname or alias.name).split(".")[0] for node in nodes for alias in node.names)


def shown(node: ast.AST) -> str:
    """A statement or expression as one short line."""
    return ast.unparse(node).split("\n")[0][:80]


class _Asked(list[str]):
    """What the child is asked; the builtins' names that the completion defines anew; the names that the test imports."""

    def __init__(self, own: frozenset[str] = frozenset(), library: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.own, self.library = own, library


def _case(test: ast.expr, library: frozenset[str]) -> list[Case]:
    asked = _Asked(library=library)
    compute = _apart(test, asked)
    if not asked and isinstance(test, ast.Constant) and test.value:
        return []  # `assert True`: nothing is tested
    if not asked:  # `assert sum(10, 15) == 6`: the completion has a function of that name
        called = {
            node.func.id for node in ast.walk(test) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        asked = _Asked(frozenset(called), library)
        compute = _apart(test, asked)
    if not asked:
        raise NotApart(f"{shown(test)} asks nothing of the completion")
    return [Case(tuple(asked), lambda values: bool(compute(values)), shown(test))]


def _replaced(node: ast.expr, names: Mapping[str, ast.expr]) -> ast.expr:
    class Replace(ast.NodeTransformer):
        def visit_Name(self, found: ast.Name) -> ast.expr:
            return copy.deepcopy(names[found.id]) if found.id in names else found

    replaced: ast.expr = Replace().visit(copy.deepcopy(node))
    return replaced


def _iterated(iterable: ast.expr) -> list[ast.expr]:
    """The literals that a loop runs over."""
    if isinstance(iterable, ast.List | ast.Tuple):
        return list(iterable.elts)
    asked = _Asked()
    compute = _apart(iterable, asked)
    if asked:
        raise NotApart(f"a loop over {shown(iterable)}")
    values = compute([])
    if not isinstance(values, list | tuple | range | str | dict) or len(values) > MAX_CASES:
        raise NotApart(f"a loop over {shown(iterable)}")
    return [ast.parse(repr(value), mode="eval").body for value in values]


def _bound(target: ast.expr, value: ast.expr) -> dict[str, ast.expr]:
    match target, value:
        case ast.Name(id=name), _:
            return {name: value}
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) | ast.List(elts=values) if len(targets) == len(values):
            return {k: v for t, each in zip(targets, values, strict=True) for k, v in _bound(t, each).items()}
    raise NotApart(f"for {shown(target)}")


Compute = Callable[[Sequence[Any]], Any]

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b, ast.Add: operator.add, ast.Sub: operator.sub, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}  # fmt: skip
_ON_NUMBERS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Mult: operator.mul, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_SETS_TOO: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.BitOr: operator.or_, ast.BitAnd: operator.and_,
}  # fmt: skip
_UNARY: dict[type, Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "len": len, "sorted": sorted, "set": set, "frozenset": frozenset, "list": list, "tuple": tuple,
    "dict": dict, "round": round, "sum": sum, "max": max, "min": min, "str": str, "float": float, "bool": bool,
    "int": int, "isinstance": isinstance, "type": type, "range": range, "math.isclose": math.isclose, "isclose": math.isclose,
    "math.sqrt": math.sqrt, "math.floor": math.floor, "math.ceil": math.ceil, "any": any, "all": all, "zip": zip,
    "enumerate": enumerate, "complex": complex, "bytes": bytes, "reversed": reversed, "math.isnan": math.isnan,
}  # fmt: skip
_CONVERTED_THERE = {"list", "tuple", "set", "frozenset", "sorted", "dict", "str", "len", "sum", "int", "float", "bool", "repr",
                    "next", "max", "min", "all", "any"}  # fmt: skip
_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, str, bool, list, tuple, set, frozenset, dict, bytes, complex)},
    "math.pi": math.pi, "math.inf": math.inf, "math.nan": math.nan, "math.e": math.e,
}  # fmt: skip
_METHODS = {"lower", "upper", "strip", "lstrip", "rstrip", "split", "splitlines", "startswith", "endswith", "count", "index",
            "keys", "values", "items", "get", "isdigit", "isalpha", "replace", "union", "issubset", "issuperset"}  # fmt: skip


def _apart(node: ast.expr, asked: _Asked) -> Compute:
    """How to compute `node` here from the child's values; what the child must be asked is added to `asked`."""
    match node:
        case ast.Constant(value=value):
            return lambda values: value
        case ast.BoolOp(op=op, values=parts):
            each = [_apart(part, asked) for part in parts]
            return (lambda values: all(e(values) for e in each)) if isinstance(op, ast.And) else (
                lambda values: any(e(values) for e in each))  # fmt: skip
        case ast.Compare(left=left, ops=ops, comparators=rights):
            return _compared([_apart(each, asked) for each in (left, *rights)], [_OPERATORS[type(op)] for op in ops])
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            change, of = _UNARY[type(op)], _apart(operand, asked)
            return lambda values: change(of(values))
        case ast.BinOp(left=left, op=op, right=right):
            return _calculated(_apart(left, asked), op, _apart(right, asked), node)
        case ast.List(elts=elts) | ast.Tuple(elts=elts) | ast.Set(elts=elts):
            kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
            items = [_apart(each, asked) for each in elts]
            return lambda values: kind([item(values) for item in items])
        case ast.Dict(keys=keys, values=inner) if None not in keys:
            pairs = [(_apart(k, asked), _apart(v, asked)) for k, v in zip(keys, inner, strict=True) if k is not None]
            return lambda values: {k(values): v(values) for k, v in pairs}
        case ast.Subscript(value=value, slice=index):
            return _subscripted(_apart(value, asked), _index(index, asked))
        case _:
            return _named(node, asked)


def _named(node: ast.expr, asked: _Asked) -> Compute:
    """Names and calls: those of builtins are computed here, all others by the child."""
    name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    if name in _NAMES:
        known = _NAMES[name]
        return lambda values: known
    match node:
        case ast.Call(func=func, args=args, keywords=keywords) if (
            name := ast.unparse(func)
        ) in _FUNCTIONS and name not in asked.own:
            return _called(node, name, args, keywords, asked)
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=args, keywords=[]) if _is_computed(value):
            if attr not in _METHODS:
                raise NotApart(shown(node))
            of, given = _apart(value, asked), [_apart(each, asked) for each in args]
            return lambda values: _method(of(values), attr)(*[g(values) for g in given])
        case ast.Call() | ast.Name() | ast.Attribute() if not _tells(node) and not _is_library(node, asked.library):
            return _ask(node, asked)
        case ast.ListComp() | ast.SetComp() | ast.DictComp() if not _tells(node):
            return _ask(node, asked)
    raise NotApart(shown(node))


def _ask(node: ast.expr, asked: _Asked) -> Compute:
    place = len(asked)
    asked.append(ast.unparse(node))
    return lambda values: values[place]


def _tells(node: ast.expr) -> bool:
    """Whether the child could learn from an expression what is expected: a comparison, a checking function of the test."""
    if not isinstance(node, ast.Call):
        return any(isinstance(each, ast.Compare | ast.BoolOp) for each in ast.walk(node))
    if any(isinstance(each, ast.Compare | ast.BoolOp) and _has_foreign(each) for each in ast.walk(node)):
        return True
    if not all(isinstance(each, ast.Name | ast.Attribute | ast.expr_context) for each in ast.walk(node.func)):
        return True  # (lambda v: v == 9)(f(3))
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    inner = [each for each in given if _has_foreign(each)]
    return len(given) > 1 and bool(inner)  # close_to(f(3), 9): not f(g(3)), not f(3, [1, 2])


def _has_foreign(node: ast.expr) -> bool:
    """Whether something in it is not computed here."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return any(ast.unparse(call.func) not in _FUNCTIONS for call in calls)


def _is_library(node: ast.expr, library: frozenset[str]) -> bool:
    """Whether it is computed by a module: then it is what is expected, and the child must not see it."""
    root: ast.expr = node
    while isinstance(root, ast.Call | ast.Attribute):
        root = root.func if isinstance(root, ast.Call) else root.value
    return isinstance(root, ast.Name) and (root.id in library or (root is not node and _is_module(node, root.id)))


def _is_module(node: ast.expr, name: str) -> bool:
    inner = node.func if isinstance(node, ast.Call) else node
    return isinstance(inner, ast.Attribute) and name in sys.stdlib_module_names


def _is_computed(node: ast.expr) -> bool:
    """Whether a method's object is a value (a literal, the result of a call), not a module or a variable."""
    return isinstance(node, ast.Call | ast.Constant | ast.Subscript | ast.List | ast.Tuple | ast.Dict | ast.Set)


def _method(value: Any, name: str) -> Any:
    if type(value) not in (str, list, tuple, set, frozenset, dict, bytes):
        raise TypeError(f"no .{name} on {type(value).__name__}")
    return getattr(value, name)


def _called(
    node: ast.Call, name: str, args: Sequence[ast.expr], keywords: Sequence[ast.keyword], asked: _Asked
) -> Compute:
    if (
        len(args) == 1
        and name in _CONVERTED_THERE
        and all(k.arg == "reverse" for k in keywords)
        and _is_asked(args[0], asked.own)
    ):
        return _ask(node, asked)  # list(f(x)): f may give a generator, which only the child can run
    if any(keyword.arg not in ("abs_tol", "rel_tol", "reverse") for keyword in keywords):
        raise NotApart(shown(node))
    function = _FUNCTIONS[name]
    given = [_apart(each, asked) for each in args]
    named = {str(keyword.arg): _apart(keyword.value, asked) for keyword in keywords}
    return lambda values: _bounded(function, [g(values) for g in given], {k: v(values) for k, v in named.items()})


def _only_reversed(keywords: Sequence[ast.keyword]) -> bool:
    return all(keyword.arg == "reverse" for keyword in keywords)


def _bounded(function: Callable[..., Any], given: list[Any], named: dict[str, Any]) -> Any:
    if function in (range, list, tuple, sum, sorted) and any(isinstance(g, range) and len(g) > 100_000 for g in given):
        raise TypeError("a range too long to be written out")
    if function is bytes and given and isinstance(given[0], int):
        raise TypeError("bytes of a number")
    return function(*given, **named)


def _is_asked(node: ast.expr, own: frozenset[str]) -> bool:
    """Whether an expression is one question for the child, with nothing in it that is computed here."""
    asked = _Asked(own)
    try:
        _apart(node, asked)
    except NotApart:
        return False
    return asked == [ast.unparse(node)]


def _compared(parts: list[Compute], tests: list[Callable[[Any, Any], Any]]) -> Compute:
    def compute(values: Sequence[Any]) -> bool:
        found = [part(values) for part in parts]
        return all(test(a, b) for test, a, b in zip(tests, found, found[1:], strict=False))

    return compute


def _calculated(left: Compute, op: ast.operator, right: Compute, node: ast.expr) -> Compute:
    if type(op) not in _OPERATORS and not isinstance(op, ast.Mult | ast.Mod | ast.Pow | ast.BitOr | ast.BitAnd):
        raise NotApart(shown(node))

    def compute(values: Sequence[Any]) -> Any:
        a, b = left(values), right(values)
        if isinstance(op, ast.Add) or type(a) is type(b) is set:
            return _SETS_TOO[type(op)](a, b)
        if isinstance(op, ast.Mult) and type(a) in (str, list, tuple) and type(b) is int and len(a) * b < 1_000_000:
            return a * b
        for each in (a, b):
            if type(each) not in (int, float, complex, bool) or (type(each) is int and each.bit_length() > _MAX_BITS):
                raise TypeError("arithmetic on something that is no number of ordinary size")
        if isinstance(op, ast.Pow) and (abs(b) > 1000 or (type(a) is int and a.bit_length() > 200)):
            raise TypeError("a power too large to be written out")
        return {**_OPERATORS, **_ON_NUMBERS, **_SETS_TOO}[type(op)](a, b)

    return compute


def _index(node: ast.expr, asked: _Asked) -> Compute:
    if not isinstance(node, ast.Slice):
        return _apart(node, asked)
    parts = [_apart(each, asked) if each else (lambda values: None) for each in (node.lower, node.upper, node.step)]
    return lambda values: slice(*[part(values) for part in parts])


def _subscripted(value: Compute, index: Compute) -> Compute:
    return lambda values: value(values)[index(values)]
