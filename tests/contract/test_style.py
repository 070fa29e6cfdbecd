"""The house rules that a program can check (CONTRIBUTING.md gives the reason of each)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("labelers", "pipeline", "trainer")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
LICENSED = "trainer/train.py"  # one function of it, the training loop, may be longer: one page beats six hops

# Written apart so that this file does not name them.
REGISTRIES = {"pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org", "registry.npmjs" + ".org"}


class Function(NamedTuple):
    """A function and how many lines its statements take, its docstring not counted."""

    file: str
    name: str
    lines: int


def tracked() -> list[Path]:
    """Every file of the repository that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in sorted(set(listed.stdout.splitlines())) if (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def in_packages() -> list[Path]:
    return [path for path in sources() if path.relative_to(ROOT).parts[0] in PACKAGES]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = (
                node.body[1:] if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1 else node.body
            )
            yield Function(name_of(path), node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1)


def test_a_file_fits_in_400_lines() -> None:
    long = {
        name_of(path): lines for path in sources() if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert long == {}


def test_a_function_fits_on_a_page_and_only_the_training_loop_may_be_longer() -> None:
    long = [each for path in sources() for each in functions(path) if each.lines > MAX_FUNCTION_LINES]
    assert [each for each in long if each.file != LICENSED] == []
    assert len(long) <= 1


def test_no_room_is_called_utils() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [name_of(path) for path in in_packages() if path.name in vague] == []


def test_no_package_registry_is_named() -> None:
    """A checkout installs from wherever its machine is told to; a host in a file breaks the machines without it."""
    settings = (
        os.environ.get(key, "") for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
    )
    own = {host for url in settings for part in url.split() if (host := urlsplit(part).hostname) and "." in host}
    pattern = re.compile("|".join(map(re.escape, sorted(REGISTRIES | own))).encode())
    assert [name_of(path) for path in tracked() if pattern.search(path.read_bytes())] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        name_of(path) for path in in_packages() if path.read_text().strip() and not ast.get_docstring(parsed(path))
    ]
    assert silent == []


def test_every_public_function_and_class_has_a_docstring() -> None:
    silent = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in in_packages()
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_except_is_bare_or_silent() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or all(isinstance(each, ast.Pass) for each in node.body))
    ]
    assert wrong == []


def test_no_docstring_only_repeats_the_name() -> None:
    wrong = []
    for path in in_packages():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
                words = re.sub(r"[^a-z ]", "", doc.lower()).split()
                if [word for word in words if word not in ("the", "a", "an", "of", "to")] == node.name.lower().split(
                    "_"
                ):
                    wrong.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert wrong == []
