"""Writes docs/reference.md from the dataclasses: every key and option with its default and what it means.

python docs/make_reference.py            # tests/contract holds the page to what this writes
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docstring_parser

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
HEAD = """# Reference

Written by `python docs/make_reference.py` from the dataclasses, which are the configuration: change it there. Where a default
is a number, the sentence says where it comes from. `sources` and `labelers` are lists: write `[[sources]]`, `[[labelers]]`.
A labeler's options: `python -m labelers explain NAME`.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page's text."""
    return (
        "\n".join([HEAD, "## A run's configuration (TOML)", *_config(), "## The trainer's options", *_trainer()]) + "\n"
    )


def _config() -> Iterator[str]:
    from pipeline.config import Config

    seen: set[type] = set()
    todo: list[tuple[str, type]] = [("", Config)]
    while todo:
        place, kind = todo.pop(0)
        if kind in seen:
            continue
        seen.add(kind)
        yield from _table(place, kind)
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in _fields(kind):
            inner = f"{place}.{field.name}".lstrip(".")
            todo += [(inner, found) for found in _dataclasses(hints[field.name])]


def _table(place: str, kind: type) -> Iterator[str]:
    doc = docstring_parser.parse(kind.__doc__ or "")
    said = _meanings(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    uses = typing.get_args(hints.get("use"))
    title = f"`[{place}]`" if place else "Top level"
    yield f"\n### {title}" + (f' with `use = "{uses[0]}"`' if uses else "")
    yield f"\n{doc.short_description}\n"
    rows = [
        (f.name, _type(hints[f.name]), _default(f), said.get(f.name, ""))
        for f in _fields(kind)
        if f.name != "use" or not uses
    ]
    yield from _rows(("key", "type", "default", "meaning"), rows)


def _meanings(kind: type) -> dict[str, str]:
    """What the docstrings of a dataclass and of those that it extends say of each field."""
    parsed = [docstring_parser.parse(each.__doc__ or "") for each in reversed(kind.__mro__)]
    return {name.strip(): p.description or "" for doc in parsed for p in doc.params for name in p.arg_name.split(",")}


def _trainer() -> Iterator[str]:
    from trainer.config import COMMANDS

    for name, (kind, _) in COMMANDS.items():
        yield f"\n### `python -m trainer {name}`"
        yield f"\n{docstring_parser.parse(kind.__doc__ or '').short_description}\n"
        hints = typing.get_type_hints(kind)
        rows = [
            (f"--{f.name.replace('_', '-')}", _type(hints[f.name]), _default(f), f.metadata.get("help", ""))
            for f in dataclasses.fields(kind)
        ]
        yield from _rows(("option", "type", "default", "meaning"), rows)


def _rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for name, kind, default, meaning in rows:
        yield f"| `{name}` | {_cell(kind)} | {_cell(default)} | {_cell(meaning)} |"


def _fields(kind: type) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(kind) if field.init)


def _dataclasses(kind: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(kind):
        yield typing.cast(type, kind)
    for inner in typing.get_args(kind):
        yield from _dataclasses(inner)


def _type(kind: Any) -> str:
    """A type in the words of a config file."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "none"
    if dataclasses.is_dataclass(kind):
        return "table"
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in inner))
    if origin in (tuple, list) or str(origin).endswith("Sequence'>"):
        return f"list of {' and '.join(dict.fromkeys(_type(one) for one in inner if one is not Ellipsis))}"
    if origin is dict or str(origin).endswith("Mapping'>"):
        return "table"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "**needed**"
    if (
        value is None
        or value == ""
        or dataclasses.is_dataclass(value)
        or (isinstance(value, tuple | list | dict) and not value)
    ):
        return "-"
    return f"`{json.dumps(value)}`" if isinstance(value, bool | int | float | str | tuple | list) else "-"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
