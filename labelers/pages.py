"""What a reader is shown about a labeler, from its own docstring: the list, the page. `list` imports no labeler."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from labelers.discovery import BUILTIN, build, installed, load
from labelers.options import describe, has_default, type_hints


def summaries() -> dict[str, str]:
    """Name to the docstring's first line, for every labeler that can be found by name."""
    here = Path(__file__).parent
    found = {name: _first_line(here / f"{t.split(':')[0].split('.')[-1]}.py", t) for name, t in BUILTIN.items()}
    for name, entry in installed().items():
        found[name] = _installed_line(entry)
    return dict(sorted(found.items()))


def _installed_line(entry: metadata.EntryPoint) -> str:
    file = entry.module.replace(".", "/")
    package = entry.dist.name if entry.dist else entry.module
    places = (
        [Path(str(entry.dist.locate_file(f"{file}{end}"))) for end in (".py", "/__init__.py")] if entry.dist else []
    )
    line = next((_first_line(place, entry.value) for place in places if place.is_file()), "")
    return f"{line} (installed with {package})".lstrip()


def _first_line(file: Path, target: str) -> str:
    """The first line of a class's docstring, read without importing it."""
    definition = _class_in(file, target.partition(":")[2])
    text = ast.get_docstring(definition) if definition else None
    return text.splitlines()[0] if text else ""


def _class_in(file: Path, name: str) -> ast.ClassDef | None:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError):
        return None
    return next((n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name), None)


def page(use: str) -> str:
    """A labeler's page: docstring, options with defaults and sentences, examples. Raises: LabelerError."""
    labeler: Any = load(use)
    depends = isinstance(labeler.needs, property) or isinstance(labeler.examples, property)
    shown: Any = build(use) if depends else labeler  # those of the default options
    needs = [k for k, v in dataclasses.asdict(shown.needs).items() if v is True]
    facts = [
        "compares two completions" if hasattr(labeler, "compare") else "scores one completion",
        f"version {labeler.version}",
        *([f"needs {', '.join(needs)}"] if needs else []),
    ]
    parts = [f"# {labeler.name}", f"{'; '.join(facts)}.", inspect.getdoc(labeler) or "", _options(labeler)]
    return "\n\n".join(part for part in [*parts, _examples(shown)] if part) + "\n"


def _options(labeler: Any) -> str:
    hints, sentences = type_hints(labeler), _sentences(labeler)
    lines = []
    for field in dataclasses.fields(labeler):
        if not field.init:
            continue
        default = f" Default: {_default(field)}." if has_default(field) else " Must be set."
        lines.append(f"- `{field.name}`: {describe(hints[field.name])}.{default}")
        if sentence := sentences.get(field.name):
            lines.append(f"  {sentence}")
    return "## Options\n" + "\n".join(lines) if lines else "## Options\nNone."


def _default(field: dataclasses.Field[Any]) -> str:
    factory = field.default_factory
    value = field.default if factory is dataclasses.MISSING else factory()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _sentences(labeler: type) -> dict[str, str]:
    """The text below each field in the source."""
    file = getattr(sys.modules.get(labeler.__module__), "__file__", None)
    definition = _class_in(Path(file), labeler.__name__) if file else None
    body = definition.body if definition else []
    found = {}
    for field, following in itertools.pairwise(body):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _examples(labeler: Any) -> str:
    lines = []
    for example in labeler.examples:
        lines += [
            f"- {example.prompt.messages[-1].content!r}",
            f"  prefers {example.better!r}",
            f"  to      {example.worse!r}",
        ]
    return "## Checked examples\n" + "\n".join(lines) if lines else ""
