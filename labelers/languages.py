"""How each language is given to its compiler: command, file name, limits, and what of a text says nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Compiled = Literal["c", "cpp", "javascript", "java", "go", "rust", "bash"]

_SLASHES = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
_DIRECTIVE = r"#(?:[^\n\\]|\\.)*"
_DEAD = r"#[ \t]*if[ \t]+0\b.*?(?:\n[ \t]*#[ \t]*endif[^\n]*|\Z)"


@dataclass(frozen=True)
class Language:
    """One language and its compiler.

    Args:
        program: the compiler's name.
        tags: its names behind an opening fence.
        command: from the source to the file's name and the words after the compiler's name.
        silent: what of a text does nothing: blanks, comments, and statements that only prepare.
        failed: exit codes that mean "does not compile".
        timeout_s: seconds on an idle machine that no ordinary text comes near.
        memory_mb: address space; the JVM and V8 reserve far more than they use.
        quiet: more words for the first run.
        lint: more words for a second run that must stay silent for "lints clean".
    """

    program: str
    tags: tuple[str, ...]
    command: Callable[[str], tuple[str, tuple[str, ...]]]
    silent: re.Pattern[str]
    failed: tuple[int, ...] = (1,)
    timeout_s: float = 2.0
    memory_mb: int = 1024
    quiet: tuple[str, ...] = ()
    lint: tuple[str, ...] = ()

    def is_silent(self, code: str) -> bool:
        """Whether the text is empty or does nothing."""
        position = 0
        while match := self.silent.match(code, position):
            position = match.end()
        return position == len(code)


def _silent(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join((r"[\s\ufeff;{}]+", *parts)), re.DOTALL)


def _gnu(std: str, name: str) -> Callable[[str], tuple[str, tuple[str, ...]]]:
    strict = "implicit-function-declaration implicit-int int-conversion incompatible-pointer-types"  # gcc 14's errors
    errors = [f"-Werror={kind}" for kind in strict.split()] if name.endswith(".c") else []  # -w would silence them
    words = (
        f"-std={std}",
        "-fsyntax-only",
        "-fmax-errors=1",
        "-fno-diagnostics-show-caret",
        "-iquote",
        "include",
        *errors,
    )
    return lambda code: (name, (*words, "-Iinclude", name))


def _java(code: str) -> tuple[str, tuple[str, ...]]:
    public = re.search(
        r"\bpublic\s+(?:(?:final|abstract|sealed|strictfp)\s+)*(?:class|interface|enum|record)\s+(\w+)", code
    )
    name = f"{public[1] if public and public[1].isascii() and len(public[1]) < 100 else 'Main'}.java"
    machine = (
        "-J-Xmx400m",
        "-J-Xss4m",
        "-J-XX:+UseSerialGC",
        "-J-XX:TieredStopAtLevel=1",
        "-J-XX:ReservedCodeCacheSize=64m",
    )
    return name, (
        *machine,
        "-proc:none",
        "-nowarn",
        "-Xlint:none",
        "-Xmaxerrs",
        "1",
        "-encoding",
        "UTF-8",
        "-d",
        ".",
        name,
    )


def _javascript(code: str) -> tuple[str, tuple[str, ...]]:
    name = "code.mjs" if re.search(r"^[ \t]*(?:import\b(?!\s*\()|export\b)", code, re.MULTILINE) else "code.js"
    return name, ("--check", name)


def _rust(code: str) -> tuple[str, tuple[str, ...]]:
    words = (
        "--edition",
        "2021",
        "--crate-type",
        "lib",
        "--crate-name",
        "code",
        "--emit",
        "metadata",
        "--cap-lints",
        "allow",
    )
    return "code.rs", (*words, "--color", "never", "--error-format", "short", "code.rs")


LANGUAGES: dict[Compiled, Language] = {
    "c": Language(
        "gcc", ("c", "h"), _gnu("gnu17", "code.c"), _silent(_SLASHES, _DEAD, _DIRECTIVE), lint=("-Wall", "-Wextra")
    ),
    "cpp": Language(
        "g++", ("cpp", "c++", "cc", "cxx", "hpp"), _gnu("gnu++20", "code.cpp"), _silent(_SLASHES, _DEAD, _DIRECTIVE),
        timeout_s=5.0, quiet=("-w",), lint=("-Wall", "-Wextra"),
    ),
    "javascript": Language(
        "node", ("javascript", "js", "mjs", "node"), _javascript, _silent(_SLASHES, r"#![^\n]*", r"""(["'])use strict\1"""),
        memory_mb=8192,
    ),
    "java": Language(
        "javac", ("java",), _java, _silent(_SLASHES, r"(?:import|package)\s[^;]*(?:;|\Z)"), timeout_s=10.0, memory_mb=8192
    ),
    "go": Language(
        "go", ("go", "golang"), lambda code: ("code.go", ("build", "-o", "/dev/null", "code.go")),
        _silent(_SLASHES, r"package\s+\w+", r"import\s+(?:\([^)]*\)|[^\n]*)"), (1, 2), timeout_s=30.0, memory_mb=8192,
    ),
    "rust": Language(
        "rustc", ("rust", "rs"), _rust, _silent(_SLASHES, r"(?:use|extern\s+crate)\s[^;]*(?:;|\Z)", r"#!?\[[^\]]*\]"),
        memory_mb=4096,
    ),
    "bash": Language(
        "bash", ("bash", "sh", "shell", "zsh"), lambda code: ("code.sh", ("-n", "code.sh")), _silent(r"#[^\n]*", r":(?=\s|\Z)"),
        (1, 2),
    ),
}  # fmt: skip
