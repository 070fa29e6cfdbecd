"""What a completion's process wrote, read as values of builtin types only. It may be anything: it is bounded and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 80


class Unreadable(Exception):
    """It is not what the child's script writes."""


@dataclass(frozen=True, eq=False)
class Other:
    """A value of some other type: it equals nothing but itself, has no length and no truth."""

    kind: str

    def __bool__(self) -> bool:
        raise TypeError(f"a value of type {self.kind} is not carried out of the sandbox")


@dataclass(frozen=True)
class Reply:
    """What became of one expression: a value, or an error's text."""

    value: Any = None
    error: str | None = None


def replies(written: bytes) -> tuple[list[Reply], str | None]:
    """The replies in order, and why the completion could not even be loaded (None: it was).

    Raises:
        Unreadable: a line is something else.
    """
    found: list[Reply] = []
    for line in written.split(b"\n")[:-1]:
        try:
            kind, body = json.loads(line)
            if kind == "value":
                found.append(Reply(_value(body, 0)))
            elif kind in ("error", "broken") and isinstance(body, str):
                if kind == "broken":
                    return [], body
                found.append(Reply(error=body[:200]))
            else:
                raise Unreadable(f"a line of kind {str(kind)[:20]!r}")
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise Unreadable(f"{type(error).__name__}") from error
    return found, None


def _value(body: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise Unreadable("nested too deep")
    if body is None or isinstance(body, bool | str):
        return body
    if not isinstance(body, list) or not body:
        raise Unreadable("a value without a tag")
    tag, *rest = body
    if tag in ("list", "tuple", "set", "frozenset"):
        (items,) = rest
        return _CONTAINERS[tag]([_value(each, depth + 1) for each in items])
    if tag == "dict":
        (pairs,) = rest
        return {_value(k, depth + 1): _value(v, depth + 1) for k, v in pairs}
    return _PLAIN[tag](*rest)


_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_PLAIN: dict[str, Callable[..., Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": bytes.fromhex,
    "complex": lambda real, imag: complex(float(real), float(imag)),
    "other": lambda kind: Other(str(kind)[:80]),
}
