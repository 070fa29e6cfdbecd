"""Shell lines of the pages: taken apart, and every command of ours held against its real parser."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence

import typer

from tests.docs.blocks import ROOT

HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?.*?^\1$", re.MULTILINE | re.DOTALL)
HARMLESS = ("cp", "cd", "cat", "grep", "head", "printf", "echo", ".", "source", "mkdir", "ls", "wc", "export")
"""Commands of every shell, of which there is nothing of ours to check."""


def commands(text: str) -> list[list[str]]:
    """The commands of a script, each as its words; comments, redirections and here-documents left out."""
    joined = re.sub(r"\\\n\s*|\d>&\d", " ", HEREDOC.sub("", text))
    return [command for line in joined.splitlines() for command in _of_line(line)]


def _of_line(line: str) -> Iterator[list[str]]:
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    words.whitespace_split = True
    command: list[str] = []
    skip = False
    for word in words:
        if set(word) <= set("|&;"):
            yield from [command] if command else []
            command = []
        elif set(word) <= set("<>&"):
            skip = True  # the file that follows
        elif skip or (not command and re.match(r"\w+=", word)):
            skip = False
        else:
            command.append(word)
    yield from [command] if command else []


def complaint(command: Sequence[str]) -> str:
    """What is wrong with a command; empty where nothing is. Unknown programs are a complaint: nobody checks them."""
    program, *rest = command
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if set(rest) <= set(targets) else f"the Makefile has no {' '.join(rest)}"
    if program.rpartition("/")[2] in ("python", "torchrun"):
        return _python(rest[rest.index("-m") :] if program == "torchrun" and "-m" in rest else rest)
    if (ROOT / program).is_file() or program in HARMLESS:
        return ""
    return f"{program}: this is no command of ours; hint: <!-- not run: WHY --> above the block"


def _python(words: Sequence[str]) -> str:
    if words[:1] != ["-m"]:
        return _script(words)
    module, *rest = words[1:]
    match module:
        case "pipeline":
            return pipeline_says(rest)
        case "trainer":
            return _argparse_says("trainer", rest)
        case "labelers":
            return _argparse_says("labelers", rest)
        case "pytest" | "ruff" | "mypy" | "tensorboard.main":
            return ""
    path = ROOT / module.replace(".", "/")
    files = [file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()]
    return _options_stand_in(files[0].read_text(), module, rest) if files else f"there is no module {module}"


def _script(words: Sequence[str]) -> str:
    if not words or not (ROOT / words[0]).is_file():
        return f"there is no file {words[:1]}"
    return _options_stand_in((ROOT / words[0]).read_text(), words[0], words[1:])


def _options_stand_in(source: str, name: str, words: Sequence[str]) -> str:
    unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
    return f"{name} has no {unknown[0]}" if unknown else ""


def pipeline_says(words: Sequence[str]) -> str:
    """What the real command line of `python -m pipeline` says against these words, without running anything."""
    from pipeline.cli.console import flags_first
    from pipeline.cli.main import app

    group = typer.main.get_command(app)
    try:
        with group.make_context("pipeline", flags_first(words)) as context:
            name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
            command.make_context(name, list(rest), parent=context).close()
    except Exception as error:  # typer brings a click of its own, whose exceptions have no public name
        if not hasattr(error, "format_message"):
            raise
        return f"python -m pipeline {' '.join(words)}: {error.format_message()}"
    return ""


def _argparse_says(package: str, words: Sequence[str]) -> str:
    if package == "trainer":
        from trainer.cli import build_parser as parser
    else:
        from labelers.cli import _parser as parser
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser().parse_args(list(words))
    except SystemExit as left:
        return "" if not left.code else said.getvalue().splitlines()[-1]
    return ""
