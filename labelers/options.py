"""Options from TOML or JSON, checked against a labeler's fields: what a dataclass does not check for itself."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from labelers.errors import OptionError, WrongShape


class _Mismatch(Exception):
    """The value does not fit; the text says what would."""


def checked(labeler: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for `labeler(...)`: every option known and of the field's type; lists as tuples for a tuple field.

    Raises:
        OptionError: an unknown, missing or mistyped option; the text names it and what is expected.
    """
    fields = {f.name: f for f in dataclasses.fields(labeler) if f.init}
    hints = type_hints(labeler)
    where = labeler.__qualname__
    for name in options:
        if name not in fields:
            raise OptionError(f"unknown option {name!r}", where=where, hint=near(str(name), list(fields), "options"))
    for name, field in fields.items():
        if name not in options and not has_default(field):
            raise OptionError(
                f"option {name!r} is missing and has no default",
                where=where,
                hint=f"set it to {describe(hints[name])}",
            )
    return {name: _checked_one(name, value, hints[name], where) for name, value in options.items()}


def has_default(field: dataclasses.Field[Any]) -> bool:
    """True when the option may be left out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def type_hints(labeler: type) -> dict[str, Any]:
    """The resolved annotations of a labeler's fields.

    Raises:
        WrongShape: an annotation names something that does not exist when the file runs.
    """
    try:
        return typing.get_type_hints(labeler)
    except Exception as error:
        raise WrongShape(
            f"the annotations cannot be resolved: {error}",
            where=labeler.__qualname__,
            hint="annotate options with names that exist at run time (not only under TYPE_CHECKING)",
        ) from error


def near(wrong: str, known: Sequence[str], what: str) -> str:
    """A hint: the nearest right name, or all of them when none is near."""
    matches = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if matches:
        return f"did you mean {matches[0]!r}?"
    return f"{what} are {', '.join(sorted(known))}" if known else f"there are no {what}"


def describe(hint: Any) -> str:
    """A type in a reader's words: `a whole number`, `one of 'a', 'b'`."""
    plain = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path (text)"}
    if hint in (None, type(None)):
        return "null"
    if isinstance(hint, type) and hint in plain:
        return plain[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a list of exactly {len(args)}: " + ", ".join(describe(a) for a in args)
    if _is_list(origin or hint):
        return f"a list, each {describe(args[0])}" if args else "a list"
    if _is_table(origin or hint):
        return "a table (key = value)"
    return getattr(hint, "__name__", str(hint))


def _checked_one(name: str, value: Any, hint: Any, where: str) -> Any:
    try:
        return _fit(value, hint)
    except _Mismatch as mismatch:
        raise OptionError(
            f"option {name!r} is {_short(value)}, which is {_kind(value)}; expected {mismatch}", where=where
        ) from None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else describe(type(value))


def _is_list(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Sequence) and not issubclass(kind, str | bytes)


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Mapping)


def _fit(value: Any, hint: Any) -> Any:
    """`value` as the type that `hint` asks for, without guessing: text is never read as a number."""
    origin = get_origin(hint)
    if hint is Any or hint is object:
        return value
    if origin is Literal:
        return _fit_literal(value, hint)
    if origin in (Union, types.UnionType):
        return _fit_union(value, hint)
    if origin is typing.Annotated:
        return _fit(value, get_args(hint)[0])
    if _is_list(origin or hint):
        return _fit_list(value, hint)
    if _is_table(origin or hint):
        return _fit_table(value, hint)
    return _fit_plain(value, hint)


def _fit_plain(value: Any, hint: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return _finite(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is None or hint is type(None):
        fits = value is None
    elif hint is int:
        fits = is_number and isinstance(value, int)
    elif isinstance(hint, type):
        fits = isinstance(value, hint)
    else:
        return value  # a TypeVar, a Protocol ...: nothing that TOML could get wrong in a way we could name
    if not fits:
        raise _Mismatch(describe(hint))
    return value


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise _Mismatch("a finite number") from None
    if not math.isfinite(number):
        raise _Mismatch("a finite number")
    return number


def _fit_literal(value: Any, hint: Any) -> Any:
    for allowed in get_args(hint):
        if type(allowed) is type(value) and allowed == value:
            return value
    names = [a for a in get_args(hint) if isinstance(a, str)]
    matches = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    raise _Mismatch(describe(hint) + (f"; hint: did you mean {matches[0]!r}?" if matches else ""))


def _fit_union(value: Any, hint: Any) -> Any:
    for member in get_args(hint):
        try:
            return _fit(value, member)
        except _Mismatch:
            continue
    raise _Mismatch(describe(hint))


def _fit_list(value: Any, hint: Any) -> Any:
    args = get_args(hint)
    if not isinstance(value, list | tuple):
        raise _Mismatch(describe(hint))
    if (get_origin(hint) or hint) is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _Mismatch(describe(hint))
        return tuple(_fit(v, a) for v, a in zip(value, args, strict=True))
    items = (_fit(v, args[0]) if args else v for v in value)
    return list(items) if (get_origin(hint) or hint) is list else tuple(items)


def _fit_table(value: Any, hint: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _Mismatch(describe(hint))
    args = get_args(hint)
    return {_fit(k, args[0]) if args else k: _fit(v, args[1]) if args else v for k, v in value.items()}
