"""Who may import what: CONTRIBUTING.md's table, on every import statement, lazy ones too, and on what a command loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("labelers", "pipeline", "trainer")
HEAVY = ("torch", "vllm", "transformers", "pyarrow", "ray")

NEVER = {
    "labelers": {*HEAVY, "pipeline", "trainer"},
    "pipeline": {"torch", "transformers", "trainer"},
    "trainer": {"labelers", "pipeline", "vllm", "ray"},
}
"""package -> what none of its modules imports."""

ONLY_IN = {
    "vllm": ("pipeline/engines/vllm.py",),
    "ray": ("pipeline/executors/ray.py",),
    "starlette": ("pipeline/review/",),
    "fastapi": ("pipeline/review/",),
    "uvicorn": ("pipeline/review/",),
}
"""module -> the only files (or folder) of `pipeline` that import it."""

COMMANDS = [
    ("labelers", ["list"], {*HEAVY, "numpy", "pandas"}),
    ("labelers", ["--help"], {*HEAVY, "numpy", "pandas"}),
    ("pipeline", ["--help"], {"torch", "vllm", "transformers", "ray"}),
    ("pipeline", ["run", "--help"], {"torch", "vllm", "transformers", "ray"}),
    ("trainer", ["--help"], {"torch", "transformers", "vllm", "ray"}),
]
"""package, arguments, and the modules that this command has no time to import."""


class Import(NamedTuple):
    """One import statement: where, and the first part of the module's name."""

    file: str
    line: int
    module: str


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, root: Path = ROOT) -> Iterator[Import]:
    """Every import in the file, in functions and under TYPE_CHECKING too, and `import_module("literal")`."""
    file = path.relative_to(root).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (Import(file, node.lineno, alias.name.split(".")[0]) for alias in names)
            case ast.ImportFrom(level=0, module=str(module)):
                yield Import(file, node.lineno, module.split(".")[0])
            case ast.ImportFrom(level=level) if level:
                yield Import(file, node.lineno, file.split("/")[0])
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Import(file, node.lineno, module.split(".")[0])


def third_party(package: str) -> list[Import]:
    own = {*PACKAGES, *sys.stdlib_module_names}
    return [found for path in modules(package) for found in imports(path) if found.module not in own]


def test_the_walk_sees_lazy_relative_and_dynamic_imports(tmp_path: Path) -> None:
    path = tmp_path / "here.py"
    path.write_text(
        "import a.b\nfrom . import x\ndef f():\n    from c.d import e\n    importlib.import_module('g.h')\n    __import__('i')"
    )
    assert {found.module for found in imports(path, tmp_path)} == {"a", "here.py", "c", "g", "i"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_that_it_must_not(package: str) -> None:
    wrong = [found for path in modules(package) for found in imports(path) if found.module in NEVER[package]]
    assert wrong == []


def test_vllm_ray_and_the_web_framework_stay_in_their_own_files() -> None:
    wrong = [
        found
        for found in third_party("pipeline")
        if found.module in ONLY_IN and not found.file.startswith(ONLY_IN[found.module])
    ]
    assert wrong == []


def test_each_third_party_module_is_in_exactly_one_labelers_file() -> None:
    files = defaultdict(set)
    for found in third_party("labelers"):
        files[found.module].add(found.file)
    assert {module: sorted(where) for module, where in files.items() if len(where) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_imported_is_declared(package: str) -> None:
    """A module that only happens to be installed breaks on the next machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[^A-Za-z0-9._-]", line)[0].replace("-", "_").lower() for line in lines}
    provided = {"yaml": "pyyaml", "vllm": "vllm", "markdown_it": "markdown_it_py"}
    undeclared = [each for each in third_party(package) if provided.get(each.module, each.module) not in declared]
    assert undeclared == []


BLOCKED = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ImportError(name + " is blocked: a labeler module must import without it")

sys.meta_path.insert(0, Blocked())
import labelers
for module in pkgutil.walk_packages(labelers.__path__, "labelers."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_every_labeler_imports_on_a_machine_without_the_heavy_modules() -> None:
    heavy = {*HEAVY, "numpy", "pandas", "pipeline", "trainer"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(heavy=heavy)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "labelers.types" in done.stdout.split()


@pytest.mark.parametrize(("package", "arguments", "heavy"), COMMANDS)
def test_a_command_that_only_talks_loads_nothing_heavy(package: str, arguments: list[str], heavy: set[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", package, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=ROOT)
    timed, said = [], []
    for line in done.stderr.splitlines():
        (timed if line.startswith("import time:") else said).append(line)
    assert done.returncode == 0, "\n".join(said)
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in timed}
    assert package in loaded
    assert loaded & heavy == set()
